//! What the clean-up needs of Docker and of the database: one port per subject, each asked for by who needs it.

mod failures;
mod pauses;
mod receipts;
mod threads;
mod volumes;

pub use self::{
    failures::Failures,
    pauses::{Pause, Pauses},
    receipts::{Receipt, Receipts},
    threads::{Backlog, Candidate, Close, Locked, Mark, Report, Rows, Scope, Thread, Threads},
    volumes::{Freed, FreedVolumes, Inventory, Removal, Volumes},
};

/// The database, as the clean-up needs it: all of its subjects.
pub trait Database: Threads + Failures + Pauses + Receipts {}

impl<T: Threads + Failures + Pauses + Receipts> Database for T {}
