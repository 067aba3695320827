//! How many removals a daemon is sent at once: as many as it takes without getting slower.
//!
//! Docker's `local` driver holds one lock while it deletes a volume's files (moby, `volume/local`), and whoever
//! creates, lists or removes a volume waits behind it, in the order in which they came. One workspace with a million
//! files holds it for a minute, and everything that we had queued behind it would then go before the user who creates
//! a workspace. So while a removal takes longer than usual, nothing more is sent; and how many are sent at once grows
//! by one with each round of quick answers and is halved by a slow one.
//!
//! A removal that takes longer than `VOLUME_REAPER_DOCKER_TIMEOUT` ([`Permit::detach`]) no longer keeps others from
//! their permits: it may be stuck for good, in a driver that holds no lock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// A removal that is quicker than this is never slow: a busy disk takes as long for a few files.
const NEVER_SLOW: Duration = Duration::from_millis(250);
/// A removal that takes so many times as long as usual is slow.
const SLOW_FACTOR: u32 = 4;
/// The usual duration follows the latest one by this fraction of the difference.
const USUAL_WEIGHT: u32 = 8;
/// Removals that may be detached at once. With more, the daemon is stuck, and nothing more is sent.
const MOST_DETACHED: usize = 8;

/// Gives permits to the removals of one daemon.
#[derive(Debug)]
pub(crate) struct Limiter {
    most: usize,
    state: Mutex<State>,
    /// Acquired by the one who is next, so that permits are given in the order in which they were asked for.
    next: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// How many may be in flight; its whole part counts.
    limit: f64,
    /// How long a removal takes, lately.
    usual: Duration,
    /// Those in flight by number, with when they were sent, if they are.
    in_flight: BTreeMap<u64, Option<Instant>>,
    detached: usize,
    given: u64,
}

/// A permit for one removal, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<Limiter>,
    number: u64,
    sent_at: Option<Instant>,
    is_detached: bool,
}

