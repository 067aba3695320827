//! The one clean-up path. Consumer, reconciler and command line all end here, with a thread's id.
//!
//! 1. Read the row, right before acting on it: an event wakes us, the database decides. A hold on the thread and a pause
//!    of all removal are read in the same statement. A thread that is held or not due yet is left to later sweeps.
//! 2. Remove the volume, never with force.
//! 3. A volume that is not there is proven absent only by the daemon that we know.
//! 4. Only if it was removed or proven absent: set the mark and write the receipt, in one transaction.
//! 5. Return the outcome.
//!
//! The coordinator never sleeps or retries, and knows neither deliveries nor sweeps.
#![warn(clippy::wildcard_enum_match_arm, reason = "a new outcome must not compile until it is decided")]

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;
use tokio::{sync::Semaphore, time::Instant};
use tracing::{debug, info, warn};

use crate::{
    breaker::{Breaker, Budgets, Pause, Place},
    failed_cleanup::FailedCleanup,
    failure::{Failure, Verdict},
    metrics,
    retention::{Due, Retention},
    volume_name::{ThreadId, VolumeName, VolumePrefix},
    waiting::Waiting,
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
    /// Why all removal is paused, if it is. Nothing of the thread's own, but read with it, so that it costs nothing.
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
    /// Reads a thread's row; `None` if there is none.
    fn find(&self, thread: &ThreadId) -> impl Future<Output = Result<Option<Thread>, Failure>> + Send;

    /// Writes what an event says of a thread into its row, which need not be there, unless the row knows something
    /// later. Of a close and a reopening at the same time, the reopening counts.
    fn record_report(&self, thread: &ThreadId, report: &Report) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Sets the mark if the row is closed and unmarked, and writes the receipt if it did so, in one transaction.
    fn mark(&self, receipt: &Receipt) -> impl Future<Output = Result<Mark, Failure>> + Send;

    /// The same for many at once. Returns the threads that this call marked.
    fn mark_all(&self, receipts: &[Receipt]) -> impl Future<Output = Result<Vec<ThreadId>, Failure>> + Send;

    /// The next closed and unmarked threads, ordered by id, beginning after the id `after`; at most `limit`.
    fn candidates(
        &self,
        after: Option<&str>,
        limit: u64,
    ) -> impl Future<Output = Result<Vec<Candidate>, Failure>> + Send;

    /// Of these threads, those that have a row; with `true` for those that are closed and marked.
    fn known(&self, threads: &[ThreadId]) -> impl Future<Output = Result<HashMap<ThreadId, bool>, Failure>> + Send;

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

    /// The pause of all removal, if there is one.
    fn pause(&self) -> impl Future<Output = Result<Option<Pause>, Failure>> + Send;

    /// Pauses all removal, unless it is paused already. Whether this call did it.
    fn pause_removal(&self, reason: &str) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Counts the volumes that were removed within the last hour, or since removal was last resumed if that is less.
    fn removed_last_hour(&self) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// What a clean-up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The volume was removed and the row is marked.
    Removed,
    /// The volume was proven absent and the row is marked.
    NotFound,
    /// The volume is held; the row is as it was.
    Referenced {
        /// Ids of the containers, as far as the daemon named them.
        holders: Vec<String>,
    },
    /// The row was marked before, or somebody else marked it in this moment.
    AlreadyClean,
    /// The thread is not closed; nothing was asked of Docker.
    NotClosed,
    /// There is no such thread; nothing was asked of Docker.
    UnknownThread,
    /// The thread was reopened, between the removal and the mark or by this event; the row is not marked.
    Reopened,
    /// The retention after the close is not over; nothing was asked of Docker.
    NotDue {
        /// When it will be; `None` if the row does not say when the thread was closed.
        due_at: Option<DateTime<Utc>>,
    },
    /// Somebody holds the thread; nothing was asked of Docker.
    Held,
    /// All removal is paused; nothing was asked of Docker.
    Paused,
}

