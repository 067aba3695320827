//! A thread whose clean-up failed: how often, why, and when a sweep tries it again.
//!
//! A sweep leaves it alone for as long as it has been failing by then: at least the cooldown, at most a day. So the
//! waits double, what failed is made up for within the time that the cause lasted, and how often events tried in
//! between does not matter: an event is always tried at once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// The longest wait. A row that never succeeds is tried and logged once a day.
const LONGEST_WAIT: Duration = Duration::from_hours(24);
/// The longest error that is kept, in bytes.
const MAX_ERROR_BYTES: usize = 1024;

/// A failed clean-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FailedCleanup {
    /// How often it failed, for events and sweeps together.
    pub attempts: u64,
    /// When it failed for the first time.
    pub first_failed_at: DateTime<Utc>,
    /// When it failed last.
    pub failed_at: DateTime<Utc>,
    /// What went wrong last; at most 1 KiB.
    pub error: String,
    /// Which replica tried last.
    pub replica: String,
}

impl FailedCleanup {
    /// When a sweep tries it again. The first wait is `cooldown`. One that lies ahead was told by a clock that was
    /// wrong, maybe by weeks: then it is tried now.
    #[must_use]
    pub fn next_try_at(&self, cooldown: Duration, now: DateTime<Utc>) -> DateTime<Utc> {
        if self.failed_at > now {
            return now;
        }
        let failing_for = (self.failed_at - self.first_failed_at).to_std().unwrap_or_default();
        self.failed_at + failing_for.min(LONGEST_WAIT).max(cooldown)
    }
}

/// A failed clean-up with the time of its next try, as `explain` and `status` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Failing {
    /// What is known of it.
    #[serde(flatten)]
    pub failed: FailedCleanup,
    /// When a sweep tries it again.
    pub next_try_at: DateTime<Utc>,
}

impl Failing {
    /// A failed clean-up for sweeps with this cooldown.
    #[must_use]
    pub fn new(failed: FailedCleanup, cooldown: Duration, now: DateTime<Utc>) -> Self {
        Self { next_try_at: failed.next_try_at(cooldown, now), failed }
    }
}

/// An error as a database can keep it: PostgreSQL has no text with a NUL in it.
#[must_use]
pub fn error_to_keep(error: &str) -> String {
    let error = error.replace('\0', " ");
    error[..error.floor_char_boundary(MAX_ERROR_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn failed(failing_for: Duration) -> FailedCleanup {
        let failed_at = DateTime::from_timestamp(1_800_000_000, 0).expect("valid");
        FailedCleanup {
            attempts: 1,
            first_failed_at: failed_at - failing_for,
            failed_at,
            error: String::new(),
            replica: String::new(),
        }
    }

    #[test]
    fn the_waits_double_from_the_cooldown_to_a_day() {
        let (mut failing_for, mut waits_mins) = (Duration::ZERO, Vec::new());
        while waits_mins.len() < 11 {
            let failed = failed(failing_for);
            let wait = (failed.next_try_at(10 * MINUTE, failed.failed_at) - failed.failed_at).to_std().expect("later");
            waits_mins.push(wait.as_secs() / 60);
            failing_for += wait;
        }
        assert_eq!(waits_mins, [10, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]);
    }

    #[test]
    fn a_cooldown_is_kept_even_if_it_is_longer_than_a_day() {
        let failed = failed(Duration::ZERO);
        assert_eq!(failed.next_try_at(2 * LONGEST_WAIT, failed.failed_at), failed.failed_at + 2 * LONGEST_WAIT);
    }

    #[test]
    fn a_clock_that_was_set_back_is_a_first_failure() {
        let mut failed = failed(Duration::ZERO);
        failed.first_failed_at += MINUTE;
        assert_eq!(failed.next_try_at(MINUTE, failed.failed_at), failed.failed_at + MINUTE);
    }

    #[test]
    fn a_failure_that_lies_ahead_is_tried_now() {
        let failed = failed(Duration::ZERO);
        let now = failed.failed_at - 2 * LONGEST_WAIT;
        assert_eq!(failed.next_try_at(MINUTE, now), now);
    }

    #[test]
    fn an_error_is_cut_between_characters_and_holds_no_nul() {
        assert_eq!(error_to_keep("a\0b"), "a b");
        assert_eq!(error_to_keep(&"é".repeat(600)).len(), 1024);
        assert_eq!(error_to_keep(&format!("x{}", "é".repeat(600))).len(), 1023);
    }
}
