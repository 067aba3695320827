//! How long to wait before a dependency that is down is tried again: longer each time, with jitter, for ever.
//!
//! The only file that names the crate `backoff`.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};

/// Soon enough that a restarted daemon is not waited for.
const FIRST: Duration = Duration::from_millis(250);
/// Late enough that a fleet of replicas is no load on a broker that comes back.
const LONGEST: Duration = Duration::from_secs(15);

/// Growing waits.
pub struct Delays(ExponentialBackoff);

impl Delays {
    /// Begins with the shortest.
    #[must_use]
    pub fn new() -> Self {
        let builder = ExponentialBackoffBuilder::new()
            .with_initial_interval(FIRST)
            .with_multiplier(2.0)
            .with_randomization_factor(0.3)
            .with_max_interval(LONGEST)
            // Its default gives up after fifteen minutes; an outage may be longer.
            .with_max_elapsed_time(None)
            .build();
        Self(builder)
    }

    /// The next wait; never longer than 15 s (the crate adds its jitter after its own maximum).
    pub fn next_delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST).min(LONGEST)
    }

    /// Begins again with the shortest.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// An interval made up to a tenth shorter or longer, so that replicas that started together do not act together.
#[must_use]
pub fn jittered(interval: Duration) -> Duration {
    ExponentialBackoff { current_interval: interval, randomization_factor: 0.1, ..ExponentialBackoff::default() }
        .next_backoff()
        .unwrap_or(interval)
}

impl Default for Delays {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_jittered_by_a_tenth() {
        let minute = Duration::from_mins(1);
        for _ in 0..100 {
            assert!((54..=66).contains(&jittered(minute).as_secs()));
        }
    }

    #[test]
    fn waits_grow_to_the_longest_and_never_end() {
        let mut delays = Delays::new();
        let first = delays.next_delay();
        assert!(first >= FIRST.mul_f64(0.69) && first <= FIRST.mul_f64(1.31), "{first:?}");
        let later: Vec<_> = (0..100).map(|_| delays.next_delay()).collect();
        assert!(later.iter().all(|&delay| delay <= LONGEST));
        assert!(later[50] >= LONGEST.mul_f64(0.69), "{:?}", later[50]);
        delays.reset();
        let first = delays.next_delay();
        assert!(first <= FIRST.mul_f64(1.31), "{first:?}");
    }
}