impl Outcome {
    /// The name in receipts, logs and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::NotFound => "not_found",
            Self::Referenced { .. } => "referenced",
            Self::AlreadyClean => "already_clean",
            Self::NotClosed => "not_closed",
            Self::UnknownThread => "unknown_thread",
            Self::Reopened => "reopened",
            Self::NotDue { .. } => "not_due",
            Self::Held => "held",
            Self::Paused => "paused",
        }
    }
}

/// Who asks for a clean-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An event; the id of its message, if it had one.
    Event(Option<String>),
    /// A pass of the reconciler.
    Sweep,
    /// Docker: a container that held the volume ended.
    Docker,
    /// A person, about a volume without a thread.
    Orphan,
}

impl Origin {
    /// The name in receipts and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Event(_) => "event",
            Self::Sweep => "sweep",
            Self::Docker => "docker",
            Self::Orphan => "orphan",
        }
    }
}

/// What an event is to a thread that the database does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownThreads {
    /// Too early or a mistake: the platform writes the threads.
    #[default]
    Reject,
    /// The news: nobody but the events writes the threads.
    Record,
}

/// When a volume may be removed, beyond what its thread's status says. By default, at once and without bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who says which threads there are.
    pub unknown_threads: UnknownThreads,
    /// How long after the close.
    pub retention: Retention,
    /// How many before somebody has to look.
    pub budgets: Budgets,
}

/// The clean-up of threads against one daemon and one database.
pub struct Coordinator<V, T> {
    /// Docker.
    pub volumes: V,
    /// The database.
    pub threads: T,
    /// What our volumes begin with.
    pub prefix: VolumePrefix,
    /// Whose volume is held, and by what.
    pub waiting: Waiting,
    /// One for each removal that may be in flight, whoever asked for it: the daemon's volume driver holds one lock
    /// while it deletes, and everybody who creates a workspace waits behind it.
    turns: Semaphore,
    policy: Policy,
    breaker: Breaker,
}

impl<V: Volumes, T: Threads> Coordinator<V, T> {
    /// A coordinator that has at most `concurrency` removals in flight.
    pub fn new(volumes: V, threads: T, prefix: VolumePrefix, concurrency: u16) -> Self {
        let (policy, breaker) = (Policy::default(), Breaker::new(None));
        let turns = Semaphore::new(concurrency.into());
        Self { volumes, threads, prefix, waiting: Waiting::default(), turns, policy, breaker }
    }

