//! What all pages have, and the words and forms that people read.

use std::time::Duration;

use askama::Template;
use chrono::{DateTime, Utc};

use super::viewer::{Look, Viewer};
use crate::{
    cleanup::Pause,
    config::Role,
    console::{OVER_HTTP, operation::Operation},
    operations::explain::explanation::Explanation,
    terminal::time,
    volume_name::ThreadId,
};

/// The pages: the key that leads there after a `g`, the path, the name.
const PAGES: [(&str, &str, &str); 10] = [
    ("o", "", "Overview"),
    ("w", "threads", "Waiting"),
    ("d", "dead-letters", "Dead letters"),
    ("r", "removals", "Removals"),
    ("s", "sweeps", "Sweeps"),
    ("h", "hosts", "Hosts"),
    ("p", "orphans", "Orphans"),
    ("k", "holds", "Holds"),
    ("a", "activity", "Activity"),
    ("e", "health", "Health"),
];

/// What every page has.
#[expect(clippy::struct_excessive_bools, reason = "each decides about a part of the page by itself")]
pub(super) struct Frame {
    /// From here to the overview.
    pub(super) root: String,
    /// From the overview to here.
    pub(super) here: String,
    /// What news are asked for with: this page, so that what comes leads back here.
    pub(super) live: String,
    pub(super) pages: Vec<PageLink>,
    pub(super) look: &'static str,
    pub(super) looks: [LookChoice; 3],
    pub(super) who: String,
    pub(super) can_leave: bool,
    pub(super) may_act: bool,
    pub(super) may_look_on: bool,
    pub(super) may_purge: bool,
    /// What paused removal is theirs to resume.
    pub(super) may_resume: bool,
    pub(super) pauses: Vec<PauseLine>,
}

pub(super) struct PageLink {
    pub(super) key: &'static str,
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    pub(super) is_here: bool,
}

pub(super) struct LookChoice {
    pub(super) name: &'static str,
    pub(super) is_chosen: bool,
}

#[derive(PartialEq, Eq)]
pub(super) struct PauseLine {
    pub(super) since: String,
    pub(super) who: String,
    pub(super) reason: String,
}

/// What was asked for at this replica, in words.
pub(super) struct OperationLine {
    pub(super) text: String,
    pub(super) is_running: bool,
    /// How far it is, and of how much.
    pub(super) counts: Option<(u64, u64)>,
    /// Who looks may end it.
    pub(super) may_stop: bool,
    /// A dry run's list can be downloaded.
    pub(super) has_list: bool,
}

/// Why a volume is still there.
#[derive(Template)]
#[template(path = "thread.html")]
pub(super) struct Thread {
    frame: Frame,
    id: String,
    answer: String,
    /// What each of its hosts says, if not all answer.
    hosts: Vec<String>,
    /// All of them, if it has several.
    volumes: Vec<VolumeRow>,
    users: Vec<UserRow>,
    events: Vec<Event>,
    is_held: bool,
    is_waiting: bool,
}

struct VolumeRow {
    name: String,
    is_there: bool,
    users: usize,
}

struct UserRow {
    name: String,
    state: String,
    image: String,
    id: String,
}

struct Event {
    at: String,
    text: String,
}

/// A page that asks for a token, for who is not known.
#[derive(Template)]
#[template(path = "notice.html")]
pub(super) struct Notice {
    pub(super) root: String,
    pub(super) look: &'static str,
    pub(super) title: String,
    pub(super) detail: String,
    pub(super) has_login: bool,
}

/// A page that says why there is nothing else on it.
#[derive(Template)]
#[template(path = "trouble.html")]
pub(super) struct Trouble {
    pub(super) frame: Frame,
    pub(super) title: &'static str,
    pub(super) detail: String,
}

impl Frame {
    pub(super) fn new(viewer: &Viewer, only_looks: bool, pauses: Vec<PauseLine>) -> Self {
        let Viewer { person, place } = viewer;
        let may = |role| !only_looks && person.may(role);
        let path = place.here.split('?').next().unwrap_or_default();
        let link = |(key, to, name): (_, &'static str, _)| {
            let is_below = path.strip_prefix(to).is_some_and(|rest| !to.is_empty() && rest.starts_with('/'));
            PageLink { key, path: to, name, is_here: path == to || is_below }
        };
        Self {
            root: place.root.clone(),
            here: place.here.clone(),
            live: url::form_urlencoded::Serializer::new(String::new()).append_pair("at", &place.here).finish(),
            pages: PAGES.map(link).into(),
            look: place.look.as_str(),
            looks: Look::ALL.map(|look| LookChoice { name: look.as_str(), is_chosen: look == place.look }),
            who: format!("{} ({})", person.name, person.role),
            can_leave: !person.is_nobody,
            may_act: may(Role::Operator),
            may_look_on: may(Role::Viewer),
            may_purge: may(Role::Admin),
            may_resume: may(Role::Admin) || pauses.iter().all(|pause| pause.who.ends_with(OVER_HTTP)),
            pauses,
        }
    }
}

