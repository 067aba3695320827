//! A message in the dead-letter queue: what is shown of it, and whether it is one of those that a person means.
//! Nothing here knows the broker.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{delivery::settlement::Reason, terminal::Plain, volume_name::ThreadId};

/// Why the broker dead-letters by itself, as its `x-death` header says it (RabbitMQ, "Dead Letter Exchanges"). From
/// our work queue that is `delivery_limit`: it was returned too often. The others take a policy of the operator's.
const BROKER_REASONS: [&str; 4] = ["delivery_limit", "expired", "maxlen", "rejected"];
/// The reason of a message that somebody else put there.
const UNKNOWN: &str = "unknown";

/// Characters of an error by which messages are grouped.
const GROUPED: usize = 160;

/// A message in the dead-letter queue, without its body.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Why it is there; one of [`reasons`].
    pub reason: &'static str,
    /// The thread that it is about, if it is an event.
    pub thread_id: Option<ThreadId>,
    /// How often it was tried.
    pub attempts: usize,
    /// When it was put there, if a header says so.
    pub parked_at: Option<DateTime<Utc>>,
    /// What went wrong, for people.
    pub error: Option<String>,
    /// The publisher's id of it.
    pub message_id: Option<String>,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
    /// When it was last replayed, if ever.
    pub replayed: Option<String>,
    /// How often it was replayed, and came back.
    pub replays: u64,
}

impl DeadLetter {
    /// Names the messages that failed alike, by their reason and their error without what is particular to each:
    /// 16 digits of a hash.
    #[must_use]
    pub fn group(&self) -> String {
        let error = self.error.as_deref().map(normalised);
        let text = format!("{}\0{}", self.reason, error.as_deref().unwrap_or("\0"));
        let digest = digest(&SHA256, text.as_bytes());
        short_hex(digest.as_ref())
    }
}

/// The first 8 bytes as text, two digits each.
#[must_use]
pub fn short_hex(bytes: &[u8]) -> String {
    hex::encode(bytes.get(..8).unwrap_or(bytes))
}

/// An error without what distinguishes one message from the next: words with digits in them become `…`.
#[must_use]
pub fn normalised(error: &str) -> String {
    let words = error.split_whitespace().map(|word| {
        let is_particular = word.chars().any(|c| c.is_ascii_digit());
        if is_particular { "…" } else { word }
    });
    let text = words.collect::<Vec<_>>().join(" ");
    text.chars().take(GROUPED).collect()
}

/// Which messages are meant: those for which all that is set is true.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With this reason.
    pub reason: Option<String>,
    /// In this group of messages that failed alike: see [`DeadLetter::group`].
    pub group: Option<String>,
    /// About this thread.
    pub thread: Option<ThreadId>,
    /// Put there before. A message that does not say when is neither before nor after.
    pub before: Option<DateTime<Utc>>,
    /// Put there after.
    pub after: Option<DateTime<Utc>>,
}

/// How many messages there are.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Counts {
    /// In the queue.
    pub total: u64,
    /// Of these, meant by the filter.
    pub matching: u64,
    /// All in the queue, by reason.
    pub by_reason: BTreeMap<&'static str, u64>,
    /// Other programs that read from the queue, if there are any: what was delivered to them is not counted.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_readers: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Filter {
    /// Whether this message is meant.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let is = |wanted: Option<DateTime<Utc>>, ordered: fn(&DateTime<Utc>, &DateTime<Utc>) -> bool| {
            wanted.is_none_or(|wanted| letter.parked_at.is_some_and(|parked| ordered(&parked, &wanted)))
        };
        self.reason.as_ref().is_none_or(|reason| reason == letter.reason)
            && self.group.as_ref().is_none_or(|group| *group == letter.group())
            && self.thread.as_ref().is_none_or(|thread| letter.thread_id.as_ref() == Some(thread))
            && is(self.before, PartialOrd::lt)
            && is(self.after, PartialOrd::gt)
    }
}

