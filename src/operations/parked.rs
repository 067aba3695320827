//! The dead-letter queue as it was at one moment, for many who look: counts, groups by reason and error, messages.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::parking;
use crate::{
    config::Config,
    delivery::dead_letter::{Counts, DeadLetter, Filter, normalised},
    failure::Failure,
};

/// Messages that are kept to be shown, the oldest ones: a few megabytes.
const KEPT: usize = 10_000;
/// Groups that are told apart. Where more messages than these fail each in its own way, a list of them says nothing.
const MOST_GROUPS: usize = 200;

/// Messages that failed alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Group {
    /// Names it where messages are selected.
    pub id: String,
    /// Why they are there.
    pub reason: &'static str,
    /// What went wrong, without the numbers and names that distinguish one message from the next.
    pub error: Option<String>,
    /// How many there are.
    pub messages: u64,
    /// How many of them came back after a replay.
    pub came_back: u64,
    /// How often one of them came back at most.
    pub most_replays: u64,
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
    /// Messages that are in none of these: there are too many groups.
    #[serde(skip_serializing_if = "is_zero")]
    pub ungrouped: u64,
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
    ungrouped: u64,
    /// Each with the id of its group, which takes a hash to find out.
    messages: Vec<(String, DeadLetter)>,
}

impl Parked {
    /// Looks at the whole queue once.
    pub async fn take(config: &Config) -> Result<Self, Failure> {
        let (counts, seen) = parking::look_through(config, Seen::add).await?;
        Ok(Self::new(counts, seen))
    }

    fn new(counts: Counts, mut seen: Seen) -> Self {
        seen.keep_oldest();
        let mut groups: Vec<_> = seen.groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.messages));
        Self { taken_at: Utc::now(), groups, ungrouped: seen.ungrouped, counts, messages: seen.kept }
    }

    /// The next page after another; `after` is where that one said that it begins.
    #[must_use]
    pub fn page(&self, filter: &Filter, after: usize, limit: usize) -> ParkedPage {
        let rest = Filter { group: None, ..filter.clone() };
        let is_meant = |of: &String, letter: &DeadLetter| {
            filter.group.as_ref().is_none_or(|group| group == of) && rest.matches(letter)
        };
        let matching = self.messages.iter().filter(|(group, letter)| is_meant(group, letter));
        let matching: Vec<_> = matching.map(|(_, letter)| letter).collect();
        let mut counts = self.counts.clone();
        counts.matching = self.counted(filter).unwrap_or(matching.len() as u64);
        let end = after.saturating_add(limit).min(matching.len());
        let messages = matching.get(after..end).unwrap_or_default().iter().map(|letter| (*letter).clone()).collect();
        let next = (end < matching.len()).then(|| end.to_string());
        let (groups, ungrouped) = (self.groups.clone(), self.ungrouped);
        ParkedPage { taken_at: self.taken_at, counts, groups, ungrouped, messages, next }
    }

    /// How many messages the filter means, those included that are not kept; none where only the kept ones say it.
    fn counted(&self, filter: &Filter) -> Option<u64> {
        let Filter { reason, group, thread, before, after } = filter;
        if thread.is_some() || before.is_some() || after.is_some() {
            return None;
        }
        let has_reason = |of: &str| reason.as_ref().is_none_or(|reason| reason == of);
        let Some(wanted) = group else {
            let by_reason = self.counts.by_reason.iter().filter(|(reason, _)| has_reason(reason));
            return Some(by_reason.map(|(_, messages)| messages).sum());
        };
        match self.groups.iter().find(|group| group.id == *wanted) {
            Some(group) => Some(if has_reason(group.reason) { group.messages } else { 0 }),
            None => (self.ungrouped == 0).then_some(0),
        }
    }
}

/// What a walk through the queue has seen.
#[derive(Default)]
struct Seen {
    groups: BTreeMap<String, Group>,
    ungrouped: u64,
    kept: Vec<(String, DeadLetter)>,
}

