//! The threads table, as the clean-up needs it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{super::outcome::Outcome, ClaimedStatus, Receipt};
use crate::{
    failure::Failure,
    volume_name::{ThreadId, VolumeName},
};

/// One close of a thread: a later one of the same thread is another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Close {
    /// When, if the platform said so in a way that we can read.
    pub at: Option<DateTime<Utc>>,
    /// That time as the database itself writes it, which distinguishes closes also where we can't read it.
    pub written: Option<String>,
}

/// A thread's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its status is the closed one.
    pub closed: bool,
    /// Its volume is known to be gone.
    pub marked: bool,
    /// Its latest close.
    pub close: Close,
    /// A person holds it: it is not to be cleaned up.
    pub held: bool,
    /// The host that its volume is on, if the platform says so.
    pub host: Option<String>,
    /// Its unmarked volumes, where rows of their own name them.
    pub volumes: Option<Vec<VolumeRow>>,
}

/// The row of an unmarked volume, where the platform has a table of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeRow {
    /// What the row says that Docker calls it: anything.
    pub name: String,
    /// Its id, for people.
    pub id: String,
    /// The Docker host that it is on, if its row or its thread's says so.
    pub host: Option<String>,
}

/// Rows as one statement read them, and what it read besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Those that are there.
    pub threads: HashMap<ThreadId, Thread>,
    /// Those that the table can't have, since no value of its id column reads so.
    pub foreign: HashSet<ThreadId>,
    /// A pinned daemon that this process does not ask, if there is one: then it can't prove that a volume is nowhere.
    /// Only known if there is a row.
    pub unserved_host: Option<String>,
    /// Why removal is paused, if it is. Only known if there is a row.
    pub pause: Option<String>,
    /// What time it is by the database's clock, if that has one of its own. Only known if there is a row.
    pub said_at: Option<DateTime<Utc>>,
}

/// Rows of which the closed and unmarked ones are locked, until the lock is dropped or used to mark.
#[derive(Debug)]
pub struct Locked<L> {
    /// All rows that are there.
    pub rows: Rows,
    /// Those that are closed and unmarked, and locked by somebody else.
    pub busy: HashSet<ThreadId>,
    /// The lock.
    pub lock: L,
}

/// A closed and unmarked thread, as a sweep reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The id as it is in the row; it need not be a valid one.
    pub id: String,
    /// Its latest close.
    pub close: Close,
    /// A person holds it: it is not to be cleaned up.
    pub held: bool,
    /// Its unmarked volumes, where rows of their own name them.
    pub volumes: Option<Vec<VolumeRow>>,
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

/// What the guarded mark of a row that is not locked came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This call set it and wrote the receipt.
    Set,
    /// Somebody else had set it.
    AlreadySet,
    /// The thread was reopened meanwhile, and perhaps closed again; it is not marked.
    Reopened,
    /// The row is gone.
    NoRow,
    /// Somebody else has locked the row.
    Busy,
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// How many closed threads are not marked.
    pub unmarked: u64,
    /// When the first of them was closed, if the platform says when threads are closed.
    pub oldest_closed_at: Option<DateTime<Utc>>,
}

/// The threads table.
pub trait Threads: Send + Sync + 'static {
    /// Rows that are locked until this is dropped: a transaction.
    type Lock: Send + 'static;

    /// How many marks of different threads may be under way at once. More would wait for each other.
    fn marks_at_once(&self) -> usize {
        1
    }

    /// Takes note of the status that an event claims, before its thread is cleaned up after. Returns the outcome if
    /// nothing is left to do then. Where the platform writes the rows, only those count.
    fn take_note(
        &self,
        _thread: &ThreadId,
        _claimed: &ClaimedStatus,
    ) -> impl Future<Output = Result<Option<Outcome>, Failure>> + Send {
        async { Ok(None) }
    }

    /// Whether threads that are in use have a row that says so. If not, a volume without a row may be in use, and so
    /// may one whose thread is marked.
    fn knows_threads_in_use(&self) -> bool {
        true
    }

    /// Reads these rows, and whether removal is paused, everywhere or on this host.
    fn read(&self, threads: &[ThreadId], host: Option<&str>) -> impl Future<Output = Result<Rows, Failure>> + Send;

    /// Reads them and locks those that are closed and unmarked, waiting for nobody. Fails if the database can't be
    /// written to. A process that dies or freezes loses its locks soon after `limit`.
    fn lock(
        &self,
        threads: &[ThreadId],
        host: Option<&str>,
        limit: Duration,
    ) -> impl Future<Output = Result<Locked<Self::Lock>, Failure>> + Send;

    /// Marks rows that are locked and that receipts complete, writes the receipts, commits, and releases all locks.
    /// Returns those whose mark could be set; that of the others could not, although nobody else can have changed them.
    /// What was removed has its receipt in either case.
    fn mark_locked(
        &self,
        lock: Self::Lock,
        receipts: &[Receipt],
    ) -> impl Future<Output = Result<HashSet<ThreadId>, Failure>> + Send;

    /// Marks the rows that receipts complete, if they are closed and unmarked and still as they were read, and writes
    /// the receipts of those, in one transaction. Waits for nobody's lock. Receipts that complete nothing are written
    /// in any case.
    fn mark(&self, receipts: &[Receipt]) -> impl Future<Output = Result<HashMap<ThreadId, Mark>, Failure>> + Send;

    /// The next closed and unmarked threads of `scope`, ordered by id, beginning after the id `after`; at most `limit`.
    fn candidates(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: u64,
    ) -> impl Future<Output = Result<Vec<Candidate>, Failure>> + Send;

    /// Withdraws the mark of a closed thread, or of this volume of it where each has one. Whether there was one.
    fn unmark(&self, thread: &ThreadId, volume: &VolumeName) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Whose these volumes are, where rows name them: each with its thread's row, in which `marked` is the volume's
    /// own. None if the thread's id is no valid one. A volume that no row names is left out.
    fn owners(
        &self,
        _volumes: &[VolumeName],
    ) -> impl Future<Output = Result<HashMap<VolumeName, Option<(ThreadId, Thread)>>, Failure>> + Send {
        async { Ok(HashMap::new()) }
    }

    /// Counts the closed and unmarked threads.
    fn backlog(&self) -> impl Future<Output = Result<Backlog, Failure>> + Send;

    /// When the longest closed thread was closed that is not marked and that nobody holds, if the platform says so.
    fn oldest_not_held(&self) -> impl Future<Output = Result<Option<DateTime<Utc>>, Failure>> + Send {
        async { Ok(None) }
    }

    /// A pinned daemon that this process does not ask, if there is one.
    fn unserved_host(&self) -> impl Future<Output = Result<Option<String>, Failure>> + Send;
}
