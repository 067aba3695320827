//! Which host a clean-up is of: one coordinator per Docker daemon, and the way of a thread to the right one.
//!
//! A thread's host is what its row says, or else what its event says, or else unknown. Then all hosts are asked which of
//! them has the volume, and that it is nowhere needs the word of every one, those included that are pinned in the
//! database and that this process does not ask.
//!
//! No host waits for another. A delivery that needs a host which is down, or which has as many deliveries waiting as it
//! may have, is not kept: it ends as [`Outcome::Deferred`], its row stays unmarked, and that host's sweep takes care of
//! it. Where this process has only one host, nothing of this applies: its deliveries wait in the broker, as ever.
#![warn(clippy::wildcard_enum_match_arm, reason = "a new outcome must not compile until it is decided")]

use std::sync::Arc;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::debug;

use crate::{
    cleanup::{Coordinator, Origin, Outcome, Thread, Threads, Volumes, settled},
    failure::{Dependency, Failure, Verdict},
    health::Health,
    volume_name::{ThreadId, VolumeName},
};

/// One daemon's coordinator, and what is known of the daemon.
pub struct Lane<V, T> {
    /// Cleans up there.
    pub coordinator: Arc<Coordinator<V, T>>,
    /// In whose view Docker is this daemon.
    pub health: Arc<Health>,
    /// One for each delivery that may wait for this daemon.
    places: Semaphore,
    /// This process has others, whose deliveries must not wait for this daemon.
    has_others: bool,
}

/// All daemons of this process.
pub struct Fleet<V, T> {
    lanes: Vec<Lane<V, T>>,
    /// One for each delivery that may wait for all daemons.
    places: Semaphore,
}

impl<V: Volumes, T: Threads> Fleet<V, T> {
    /// A fleet of these daemons, at least one, on whose each `prefetch` deliveries may wait.
    #[must_use]
    pub fn new(coordinators: Vec<Arc<Coordinator<V, T>>>, health: &Health, prefetch: u16) -> Self {
        let has_others = coordinators.len() > 1;
        let places = || Semaphore::new(if has_others { prefetch.into() } else { Semaphore::MAX_PERMITS });
        let lane = |coordinator: Arc<Coordinator<V, T>>| {
            let health = Arc::new(health.of_host(&coordinator.host));
            Lane { coordinator, health, places: places(), has_others }
        };
        Self { lanes: coordinators.into_iter().map(lane).collect(), places: places() }
    }

    /// The daemons.
    pub fn lanes(&self) -> &[Lane<V, T>] {
        &self.lanes
    }

    /// Any of the coordinators, for what they share: database, policy and budgets.
    pub fn shared(&self) -> &Arc<Coordinator<V, T>> {
        &self.lanes[0].coordinator
    }

    /// The only daemon, if there are no others and none can come.
    pub fn only(&self) -> Option<&Lane<V, T>> {
        self.lanes.first().filter(|lane| lane.coordinator.is_only())
    }

    /// How many deliveries may wait at once.
    #[must_use]
    pub fn prefetch(&self, per_host: u16) -> u16 {
        // One share more for those that wait for all hosts.
        let shares = if self.lanes.len() == 1 { 1 } else { self.lanes.len() + 1 };
        u16::try_from(usize::from(per_host) * shares).unwrap_or(u16::MAX)
    }

    /// Cleans up after one thread, whose event says that its volume is on the host `told`.
    pub async fn clean(&self, thread: &ThreadId, told: Option<&str>, origin: Origin) -> Result<Outcome, Failure> {
        if let Some(only) = self.only() {
            return only.coordinator.clean(thread, origin).await;
        }
        let source = origin.as_str();
        let result = self.clean_unobserved(thread, told, origin).await;
        self.shared().observe(thread, source, &result).await;
        result
    }

