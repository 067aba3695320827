//! What runs the batches of one host, as long as something waits for it.

use std::sync::Arc;

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};

use tracing::Instrument;

use super::{Cleaner, Database, Volumes, cleaner::deferred, limiter::Permit};
use crate::{traces, volume_name::ThreadId};

/// Runs batches as long as something waits. Another one takes its place if it panics.
pub(super) struct Runner<V: Volumes, T: Database> {
    pub(super) cleaner: Arc<Cleaner<V, T>>,
}

/// A batch's turn to send removals, with the permit for its first one.
///
/// Batches take turns: two that sent at the same time would also commit at the same time, and the daemon would idle
/// meanwhile. The turn ends when the last removal is sent.
pub(super) struct Turn {
    pub(super) permit: Permit,
    pub(super) sending: OwnedMutexGuard<()>,
}

impl<V: Volumes, T: Database> Runner<V, T> {
    pub(super) async fn run(self) {
        let cleaner = &self.cleaner;
        while let Some(asked_at) = cleaner.requests.first_or_end() {
            // Before rows are locked: they do not stay locked for the daemon's sake.
            let turn = async {
                let sending = Arc::clone(&cleaner.sending).lock_owned().await;
                Turn { permit: cleaner.limiter.permit().await, sending }
            };
            match timeout_at(asked_at + cleaner.context.limits.timeout, turn).await {
                Ok(turn) => self.run_batch(turn).await,
                Err(_) => self.give_up().await,
            }
        }
    }

    async fn run_batch(&self, turn: Turn) {
        let requests = self.cleaner.requests.take(self.cleaner.context.limits.locking.batch);
        if requests.is_empty() {
            return;
        }
        let threads: Vec<_> = requests.iter().map(|request| request.thread.clone()).collect();
        let under_way = UnderWay { cleaner: &self.cleaner, threads };
        let span = traces::batch(requests.iter().map(|request| &request.span));
        self.cleaner.run_batch(requests, turn).instrument(span).await;
        drop(under_way);
    }

    /// The daemon gives no permits: it is down, or busy with removals that take long. What waited is left to the sweep.
    async fn give_up(&self) {
        let cleaner = &self.cleaner;
        let probed = cleaner.volumes.probe().await;
        if probed.is_ok() {
            cleaner.users.sweep_soon();
        }
        let then = Instant::now().checked_sub(cleaner.context.limits.timeout).unwrap_or_else(Instant::now);
        let requests = cleaner.requests.take_older_than(then);
        let threads: Vec<_> = requests.iter().map(|request| request.thread.clone()).collect();
        let rows = match probed {
            Ok(()) => cleaner.threads().read(&threads, cleaner.host.name()).await,
            Err(failure) => Err(failure),
        };
        for request in requests {
            let result = rows.as_ref().map(|rows| deferred(rows.threads.get(&request.thread))).map_err(Clone::clone);
            request.answer(result);
        }
    }
}

impl<V: Volumes, T: Database> Drop for Runner<V, T> {
    fn drop(&mut self) {
        // Otherwise it has ended by itself, or the whole process does.
        if std::thread::panicking() && self.cleaner.requests.runner_failed() {
            self.cleaner.start_runner();
        }
    }
}

/// Threads of a batch that is under way, until it is dropped.
struct UnderWay<'a, V, T> {
    cleaner: &'a Cleaner<V, T>,
    threads: Vec<ThreadId>,
}

impl<V, T> Drop for UnderWay<'_, V, T> {
    fn drop(&mut self) {
        self.cleaner.requests.end(self.threads.iter());
    }
}
