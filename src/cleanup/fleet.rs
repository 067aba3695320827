//! The Docker hosts of this process, and the way of a thread to the right one.
//!
//! A thread is where its row says, or else where its event says, or else nobody knows. Where volumes have rows of
//! their own, each of these may say another host: then one host after the other cleans up its share, since the
//! thread's row is locked for each. If nobody knows, all hosts are asked which of them has the volume, and a volume
//! counts as absent only if every host says so, those included that are pinned in the database and that this process
//! does not ask.
//!
//! No host waits for another. A delivery that needs a host which is down, or for which as many deliveries wait as
//! may, is not kept: if its thread is closed and unmarked, it ends as [`Outcome::Deferred`], and that host's sweep
//! takes care of it. Where this process has only one host, nothing of this applies: its deliveries wait in the broker,
//! as ever.

use std::{slice, sync::Arc};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::debug;

use super::{
    Cleaner, Context, Database, NamedVolumes, Origin, Outcome, Placement, Thread, Volumes,
    cleaner::{actionable, deferred},
    judging::more_telling,
};
use crate::{
    failure::{Dependency, Failure, Verdict},
    health::Health,
    volume_name::ThreadId,
};

/// What works for one host, and what is known of its daemon.
pub struct HostWorker<V, T> {
    /// Cleans up there.
    pub cleaner: Arc<Cleaner<V, T>>,
    /// In whose view Docker is this daemon.
    pub health: Arc<Health>,
    /// One for each delivery that may wait for this daemon.
    slots: Semaphore,
    /// This process has others, whose deliveries must not wait for this daemon.
    has_others: bool,
}

/// All hosts of this process.
pub struct Fleet<V, T> {
    workers: Vec<HostWorker<V, T>>,
    /// One for each delivery that may wait for all daemons.
    slots: Semaphore,
}

impl<V: Volumes, T: Database> Fleet<V, T> {
    /// A fleet of these cleaners, at least one, for whose each host `prefetch` deliveries may wait.
    #[must_use]
    pub fn new(cleaners: Vec<Arc<Cleaner<V, T>>>, health: &Health, prefetch: u16) -> Self {
        let has_others = cleaners.len() > 1;
        let slots = || Semaphore::new(if has_others { prefetch.into() } else { Semaphore::MAX_PERMITS });
        let worker = |cleaner: Arc<Cleaner<V, T>>| {
            let health = Arc::new(health.of_host(&cleaner.host));
            HostWorker { cleaner, health, slots: slots(), has_others }
        };
        Self { workers: cleaners.into_iter().map(worker).collect(), slots: slots() }
    }

    /// What works for each host.
    pub fn workers(&self) -> &[HostWorker<V, T>] {
        &self.workers
    }

    /// What the hosts share: database, policy and budgets.
    pub fn context(&self) -> &Arc<Context<T>> {
        &self.workers[0].cleaner.context
    }

    /// The database.
    pub fn threads(&self) -> &T {
        &self.context().threads
    }

    /// What works for the only host, if there are no others and none can come.
    pub fn only(&self) -> Option<&HostWorker<V, T>> {
        self.workers.first().filter(|worker| worker.cleaner.host.is_only())
    }

    /// How many deliveries may wait at once.
    #[must_use]
    pub fn prefetch(&self, per_host: u16) -> u16 {
        // One share more for those that wait for all hosts.
        let shares = if self.workers.len() == 1 { 1 } else { self.workers.len() + 1 };
        u16::try_from(usize::from(per_host) * shares).unwrap_or(u16::MAX)
    }

    /// Cleans up after one thread, whose event says that its volume is on `claimed_host`.
    pub async fn clean(
        &self,
        thread: &ThreadId,
        claimed_host: Option<&str>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        if let Some(only) = self.only() {
            return only.cleaner.clean(thread, origin).await;
        }
        let source = origin.as_str();
        let result = self.clean_unobserved(thread, claimed_host, origin).await;
        self.workers[0].cleaner.observe(thread, source, &result).await;
        result
    }

    async fn clean_unobserved(
        &self,
        thread: &ThreadId,
        claimed_host: Option<&str>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        self.context().names.owns(thread).map_err(Failure::permanent)?;
        // Each row of a volume may name a host of its own.
        let are_together = !self.context().names.are_in_rows();
        let served = claimed_host.filter(|_| are_together).and_then(|host| self.worker(host));
        let outcome = match served {
            // Its batch reads the row, and says so if that names another host.
            Some(worker) => {
                let outcome = worker.clean(thread, claimed_host, origin.clone()).await?;
                if let Outcome::Elsewhere { host } = outcome {
                    self.clean_at(&host, thread, claimed_host, origin).await?
                } else if outcome == Outcome::Deferred {
                    self.deferred(thread).await?
                } else {
                    outcome
                }
            }
            None => self.clean_where_it_is(thread, claimed_host, origin).await?,
        };
        if outcome == Outcome::Deferred {
            debug!(thread.id = %thread, "left to the sweep, since its host can't be asked now");
        }
        Ok(outcome)
    }

    /// What a delivery comes to whose host was not asked, and whose row perhaps nobody has read.
    async fn deferred(&self, thread: &ThreadId) -> Result<Outcome, Failure> {
        let rows = self.threads().read(slice::from_ref(thread), None).await?;
        Ok(deferred(rows.threads.get(thread)))
    }

    fn worker(&self, host: &str) -> Option<&HostWorker<V, T>> {
        self.workers.iter().find(|worker| worker.cleaner.host.name() == Some(host))
    }