impl PauseLine {
    pub(super) fn new(pause: &Pause) -> Self {
        let since = moment(Some(pause.paused_at));
        Self { since, who: pause.paused_by.clone(), reason: pause.reason.clone() }
    }
}

impl OperationLine {
    pub(super) fn new(operation: Operation, viewer: &Viewer, may_act: bool) -> Self {
        let Operation { what, who, began_at, ended, how_far, planned } = operation;
        let (began, is_ones_own) = (moment(Some(began_at)), planned.is_some() && who == viewer.person.name);
        let is_running = ended.is_none();
        let stopping = if how_far.is_stopped() { ", and is being stopped" } else { "" };
        let text = match &ended {
            None => format!("A {what} that {who} asked for runs since {began}{stopping}"),
            Some((_, how)) => format!("A {what} that {who} asked for {began}: {how}"),
        };
        Self {
            text,
            is_running,
            counts: how_far.counts().filter(|_| is_running),
            may_stop: is_running && !how_far.is_stopped() && (may_act || is_ones_own),
            has_list: !is_running && planned.is_some(),
        }
    }
}

impl Thread {
    pub(super) fn new(frame: Frame, id: &ThreadId, explanation: &Explanation) -> Self {
        let users = explanation.users.iter().flatten().map(|user| UserRow {
            name: user.name.clone(),
            state: user.state.clone(),
            image: user.image.clone(),
            id: user.id.chars().take(12).collect(),
        });
        let volumes = explanation.volumes.iter().map(|seen| VolumeRow {
            name: seen.volume.to_string(),
            is_there: seen.found.is_some(),
            users: seen.users.len(),
        });
        let row = explanation.thread.as_ref();
        Self {
            frame,
            id: id.to_string(),
            answer: explanation.answer.clone(),
            hosts: explanation.hosts.iter().map(ToString::to_string).collect(),
            volumes: volumes.collect(),
            users: users.collect(),
            events: events(explanation),
            is_held: explanation.hold.is_some(),
            is_waiting: row.is_some_and(|row| row.closed && !row.marked),
        }
    }
}

/// What is written down of a thread, in its order.
fn events(explanation: &Explanation) -> Vec<Event> {
    let mut events: Vec<(DateTime<Utc>, String)> = Vec::new();
    if let Some(at) = explanation.thread.as_ref().and_then(|row| row.closed_at) {
        events.push((at, "The thread was closed".to_owned()));
    }
    if let Some(hold) = &explanation.hold {
        let until = hold.until.map_or("until it is released".to_owned(), |until| format!("until {}", time(until)));
        events.push((hold.held_at, format!("It was held {until}: {}", hold.reason)));
    }
    if let Some(failing) = &explanation.failure {
        let failed = &failing.failed;
        events.push((failed.first_failed_at, "Cleaning up failed for the first time".to_owned()));
        let text = format!("Cleaning up failed, attempt {} on {}: {}", failed.attempts, failed.replica, failed.error);
        events.push((failed.failed_at, text));
    }
    for receipt in explanation.receipts.iter().flatten() {
        let what = if receipt.outcome == "removed" { "The volume was removed" } else { "The volume was found gone" };
        events.push((receipt.removed_at, format!("{what} by {} ({})", receipt.replica, receipt.source)));
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(at, text)| Event { at: moment(Some(at)), text }).collect()
}

/// Where a thread's page is found from the overview, whatever stands in its id.
pub(super) fn found_at(id: &str) -> String {
    format!("find?{}", address(&[("id", id)]))
}

pub(super) fn address(pairs: &[(&str, &str)]) -> String {
    let given = pairs.iter().filter(|(_, value)| !value.is_empty());
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
}

/// A moment, and how long ago it was, or how soon it comes.
pub(super) fn moment(at: Option<DateTime<Utc>>) -> String {
    let Some(at) = at else { return String::new() };
    let seconds = (Utc::now() - at).num_seconds();
    let age = age(seconds.unsigned_abs());
    if seconds < 0 { format!("{} (in {age})", time(at)) } else { format!("{} ({age} ago)", time(at)) }
}

/// An age in its two largest units.
pub(super) fn age(seconds: u64) -> String {
    let age = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    age.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A number with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut parts: Vec<&str> = Vec::new();
    parts.extend(Some(&digits[..first]).filter(|part| !part.is_empty()));
    parts.extend((first..digits.len()).step_by(3).map(|at| &digits[at..at + 3]));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!([0, 7, 999, 1000, 1_234_567].map(count), ["0", "7", "999", "1,000", "1,234,567"]);
        assert_eq!(age(90_061), "1day 1h");
    }
}
