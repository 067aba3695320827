//! The breaker: bounds how much can be removed before somebody looks.
//!
//! When a removal would exceed a budget, all removal is paused: a row in the database, so that it counts for every
//! replica and outlives restarts, until a person resumes it. Nothing else stops: events are taken and acknowledged,
//! absent volumes are marked, `/readyz` stays as it is.
//!
//! A sweep's budget is its host's: where there are several, using it up pauses removal on that host only.
//!
//! The row is read together with the threads', so a pause counts from the next removal on, everywhere. The budget of
//! an hour is counted from the receipts of all replicas, not for each removal but every [`REFRESH_INTERVAL`]; in
//! between, a replica adds its own. So replicas together can exceed it by what the others remove within that
//! interval.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::ports::{Pauses, Receipts, Sightings};
use crate::{failure::Failure, host::Host, metrics};

/// How old a count of all replicas' removals may be. One short query per interval, and only while removing.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// How many volumes may be removed before removal is paused, containers for their sake included; `None` is any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// By one sweep.
    pub per_sweep: Option<u64>,
    /// By all replicas within an hour, whoever asked for it.
    pub per_hour: Option<u64>,
}

/// Says when removal on one host is paused.
#[derive(Debug)]
pub(crate) struct Breaker {
    host: Host,
    seen: Mutex<Seen>,
}

/// The pause as it was last seen.
#[derive(Debug, Default)]
struct Seen {
    /// Why, if there was one.
    reason: Option<String>,
    /// When that was news; who asked before this has an old answer.
    at: Option<Instant>,
}

/// The budget of an hour: counts the removals on all hosts.
#[derive(Debug)]
pub(crate) struct HourBudget {
    limit: Option<u64>,
    count: Mutex<Count>,
    /// Acquired by the one who asks the database; the others take its answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Count {
    /// When the database was asked; `None` before the first time.
    read_at: Option<Instant>,
    /// What it said, and our own removals since.
    removed: u64,
    /// Removals that have begun and are not yet marked, so that they have no receipt.
    in_flight: u64,
    /// All that this process has removed.
    ended: u64,
}

/// A reservation in the hour's budget for one removal; given back when dropped, unless the volume was removed.
#[derive(Debug)]
pub(crate) struct Reservation(Arc<HourBudget>);

/// What came of asking for reservations without asking the database.
#[derive(Debug)]
pub(crate) enum Reserved {
    /// As many as were wanted.
    Enough(Vec<Reservation>),
    /// The count is too old to say: the database is to be asked.
    CountIsOld,
    /// The budget has no more.
    UsedUp,
}

impl Breaker {
    pub(crate) fn new(host: Host) -> Self {
        metrics::removal_paused(host.name(), false);
        Self { host, seen: Mutex::default() }
    }

    /// Why removal was paused when that was last looked at, if it was.
    pub(crate) fn pause_reason(&self) -> Option<String> {
        self.seen.lock().reason.clone()
    }

    /// Takes note of why removal is paused, if it is, as the database said to who asked it at `asked_at`; logs it if
    /// that is news.
    pub(crate) fn notice(&self, reason: Option<&str>, asked_at: Instant) {
        let mut seen = self.seen.lock();
        if seen.reason.as_deref() == reason || seen.at.is_some_and(|at| asked_at < at) {
            return;
        }
        *seen = Seen { reason: reason.map(str::to_owned), at: Some(Instant::now()) };
        metrics::removal_paused(self.host.name(), reason.is_some());
        if let Some(reason) = reason {
            warn!(reason, "removal is paused; `volume-reaper resume` resumes it");
        } else {
            info!("removal resumed");
        }
    }

    /// Looks whether removal is paused.
    pub(crate) async fn look(&self, pauses: &impl Pauses) -> Result<(), Failure> {
        let asked_at = Instant::now();
        let pause = pauses.pause(self.host.name()).await?;
        self.notice(pause.as_ref().map(|pause| pause.reason.as_str()), asked_at);
        Ok(())
    }

    /// Pauses removal on this host. If it is paused already, for another reason perhaps, that one stays.
    pub(crate) async fn trip(&self, pauses: &impl Pauses, reason: &str) -> Result<(), Failure> {
        self.pause(pauses, self.host.name(), reason).await
    }

    /// Doubts this host: pauses removal there, and marks by its lists.
    pub(crate) async fn doubt(&self, database: &(impl Pauses + Sightings), reason: &str) -> Result<(), Failure> {
        if !database.doubt(&self.host, reason).await? {
            return self.look(database).await;
        }
        self.notice(Some(reason), Instant::now());
        Ok(())
    }

    /// Pauses removal everywhere, since the budget of an hour is used up.
    pub(crate) async fn trip_hour(&self, pauses: &impl Pauses, hour: &HourBudget) -> Result<(), Failure> {
        let limit = hour.limit.unwrap_or(u64::MAX);
        self.pause(pauses, None, &format!("the budget of {limit} removals per hour is used up")).await
    }

    async fn pause(&self, pauses: &impl Pauses, host: Option<&str>, reason: &str) -> Result<(), Failure> {
        if !pauses.pause_removal(host, reason).await? {
            return self.look(pauses).await;
        }
        self.notice(Some(reason), Instant::now());
        Ok(())
    }
}

