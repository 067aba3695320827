//! The one clean-up path. Consumer, reconciler and command line all end here, with a thread's id.
//!
//! 1. Read the row, right before acting on it: an event wakes us, the database decides. A hold on the thread and a pause
//!    of all removal are read in the same statement. A thread that is held or not due yet is left to later sweeps.
//! 2. Remove the volume, never with force.
//! 3. A volume that is not there is proven absent only by the daemon that we know, and by one alone only if the thread can
//!    be on no other host.
//! 4. Only if it was removed or proven absent: set the mark and write the receipt, in one transaction.
//! 5. Return the outcome.
//!
//! The coordinator never sleeps or retries, and knows neither deliveries nor sweeps. There is one per Docker host
//! ([`crate::cleanup::fleet`]).
#![warn(clippy::wildcard_enum_match_arm, reason = "a new outcome must not compile until it is decided")]

use std::{
    collections::HashSet,
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, SubsecRound, Utc};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::{Instrument, debug, info, warn};

use super::{
    outcome::{Origin, Outcome},
    ports::{Mark, Receipt, Removal, Thread, Threads, Volumes},
};
use crate::{
    cleanup::{
        breaker::{Breaker, Budgets, Place},
        limiter::{Limiter, Turn},
        retention::{Due, Retention},
        users::Waiting,
    },
    failure::{Failure, Verdict},
    metrics,
    volume_name::{ThreadId, VolumePrefix},
};

/// How long a caller waits for its turn, and then for its removal, unless it is said otherwise.
const PATIENCE: Duration = Duration::from_mins(2);
/// What the one daemon is called where there are no others.
pub const ONLY_HOST: &str = "default";

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

/// The clean-up of threads against one daemon and the database.
pub struct Coordinator<V, T> {
    /// What the daemon is called.
    pub host: String,
    /// Docker.
    pub volumes: V,
    /// The database.
    pub threads: Arc<T>,
    /// What our volumes begin with.
    pub prefix: VolumePrefix,
    /// Whose volume is held, and by what.
    pub waiting: Waiting,
    limiter: Arc<Limiter>,
    /// How long a caller waits for its turn, and then for its removal.
    patience: Duration,
    /// Removals that their callers no longer wait for.
    outlasting: Mutex<HashSet<ThreadId>>,
    policy: Policy,
    breaker: Arc<Breaker>,
}

impl<V: Volumes, T: Threads> Coordinator<V, T> {
    /// A coordinator that has at most `concurrency` removals in flight, at the only daemon that there is.
    pub fn new(volumes: V, threads: T, prefix: VolumePrefix, concurrency: u16) -> Self {
        Self {
            host: ONLY_HOST.to_owned(),
            volumes,
            threads: Arc::new(threads),
            prefix,
            waiting: Waiting::default(),
            limiter: Limiter::new(concurrency),
            patience: PATIENCE,
            outlasting: Mutex::default(),
            policy: Policy::default(),
            breaker: Arc::new(Breaker::new(None)),
        }
    }

