//! A sweep that a person ends: said in the list of sweeps, so that it reaches whichever replica sweeps.

use std::{convert::Infallible, time::Duration};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cleanup::SweepLog;

/// Between two looks whether somebody said so. A sweep that is over sooner looks never.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// What stops a sweep, and why it was stopped.
pub(super) struct Stopping {
    /// Cancelled when it is to end.
    pub(super) stop: CancellationToken,
    why: Mutex<Option<String>>,
}

impl Stopping {
    /// Stops with what it is a part of.
    pub(super) fn within(stop: &CancellationToken) -> Self {
        Self { stop: stop.child_token(), why: Mutex::default() }
    }

    /// Looks into the list until the sweep with this id is over, which drops it.
    pub(super) async fn watch(&self, log: &impl SweepLog, id: Option<&str>) -> Infallible {
        let Some(id) = id else { return std::future::pending().await };
        loop {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            // What can't be read now is read at the next look.
            if let Ok(Some(why)) = log.sweep_stopped(id).await {
                info!(why, "a person stops this sweep");
                *self.why.lock() = Some(why);
                self.stop.cancel();
                return std::future::pending().await;
            }
        }
    }

    /// Why it was not done to its end, if it was stopped: what a person said in the list, or else only that.
    pub(super) fn why(&self) -> Option<String> {
        let said = self.why.lock().clone();
        said.or_else(|| self.stop.is_cancelled().then(|| "it was stopped".to_owned()))
    }
}