impl HourBudget {
    pub(crate) fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self { limit, count: Mutex::default(), asking: tokio::sync::Mutex::default() })
    }

    /// Reservations for up to `wanted` removals, fewer if the budget has no more.
    ///
    /// Removals in flight have one each, although some of them may turn out to be none: better a few too early than one
    /// too many.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        receipts: &impl Receipts,
        wanted: usize,
    ) -> Result<Vec<Reservation>, Failure> {
        let mut reservations = Vec::new();
        self.take(&mut reservations, wanted);
        if reservations.len() < wanted {
            let _asking = self.asking.lock().await;
            self.take(&mut reservations, wanted);
            if reservations.len() < wanted {
                // Also if the count is a young one: since it was made, somebody may have resumed removal.
                self.refresh(receipts).await?;
                self.take(&mut reservations, wanted);
            }
        }
        Ok(reservations)
    }

    /// Reservations for `wanted` removals or none, for who must not wait for the database.
    pub(crate) fn reserve_at_once(self: &Arc<Self>, wanted: usize) -> Reserved {
        let mut reservations = Vec::new();
        self.take(&mut reservations, wanted);
        if reservations.len() == wanted {
            return Reserved::Enough(reservations);
        }
        if self.count.lock().is_young() { Reserved::UsedUp } else { Reserved::CountIsOld }
    }

    fn take(self: &Arc<Self>, reservations: &mut Vec<Reservation>, wanted: usize) {
        let mut count = self.count.lock();
        while reservations.len() < wanted && count.has_room(self.limit) {
            count.in_flight += 1;
            reservations.push(Reservation(Arc::clone(self)));
        }
    }

    async fn refresh(&self, receipts: &impl Receipts) -> Result<(), Failure> {
        let (asked_at, ended_before) = (Instant::now(), self.count.lock().ended);
        let removed = receipts.removed_last_hour().await?;
        let mut count = self.count.lock();
        // What ended while the database counted may be in its answer or not; then it counts twice for an interval.
        count.removed = removed.saturating_add(count.ended - ended_before);
        count.read_at = Some(asked_at);
        Ok(())
    }
}

impl Count {
    fn is_young(&self) -> bool {
        self.read_at.is_some_and(|read_at| read_at.elapsed() < REFRESH_INTERVAL)
    }

    fn has_room(&self, limit: Option<u64>) -> bool {
        let Some(limit) = limit else { return true };
        self.is_young() && self.removed.saturating_add(self.in_flight) < limit
    }
}

impl Reservation {
    /// The volume, or the container, was removed, and there is a receipt, or there will be none.
    pub(crate) fn removed(self) {
        let mut count = self.0.count.lock();
        count.removed += 1;
        count.ended += 1;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.count.lock().in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asked_before_the_pause_does_not_end_it_with_an_old_answer() {
        let breaker = Breaker::new(Host::Only);
        let before = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        breaker.notice(Some("a budget"), Instant::now());
        breaker.notice(None, before);
        assert_eq!(breaker.pause_reason().as_deref(), Some("a budget"));
        tokio::time::advance(Duration::from_millis(1)).await;
        breaker.notice(None, Instant::now());
        assert_eq!(breaker.pause_reason(), None);
    }

    /// Receipts, of this process and of others.
    struct Counted(Mutex<u64>);

    impl Receipts for Counted {
        async fn record(&self, _: &super::super::Receipt) -> Result<(), Failure> {
            Ok(())
        }

        async fn record_containers(&self, _: &[super::super::ContainerReceipt]) -> Result<(), Failure> {
            Ok(())
        }

        async fn removed_last_hour(&self) -> Result<u64, Failure> {
            Ok(*self.0.lock())
        }
    }

    /// What somebody does with the budget.
    #[derive(Clone, Debug)]
    enum Move {
        Reserve(usize),
        ReserveAtOnce(usize),
        /// The removal with this reservation ends, and has its receipt.
        Removed(usize),
        /// It was none.
        GivenBack(usize),
        TimePasses(u64),
    }

    fn moves() -> impl Strategy<Value = Move> {
        prop_oneof![
            (1usize..5).prop_map(Move::Reserve),
            (1usize..5).prop_map(Move::ReserveAtOnce),
            any::<usize>().prop_map(Move::Removed),
            any::<usize>().prop_map(Move::GivenBack),
            (0u64..9000).prop_map(Move::TimePasses),
        ]
    }

    proptest! {
        /// However reservations, removals and time follow each other: what was removed and what may be is no more than
        /// the budget.
        #[test]
        fn no_interleaving_exceeds_the_budget_of_an_hour(
            limit in 0u64..6,
            before in 0u64..4,
            moves in prop::collection::vec(moves(), 0..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("a runtime").block_on(async {
                let (budget, receipts) = (HourBudget::new(Some(limit)), Counted(Mutex::new(before)));
                let mut reserved: Vec<Reservation> = Vec::new();
                for next in moves {
                    match next {
                        Move::Reserve(wanted) => {
                            reserved.extend(budget.reserve(&receipts, wanted).await.expect("counted"));
                        }
                        Move::ReserveAtOnce(wanted) => match budget.reserve_at_once(wanted) {
                            Reserved::Enough(more) => reserved.extend(more),
                            Reserved::CountIsOld | Reserved::UsedUp => {}
                        },
                        Move::Removed(which) if !reserved.is_empty() => {
                            reserved.swap_remove(which % reserved.len()).removed();
                            *receipts.0.lock() += 1;
                        }
                        Move::GivenBack(which) if !reserved.is_empty() => {
                            drop(reserved.swap_remove(which % reserved.len()));
                        }
                        Move::Removed(_) | Move::GivenBack(_) => {}
                        Move::TimePasses(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
                    }
                    let removed = *receipts.0.lock();
                    let may_be = removed + reserved.len() as u64;
                    prop_assert!(may_be <= limit.max(before), "{removed} removed, {} reserved", reserved.len());
                }
                Ok(())
            })?;
        }
    }
}