    /// The same under a policy.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, breaker: Arc::new(Breaker::new(policy.budgets.per_hour)), ..self }
    }

    /// The same, with callers that wait so long for their turn, and then for their removal.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same for a daemon that is one of several.
    #[must_use]
    pub fn at(self, host: String) -> Self {
        if host == ONLY_HOST {
            return self;
        }
        let breaker = Arc::new(self.breaker.of_host(&host));
        Self { host, breaker, ..self }
    }

    /// One for another daemon, with the same database and budgets.
    #[must_use]
    pub fn beside(&self, host: String, volumes: V, concurrency: u16) -> Self {
        Self {
            breaker: Arc::new(self.breaker.of_host(&host)),
            host,
            volumes,
            threads: Arc::clone(&self.threads),
            prefix: self.prefix.clone(),
            waiting: Waiting::default(),
            limiter: Limiter::new(concurrency),
            patience: self.patience,
            outlasting: Mutex::default(),
            policy: self.policy,
        }
    }

    /// What the host is called, if there are others.
    pub fn named_host(&self) -> Option<&str> {
        (!self.is_only()).then_some(&self.host)
    }

    /// Whether the daemon is the only one there is, so that every thread's volume can only be there.
    pub fn is_only(&self) -> bool {
        self.host == ONLY_HOST
    }

    /// What it was made with.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Looks whether removal is paused, and says so if that is news.
    pub async fn look_for_pause(&self) -> Result<(), Failure> {
        self.breaker.look(&*self.threads).await
    }

    /// Why removal was paused when that was last looked at, if it was: with the latest thread, if not later.
    pub fn pause_reason(&self) -> Option<String> {
        self.breaker.pause_reason()
    }

    /// Pauses removal on this host, for all replicas, until a person resumes it.
    pub async fn pause(&self, reason: &str) -> Result<(), Failure> {
        self.breaker.trip(&*self.threads, reason).await
    }

    /// Cleans up after one thread.
    ///
    /// A failure leaves the row unmarked, so that whoever called can come again: a second call finds the volume
    /// absent and marks.
    pub async fn clean(self: &Arc<Self>, thread: &ThreadId, origin: Origin) -> Result<Outcome, Failure> {
        let source = origin.as_str();
        let result = self.clean_unobserved(thread, None, origin).await;
        self.observe(thread, source, &result).await;
        result
    }

    /// Counts a result, and notes a failure that is the thread's own. When a dependency is down, it is nobody's.
    pub(crate) async fn observe(&self, thread: &ThreadId, source: &'static str, result: &Result<Outcome, Failure>) {
        metrics::cleanup(source, result.as_ref().map_or("error", Outcome::as_str));
        let Err(failure) = result else { return };
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

    /// The same without counting what it came to, for a thread of which it is `told` on which host its volume is, unless
    /// its row says so.
    pub(crate) async fn clean_unobserved(
        self: &Arc<Self>,
        thread: &ThreadId,
        told: Option<&str>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        if self.outlasting().contains(thread) {
            return Ok(Outcome::Removing);
        }
        // Before the row is read: one that waited for its turn after that could have been reopened meanwhile.
        let Ok(turn) = timeout(self.patience, self.limiter.turn()).await else {
            self.volumes.probe().await?;
            // It answers, and is busy with removals that take long.
            self.waiting.sweep_soon();
            return Ok(Outcome::Deferred);
        };
        let asked_at = Instant::now();
        let row = match settled(self.threads.find(thread, self.named_host()).await?) {
            Ok(row) => row,
            Err(outcome) => return Ok(outcome),
        };
        let is_decisive = self.is_decisive(&row, told)?;
        let place = match self.may_remove(&row, asked_at).await? {
            Ok(place) => place,
            Err(outcome) => return Ok(outcome),
        };
        let thread = thread.clone();
        let (outlasts, outlasting) = oneshot::channel();
        let removal = Cleaning { thread, closed_at: row.closed_at, origin, is_decisive, place, turn, outlasts };
        // A task of its own: it goes on when nobody waits for it any more.
        let cleaning = tokio::spawn(Arc::clone(self).remove(removal).in_current_span());
        tokio::select! {
            biased;
            cleaned = cleaning => cleaned.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(error) => Err(Failure::transient(format!("the clean-up was cut off: {error}"))),
            }),
            Ok(()) = outlasting => Ok(Outcome::Removing),
        }
    }

    /// Whether it is enough that this daemon does not have the thread's volume. Fails if the thread is on another host.
    fn is_decisive(&self, row: &Thread, told: Option<&str>) -> Result<bool, Failure> {
        if self.is_only() {
            return Ok(true);
        }
        match row.host.as_deref().or(told) {
            None => Ok(false),
            Some(host) if host == self.host => Ok(true),
            Some(host) => Err(Failure::transient(format!(
                "the thread is on host {host:?}, and this clean-up is of host {:?}: see that its event goes to the \
                 reaper of its host",
                self.host
            ))),
        }
    }

    async fn remove(self: Arc<Self>, cleaning: Cleaning) -> Result<Outcome, Failure> {
        let (thread, source) = (cleaning.thread.clone(), cleaning.origin.as_str());
        let result = self.remove_and_mark(cleaning).await;
        if self.outlasting().remove(&thread) {
            self.observe(&thread, source, &result).await;
            if let Err(error) = &result {
                warn!(thread.id = %thread, %error, "a removal that took long has failed; left to the sweep");
            }
        }
        result
    }

    async fn remove_and_mark(&self, cleaning: Cleaning) -> Result<Outcome, Failure> {
        let Cleaning { thread, closed_at, origin, is_decisive, place, mut turn, outlasts } = cleaning;
        let volume = self.prefix.volume_of(&thread);
        let started = Instant::now();
        turn.sent();
        let mut removal = pin!(self.volumes.remove(&volume));
        let removed = if let Ok(removed) = timeout(self.patience, &mut removal).await {
            removed
        } else {
            // One that answers nothing is not slow but down, and its delivery is not settled by that.
            self.volumes.probe().await?;
            info!(thread.id = %thread, volume.name = %volume, "the removal takes long; the daemon goes on with it");
            turn.outlast();
            self.outlasting().insert(thread.clone());
            // Nobody may be there to hear it.
            let _ = outlasts.send(());
            removal.await
        };
        drop(turn);
        let outcome = match removed? {
            Removal::Removed => Outcome::Removed,
            Removal::NotFound => {
                self.volumes.prove_identity().await?;
                if !is_decisive {
                    return Ok(Outcome::NotHere);
                }
                Outcome::NotFound
            }
            Removal::Referenced { holders } => {
                debug!(thread.id = %thread, volume.name = %volume, ?holders, "the volume is referenced");
                self.waiting.hold(&thread, &holders);
                return Ok(Outcome::Referenced { holders });
            }
        };
        let mark = self.mark(thread, outcome.clone(), origin, closed_at, started).await;
        if outcome == Outcome::Removed {
            // Marked or not: it is gone.
            place.removed();
        }
        mark
    }

    /// Marks a thread whose volume is on no host.
    pub(crate) async fn mark_absent(
        &self,
        thread: &ThreadId,
        closed_at: Option<DateTime<Utc>>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        self.mark(thread.clone(), Outcome::NotFound, origin, closed_at, Instant::now()).await
    }

    async fn mark(
        &self,
        thread_id: ThreadId,
        outcome: Outcome,
        origin: Origin,
        closed_at: Option<DateTime<Utc>>,
        started: Instant,
    ) -> Result<Outcome, Failure> {
        let volume = self.prefix.volume_of(&thread_id);
        let at = Utc::now().trunc_subsecs(3);
        let receipt = Receipt { thread_id, volume, outcome: outcome.as_str(), origin, at };
        match self.threads.mark(&receipt).await? {
            Mark::Set => {
                observe_mark(&receipt, closed_at, started);
                Ok(outcome)
            }
            Mark::AlreadySet => Ok(Outcome::AlreadyClean),
            Mark::Reopened => {
                warn!(
                    thread.id = %receipt.thread_id, volume.name = %receipt.volume, removal = receipt.outcome,
                    "the thread was reopened while its volume was removed; it is not marked"
                );
                Ok(Outcome::Reopened)
            }
            Mark::NoRow => Ok(Outcome::UnknownThread),
        }
    }

    fn outlasting(&self) -> MutexGuard<'_, HashSet<ThreadId>> {
        self.outlasting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the budget for the removal of a closed thread's volume, or the outcome if it may not be removed now.
    async fn may_remove(&self, row: &Thread, asked_at: Instant) -> Result<Result<Place, Outcome>, Failure> {
        self.breaker.notice(row.pause.as_deref(), asked_at);
        match self.hindrance(row) {
            Some(outcome) => Ok(Err(outcome)),
            None => Ok(self.breaker.admit(&*self.threads).await?.ok_or(Outcome::Paused)),
        }
    }

    /// Why the volume of a closed thread may not be removed now, if it may not, by its row.
    pub(crate) fn hindrance(&self, row: &Thread) -> Option<Outcome> {
        if row.held {
            return Some(Outcome::Held);
        }
        match self.policy.retention.due(row.closed_at, Utc::now()) {
            Due::Now => {}
            Due::At(due_at) => return Some(Outcome::NotDue { due_at: Some(due_at) }),
            Due::Never => return Some(Outcome::NotDue { due_at: None }),
        }
        row.pause.is_some().then_some(Outcome::Paused)
    }
}

/// One removal, from the moment that it is allowed.
struct Cleaning {
    thread: ThreadId,
    closed_at: Option<DateTime<Utc>>,
    origin: Origin,
    is_decisive: bool,
    place: Place,
    turn: Turn,
    /// Told when the removal takes longer than its caller waits.
    outlasts: oneshot::Sender<()>,
}

/// The row of a thread that is closed and unmarked, or the outcome of any other.
pub(crate) fn settled(row: Option<Thread>) -> Result<Thread, Outcome> {
    match row {
        None => Err(Outcome::UnknownThread),
        Some(row) if !row.closed => Err(Outcome::NotClosed),
        Some(row) if row.marked => Err(Outcome::AlreadyClean),
        Some(row) => Ok(row),
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
