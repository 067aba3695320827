//! The dead-letter queue as it was at one moment, for many who look: counts, groups by reason and error, messages.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::parking;
use crate::{
    config::Config,
    delivery::dead_letter::{Counts, DeadLetter, Filter},
    failure::Failure,
};

/// Messages that are kept to be shown, the oldest ones: a few megabytes.
const KEPT: usize = 10_000;
/// Characters of an error by which messages are grouped.
const GROUPED: usize = 160;

/// Messages that failed alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Group {
    /// Why they are there.
    pub reason: &'static str,
    /// What went wrong, without the numbers and names that distinguish one message from the next.
    pub error: Option<String>,
    /// How many there are.
    pub messages: u64,
    /// How many of them came back after a replay.
    pub came_back: u64,
    /// When the first of them was put there.
    pub oldest: Option<DateTime<Utc>>,
    /// When the last of them was put there.
    pub newest: Option<DateTime<Utc>>,
}

/// A page of what was in the dead-letter queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ParkedPage {
    /// When it was looked at.
    pub taken_at: DateTime<Utc>,
    /// How many there were.
    #[serde(flatten)]
    pub counts: Counts,
    /// By reason and error, the largest first.
    pub groups: Vec<Group>,
    /// Those that the filter means, the oldest first.
    pub messages: Vec<DeadLetter>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// What was in the dead-letter queue.
#[derive(Clone, Debug)]
pub struct Parked {
    taken_at: DateTime<Utc>,
    counts: Counts,
    groups: Vec<Group>,
    messages: Vec<DeadLetter>,
}

impl Parked {
    /// Looks at the whole queue once.
    pub async fn take(config: &Config) -> Result<Self, Failure> {
        let listed = parking::list_once(config, Filter::default(), KEPT).await?;
        Ok(Self {
            taken_at: Utc::now(),
            groups: groups(&listed.messages),
            counts: listed.counts,
            messages: listed.messages,
        })
    }

    /// The next page after another; `after` is where that one said that it begins.
    #[must_use]
    pub fn page(&self, filter: &Filter, after: usize, limit: usize) -> ParkedPage {
        let matching: Vec<_> = self.messages.iter().filter(|letter| filter.matches(letter)).collect();
        let mut counts = self.counts.clone();
        // Of more than are kept, those that are not are taken to be meant only if all are.
        counts.matching = match (self.counts.total, self.messages.len() as u64) {
            (total, kept) if total > kept && matching.len() as u64 == kept => total,
            _ => matching.len() as u64,
        };
        let end = after.saturating_add(limit).min(matching.len());
        let messages = matching.get(after..end).unwrap_or_default().iter().map(|letter| (*letter).clone()).collect();
        let next = (end < matching.len()).then(|| end.to_string());
        ParkedPage { taken_at: self.taken_at, counts, groups: self.groups.clone(), messages, next }
    }
}

fn groups(letters: &[DeadLetter]) -> Vec<Group> {
    let mut groups: BTreeMap<(&'static str, Option<String>), Group> = BTreeMap::new();
    for letter in letters {
        let error = letter.error.as_deref().map(normalised);
        let group = groups.entry((letter.reason, error.clone())).or_insert_with(|| Group {
            reason: letter.reason,
            error,
            messages: 0,
            came_back: 0,
            oldest: None,
            newest: None,
        });
        group.messages += 1;
        group.came_back += u64::from(letter.replayed.is_some());
        group.oldest = group.oldest.into_iter().chain(letter.parked_at).min();
        group.newest = group.newest.max(letter.parked_at);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.messages));
    groups
}

/// An error without what distinguishes one message from the next: words with digits in them become `…`.
fn normalised(error: &str) -> String {
    let words = error.split_whitespace().map(|word| {
        let is_particular = word.chars().any(|c| c.is_ascii_digit());
        if is_particular { "…" } else { word }
    });
    let text = words.collect::<Vec<_>>().join(" ");
    text.chars().take(GROUPED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume_name::ThreadId;

    fn letter(reason: &'static str, error: &str, parked_secs: i64) -> DeadLetter {
        DeadLetter {
            reason,
            thread_id: ThreadId::parse("t1").ok(),
            attempts: 6,
            parked_at: DateTime::from_timestamp(parked_secs, 0),
            error: Some(error.to_owned()),
            message_id: None,
            trace_id: None,
            replayed: None,
        }
    }

    #[test]
    fn messages_that_failed_alike_are_one_group() {
        let letters = [
            letter("exhausted", "volume ha_ws_1 is stuck", 20),
            letter("permanent", "no such driver", 30),
            letter("exhausted", "volume ha_ws_2 is stuck", 10),
        ];
        let groups = groups(&letters);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].error.as_deref(), Some("volume … is stuck"));
        assert_eq!((groups[0].messages, groups[0].reason), (2, "exhausted"));
        assert_eq!(groups[0].oldest, DateTime::from_timestamp(10, 0));
        assert_eq!(groups[0].newest, DateTime::from_timestamp(20, 0));
    }

    #[test]
    fn pages_go_through_what_a_filter_means() {
        let messages: Vec<_> = (0..5).map(|n| letter(if n == 2 { "permanent" } else { "exhausted" }, "e", n)).collect();
        let counts = Counts { total: 5, matching: 5, ..Counts::default() };
        let parked = Parked { taken_at: Utc::now(), counts, groups: Vec::new(), messages };
        let filter = Filter { reason: Some("exhausted".to_owned()), ..Filter::default() };
        let first = parked.page(&filter, 0, 3);
        assert_eq!((first.messages.len(), first.next.as_deref(), first.counts.matching), (3, Some("3"), 4));
        let second = parked.page(&filter, 3, 3);
        assert_eq!((second.messages.len(), second.next), (1, None));
        assert_eq!(parked.page(&filter, 99, 3).messages.len(), 0);
    }
}
