//! How far something is that takes long, for who looks meanwhile; and the way to stop it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

/// What is done, and of how much.
#[derive(Clone, Debug, Default)]
pub struct HowFar {
    done: Arc<AtomicU64>,
    of: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl HowFar {
    /// A part begins, with so much to do.
    pub fn begin(&self, of: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.of.store(of, Ordering::Relaxed);
    }

    /// One more is done.
    pub fn advance(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// So many are done.
    pub fn advance_to(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// What is done and of how much; nothing before that is known.
    #[must_use]
    pub fn counts(&self) -> Option<(u64, u64)> {
        let of = self.of.load(Ordering::Relaxed);
        (of > 0).then(|| (self.done.load(Ordering::Relaxed).min(of), of))
    }

    /// Asks it to end: what has begun is finished, nothing new is begun.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// What is cancelled when it is to end.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_before_it_is_known_how_much_there_is() {
        let how_far = HowFar::default();
        assert_eq!(how_far.counts(), None);
        how_far.begin(2);
        how_far.clone().advance();
        assert_eq!(how_far.counts(), Some((1, 2)));
        how_far.advance_to(7);
        assert_eq!(how_far.counts(), Some((2, 2)), "what came meanwhile is not counted");
        how_far.stop();
        assert!(how_far.is_stopped());
    }
}