impl Limiter {
    /// A limiter that has at most `most` removals in flight, and one at first.
    pub(crate) fn new(most: u16) -> Arc<Self> {
        let state = State { limit: 1.0, usual: Duration::ZERO, in_flight: BTreeMap::new(), detached: 0, given: 0 };
        Arc::new(Self {
            most: usize::from(most),
            state: Mutex::new(state),
            next: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Waits for a permit.
    pub(crate) async fn permit(self: &Arc<Self>) -> Permit {
        let _next = self.next.lock().await;
        loop {
            if let Some(number) = self.state.lock().take() {
                return Permit { limiter: Arc::clone(self), number, sent_at: None, is_detached: false };
            }
            // Time alone gives no permit, only what others do. What they did since the look is not missed.
            self.changed.notified().await;
        }
    }

    /// Whether nothing more is sent for now, since removals take long.
    pub(crate) fn is_held_up(&self) -> bool {
        self.state.lock().is_held_up()
    }
}

impl State {
    fn take(&mut self) -> Option<u64> {
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
        let is_full = self.in_flight.len() as f64 + 1.0 > self.limit;
        if is_full || self.is_held_up() {
            return None;
        }
        self.given += 1;
        self.in_flight.insert(self.given, None);
        Some(self.given)
    }

    fn is_held_up(&self) -> bool {
        let slow_after = self.slow_after();
        let is_slow = self.in_flight.values().flatten().any(|sent_at| sent_at.elapsed() > slow_after);
        is_slow || self.detached >= MOST_DETACHED
    }

    fn slow_after(&self) -> Duration {
        NEVER_SLOW.max(self.usual * SLOW_FACTOR)
    }

    /// A removal took so long, or takes so long already.
    fn learn(&mut self, took: Duration, most: usize) {
        let slow_after = self.slow_after();
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
        let most = most as f64;
        self.limit = if took > slow_after {
            (self.limit / 2.0).max(1.0)
        } else {
            (self.limit + 1.0 / self.limit.floor()).min(most)
        };
        // One that is out of all proportion says little about what is usual.
        self.usual = (self.usual * (USUAL_WEIGHT - 1) + took.min(slow_after)) / USUAL_WEIGHT;
    }
}

impl Permit {
    /// A removal is sent now: the volume's, or before it that of a container.
    pub(crate) fn sent(&mut self) {
        if self.is_detached {
            return;
        }
        let now = Instant::now();
        self.sent_at = Some(now);
        self.limiter.state.lock().in_flight.insert(self.number, Some(now));
    }

    /// The removal continues, and others no longer wait for it.
    pub(crate) fn detach(&mut self) {
        let mut state = self.limiter.state.lock();
        state.in_flight.remove(&self.number);
        state.detached += 1;
        state.limit = 1.0;
        self.is_detached = true;
        drop(state);
        self.limiter.changed.notify_one();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limiter.state.lock();
        if self.is_detached {
            state.detached -= 1;
        } else {
            state.in_flight.remove(&self.number);
            if let Some(sent_at) = self.sent_at {
                state.learn(sent_at.elapsed(), self.limiter.most);
            }
        }
        drop(state);
        self.limiter.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use proptest::prelude::*;

    use super::*;
    use crate::cleanup::fuzzed_limiter::use_limiter;

    const QUICK: Duration = Duration::from_millis(2);

    async fn one(limiter: &Arc<Limiter>, took: Duration) {
        let mut permit = limiter.permit().await;
        permit.sent();
        tokio::time::advance(took).await;
    }

    /// How many permits there are to be had now.
    async fn room(limiter: &Arc<Limiter>) -> usize {
        let mut permits = Vec::new();
        while let Some(permit) = now(limiter.permit()).await {
            permits.push(permit);
        }
        permits.len()
    }

    async fn now<R>(future: impl Future<Output = R>) -> Option<R> {
        tokio::select! { biased; result = future => Some(result), () = std::future::ready(()) => None }
    }

    #[tokio::test(start_paused = true)]
    async fn quick_answers_make_it_more_up_to_the_most_and_a_slow_one_makes_it_half() {
        let limiter = Limiter::new(4);
        assert_eq!(room(&limiter).await, 1);
        for _ in 0..20 {
            one(&limiter, QUICK).await;
        }
        assert_eq!(room(&limiter).await, 4);
        one(&limiter, Duration::from_mins(1)).await;
        assert_eq!(room(&limiter).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_by_one_with_each_round_of_quick_answers() {
        let limiter = Limiter::new(8);
        let mut rooms = Vec::new();
        for _ in 0..5 {
            one(&limiter, QUICK).await;
            rooms.push(room(&limiter).await);
        }
        assert_eq!(rooms, [2, 2, 3, 3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_removal_is_slow_nothing_more_is_sent() {
        let limiter = Limiter::new(4);
        for _ in 0..20 {
            one(&limiter, QUICK).await;
        }
        let mut huge = limiter.permit().await;
        huge.sent();
        assert_eq!(room(&limiter).await, 3);
        assert!(!limiter.is_held_up());
        tokio::time::advance(NEVER_SLOW * 2).await;
        assert_eq!(room(&limiter).await, 0);
        assert!(limiter.is_held_up());
        let waiting = tokio::spawn({
            let limiter = Arc::clone(&limiter);
            async move { limiter.permit().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(huge);
        waiting.await.expect("its permit");
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_daemon_that_always_takes_its_time_that_is_usual() {
        let limiter = Limiter::new(4);
        for _ in 0..100 {
            one(&limiter, Duration::from_secs(1)).await;
        }
        assert_eq!(room(&limiter).await, 4);
    }

    #[test]
    fn what_took_as_long_as_usual_changes_nothing_about_what_is_usual() {
        let usual = Duration::from_millis(500);
        let mut state = State { limit: 1.0, usual, in_flight: BTreeMap::new(), detached: 0, given: 0 };
        state.learn(usual, 4);
        assert_eq!(state.usual, usual);
        state.learn(usual * 2, 4);
        assert!(usual < state.usual && state.usual < usual * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn detached_removals_keep_nobody_from_their_permit_until_they_are_many() {
        let limiter = Limiter::new(4);
        let mut stuck = Vec::new();
        for _ in 0..MOST_DETACHED {
            let mut permit = limiter.permit().await;
            permit.sent();
            tokio::time::advance(Duration::from_mins(2)).await;
            assert_eq!(room(&limiter).await, 0);
            permit.detach();
            stuck.push(permit);
        }
        assert_eq!(room(&limiter).await, 0);
        assert!(limiter.is_held_up());
        stuck.pop();
        assert!(!limiter.is_held_up());
        assert_eq!(room(&limiter).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn permits_are_given_in_the_order_in_which_they_were_asked_for() {
        let limiter = Limiter::new(1);
        let first = limiter.permit().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _permit = limiter.permit().await;
                order.lock().push(number);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.expect("its permit");
        }
        assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn no_more_are_in_flight_than_allowed_whatever_ends_when(steps in prop::collection::vec(any::<u8>(), 0..400)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("a runtime").block_on(use_limiter(&steps));
        }
    }
}
