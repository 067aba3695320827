//! What went lately: the counts that the overview draws, for all who look at once.

use std::sync::Arc;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::Deserialize;

use super::{Console, answer::USUAL_ITEMS, problem::Problem};
use crate::store::{LoggedSweep, Resolution, Stats};

/// How far back is looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Range {
    /// An hour, by the minute.
    Hour,
    /// A day, by the hour.
    #[default]
    Day,
    /// A week, by the hour.
    Week,
    /// 90 days, by the day.
    Quarter,
}

impl Range {
    pub(super) const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Quarter];

    /// Its name in addresses.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Quarter => "quarter",
        }
    }

    /// How many buckets it has, and how long each is.
    pub(super) fn buckets(self) -> (i32, TimeDelta) {
        match self {
            Self::Hour => (60, TimeDelta::minutes(1)),
            Self::Day => (24, TimeDelta::hours(1)),
            Self::Week => (7 * 24, TimeDelta::hours(1)),
            Self::Quarter => (90, TimeDelta::days(1)),
        }
    }

    /// When its first bucket begins.
    pub(super) fn begins(self, now: DateTime<Utc>) -> DateTime<Utc> {
        let (count, length) = self.buckets();
        now.duration_trunc(length).unwrap_or(now) - length * (count - 1)
    }

    fn resolution(self) -> Resolution {
        match self {
            Self::Hour => Resolution::Minute,
            Self::Day | Self::Week => Resolution::Hour,
            Self::Quarter => Resolution::Day,
        }
    }
}

/// What the overview says besides the status.
pub(super) struct Lately {
    /// By range, in the order of [`Range::ALL`].
    pub(super) stats: Result<Arc<Vec<Stats>>, Problem>,
    pub(super) last_sweep: Result<Option<LoggedSweep>, Problem>,
}

impl Lately {
    /// What went within a range, if that is known.
    pub(super) fn of(&self, range: Range) -> Option<&Stats> {
        self.stats.as_ref().ok()?.get(range as usize)
    }
}

impl Console {
    pub(super) async fn lately(&self) -> Lately {
        let (stats, last_sweep) = tokio::join!(self.counted(), self.last_sweep());
        Lately { stats, last_sweep }
    }

    /// What went within each range: whoever looks at which, all of it is found out together.
    async fn counted(&self) -> Result<Arc<Vec<Stats>>, Problem> {
        let store = self.shared_store().await?;
        let take = || async move {
            let now = Utc::now();
            store.stats_of(&Range::ALL.map(|range| (range.resolution(), range.begins(now)))).await.map(Arc::new)
        };
        Ok(self.stats.soon(self.limit(), take).await??)
    }

    async fn last_sweep(&self) -> Result<Option<LoggedSweep>, Problem> {
        let store = self.shared_store().await?;
        let take = || async move { store.sweeps(None, 1).await.map(|mut sweeps| sweeps.pop()) };
        Ok(self.last_sweep.get(self.limit(), take).await??)
    }

    /// The first page of the sweeps, for all who have it open.
    pub(super) async fn latest_sweeps(&self) -> Result<Arc<Vec<LoggedSweep>>, Problem> {
        let store = self.shared_store().await?;
        let take = || async move { store.sweeps(None, USUAL_ITEMS as u64).await.map(Arc::new) };
        Ok(self.latest_sweeps.get(self.limit(), take).await??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_begins_so_many_buckets_ago_with_the_one_that_is_not_over() {
        let now = "2026-11-23T12:34:56Z".parse().expect("a time");
        let begins = Range::ALL.map(|range| crate::terminal::time(range.begins(now)));
        let expected = ["2026-11-23T11:35:00Z", "2026-11-22T13:00:00Z", "2026-11-16T13:00:00Z", "2026-08-26T00:00:00Z"];
        assert_eq!(begins, expected);
    }
}
