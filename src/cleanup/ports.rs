//! What the clean-up needs of Docker and of the database: two ports, and what goes through them.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use super::Origin;
use crate::{
    cleanup::{breaker::Pause, failing::FailedCleanup},
    failure::Failure,
    volume_name::{ThreadId, VolumeName, VolumePrefix},
};

/// What asking Docker to remove a volume came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It was there and is gone.
    Removed,
    /// The daemon that answered does not have it. Proves nothing before [`Volumes::prove_identity`].
    NotFound,
    /// A container or a mount holds it.
    Referenced {
        /// Ids of the containers, as far as the daemon named them.
        holders: Vec<String>,
    },
}

/// What a daemon has of our volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Threads of the volumes that bear our prefix.
    pub present: HashSet<ThreadId>,
    /// Threads of the volumes that containers reference, with the containers' ids; stopped ones included.
    pub referenced: HashMap<ThreadId, Vec<String>>,
    /// What the daemon warned of. If there is any, the list may lack volumes: absence proves nothing.
    pub warnings: Vec<String>,
}

/// Docker, as the clean-up needs it.
pub trait Volumes: Send + Sync + 'static {
    /// Removes a volume, without force.
    fn remove(&self, volume: &VolumeName) -> impl Future<Output = Result<Removal, Failure>> + Send;

    /// Fails unless the daemon answers, whatever else it is busy with.
    fn probe(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether the volume is there. That it is not proves nothing before [`Volumes::prove_identity`].
    fn has(&self, volume: &VolumeName) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Lists our volumes and which of them are referenced.
    fn inventory(&self, prefix: &VolumePrefix) -> impl Future<Output = Result<Inventory, Failure>> + Send;

    /// Fails unless the daemon that answers is the one that we know: a wrong one lacks all of our volumes. Asked after
    /// whatever is to prove that a volume is absent.
    fn prove_identity(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A thread's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its status is the closed one.
    pub closed: bool,
    /// Its volume is known to be gone.
    pub marked: bool,
    /// When it was closed, if the platform said so.
    pub closed_at: Option<DateTime<Utc>>,
    /// Somebody holds it: it is not to be cleaned.
    pub held: bool,
    /// The host that its volume is on, if the platform says so.
    pub host: Option<String>,
    /// A pinned daemon that this process does not ask, if there is one: then it can't prove that a volume is nowhere.
    /// Nothing of the thread's own, but read with it, so that it costs nothing; `None` from [`Threads::known`].
    pub stranger: Option<String>,
    /// Why all removal is paused, if it is. The same applies.
    pub pause: Option<String>,
}

/// A closed and unmarked thread, as a sweep reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The id as it is in the row; it need not be a valid one.
    pub id: String,
    /// When it was closed, if the platform said so.
    pub closed_at: Option<DateTime<Utc>>,
    /// Somebody holds it: it is not to be cleaned.
    pub held: bool,
}

/// Whose closed and unmarked threads are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All, where there is only one host.
    All,
    /// Those whose row names this host.
    Host(String),
    /// Those whose row names none.
    Unplaced,
}

/// What the guarded mark came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This call set it and wrote the receipt.
    Set,
    /// Somebody else had set it.
    AlreadySet,
    /// The thread was reopened meanwhile; it is not marked.
    Reopened,
    /// The row is gone.
    NoRow,
}

/// One row of the audit trail: how a volume was found to be gone.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The thread.
    pub thread_id: ThreadId,
    /// Its volume.
    pub volume: VolumeName,
    /// `removed` or `not_found`.
    pub outcome: &'static str,
    /// Who asked for it.
    pub origin: Origin,
    /// When the volume was known to be gone: the mark's time too. UTC, whole milliseconds.
    pub at: DateTime<Utc>,
}

/// What an event says of a thread, where the database knows nothing else of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It was closed.
    Closed {
        /// When, if the event says so.
        at: Option<DateTime<Utc>>,
    },
    /// It was reopened.
    Reopened {
        /// When.
        at: DateTime<Utc>,
    },
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// How many closed threads are not marked.
    pub unmarked: u64,
    /// When the first of them was closed, if the platform says when threads are closed.
    pub oldest_closed_at: Option<DateTime<Utc>>,
}

/// The database, as the clean-up needs it.
pub trait Threads: Send + Sync + 'static {
    /// Reads a thread's row, and whether removal is paused, everywhere or on this host; `None` if there is no row.
    fn find(
        &self,
        thread: &ThreadId,
        host: Option<&str>,
    ) -> impl Future<Output = Result<Option<Thread>, Failure>> + Send;

    /// Writes what an event says of a thread into its row, which need not be there, unless the row knows something
    /// later. Of a close and a reopening at the same time, the reopening counts.
    fn record_report(&self, thread: &ThreadId, report: &Report) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Sets the mark if the row is closed and unmarked, and writes the receipt if it did so, in one transaction.
    fn mark(&self, receipt: &Receipt) -> impl Future<Output = Result<Mark, Failure>> + Send;

    /// The same for many at once. Returns the threads that this call marked.
    fn mark_all(&self, receipts: &[Receipt]) -> impl Future<Output = Result<Vec<ThreadId>, Failure>> + Send;

    /// The next closed and unmarked threads of `scope`, ordered by id, beginning after the id `after`; at most `limit`.
    fn candidates(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: u64,
    ) -> impl Future<Output = Result<Vec<Candidate>, Failure>> + Send;

    /// Of these threads, those that have a row.
    fn known(&self, threads: &[ThreadId]) -> impl Future<Output = Result<HashMap<ThreadId, Thread>, Failure>> + Send;

    /// A pinned daemon that this process does not ask, if there is one.
    fn stranger(&self) -> impl Future<Output = Result<Option<String>, Failure>> + Send;

    /// Withdraws the mark of a closed thread. Whether there was one.
    fn unmark(&self, thread: &ThreadId) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Notes that a clean-up failed, so that sweeps leave the thread alone for a while.
    fn note_failure(&self, thread: &ThreadId, error: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Of these threads, those whose clean-up failed.
    fn failed(
        &self,
        threads: &[ThreadId],
    ) -> impl Future<Output = Result<HashMap<ThreadId, FailedCleanup>, Failure>> + Send;

    /// Forgets the failures of threads that are no longer closed and unmarked.
    fn forget_failures(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Counts the closed and unmarked threads.
    fn backlog(&self) -> impl Future<Output = Result<Backlog, Failure>> + Send;

    /// The pause of all removal, or else that of removal on this host, if there is one.
    fn pause(&self, host: Option<&str>) -> impl Future<Output = Result<Option<Pause>, Failure>> + Send;

    /// Pauses removal on this host, or all, unless that is paused already. Whether this call did it.
    fn pause_removal(&self, host: Option<&str>, reason: &str) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Counts the volumes that were removed within the last hour, or since removal was last resumed if that is less.
    fn removed_last_hour(&self) -> impl Future<Output = Result<u64, Failure>> + Send;
}
