//! The one clean-up path. Consumer, sweep, Docker's events and command line all end here, each with one thread.
//!
//! Whatever waits for a host when it is free is one batch: one thread or many, one transaction ([`super::batch`]).
//! Nobody waits for a batch to fill, and batches may overlap, so that the daemon does not idle while one commits.
//!
//! The cleaner never retries, and knows neither deliveries nor sweeps. There is one per Docker host ([`super::fleet`]).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug};

use super::{
    Close, Database, Details, Origin, Outcome, Policy, Receipt, Rows, Thread, Volumes,
    absences::Absences,
    breaker::{Breaker, HourBudget},
    container_receipts::ContainerReceipts,
    limiter::Limiter,
    policy::Limits,
    requests::{Request, Requests},
    retention::Due,
    runner::Runner,
    swept::{Swept, SweptCounts},
    users::Users,
};
use crate::{
    clock::Clock,
    failure::{Failure, Verdict},
    host::Host,
    metrics,
    volume_name::{ThreadId, VolumeName, VolumeNames},
};

/// Removals that are remembered to be ours although their mark failed. More would be called `not_found` in their
/// receipts.
const MAX_UNMARKED_REMOVALS: usize = 10_000;

/// What the cleaners of all hosts share.
pub struct Context<T> {
    /// The database.
    pub threads: Arc<T>,
    /// What the volumes of threads are called.
    pub names: VolumeNames,
    /// What may be removed.
    pub policy: Policy,
    /// How long things may take.
    pub limits: Limits,
    /// What time it is.
    pub clock: Clock,
    /// Batches and removals that are under way.
    pub tasks: TaskTracker,
    pub(super) hour: Arc<HourBudget>,
}

impl<T: Database> Context<T> {
    /// What the cleaners of volumes that are called so share.
    #[must_use]
    pub fn new(threads: T, names: VolumeNames, policy: Policy, limits: Limits) -> Self {
        Self {
            threads: Arc::new(threads),
            names,
            policy,
            limits,
            clock: Clock::SYSTEM,
            tasks: TaskTracker::new(),
            hour: HourBudget::new(policy.budgets.per_hour),
        }
    }

    /// These, by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }
}

/// A removal of ours that is not marked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnmarkedRemoval {
    /// The close that it belongs to.
    pub(super) close: Close,
    /// Its receipt is in the audit trail.
    pub(super) has_receipt: bool,
}

