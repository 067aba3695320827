//! When sweeps begin and end: every interval, while this replica leads, one after the other.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{metrics, reconnect::jittered};

/// When sweeps begin and end.
pub struct Schedule {
    /// From the end of one to the beginning of the next, give or take a jitter.
    pub interval: Duration,
    /// Whether this replica is the one that sweeps.
    pub is_leader: watch::Receiver<bool>,
    /// Cancelled when no more sweeps are to begin.
    pub stop: CancellationToken,
}

impl Schedule {
    /// Sweeps when it is `ready`, and then every interval or as soon as something is `due`. A sweep is asked to end
    /// early when somebody else becomes the leader, or there are to be no more.
    pub(super) async fn run<Ready, Sweep, Due>(
        mut self,
        ready: impl Fn() -> Ready,
        sweep: impl Fn(CancellationToken) -> Sweep,
        due: impl Fn() -> Due,
    ) where
        Ready: Future<Output = ()>,
        Sweep: Future<Output = ()>,
        Due: Future<Output = ()>,
    {
        while !self.stop.is_cancelled() {
            tokio::select! {
                _ = self.is_leader.wait_for(|is_leader| *is_leader) => {}
                () = self.stop.cancelled() => return,
            }
            tokio::select! {
                () = ready() => {}
                () = self.stop.cancelled() => return,
            }
            let sweep_stop = self.stop.child_token();
            tokio::select! {
                swept = AssertUnwindSafe(sweep(sweep_stop.clone())).catch_unwind() => {
                    if swept.is_err() {
                        metrics::panic();
                        error!("a sweep panicked: a bug; standard error has the details. The next one begins anew");
                    }
                }
                () = cancel_when_lost(self.is_leader.clone(), &sweep_stop) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(self.interval)) => {}
                () = due() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

/// Cancels `sweep_stop` when the lead is lost; the sweep then stops by itself between two removals.
async fn cancel_when_lost(mut is_leader: watch::Receiver<bool>, sweep_stop: &CancellationToken) {
    let _ = is_leader.wait_for(|is_leader| !*is_leader).await;
    sweep_stop.cancel();
    std::future::pending::<()>().await;
}