    async fn clean_where_it_is(
        &self,
        thread: &ThreadId,
        claimed_host: Option<&str>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        let rows = self.threads().read(slice::from_ref(thread), None).await?;
        let row = match actionable(rows.threads.get(thread)) {
            Ok(row) => row,
            Err(outcome) => return Ok(outcome),
        };
        let any = &self.workers[0].cleaner;
        let placements = row.placements(&any.host, claimed_host);
        let is_alone = placements.len() == 1;
        let mut result = None;
        for placement in placements {
            let share = match placement {
                // The reaper of that host has a sweep for it.
                Placement::On(host) if !is_alone && self.worker(&host).is_none() => Ok(Outcome::Deferred),
                Placement::On(host) => self.clean_at(&host, thread, claimed_host, origin.clone()).await,
                Placement::Unknown | Placement::Only => {
                    if let Some(outcome) = any.hindrance(row, &rows) {
                        Ok(outcome)
                    } else {
                        let mut row = row.clone();
                        row.keep_volumes(&any.host, claimed_host, |placement| *placement == Placement::Unknown);
                        self.clean_anywhere(thread, &row, rows.unserved_host.is_none(), origin.clone()).await
                    }
                }
            };
            result = Some(match result {
                None => share,
                Some(before) => more_telling(before, share),
            });
        }
        // Its volumes were marked in this moment.
        result.unwrap_or(Ok(Outcome::AlreadyClean))
    }

    async fn clean_at(
        &self,
        host: &str,
        thread: &ThreadId,
        claimed_host: Option<&str>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        match self.worker(host) {
            Some(worker) => worker.clean(thread, claimed_host, origin).await,
            None => Err(Failure::transient(format!(
                "the thread is on host {host:?}, which is none of this service's: add it to \
                 VOLUME_REAPER_DOCKER_HOSTS, or correct what names it"
            ))),
        }
    }

    /// Asks all hosts which of them has the volume.
    async fn clean_anywhere(
        &self,
        thread: &ThreadId,
        row: &Thread,
        are_all_served: bool,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        let Ok(_slot) = self.slots.try_acquire() else { return Ok(self.defer_everywhere()) };
        let named = &NamedVolumes::of(&self.context().names, thread, row.volumes.as_deref());
        if let Some(refused) = named.refused.as_ref().filter(|_| named.volumes.is_empty()) {
            return Err(Failure::permanent(refused.clone()));
        }
        let mut is_everyone_asked = are_all_served;
        let mut failed = None;
        let (up, down): (Vec<_>, Vec<_>) = self.workers.iter().partition(|worker| worker.may_be_asked());
        for worker in down {
            worker.defer();
            is_everyone_asked = false;
        }
        let ask = up.into_iter().map(|worker| async move { (worker, named.are_on(&worker.cleaner.volumes).await) });
        let mut answers: FuturesUnordered<_> = ask.collect();
        while let Some((worker, answer)) = answers.next().await {
            match answer {
                Ok(false) => {}
                // The first that has it is the one, and those that are slower need not be waited for.
                Ok(true) => {
                    return match worker.clean(thread, None, origin).await {
                        // Somebody else was faster, or it is on another host too.
                        Ok(Outcome::NotHere) => Ok(worker.defer()),
                        result => result,
                    };
                }
                Err(failure) => {
                    is_everyone_asked = false;
                    match worker.without_its_outage(Err(failure)) {
                        Ok(_) => {}
                        Err(failure) => failed = Some(failure),
                    }
                }
            }
        }
        match failed {
            Some(failure) => Err(failure),
            None if is_everyone_asked => self.mark_absent(thread, named.volumes.clone(), row, origin).await,
            None => Ok(Outcome::Deferred),
        }
    }

    fn defer_everywhere(&self) -> Outcome {
        for worker in &self.workers {
            worker.defer();
        }
        Outcome::Deferred
    }
}

impl<V: Volumes, T: Database> HostWorker<V, T> {
    async fn clean(&self, thread: &ThreadId, claimed_host: Option<&str>, origin: Origin) -> Result<Outcome, Failure> {
        let Some(_slot) = self.slot() else { return Ok(Outcome::Deferred) };
        self.without_its_outage(self.cleaner.clean_unobserved(thread, claimed_host, origin).await)
    }

    /// A slot for a delivery; none if the daemon is down, or enough are waiting for it.
    fn slot(&self) -> Option<SemaphorePermit<'_>> {
        let slot = self.slots.try_acquire().ok().filter(|_| self.may_be_asked());
        if slot.is_none() {
            self.defer();
        }
        slot
    }

    /// Whether its answer can be expected. If there is no other, nobody else suffers from the wait.
    fn may_be_asked(&self) -> bool {
        !self.has_others || self.health.is_up(Dependency::Docker)
    }

    /// The next sweep is to come soon, or as soon as the daemon is up.
    fn defer(&self) -> Outcome {
        self.cleaner.users.sweep_soon();
        Outcome::Deferred
    }

    /// A result in which it does not matter that this daemon is down, if there are others.
    fn without_its_outage(&self, result: Result<Outcome, Failure>) -> Result<Outcome, Failure> {
        match result {
            Err(Failure { verdict: Verdict::Unavailable(Dependency::Docker), message }) if self.has_others => {
                self.health.down(Dependency::Docker, &message);
                Ok(self.defer())
            }
            result => result,
        }
    }
}
