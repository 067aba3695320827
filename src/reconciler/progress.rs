//! How far a sweep is.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tracing::info;

/// From one line about a sweep that takes long to the next.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How far the running sweep is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Candidates that are done with.
    done: watch::Sender<u64>,
    /// When it was last said in the log.
    said: Mutex<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { done: watch::Sender::new(0), said: Mutex::new(Instant::now()) }
    }
}

impl Progress {
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.done.subscribe()
    }

    pub(super) fn begin(&self) {
        self.done.send_replace(0);
        *self.said() = Instant::now();
    }

    /// Some more candidates are done with. A sweep that takes long says so now and then.
    pub(super) fn advance(&self, count: usize) {
        self.done.send_modify(|done| *done += count as u64);
        let mut said = self.said();
        if said.elapsed() >= PROGRESS_INTERVAL {
            *said = Instant::now();
            info!(candidates = *self.done.borrow(), "sweeping");
        }
    }

    fn said(&self) -> MutexGuard<'_, Instant> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
