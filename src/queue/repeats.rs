//! What repeats is written a few times and then counted: ten thousand events about threads that nobody knows are one
//! thing to say.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use parking_lot::Mutex;
use tracing::warn;

/// How long lines of a kind are counted together.
const WINDOW: Duration = Duration::from_mins(1);
/// Lines of a kind that are written within it.
const WRITTEN: u64 = 10;

/// Lines by their kind, since the last summary.
#[derive(Default)]
pub(super) struct Repeats(Mutex<BTreeMap<&'static str, u64>>);

impl Repeats {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Counts a line. Whether it is to be written.
    pub(super) fn is_written(&self, kind: &'static str) -> bool {
        let mut kinds = self.0.lock();
        let lines = kinds.entry(kind).or_default();
        *lines += 1;
        *lines <= WRITTEN
    }

    /// Kinds with their lines that were not written; begins anew.
    fn take_left_out(&self) -> Vec<(&'static str, u64)> {
        let kinds = std::mem::take(&mut *self.0.lock());
        kinds.into_iter().filter(|(_, lines)| *lines > WRITTEN).map(|(kind, lines)| (kind, lines - WRITTEN)).collect()
    }

    /// Says what was not written.
    pub(super) fn summarise(&self) {
        for (kind, left_out) in self.take_left_out() {
            warn!(kind, left_out, "more deliveries ended alike; each is a line at debug level");
        }
    }

    /// Says it again and again.
    pub(super) async fn keep_summarising(&self) -> Infallible {
        loop {
            tokio::time::sleep(WINDOW).await;
            self.summarise();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_written_ten_times_and_then_counted_until_it_is_told() {
        let repeats = Repeats::default();
        let written = (0..10_000).filter(|_| repeats.is_written("retry")).count();
        assert!(repeats.is_written("stale"), "each kind has its own");
        assert_eq!((written, repeats.take_left_out()), (10, vec![("retry", 9_990)]));
        assert!(repeats.is_written("retry"));
        assert_eq!(repeats.take_left_out(), []);
    }
}
