//! What is written down of the past beside the work: every replica notes how far its chains of receipts go, and the
//! leader counts receipts and forgets what is old.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::{Instrument, debug, info, warn};

use super::{Process, last_steps::Parts};
use crate::{
    failure::{Dependency, Failure},
    operations::{DatabasePort, DockerPort},
};

/// From one look at new receipts to the next.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);
/// From one note of how far the chains go to the next: what is taken from a chain's end within it does not show.
const NOTE_INTERVAL: Duration = Duration::from_mins(1);
/// Old counts, sweeps and receipts are forgotten so often.
const FORGET_INTERVAL: Duration = Duration::from_hours(1);
/// A receipt that was seen so long ago comes after none that is still uncommitted: no transaction of ours takes longer.
const COMMIT_TIME: Duration = Duration::from_secs(150);

/// Starts what tells of the past, beside the work. Whoever leads `leads_all` does what only one may do.
pub(super) fn spawn<V: DockerPort, T: DatabasePort>(
    process: &Arc<Process<V, T>>,
    leads_all: &watch::Sender<bool>,
    parts: &mut Parts,
) {
    parts.spawn(Arc::clone(process).keep_history(leads_all.subscribe()).in_current_span());
    parts.spawn(Arc::clone(process).publish_announcements(leads_all.subscribe()).in_current_span());
    parts.spawn(Arc::clone(process).count_queues(leads_all.subscribe()).in_current_span());
}

/// Which receipts may be counted: those that were there a while ago.
#[derive(Default)]
struct Seen(VecDeque<(Instant, i64)>);

impl Seen {
    /// The latest receipt there is now; returns the latest that may be counted, if that is news.
    fn note(&mut self, latest: i64) -> Option<i64> {
        let now = Instant::now();
        if self.0.back().is_none_or(|(_, before)| *before < latest) {
            self.0.push_back((now, latest));
        }
        let mut countable = None;
        while let Some((_, receipt)) = self.0.front().filter(|(at, _)| now.duration_since(*at) >= COMMIT_TIME) {
            countable = Some(*receipt);
            // The last one stays, so that it is not news again.
            if self.0.len() == 1 {
                break;
            }
            self.0.pop_front();
        }
        countable
    }
}

impl<V: DockerPort, T: DatabasePort> Process<V, T> {
    /// Keeps the history until the process stops. Nothing else fails with it: what is late is done later.
    pub(super) async fn keep_history(self: Arc<Self>, is_leader: watch::Receiver<bool>) -> Result<(), Failure> {
        let (mut seen, mut counted) = (Seen::default(), 0);
        let (mut noted_at, mut forgot_at) = (Instant::now(), None::<Instant>);
        loop {
            tokio::select! {
                () = tokio::time::sleep(COUNT_INTERVAL) => {}
                () = self.stop.cancelled() => return Ok(()),
            }
            if !self.health.is_up(Dependency::Database) {
                continue;
            }
            if noted_at.elapsed() >= NOTE_INTERVAL {
                noted_at = Instant::now();
                say_if_failed("the chains of receipts are not noted", self.store().note_chains(false).await);
            }
            if !*is_leader.borrow() {
                seen = Seen::default();
                continue;
            }
            match self.store().latest_receipt().await.map(|latest| seen.note(latest)) {
                Ok(Some(countable)) if countable > counted => match self.store().roll_up(countable).await {
                    Ok(()) => counted = countable,
                    Err(error) => debug!(%error, "receipts are not counted"),
                },
                Ok(_) => {}
                Err(error) => debug!(%error, "receipts are not counted"),
            }
            if forgot_at.is_none_or(|at| at.elapsed() >= FORGET_INTERVAL) {
                forgot_at = Some(Instant::now());
                say_if_failed("what is old is not forgotten", self.store().forget_history().await);
                if let Some(kept) = self.config.receipts_keep {
                    self.forget_receipts(kept).await;
                }
            }
        }
    }
}

impl<V: DockerPort, T: DatabasePort> Process<V, T> {
    async fn forget_receipts(&self, kept: Duration) {
        match self.store().forget_receipts(kept).await {
            Ok(0) => {}
            Ok(receipts) => info!(receipts, "receipts were deleted, since their time is over"),
            Err(error) => warn!(%error, "receipts whose time is over are not deleted"),
        }
    }
}

fn say_if_failed(what: &'static str, done: Result<(), Failure>) {
    if let Err(error) = done {
        debug!(%error, "{what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_receipt_is_counted_when_none_before_it_can_be_uncommitted() {
        let mut seen = Seen::default();
        assert_eq!(seen.note(5), None);
        tokio::time::advance(COMMIT_TIME / 2).await;
        assert_eq!(seen.note(8), None);
        tokio::time::advance(COMMIT_TIME / 2).await;
        assert_eq!(seen.note(9), Some(5));
        tokio::time::advance(COMMIT_TIME).await;
        assert_eq!(seen.note(9), Some(9), "and 8 with it");
    }
}
