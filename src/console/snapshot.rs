//! What many ask for at once, and is found out once: by a task that the first of them starts. Nobody asks, nothing is
//! found out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::problem::Problem;

/// What was found out, and when. Nothing if the task panicked.
type Found<T> = Option<Arc<(Instant, T)>>;

/// The latest of something that is found out when it is asked for.
pub(super) struct Snapshot<T> {
    /// How old it may be.
    max_age: Duration,
    latest: Mutex<Option<Shared<BoxFuture<'static, Found<T>>>>>,
}

impl<T: Clone + Send + Sync + 'static> Snapshot<T> {
    pub(super) fn new(max_age: Duration) -> Self {
        Self { max_age, latest: Mutex::new(None) }
    }

    /// The latest one, or a new one from `take`, for which nobody waits longer than `limit`.
    pub(super) async fn get<F>(&self, limit: Duration, take: impl FnOnce() -> F) -> Result<T, Problem>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let shared = {
            let mut latest = self.latest.lock();
            if let Some(shared) = latest.as_ref().filter(|shared| self.is_fresh(shared)) {
                shared.clone()
            } else {
                let taking = take();
                let task = tokio::spawn(async move {
                    let found = taking.await;
                    (Instant::now(), found)
                });
                let found = AbortOnDropHandle::new(task).map(|ended| ended.ok().map(Arc::new));
                let shared = found.boxed().shared();
                *latest = Some(shared.clone());
                shared
            }
        };
        match tokio::time::timeout(limit, shared).await {
            Ok(Some(found)) => Ok(found.1.clone()),
            Ok(None) | Err(_) => Err(Problem::not_yet()),
        }
    }

    /// Forgets the latest one: something was changed.
    pub(super) fn forget(&self) {
        *self.latest.lock() = None;
    }

    fn is_fresh(&self, shared: &Shared<BoxFuture<'static, Found<T>>>) -> bool {
        match shared.peek() {
            // It is being found out.
            None => true,
            Some(None) => false,
            Some(Some(found)) => found.0.elapsed() < self.max_age,
        }
    }
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
