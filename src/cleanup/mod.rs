//! The rules of a clean-up: what may be removed, what was proven, and what is marked.

mod batch;
pub mod breaker;
mod cleaner;
pub mod dry_run;
mod ending;
pub mod failing;
pub mod fleet;
pub mod freed;
mod identity;
mod judging;
mod limiter;
mod orphan;
mod outcome;
mod placement;
pub mod policy;
mod ports;
pub mod record;
mod requests;
pub mod retention;
mod runner;
mod under_way;
pub mod users;
mod vanished;

pub use self::{
    cleaner::{Cleaner, Context},
    identity::{Identity, Likeness, OTHER_ROOT},
    judging::absent,
    outcome::{Gone, Origin, Outcome},
    placement::Placement,
    policy::Policy,
    ports::{
        Backlog, Candidate, ClaimedStatus, Close, Database, Failures, Freed, FreedVolumes, Inventory, Locked, Mark,
        Pause, Pauses, Receipt, Receipts, Removal, Rows, Scope, Seen, Sighting, Sightings, StatusChange, StatusChanges,
        Thread, Threads, Volumes,
    },
};
