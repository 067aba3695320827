//! The breaker: bounds how much can be removed before somebody looks.
//!
//! When a removal would exceed a budget, all removal is paused: a row in the database, so that it counts for every
//! replica and outlives restarts, until a person resumes it. Nothing else stops: events are taken and acknowledged,
//! absent volumes are marked, `/readyz` stays as it is.
//!
//! A sweep's budget is its host's: where there are several, using it up pauses removal on that host only.
//!
//! The row is read together with each thread's, so a pause counts from the next removal on, everywhere. The budget of
//! an hour is counted from the receipts of all replicas, not for each removal but every [`REFRESH_INTERVAL`]; in between,
//! a replica adds its own. So replicas together can exceed it by what the others remove within that interval.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{cleanup::Threads, failure::Failure, metrics};

/// How old a count of all replicas' removals may be. One short query per interval, and only while removing.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// How many volumes may be removed before removal is paused; `None` is any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// By one sweep.
    pub per_sweep: Option<u64>,
    /// By all replicas within an hour, whoever asked for it.
    pub per_hour: Option<u64>,
}

/// A pause of all removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// Since when.
    pub paused_at: DateTime<Utc>,
    /// Why, for people.
    pub reason: String,
    /// The replica that did it.
    pub paused_by: String,
}

/// Says when removal on one host is paused.
#[derive(Debug)]
pub(crate) struct Breaker {
    hour: Arc<Hour>,
    /// The host, where there are several.
    host: Option<String>,
    seen: Mutex<Seen>,
}

/// Counts the removals of an hour, on all hosts, and says when it is enough.
#[derive(Debug)]
struct Hour {
    budget: Option<u64>,
    count: Mutex<Count>,
    /// Held by the one who asks the database; the others take its answer.
    asking: tokio::sync::Mutex<()>,
}

/// The pause as it was last seen.
#[derive(Debug, Default)]
struct Seen {
    /// Why, if there was one.
    reason: Option<String>,
    /// When that was news; who asked before this has an old answer.
    at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Count {
    /// When the database was asked; `None` before the first time.
    read_at: Option<Instant>,
    /// What it said, and our own removals since.
    removed: u64,
    /// Removals that have begun and are not yet marked, so that no receipt tells of them.
    in_flight: u64,
    /// All that this process has removed.
    ended: u64,
}

/// One removal's place in the budget; given back when dropped, unless the volume was removed.
#[derive(Debug)]
pub(crate) struct Place(Arc<Hour>);

impl Breaker {
    pub(crate) fn new(budget_per_hour: Option<u64>) -> Self {
        let hour = Hour { budget: budget_per_hour, count: Mutex::default(), asking: tokio::sync::Mutex::default() };
        metrics::removal_paused(None, false);
        Self { hour: Arc::new(hour), host: None, seen: Mutex::default() }
    }

    /// One for a host that is one of several, with the same budget of an hour.
    pub(crate) fn of_host(&self, host: &str) -> Self {
        metrics::removal_paused(Some(host), false);
        Self { hour: Arc::clone(&self.hour), host: Some(host.to_owned()), seen: Mutex::default() }
    }

    /// Why removal was paused when that was last looked at, if it was.
    pub(crate) fn pause_reason(&self) -> Option<String> {
        self.seen().reason.clone()
    }

    /// Takes note of why removal is paused, if it is, as the database said to who asked it at `asked_at`; says so if
    /// that is news.
    pub(crate) fn notice(&self, reason: Option<&str>, asked_at: Instant) {
        let mut seen = self.seen();
        if seen.reason.as_deref() == reason || seen.at.is_some_and(|at| asked_at < at) {
            return;
        }
        *seen = Seen { reason: reason.map(str::to_owned), at: Some(Instant::now()) };
        metrics::removal_paused(self.host.as_deref(), reason.is_some());
        if let Some(reason) = reason {
            warn!(reason, "removal is paused; `volume-reaper resume` goes on");
        } else {
            info!("removal goes on");
        }
    }

    /// Looks whether removal is paused.
    pub(crate) async fn look(&self, threads: &impl Threads) -> Result<(), Failure> {
        let asked_at = Instant::now();
        let pause = threads.pause(self.host.as_deref()).await?;
        self.notice(pause.as_ref().map(|pause| pause.reason.as_str()), asked_at);
        Ok(())
    }

    /// Pauses removal on this host. If it is paused already, for another reason perhaps, that one stays.
    pub(crate) async fn trip(&self, threads: &impl Threads, reason: &str) -> Result<(), Failure> {
        self.pause(threads, self.host.as_deref(), reason).await
    }

    async fn pause(&self, threads: &impl Threads, host: Option<&str>, reason: &str) -> Result<(), Failure> {
        if !threads.pause_removal(host, reason).await? {
            return self.look(threads).await;
        }
        self.notice(Some(reason), Instant::now());
        Ok(())
    }

    /// A place in the hour's budget for one removal; `None` if there is none left, and then removal is paused.
    ///
    /// Removals in flight have a place each, although some of them may turn out to be none: better a few too early than
    /// one too many.
    pub(crate) async fn admit(&self, threads: &impl Threads) -> Result<Option<Place>, Failure> {
        if let Some(place) = self.hour.admit(threads).await? {
            return Ok(Some(place));
        }
        let budget = self.hour.budget.unwrap_or(u64::MAX);
        self.pause(threads, None, &format!("the budget of {budget} removals per hour is used up")).await?;
        Ok(None)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hour {
    async fn admit(self: &Arc<Self>, threads: &impl Threads) -> Result<Option<Place>, Failure> {
        if let Some(place) = self.take_place() {
            return Ok(Some(place));
        }
        let _asking = self.asking.lock().await;
        if let Some(place) = self.take_place() {
            return Ok(Some(place));
        }
        // Also if the count is a young one: since it was made, somebody may have resumed removal.
        self.refresh(threads).await?;
        Ok(self.take_place())
    }

    fn take_place(self: &Arc<Self>) -> Option<Place> {
        let mut count = self.count();
        if let Some(budget) = self.budget {
            let is_young = count.read_at.is_some_and(|read_at| read_at.elapsed() < REFRESH_INTERVAL);
            if !is_young || count.removed.saturating_add(count.in_flight) >= budget {
                return None;
            }
        }
        count.in_flight += 1;
        Some(Place(Arc::clone(self)))
    }

    async fn refresh(&self, threads: &impl Threads) -> Result<(), Failure> {
        let (asked_at, ended_before) = (Instant::now(), self.count().ended);
        let removed = threads.removed_last_hour().await?;
        let mut count = self.count();
        // What ended while the database counted may be in its answer or not; then it counts twice for an interval.
        count.removed = removed.saturating_add(count.ended - ended_before);
        count.read_at = Some(asked_at);
        Ok(())
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The volume was removed, and there is a receipt, or there will be none.
    pub(crate) fn removed(self) {
        let mut count = self.0.count();
        count.removed += 1;
        count.ended += 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count().in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asked_before_the_pause_does_not_end_it_with_an_old_answer() {
        let breaker = Breaker::new(None);
        let before = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        breaker.notice(Some("a budget"), Instant::now());
        breaker.notice(None, before);
        assert_eq!(breaker.pause_reason().as_deref(), Some("a budget"));
        tokio::time::advance(Duration::from_millis(1)).await;
        breaker.notice(None, Instant::now());
        assert_eq!(breaker.pause_reason(), None);
    }
}