    async fn clean_unobserved(
        &self,
        thread: &ThreadId,
        told: Option<&str>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        let row = match settled(self.shared().threads.find(thread, None).await?) {
            Ok(row) => row,
            Err(outcome) => return Ok(outcome),
        };
        let outcome = match row.host.as_deref().or(told) {
            Some(host) => self.clean_at(host, thread, told, origin).await?,
            None => self.clean_anywhere(thread, &row, origin).await?,
        };
        if outcome == Outcome::Deferred {
            debug!(thread.id = %thread, "left to the sweep, since its host can't be asked now");
        }
        Ok(outcome)
    }

    async fn clean_at(
        &self,
        host: &str,
        thread: &ThreadId,
        told: Option<&str>,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        let Some(lane) = self.lanes.iter().find(|lane| lane.coordinator.host == host) else {
            return Err(Failure::transient(format!(
                "the thread is on host {host:?}, which is none of this service's: add it to \
                 VOLUME_REAPER_DOCKER_HOSTS, or correct what names it"
            )));
        };
        let Some(_place) = lane.place() else { return Ok(Outcome::Deferred) };
        lane.without_its_outage(lane.coordinator.clean_unobserved(thread, told, origin).await)
    }

    /// Asks all hosts which of them has the volume.
    async fn clean_anywhere(&self, thread: &ThreadId, row: &Thread, origin: Origin) -> Result<Outcome, Failure> {
        if let Some(outcome) = self.shared().hindrance(row) {
            return Ok(outcome);
        }
        let Ok(_place) = self.places.try_acquire() else { return Ok(self.defer_everywhere()) };
        let volume = self.shared().prefix.volume_of(thread);
        let mut is_everyone_asked = row.stranger.is_none();
        let mut failed = None;
        let ask = async |lane| (lane, lane_has(lane, &volume).await);
        let (up, down): (Vec<_>, Vec<_>) = self.lanes.iter().partition(|lane| lane.may_be_asked());
        for lane in down {
            lane.defer();
            is_everyone_asked = false;
        }
        let mut answers: FuturesUnordered<_> = up.into_iter().map(ask).collect();
        while let Some((lane, answer)) = answers.next().await {
            match answer {
                Ok(false) => {}
                // The first that has it is the one, and those that are slower need not be waited for.
                Ok(true) => {
                    let Some(_place) = lane.place() else { return Ok(Outcome::Deferred) };
                    match lane.coordinator.clean_unobserved(thread, None, origin).await {
                        // Somebody else was faster, or it is on another host too.
                        Ok(Outcome::NotHere) => return Ok(lane.defer()),
                        result => return lane.without_its_outage(result),
                    }
                }
                Err(failure) => {
                    is_everyone_asked = false;
                    match lane.without_its_outage(Err(failure)) {
                        Ok(_) => {}
                        Err(failure) => failed = Some(failure),
                    }
                }
            }
        }
        match failed {
            Some(failure) => Err(failure),
            None if is_everyone_asked => self.shared().mark_absent(thread, row.closed_at, origin).await,
            None => Ok(Outcome::Deferred),
        }
    }

    fn defer_everywhere(&self) -> Outcome {
        for lane in &self.lanes {
            lane.defer();
        }
        Outcome::Deferred
    }
}

/// Whether the daemon has the volume. That it has not is its own word, and that of no other.
async fn lane_has<V: Volumes, T: Threads>(lane: &Lane<V, T>, volume: &VolumeName) -> Result<bool, Failure> {
    let volumes = &lane.coordinator.volumes;
    let has = volumes.has(volume).await?;
    if !has {
        volumes.prove_identity().await?;
    }
    Ok(has)
}

impl<V: Volumes, T: Threads> Lane<V, T> {
    /// A place for a delivery; none if the daemon is down, or enough are waiting for it.
    fn place(&self) -> Option<SemaphorePermit<'_>> {
        let place = self.places.try_acquire().ok().filter(|_| self.may_be_asked());
        if place.is_none() {
            self.defer();
        }
        place
    }

    /// Whether its answer can be expected. If there is no other, nobody else suffers from the wait.
    fn may_be_asked(&self) -> bool {
        !self.has_others || self.health.is_up(Dependency::Docker)
    }

    /// The next sweep is to come soon, or as soon as the daemon is up.
    fn defer(&self) -> Outcome {
        self.coordinator.waiting.sweep_soon();
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
