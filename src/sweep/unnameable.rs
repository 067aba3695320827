//! Closed threads whose ids can't name a volume.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

/// How many closed threads the latest sweep found whose ids can't name a volume.
#[derive(Default)]
pub(super) struct Unnameable(AtomicU64);

impl Unnameable {
    /// Logs the number when it changes, and not in every sweep.
    pub(super) fn log(&self, threads: u64) {
        if self.0.swap(threads, Ordering::Relaxed) != threads && threads > 0 {
            warn!(
                threads,
                "closed threads have ids that can't name a volume, or rows with names that are not ours; `debug` names \
                 them at every sweep"
            );
        }
    }
}