impl Seen {
    fn add(&mut self, letter: DeadLetter) {
        let id = letter.group();
        self.add_to_group(&id, &letter);
        self.kept.push((id, letter));
        if self.kept.len() >= 2 * KEPT {
            self.keep_oldest();
        }
    }

    fn add_to_group(&mut self, id: &str, letter: &DeadLetter) {
        if self.groups.len() == MOST_GROUPS && !self.groups.contains_key(id) {
            self.ungrouped += 1;
            return;
        }
        let group = self.groups.entry(id.to_owned()).or_insert_with(|| Group {
            id: id.to_owned(),
            reason: letter.reason,
            error: letter.error.as_deref().map(normalised),
            messages: 0,
            came_back: 0,
            most_replays: 0,
            oldest: None,
            newest: None,
        });
        group.messages += 1;
        group.came_back += u64::from(letter.replays > 0);
        group.most_replays = group.most_replays.max(letter.replays);
        group.oldest = group.oldest.into_iter().chain(letter.parked_at).min();
        group.newest = group.newest.max(letter.parked_at);
    }

    fn keep_oldest(&mut self) {
        self.kept.sort_by_key(|(_, letter)| letter.parked_at);
        self.kept.truncate(KEPT);
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
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
            replays: 0,
        }
    }

    fn parked(letters: Vec<DeadLetter>) -> Parked {
        let (mut counts, mut seen) = (Counts::default(), Seen::default());
        for letter in letters {
            counts.add(&letter, true);
            seen.add(letter);
        }
        Parked::new(counts, seen)
    }

    #[test]
    fn messages_that_failed_alike_are_one_group() {
        let letters = [
            letter("exhausted", "volume ha_ws_1 is stuck", 20),
            letter("permanent", "no such driver", 30),
            letter("exhausted", "volume ha_ws_2 is stuck", 10),
        ];
        let groups = parked(letters.into()).groups;
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].error.as_deref(), Some("volume … is stuck"));
        assert_eq!((groups[0].messages, groups[0].reason), (2, "exhausted"));
        assert_eq!(groups[0].oldest, DateTime::from_timestamp(10, 0));
        assert_eq!(groups[0].newest, DateTime::from_timestamp(20, 0));
    }

    #[test]
    fn pages_go_through_what_a_filter_means() {
        let messages: Vec<_> = (0..5).map(|n| letter(if n == 2 { "permanent" } else { "exhausted" }, "e", n)).collect();
        let parked = parked(messages);
        let filter = Filter { reason: Some("exhausted".to_owned()), ..Filter::default() };
        let first = parked.page(&filter, 0, 3);
        assert_eq!((first.messages.len(), first.next.as_deref(), first.counts.matching), (3, Some("3"), 4));
        let second = parked.page(&filter, 3, 3);
        assert_eq!((second.messages.len(), second.next), (1, None));
        assert_eq!(parked.page(&filter, 99, 3).messages.len(), 0);
        let of_group = Filter { group: Some(parked.groups[1].id.clone()), ..Filter::default() };
        assert_eq!(parked.page(&of_group, 0, 3).counts.matching, 1);
        let contradiction = Filter { reason: Some("exhausted".to_owned()), ..of_group };
        assert_eq!(parked.page(&contradiction, 0, 3).counts.matching, 0);
    }
    #[test]
    fn of_errors_that_all_differ_a_bounded_number_is_told_apart() {
        let word = |number: usize| "x".repeat(number % 100) + &"y".repeat(number / 100);
        let letters = (0..1000).map(|number| letter("exhausted", &word(number), 1)).collect();
        let parked = parked(letters);
        let all = Filter::default();
        let page = parked.page(&all, 0, 1);
        assert_eq!((page.groups.len(), page.ungrouped, page.counts.matching), (200, 800, 1000));
        let last = letter("exhausted", &word(999), 1).group();
        let of_none = Filter { group: Some(last), ..all };
        assert_eq!(parked.page(&of_none, 0, 3).counts.matching, 1, "the kept ones are looked through");
    }
}
