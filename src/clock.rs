//! The time of day: our own clock, and other ones than ours.

use chrono::{DateTime, TimeDelta, Utc};

/// What time it is, for the rules of a clean-up: the system's, unless a test has its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock(fn() -> DateTime<Utc>);

impl Clock {
    /// The system's clock.
    pub const SYSTEM: Self = Self(Utc::now);

    /// A clock that asks `now`.
    #[must_use]
    pub const fn new(now: fn() -> DateTime<Utc>) -> Self {
        Self(now)
    }

    /// What time it is.
    #[must_use]
    pub fn now(self) -> DateTime<Utc> {
        (self.0)()
    }
}

/// What a server's clock said, between two looks at ours.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    /// Our clock when the server was asked.
    pub asked: DateTime<Utc>,
    /// The server's clock.
    pub said: DateTime<Utc>,
    /// Our clock when the answer was there.
    pub answered: DateTime<Utc>,
}

impl ClockReading {
    /// How far the server's clock is certainly ahead of ours; negative if it is behind.
    #[must_use]
    pub fn ahead(self) -> TimeDelta {
        if self.said < self.asked {
            self.said - self.asked
        } else if self.said > self.answered {
            self.said - self.answered
        } else {
            TimeDelta::zero()
        }
    }
}
