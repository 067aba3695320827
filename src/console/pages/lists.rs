//! What the pages with lists show.

use askama::Template;

use super::looks::{Frame, OperationLine, address, found_at, moment};
use crate::{
    console::queries::{DeadLettersQuery, ThreadsQuery},
    operations::{
        parked::ParkedPage,
        waiting_list::{WaitingPage, WaitsFor},
    },
};

/// The closed threads that are not marked.
#[derive(Template)]
#[template(path = "waiting.html")]
pub(super) struct Waiting {
    frame: Frame,
    choices: Vec<Choice>,
    host: String,
    older_than: String,
    prefix: String,
    threads: Vec<WaitingRow>,
    next: Option<String>,
}

struct Choice {
    value: &'static str,
    text: &'static str,
    is_chosen: bool,
}

struct WaitingRow {
    id: String,
    link: String,
    waits_for: &'static str,
    closed: String,
    host: String,
    error: String,
}

/// What is in the dead-letter queue.
#[derive(Template)]
#[template(path = "letters.html")]
pub(super) struct Letters {
    frame: Frame,
    operation: Option<OperationLine>,
    total: u64,
    matching: u64,
    taken_at: String,
    reason: String,
    /// The group that is selected: its id, and what failed.
    group: String,
    group_text: String,
    thread: String,
    groups: Vec<GroupRow>,
    ungrouped: u64,
    messages: Vec<MessageRow>,
    next: Option<String>,
}

/// The dead-letter queue is being walked through for the first time.
#[derive(Template)]
#[template(path = "looking.html")]
pub(super) struct Looking {
    pub(super) frame: Frame,
    pub(super) operation: Option<OperationLine>,
}

struct GroupRow {
    id: String,
    reason: &'static str,
    error: String,
    messages: u64,
    came_back: String,
    oldest: String,
    newest: String,
}

struct MessageRow {
    thread: String,
    link: String,
    reason: &'static str,
    attempts: usize,
    came_back: String,
    parked: String,
    error: String,
}

impl Waiting {
    pub(super) fn new(frame: Frame, query: &ThreadsQuery, page: WaitingPage) -> Self {
        let all = [WaitsFor::Sweep, WaitsFor::Failing, WaitsFor::Held, WaitsFor::NotDue];
        let choice = |waits_for| {
            let (value, text) = named(waits_for);
            Choice { value, text, is_chosen: query.waits_for == Some(waits_for) }
        };
        let rows = page.threads.into_iter().map(|thread| WaitingRow {
            link: found_at(&thread.thread_id),
            id: thread.thread_id,
            waits_for: named(thread.waits_for).1,
            closed: moment(thread.closed_at),
            host: thread.host.unwrap_or_default(),
            error: thread.failure.map(|failing| failing.failed.error).unwrap_or_default(),
        });
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (host, older_than, prefix) = (text(&query.host), text(&query.older_than), text(&query.prefix));
        let waits_for = query.waits_for.map_or("", |waits_for| named(waits_for).0);
        let next = page.next.map(|after| {
            address(&[
                ("waits_for", waits_for),
                ("host", &host),
                ("older_than", &older_than),
                ("prefix", &prefix),
                ("after", &after),
            ])
        });
        Self { frame, choices: all.map(choice).into(), threads: rows.collect(), host, older_than, prefix, next }
    }
}

/// What a thread waits for, in addresses and for people.
fn named(waits_for: WaitsFor) -> (&'static str, &'static str) {
    match waits_for {
        WaitsFor::Sweep => ("sweep", "the next sweep, or the end of a container"),
        WaitsFor::Failing => ("failing", "another try, since cleaning up failed"),
        WaitsFor::Held => ("held", "its release from a hold"),
        WaitsFor::NotDue => ("not_due", "the end of its retention"),
    }
}

impl Letters {
    pub(super) fn new(
        frame: Frame,
        operation: Option<OperationLine>,
        query: &DeadLettersQuery,
        page: ParkedPage,
    ) -> Self {
        let selected = page.groups.iter().find(|group| query.group.as_ref() == Some(&group.id));
        let group_text =
            selected.map(|group| format!("{}: {}", group.reason, group.error.as_deref().unwrap_or("no error")));
        let groups = page.groups.into_iter().map(|group| GroupRow {
            came_back: match (group.came_back, group.most_replays) {
                (0, _) => "none".to_owned(),
                (some, 1) => format!("{some} once"),
                (some, most) => format!("{some}, up to {most} times"),
            },
            id: group.id,
            reason: group.reason,
            error: group.error.unwrap_or_default(),
            messages: group.messages,
            oldest: moment(group.oldest),
            newest: moment(group.newest),
        });
        let messages = page.messages.into_iter().map(|letter| MessageRow {
            link: letter.thread_id.as_ref().map(|id| found_at(id.as_str())).unwrap_or_default(),
            thread: letter.thread_id.map(|id| id.to_string()).unwrap_or_default(),
            reason: letter.reason,
            attempts: letter.attempts,
            came_back: match letter.replays {
                0 => String::new(),
                1 => "once".to_owned(),
                more => format!("{more} times"),
            },
            parked: moment(letter.parked_at),
            error: letter.error.unwrap_or_default(),
        });
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (reason, group, thread) = (text(&query.reason), text(&query.group), text(&query.thread));
        let next = page
            .next
            .map(|after| address(&[("reason", &reason), ("group", &group), ("thread", &thread), ("after", &after)]));
        Self {
            frame,
            operation,
            total: page.counts.total,
            matching: page.counts.matching,
            taken_at: moment(Some(page.taken_at)),
            groups: groups.collect(),
            ungrouped: page.ungrouped,
            messages: messages.collect(),
            reason,
            group,
            group_text: group_text.unwrap_or_default(),
            thread,
            next,
        }
    }
}
