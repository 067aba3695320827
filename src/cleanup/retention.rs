//! How long a thread's volume is kept after the close.
//!
//! The clock is our own, or the database's, whichever is behind. A thread whose row does not say when it was closed is
//! never due: nobody knows for how long its volume was kept already.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// The time that has to pass between a thread's close and the removal of its volume; zero is none, and then the time of
/// the close does not matter at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention(pub Duration);

/// Whether a closed thread's volume may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It may.
    Now,
    /// It may from then on.
    At(DateTime<Utc>),
    /// It may not by itself: the row does not say when the thread was closed.
    Never,
}

impl Retention {
    /// Whether the volume of a thread that was closed at `closed_at` may go at `now`.
    #[must_use]
    pub fn due(self, closed_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Due {
        if self.0.is_zero() {
            return Due::Now;
        }
        let retention = chrono::TimeDelta::from_std(self.0).unwrap_or(chrono::TimeDelta::MAX);
        match closed_at.map(|closed_at| closed_at.checked_add_signed(retention).unwrap_or(DateTime::<Utc>::MAX_UTC)) {
            None => Due::Never,
            Some(due_at) if due_at > now => Due::At(due_at),
            Some(_) => Due::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).expect("a time")
    }

    #[test]
    fn a_volume_is_due_when_the_retention_after_the_close_is_over() {
        let retention = Retention(Duration::from_mins(1));
        assert_eq!(retention.due(Some(at(100)), at(159)), Due::At(at(160)));
        assert_eq!(retention.due(Some(at(100)), at(160)), Due::Now);
        assert_eq!(retention.due(Some(at(500)), at(160)), Due::At(at(560)), "a close in the future");
        assert_eq!(retention.due(None, at(160)), Due::Never);
    }

    #[test]
    fn without_retention_everything_is_due_whatever_the_time_of_the_close() {
        for closed_at in [None, Some(at(100)), Some(at(500))] {
            assert_eq!(Retention::default().due(closed_at, at(160)), Due::Now);
        }
    }

    #[test]
    fn a_due_time_beyond_all_calendars_is_the_last_one() {
        let retention = Retention(Duration::from_secs(1));
        assert_eq!(retention.due(Some(DateTime::<Utc>::MAX_UTC), at(0)), Due::At(DateTime::<Utc>::MAX_UTC));
    }
}
