//! What many ask for at once, and is found out once: by a task that the first of them starts. Nobody asks, nothing is
//! found out.

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::problem::Problem;

/// How long is rested after something was found out, by how long that took: at most a twentieth of the time goes to it.
const RESTS: u32 = 19;
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How long a page waits for news, if it has what was found out before.
const PATIENCE: Duration = Duration::from_millis(50);
/// How old that may be besides; at least twice as old as what is newer takes to be found out.
const MOST_STALE: Duration = Duration::from_secs(10);

/// What was found out.
struct Found<T> {
    at: Instant,
    took: Duration,
    value: T,
}

/// What is being found out. Nothing if the task panicked.
type Taking<T> = Shared<BoxFuture<'static, Option<Arc<Found<T>>>>>;

/// What is being found out, and what was found out before, if that is not too old to be shown meanwhile.
type Replacing<T> = (Taking<T>, Option<Arc<Found<T>>>);

/// The latest of something that is found out when it is asked for.
pub(super) struct Snapshot<T> {
    /// How old it may be.
    max_age: Duration,
    latest: Mutex<Latest<T>>,
}

struct Latest<T> {
    found: Option<Arc<Found<T>>>,
    taking: Option<Taking<T>>,
}

impl<T: Clone + Send + Sync + 'static> Snapshot<T> {
    pub(super) fn new(max_age: Duration) -> Self {
        Self { max_age, latest: Mutex::new(Latest { found: None, taking: None }) }
    }

    /// The latest one, or a new one from `take`, for which nobody waits longer than `limit`.
    pub(super) async fn get<F>(&self, limit: Duration, take: impl FnOnce() -> F) -> Result<T, Problem>
    where
        F: Future<Output = T> + Send + 'static,
    {
        match self.latest_or_new(take) {
            Ok(found) => Ok(found.value.clone()),
            Err((taking, _)) => wait(taking, limit).await.ok_or_else(Problem::not_yet),
        }
    }

    /// The latest one, also if it is not quite new, while a new one is found out for who comes next. Only if there is
    /// none at all it is waited for, no longer than `limit`.
    pub(super) async fn soon<F>(&self, limit: Duration, take: impl FnOnce() -> F) -> Result<T, Problem>
    where
        F: Future<Output = T> + Send + 'static,
    {
        match self.latest_or_new(take) {
            Ok(found) => Ok(found.value.clone()),
            Err((taking, None)) => wait(taking, limit).await.ok_or_else(Problem::not_yet),
            Err((taking, Some(stale))) => Ok(wait(taking, PATIENCE).await.unwrap_or_else(|| stale.value.clone())),
        }
    }

    /// What can be had now, or is being found out, with what it may be replaced by until then.
    fn latest_or_new<F>(&self, take: impl FnOnce() -> F) -> Result<Arc<Found<T>>, Replacing<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut latest = self.latest.lock();
        // It may have ended while nobody waited for it.
        if let Some(ended) = latest.taking.clone().and_then(FutureExt::now_or_never) {
            latest.taking = None;
            latest.found = ended.or(latest.found.take());
        }
        if let Some(found) = latest.found.as_ref().filter(|found| self.is_fresh(found)) {
            return Ok(Arc::clone(found));
        }
        let taking = latest.taking.get_or_insert_with(|| {
            let (began, taking) = (Instant::now(), take());
            let task = tokio::spawn(async move {
                let value = taking.await;
                Found { at: Instant::now(), took: began.elapsed(), value }
            });
            AbortOnDropHandle::new(task).map(|ended| ended.ok().map(Arc::new)).boxed().shared()
        });
        let taking = taking.clone();
        let is_shown = |found: &Arc<Found<T>>| {
            let stale = MOST_STALE.max(found.took.saturating_mul(2));
            found.at.elapsed() < self.rest(found) + stale
        };
        Err((taking, latest.found.clone().filter(is_shown)))
    }

    /// Forgets the latest one: something was changed.
    pub(super) fn forget(&self) {
        *self.latest.lock() = Latest { found: None, taking: None };
    }

    fn is_fresh(&self, found: &Found<T>) -> bool {
        found.at.elapsed() < self.rest(found)
    }

    fn rest(&self, found: &Found<T>) -> Duration {
        self.max_age.max(found.took.saturating_mul(RESTS).min(LONGEST_REST))
    }
}

async fn wait<T: Clone>(taking: Taking<T>, limit: Duration) -> Option<T> {
    let found = tokio::time::timeout(limit, taking).await.ok().flatten()?;
    Some(found.value.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn whoever_asks_at_once_gets_what_one_task_found() {
        let snapshot = Snapshot::new(Duration::from_hours(1));
        let taken = Arc::new(AtomicU32::new(0));
        let take = || {
            let taken = Arc::clone(&taken);
            async move { taken.fetch_add(1, Ordering::Relaxed) + 1 }
        };
        let limit = Duration::from_mins(1);
        let (one, other) = tokio::join!(snapshot.get(limit, take), snapshot.get(limit, take));
        assert_eq!((one.ok(), other.ok()), (Some(1), Some(1)));
        snapshot.forget();
        assert_eq!(snapshot.get(limit, take).await.ok(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_something_does_not_wait_for_what_is_newer() {
        let snapshot = Snapshot::new(Duration::ZERO);
        let limit = Duration::from_mins(1);
        assert_eq!(snapshot.soon(limit, || async { 1 }).await.ok(), Some(1), "there is none to have meanwhile");
        let (finish, finished) = tokio::sync::oneshot::channel();
        let slow = || async { finished.await.expect("sent") };
        assert_eq!(snapshot.soon(limit, slow).await.ok(), Some(1));
        finish.send(2).expect("it is being found out, though nobody waits");
        let next = snapshot.get(limit, || async { unreachable!("it is being found out") }).await;
        assert_eq!(next.ok(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_shown_until_it_is_found_out_anew() {
        let snapshot = Snapshot::new(Duration::ZERO);
        let slow = |value| {
            move || async move {
                tokio::time::sleep(Duration::from_mins(1)).await;
                value
            }
        };
        let limit = Duration::from_hours(1);
        assert_eq!(snapshot.soon(limit, slow(1)).await.ok(), Some(1));
        tokio::time::sleep(LONGEST_REST).await;
        assert_eq!(snapshot.soon(limit, slow(2)).await.ok(), Some(1), "it is due");
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!(snapshot.soon(limit, slow(3)).await.ok(), Some(1), "and not there yet");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(snapshot.soon(limit, slow(3)).await.ok(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_limit_and_the_task_goes_on() {
        let snapshot = Snapshot::new(Duration::from_hours(1));
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            7
        };
        let problem = snapshot.get(Duration::from_secs(1), slow).await.expect_err("too early");
        assert_eq!(problem.code(), axum::http::StatusCode::SERVICE_UNAVAILABLE);
        let found = snapshot.get(Duration::from_mins(1), || async { 8 }).await;
        assert_eq!(found.ok(), Some(7), "the first task's");
    }
}