    /// The same under a policy.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, breaker: Breaker::new(policy.budgets.per_hour), ..self }
    }

    /// What it was made with.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Looks whether all removal is paused, and says so if that is news.
    pub async fn look_for_pause(&self) -> Result<(), Failure> {
        self.breaker.look(&self.threads).await
    }

    /// Why all removal was paused when that was last looked at, if it was: with the latest thread, if not later.
    pub fn pause_reason(&self) -> Option<String> {
        self.breaker.pause_reason()
    }

    /// Pauses all removal, on all replicas, until a person resumes it.
    pub async fn pause(&self, reason: &str) -> Result<(), Failure> {
        self.breaker.trip(&self.threads, reason).await
    }

    /// Cleans up after one thread.
    ///
    /// A failure leaves the row unmarked, so that whoever called can come again: a second call finds the volume
    /// absent and marks.
    pub async fn clean(&self, thread: &ThreadId, origin: Origin) -> Result<Outcome, Failure> {
        let source = origin.as_str();
        let result = self.clean_unobserved(thread, origin).await;
        metrics::cleanup(source, result.as_ref().map_or("error", Outcome::as_str));
        if let Err(failure) = &result {
            self.note(thread, failure).await;
        }
        result
    }

    /// Notes a failure that is the thread's own. When a dependency is down, it is nobody's.
    async fn note(&self, thread: &ThreadId, failure: &Failure) {
        match failure.verdict {
            Verdict::Unavailable(_) => {}
            Verdict::Transient | Verdict::Permanent => {
                // The clean-up has its result already; without the note it is only tried again sooner.
                if let Err(error) = self.threads.note_failure(thread, &failure.message).await {
                    debug!(thread.id = %thread, %error, "the failure could not be noted");
                }
            }
        }
    }

    async fn clean_unobserved(&self, thread: &ThreadId, origin: Origin) -> Result<Outcome, Failure> {
        // Before the row is read: one that waited for its turn after that could have been reopened meanwhile.
        let turn = self.turns.acquire().await;
        let asked_at = Instant::now();
        let Some(row) = self.threads.find(thread).await? else {
            return Ok(Outcome::UnknownThread);
        };
        if !row.closed {
            return Ok(Outcome::NotClosed);
        }
        if row.marked {
            return Ok(Outcome::AlreadyClean);
        }
        let place = match self.may_remove(&row, asked_at).await? {
            Ok(place) => place,
            Err(outcome) => return Ok(outcome),
        };

        let volume = self.prefix.volume_of(thread);
        let started = Instant::now();
        let outcome = match self.volumes.remove(&volume).await? {
            Removal::Removed => Outcome::Removed,
            Removal::NotFound => Outcome::NotFound,
            Removal::Referenced { holders } => {
                debug!(thread.id = %thread, volume.name = %volume, ?holders, "the volume is referenced");
                self.waiting.hold(thread, &holders);
                return Ok(Outcome::Referenced { holders });
            }
        };

        drop(turn);
        if outcome == Outcome::NotFound {
            self.volumes.prove_identity().await?;
        }

        let receipt = Receipt {
            thread_id: thread.clone(),
            volume,
            outcome: outcome.as_str(),
            origin,
            at: Utc::now().trunc_subsecs(3),
        };
        let mark = self.threads.mark(&receipt).await;
        if outcome == Outcome::Removed {
            // Marked or not: it is gone.
            place.removed();
        }
        match mark? {
            Mark::Set => {
                observe_mark(&receipt, row.closed_at, started);
                Ok(outcome)
            }
            Mark::AlreadySet => Ok(Outcome::AlreadyClean),
            Mark::Reopened => {
                warn!(
                    thread.id = %thread, volume.name = %receipt.volume, removal = receipt.outcome,
                    "the thread was reopened while its volume was removed; it is not marked"
                );
                Ok(Outcome::Reopened)
            }
            Mark::NoRow => Ok(Outcome::UnknownThread),
        }
    }

    /// A place in the budget for the removal of a closed thread's volume, or the outcome if it may not be removed now.
    async fn may_remove(&self, row: &Thread, asked_at: Instant) -> Result<Result<Place<'_>, Outcome>, Failure> {
        if row.held {
            return Ok(Err(Outcome::Held));
        }
        match self.policy.retention.due(row.closed_at, Utc::now()) {
            Due::Now => {}
            Due::At(due_at) => return Ok(Err(Outcome::NotDue { due_at: Some(due_at) })),
            Due::Never => return Ok(Err(Outcome::NotDue { due_at: None })),
        }
        self.breaker.notice(row.pause.as_deref(), asked_at);
        if row.pause.is_some() {
            return Ok(Err(Outcome::Paused));
        }
        Ok(self.breaker.admit(&self.threads).await?.ok_or(Outcome::Paused))
    }
}

fn observe_mark(receipt: &Receipt, closed_at: Option<DateTime<Utc>>, started: Instant) {
    metrics::close_to_mark(closed_at, receipt.at);
    let (thread, volume, source) = (&receipt.thread_id, &receipt.volume, receipt.origin.as_str());
    if receipt.outcome == "removed" {
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(thread.id = %thread, volume.name = %volume, source, took_ms, "removed the volume");
    } else {
        debug!(thread.id = %thread, volume.name = %volume, source, "the volume is absent; marked");
    }
}
