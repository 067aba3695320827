//! What went, as bars: drawn here, so that it needs no script and follows light and dark.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::looks::count;
use crate::{
    console::lately::Range,
    store::Stat,
    terminal::{amount, time},
};

/// The drawing's units.
const WIDTH: u32 = 720;
const HEIGHT: u32 = 160;
/// Of the least that is not nothing, so that it can be seen.
const LEAST: u32 = 2;

/// The volumes that went within a range.
pub(super) struct Chart {
    pub(super) ranges: Vec<RangeLink>,
    pub(super) range: &'static str,
    /// Said to who can't see it.
    pub(super) summary: String,
    pub(super) most: String,
    pub(super) begins: String,
    pub(super) bars: Vec<Bar>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) is_empty: bool,
}

pub(super) struct RangeLink {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    pub(super) is_here: bool,
}

/// A minute, an hour or a day.
pub(super) struct Bar {
    pub(super) at: String,
    pub(super) removed: String,
    pub(super) gone: String,
    pub(super) bytes: String,
    pub(super) is_empty: bool,
    pub(super) x: u32,
    pub(super) width: u32,
    pub(super) removed_y: u32,
    pub(super) removed_height: u32,
    pub(super) gone_y: u32,
    pub(super) gone_height: u32,
}

/// What went.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) removed: u64,
    /// Found to be gone already.
    pub(super) gone: u64,
    pub(super) bytes: u64,
    /// How many of the removed had an unknown size.
    pub(super) unsized_ones: u64,
}

impl Sum {
    pub(super) fn of<'a>(stats: impl IntoIterator<Item = &'a Stat>) -> Self {
        let mut sum = Self::default();
        for stat in stats {
            sum.add(stat);
        }
        sum
    }

    fn add(&mut self, stat: &Stat) {
        let number = |number: i64| u64::try_from(number).unwrap_or_default();
        if stat.outcome == "removed" {
            self.removed += number(stat.receipts);
            self.unsized_ones += number(stat.unsized_receipts);
        } else {
            self.gone += number(stat.receipts);
        }
        self.bytes = self.bytes.saturating_add(number(stat.bytes));
    }

    fn all(self) -> u64 {
        self.removed + self.gone
    }
}

impl Chart {
    pub(super) fn new(range: Range, stats: &[Stat], now: DateTime<Utc>) -> Self {
        let (buckets, length) = range.buckets();
        let begins = range.begins(now);
        let mut sums: BTreeMap<DateTime<Utc>, Sum> = BTreeMap::new();
        for stat in stats {
            sums.entry(stat.bucket).or_default().add(stat);
        }
        let sums: Vec<_> = (0..buckets)
            .map(|bucket| begins + length * bucket)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|at| (at, sums.remove(&at).unwrap_or_default()))
            .collect();
        let most = sums.iter().map(|(_, sum)| sum.all()).max().unwrap_or_default();
        let slots = u32::try_from(buckets).unwrap_or(1).max(1);
        let bars = sums.iter().zip(0..).map(|(&(at, sum), slot)| Bar::new(at, sum, (slot, slots), most)).collect();
        let whole = Sum::of(stats);
        let link = |each: Range| RangeLink { name: each.as_str(), text: text(each), is_here: each == range };
        Self {
            ranges: Range::ALL.map(link).into(),
            range: range.as_str(),
            summary: format!(
                "{} volumes removed and {} found gone in the last {}; at most {} in one {}",
                count(whole.removed),
                count(whole.gone),
                text(range),
                count(most),
                unit(range)
            ),
            most: count(most),
            begins: time(begins),
            bars,
            width: WIDTH,
            height: HEIGHT,
            is_empty: most == 0,
        }
    }
}

fn text(range: Range) -> &'static str {
    match range {
        Range::Hour => "hour",
        Range::Day => "day",
        Range::Week => "week",
        Range::Quarter => "90 days",
    }
}

fn unit(range: Range) -> &'static str {
    match range {
        Range::Hour => "minute",
        Range::Day | Range::Week => "hour",
        Range::Quarter => "day",
    }
}

impl Bar {
    fn new(at: DateTime<Utc>, sum: Sum, (slot, slots): (u32, u32), most: u64) -> Self {
        let height = |part: u64| match part {
            0 => 0,
            part => {
                let scaled = u128::from(part) * u128::from(HEIGHT) / u128::from(most.max(1));
                u32::try_from(scaled).unwrap_or(HEIGHT).clamp(LEAST, HEIGHT)
            }
        };
        let (begins, ends) = (slot * WIDTH / slots, (slot + 1) * WIDTH / slots);
        let (removed_height, gone_height) = (height(sum.removed), height(sum.gone));
        let removed_y = HEIGHT - removed_height;
        Self {
            at: time(at),
            removed: count(sum.removed),
            gone: count(sum.gone),
            bytes: amount(sum.bytes),
            is_empty: sum.all() == 0,
            x: begins,
            width: (ends - begins).saturating_sub(1).max(1),
            removed_y,
            removed_height,
            gone_y: removed_y.saturating_sub(gone_height),
            gone_height,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(bucket: &str, outcome: &str, receipts: i64) -> Stat {
        Stat {
            bucket: bucket.parse().expect("a time"),
            host: String::new(),
            source: "event".to_owned(),
            outcome: outcome.to_owned(),
            receipts,
            bytes: receipts * 1024,
            unsized_receipts: 0,
        }
    }

    #[test]
    fn each_bucket_has_a_bar_as_high_as_its_part_of_the_highest() {
        let now = "2026-11-23T12:34:56Z".parse().expect("a time");
        let stats = [
            stat("2026-11-23T12:00:00Z", "removed", 60),
            stat("2026-11-23T12:00:00Z", "not_found", 20),
            stat("2026-11-22T13:00:00Z", "removed", 1),
        ];
        let chart = Chart::new(Range::Day, &stats, now);
        assert_eq!((chart.bars.len(), chart.most.as_str(), chart.is_empty), (24, "80", false));
        let (first, last) = (&chart.bars[0], &chart.bars[23]);
        assert_eq!((first.removed_height, first.removed_y), (LEAST, HEIGHT - LEAST));
        assert_eq!((last.removed_height, last.gone_height, last.gone_y), (120, 40, 0));
        assert_eq!(last.x + last.width + 1, WIDTH);
        assert_eq!(chart.summary, "61 volumes removed and 20 found gone in the last day; at most 80 in one hour");
        let empty = Chart::new(Range::Quarter, &[], now);
        assert_eq!((empty.bars.len(), empty.is_empty), (90, true));
    }
}
