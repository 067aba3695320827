//! What a host's sweeps have removed since this process began.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts that only go up.
#[derive(Debug, Default)]
pub(super) struct SweptCounts {
    volumes: AtomicU64,
    bytes: AtomicU64,
    unsized_volumes: AtomicU64,
}

/// What was removed for sweeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many volumes, marked or not.
    pub volumes: u64,
    /// What was in those whose receipts are written, in bytes, as far as it is known.
    pub bytes: u64,
    /// How many of those had an unknown size.
    pub unsized_volumes: u64,
}

impl SweptCounts {
    /// A volume is gone.
    pub(super) fn removed(&self) {
        self.volumes.fetch_add(1, Ordering::Relaxed);
    }

    /// The receipt of one is written, with what was in it.
    pub(super) fn written(&self, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => self.bytes.fetch_add(bytes, Ordering::Relaxed),
            None => self.unsized_volumes.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// So far.
    pub(super) fn so_far(&self) -> Swept {
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Swept { volumes: now(&self.volumes), bytes: now(&self.bytes), unsized_volumes: now(&self.unsized_volumes) }
    }
}
