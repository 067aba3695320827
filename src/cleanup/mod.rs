//! The rules of a clean-up: what may be removed, what was proven, and what is marked.

mod absences;
mod batch;
pub mod breaker;
mod cleaner;
mod container_receipts;
pub mod dry_run;
mod ending;
pub mod exited;
pub mod failing;
pub mod fleet;
pub mod freed;
mod freeing;
#[cfg(any(fuzzing, test))]
pub mod fuzzed_limiter;
mod identity;
mod judging;
mod limiter;
mod named_volumes;
mod nowhere;
mod orphan;
mod outcome;
mod placement;
pub mod policy;
mod ports;
pub mod record;
mod requests;
pub mod retention;
mod runner;
mod share;
mod swept;
mod under_way;
pub mod users;
mod vanished;

pub use self::{
    cleaner::{Cleaner, Context},
    identity::{Identity, Likeness, OTHER_ROOT},
    judging::absent,
    named_volumes::NamedVolumes,
    outcome::{Gone, Origin, Outcome},
    placement::Placement,
    policy::Policy,
    ports::{
        Backlog, Candidate, Cause, ClaimedStatus, Close, Container, ContainerId, ContainerReceipt, ContainerRemoval,
        ContainerState, Containers, Database, Details, Failures, Freed, FreedVolumes, Inventory, Locked, Mark, Pause,
        Pauses, Receipt, Receipts, Removal, RestartPolicy, Rows, Scope, Seen, Sighting, Sightings, StatusChange,
        StatusChanges, SweepEnd, SweepLog, Thread, Threads, VolumeRow, Volumes,
    },
    swept::Swept,
};