impl Counts {
    /// Counts one message.
    pub fn add(&mut self, letter: &DeadLetter, matches: bool) {
        self.total += 1;
        self.matching += u64::from(matches);
        *self.by_reason.entry(letter.reason).or_default() += 1;
    }
}

/// The reasons that there are: ours, the broker's, and `unknown`.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::as_str).chain(BROKER_REASONS).chain([UNKNOWN])
}

/// The reason of a message by our header and by the broker's.
///
/// Ours comes first, unless it is none: a message that waited for a retry, and then was returned too often by the
/// broker, still has the header of that retry.
#[must_use]
pub fn reason(ours: Option<&str>, brokers: Option<&str>) -> &'static str {
    let known = |name: &str| reasons().find(|known| *known == name);
    ours.and_then(known).or_else(|| brokers.and_then(known)).unwrap_or(UNKNOWN)
}

/// A text of somebody else's as it can be shown on a terminal: what would steer it is escaped, line ends are kept.
#[must_use]
pub fn printable(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(|line| Plain(line).to_string()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            reason: "exhausted",
            thread_id: ThreadId::parse("t1").ok(),
            attempts: 6,
            parked_at: Some(DateTime::UNIX_EPOCH),
            error: None,
            message_id: None,
            trace_id: None,
            replayed: None,
            replays: 0,
        }
    }

    #[test]
    fn a_filter_without_conditions_means_every_message() {
        assert!(Filter::default().matches(&letter()));
        assert!(Filter::default().matches(&DeadLetter { parked_at: None, thread_id: None, ..letter() }));
    }

    #[test]
    fn every_condition_has_to_be_true() {
        let now = Utc::now();
        let reason = |reason: &str| Filter { reason: Some(reason.to_owned()), ..Filter::default() };
        let thread = |id| Filter { thread: ThreadId::parse(id).ok(), ..Filter::default() };
        assert!(reason("exhausted").matches(&letter()));
        assert!(!reason("permanent").matches(&letter()));
        assert!(thread("t1").matches(&letter()));
        assert!(!thread("t2").matches(&letter()));
        assert!(Filter { before: Some(now), ..Filter::default() }.matches(&letter()));
        assert!(!Filter { after: Some(now), ..Filter::default() }.matches(&letter()));
        assert!(!Filter { before: Some(now), ..thread("t2") }.matches(&letter()));
    }

    #[test]
    fn a_group_is_what_failed_alike() {
        let failed = |error: &str| DeadLetter { error: Some(error.to_owned()), ..letter() };
        let group = failed("volume ha_ws_1 is stuck").group();
        let filter = Filter { group: Some(group), ..Filter::default() };
        assert!(filter.matches(&failed("volume ha_ws_2 is stuck")));
        for other in [failed("no such driver"), letter(), DeadLetter { reason: "permanent", ..failed("a 1 is stuck") }]
        {
            assert!(!filter.matches(&other), "{other:?}");
        }
    }

    #[test]
    fn a_message_of_unknown_age_is_neither_older_nor_newer() {
        let ageless = DeadLetter { parked_at: None, ..letter() };
        assert!(!Filter { before: Some(Utc::now()), ..Filter::default() }.matches(&ageless));
        assert!(!Filter { after: Some(DateTime::UNIX_EPOCH), ..Filter::default() }.matches(&ageless));
    }

    #[test]
    fn the_reason_is_ours_then_the_brokers() {
        assert_eq!(reason(Some("exhausted"), None), "exhausted");
        assert_eq!(reason(Some("exhausted"), Some("rejected")), "exhausted");
        assert_eq!(reason(Some("retry"), Some("delivery_limit")), "delivery_limit");
        assert_eq!(reason(None, Some("expired")), "expired");
        assert_eq!(reason(None, None), "unknown");
        assert_eq!(reason(Some("\u{1b}[2J"), Some("something new")), "unknown");
    }

    #[test]
    fn what_would_steer_a_terminal_is_escaped() {
        assert_eq!(printable("a\n\u{1b}[2J\u{202e}\t\"ä\""), "a\n\\u{1b}[2J\\u{202e}\\u{9}\"ä\"");
    }
}
