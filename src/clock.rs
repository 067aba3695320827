//! Other clocks than ours.

use chrono::{DateTime, TimeDelta, Utc};

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
