//! What the clean-up needs of Docker and of the database: one port per subject, each asked for by who needs it.

mod container;
mod failure_notes;
mod pause_switch;
mod receipts;
mod sightings;
mod status_changes;
mod sweep_log;
mod thread_rows;
mod volumes;

pub use self::{
    container::{Container, ContainerId, ContainerRemoval, ContainerState, Containers, RestartPolicy},
    failure_notes::Failures,
    pause_switch::{Pause, Pauses},
    receipts::{ContainerReceipt, Details, Receipt, Receipts},
    sightings::{Seen, Sighting, Sightings},
    status_changes::{ClaimedStatus, StatusChange, StatusChanges},
    sweep_log::{Cause, SweepEnd, SweepLog},
    thread_rows::{Backlog, Candidate, Close, Locked, Mark, Rows, Scope, Thread, Threads, VolumeRow},
    volumes::{Freed, FreedVolumes, Inventory, Removal, Volumes},
};

/// The database, as the clean-up needs it: all of its subjects.
pub trait Database: Threads + Failures + Pauses + Receipts + Sightings + SweepLog {}

impl<T: Threads + Failures + Pauses + Receipts + Sightings + SweepLog> Database for T {}