/// The clean-up of threads on one host.
pub struct Cleaner<V, T> {
    /// The host.
    pub host: Host,
    /// Its daemon.
    pub volumes: V,
    /// What it shares with the cleaners of other hosts.
    pub context: Arc<Context<T>>,
    /// Which containers use whose volume.
    pub users: Users,
    pub(super) limiter: Arc<Limiter>,
    pub(super) breaker: Breaker,
    pub(super) requests: Requests,
    /// Acquired by the batch whose turn it is to send removals.
    pub(super) sending: Arc<tokio::sync::Mutex<()>>,
    /// What the daemon does not have, until that is proven.
    pub(super) absences: Absences,
    /// Threads whose removals were detached: they continue without a batch.
    pub(super) detached: Mutex<HashSet<ThreadId>>,
    /// What we removed and could not mark, until it is marked: so that its receipt says `removed`.
    pub(super) unmarked: Mutex<HashMap<VolumeName, UnmarkedRemoval>>,
    /// What the removals of containers leave to be done.
    pub(super) container_receipts: ContainerReceipts,
    /// What was removed for sweeps.
    pub(super) swept: SweptCounts,
}

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// A cleaner that has at most `concurrency` removals in flight.
    #[must_use]
    pub fn new(host: Host, volumes: V, concurrency: u16, context: Arc<Context<T>>) -> Self {
        Self {
            breaker: Breaker::new(host.clone()),
            host,
            volumes,
            context,
            users: Users::default(),
            limiter: Limiter::new(concurrency),
            requests: Requests::default(),
            sending: Arc::default(),
            absences: Absences::default(),
            detached: Mutex::default(),
            unmarked: Mutex::default(),
            container_receipts: ContainerReceipts::default(),
            swept: SweptCounts::default(),
        }
    }

    /// The database.
    pub fn threads(&self) -> &T {
        &self.context.threads
    }

    /// This host and its daemon, for the audit trail.
    pub fn here(&self) -> Details {
        let host = Some(self.host.key().to_owned());
        Details { host, daemon: self.volumes.daemon(), ..Details::default() }
    }

    /// What may be removed.
    pub fn policy(&self) -> &Policy {
        &self.context.policy
    }

    /// Looks whether removal is paused, and logs it if that is news.
    pub async fn look_for_pause(&self) -> Result<(), Failure> {
        self.breaker.look(self.threads()).await
    }

    /// Why removal was paused when that was last looked at, if it was: with the latest batch, if not later.
    pub fn pause_reason(&self) -> Option<String> {
        self.breaker.pause_reason()
    }

    /// The threads whose removals go on without a batch.
    pub fn detached(&self) -> Vec<ThreadId> {
        self.detached.lock().iter().cloned().collect()
    }

    /// Whether the daemon is sent nothing more for now, since removals take long.
    pub fn is_held_up(&self) -> bool {
        self.limiter.is_held_up()
    }

    /// Pauses removal on this host, for all replicas, until a person resumes it.
    pub async fn pause(&self, reason: &str) -> Result<(), Failure> {
        self.breaker.trip(self.threads(), reason).await
    }

    /// Cleans up after one thread.
    ///
    /// A failure leaves the row unmarked, so that whoever called can come again: a second call finds the volume
    /// absent and marks.
    pub async fn clean(self: &Arc<Self>, thread: &ThreadId, origin: Origin) -> Result<Outcome, Failure> {
        let source = origin.as_str();
        let result = match self.clean_unobserved(thread, None, origin).await {
            Ok(Outcome::Elsewhere { host }) => Err(Failure::transient(format!(
                "the thread is on host {host:?}, and this clean-up is of host {:?}: see that its event goes to the \
                 reaper of its host",
                self.host.key()
            ))),
            result => result,
        };
        self.observe(thread, source, &result).await;
        result
    }

    /// Cleans up without counting what it came to. The event says that the volume is on `claimed_host`.
    pub(super) async fn clean_unobserved(
        self: &Arc<Self>,
        thread: &ThreadId,
        claimed_host: Option<&str>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        self.context.names.owns(thread).map_err(Failure::permanent)?;
        if self.detached.lock().contains(thread) {
            return Ok(Outcome::Removing);
        }
        let (request, answer) = Request::new(thread.clone(), claimed_host.map(str::to_owned), origin);
        if self.requests.push(request, self.context.limits.locking.batches) {
            self.start_runner();
        }
        answer.await.unwrap_or_else(|_| {
            // A batch that panics answers nobody.
            metrics::panic();
            Err(Failure::transient("the clean-up panicked; standard error has the details"))
        })
    }

    /// Counts a result, and notes a failure that is the thread's own. When a dependency is down, it is nobody's.
    pub(super) async fn observe(&self, thread: &ThreadId, source: &'static str, result: &Result<Outcome, Failure>) {
        metrics::cleanup(source, result.as_ref().map_or("error", Outcome::as_str));
        let Err(failure) = result else { return };
        match failure.verdict {
            Verdict::Unavailable(_) => {}
            Verdict::Transient | Verdict::Permanent => {
                // The clean-up has its result already; without the note it is only tried again sooner.
                if let Err(error) = self.threads().note_failure(thread, &failure.message).await {
                    debug!(thread.id = %thread, %error, "the failure could not be noted");
                }
            }
        }
    }

    pub(super) fn start_runner(self: &Arc<Self>) {
        let runner = Runner { cleaner: Arc::clone(self) };
        // Its log lines belong to no delivery: each line names its thread, and is written in its request's span.
        self.context.tasks.spawn(async move { runner.run().await }.instrument(tracing::Span::none()));
    }

    /// Remembers a removal whose mark failed.
    pub(super) fn remember(&self, receipt: &Receipt, has_receipt: bool) {
        let mut unmarked = self.unmarked.lock();
        if unmarked.len() < MAX_UNMARKED_REMOVALS || unmarked.contains_key(&receipt.volume) {
            let removal = UnmarkedRemoval { close: receipt.close.clone(), has_receipt };
            unmarked.insert(receipt.volume.clone(), removal);
        }
    }

    /// That we removed this volume after this close of its thread, without being able to mark it.
    pub(super) fn remembered(&self, volume: &VolumeName, close: &Close) -> Option<UnmarkedRemoval> {
        self.unmarked.lock().get(volume).filter(|removal| removal.close == *close).cloned()
    }

    /// What this process has removed for sweeps, so far.
    pub fn swept(&self) -> Swept {
        self.swept.so_far()
    }

    /// Why the volume of a closed thread may not be removed now, if it may not, by its row.
    pub(super) fn hindrance(&self, row: &Thread, rows: &Rows) -> Option<Outcome> {
        if row.held {
            return Some(Outcome::Held);
        }
        // Of two clocks the one that is behind: one that is weeks ahead would end every retention.
        let ours = self.context.clock.now();
        let now = rows.said_at.map_or(ours, |said_at| said_at.min(ours));
        match self.policy().retention.due(row.close.at, now) {
            Due::Now => {}
            Due::At(due_at) => return Some(Outcome::NotDue { due_at: Some(due_at) }),
            Due::Never => return Some(Outcome::NotDue { due_at: None }),
        }
        rows.pause.is_some().then_some(Outcome::Paused)
    }
}

/// The row of a thread that is closed and unmarked, or the outcome of any other.
pub(super) fn actionable(row: Option<&Thread>) -> Result<&Thread, Outcome> {
    match row {
        None => Err(Outcome::UnknownThread),
        Some(row) if !row.closed => Err(Outcome::NotClosed),
        Some(row) if row.marked => Err(Outcome::AlreadyClean),
        Some(row) => Ok(row),
    }
}

/// What a thread comes to that is left to a sweep: that takes care of one that is closed and unmarked, and of no other.
pub(super) fn deferred(row: Option<&Thread>) -> Outcome {
    actionable(row).err().unwrap_or(Outcome::Deferred)
}
