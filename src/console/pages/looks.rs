//! What the pages show, in the words and forms that people read.

use std::time::Duration;

use askama::Template;
use chrono::{DateTime, Utc};

use crate::{
    cleanup::Pause,
    config::Role,
    console::access::Person,
    operations::{
        explain::explanation::Explanation,
        status::overview::{FailingThread, Report},
    },
    terminal::time,
    volume_name::ThreadId,
};

/// What every page has.
pub(super) struct Frame {
    pub(super) who: String,
    pub(super) can_leave: bool,
    pub(super) may_act: bool,
    pub(super) may_purge: bool,
    pub(super) pauses: Vec<PauseLine>,
}

pub(super) struct PauseLine {
    pub(super) since: String,
    pub(super) who: String,
    pub(super) reason: String,
}

/// How things stand.
#[derive(Template)]
#[template(path = "overview.html")]
pub(super) struct Overview {
    frame: Frame,
    verdict: String,
    lines: Vec<Line>,
    figures: Vec<Figure>,
    worst: Vec<FailingRow>,
    now: String,
}

/// One thing that was looked at.
struct Line {
    ok: bool,
    text: String,
}

struct Figure {
    name: &'static str,
    value: String,
}

struct FailingRow {
    id: String,
    link: String,
    attempts: u64,
    next_try: String,
    error: String,
}

/// Why a volume is still there.
#[derive(Template)]
#[template(path = "thread.html")]
pub(super) struct Thread {
    frame: Frame,
    id: String,
    answer: String,
    users: Vec<UserRow>,
    events: Vec<Event>,
    is_held: bool,
    is_waiting: bool,
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

/// A page that says one thing, or asks for a token.
#[derive(Template)]
#[template(path = "notice.html")]
pub(super) struct Notice {
    pub(super) title: String,
    pub(super) detail: String,
    pub(super) has_login: bool,
}

impl Frame {
    pub(super) fn new(person: &Person, may_act: bool, pauses: &[Pause]) -> Self {
        let line = |pause: &Pause| PauseLine {
            since: moment(Some(pause.paused_at)),
            who: pause.paused_by.clone(),
            reason: pause.reason.clone(),
        };
        Self {
            who: format!("{} ({})", person.name, person.role),
            can_leave: !person.is_nobody,
            may_act,
            may_purge: may_act && person.may(Role::Admin),
            pauses: pauses.iter().map(line).collect(),
        }
    }
}

impl Overview {
    pub(super) fn new(frame: Frame, report: &Report) -> Self {
        let lines = lines(report);
        let ill: Vec<_> = lines.iter().filter(|line| !line.ok).collect();
        let verdict = match ill.as_slice() {
            [] => "All is well".to_owned(),
            [one] => one.text.clone(),
            [first, others @ ..] => format!("{}, and {} more to look at", first.text, others.len()),
        };
        let worst = report.failing.iter().flat_map(|failing| &failing.worst).map(FailingRow::new).collect();
        Self { frame, verdict, figures: figures(report), worst, lines, now: time(Utc::now()) }
    }
}

/// Checks in words, what is wrong in the same place as what is right.
fn lines(report: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, answering) in &report.dependencies {
        let error = answering.error.as_deref().unwrap_or_default();
        let text = if answering.up { format!("The {name} answers") } else { format!("The {name} is down: {error}") };
        lines.push(Line { ok: answering.up, text });
    }
    for host in &report.hosts {
        let error = host.answering.error.as_deref().unwrap_or_default();
        let up = host.answering.up;
        let text = if up { format!("Host {} answers", host.name) } else { format!("Host {}: {error}", host.name) };
        lines.push(Line { ok: up, text });
    }
    let pauses = report.pause.iter().chain(report.hosts.iter().filter_map(|host| host.pause.as_ref()));
    match pauses.min_by_key(|pause| pause.paused_at) {
        Some(pause) => lines.push(Line { ok: false, text: format!("Removal is paused: {}", pause.reason) }),
        None => lines.push(Line { ok: true, text: "Removal is not paused".to_owned() }),
    }
    let is_swept = report.sweeper.as_ref().is_some_and(|sweeper| sweeper.current);
    let text = if is_swept { "A replica sweeps" } else { "No replica sweeps: is serve running?" };
    lines.push(Line { ok: is_swept, text: text.to_owned() });
    let failing = report.failing.as_ref().map_or(0, |failing| failing.threads);
    let text = if failing == 0 { "No clean-up fails".to_owned() } else { format!("{failing} clean-ups fail") };
    lines.push(Line { ok: failing == 0, text });
    let parked = parked(report);
    let text = if parked == 0 { "No dead letters".to_owned() } else { format!("{parked} dead letters are parked") };
    lines.push(Line { ok: parked == 0, text });
    let unread = report
        .errors
        .iter()
        .map(|(section, error)| Line { ok: false, text: format!("The section {section} can't be read: {error}") });
    lines.extend(unread);
    lines
}

fn parked(report: &Report) -> u64 {
    let queues = report.queues.iter().flatten().filter(|queue| queue.name.ends_with(".dead-letter"));
    queues.filter_map(|queue| queue.messages).map(u64::from).sum()
}

fn figures(report: &Report) -> Vec<Figure> {
    let known = |value: Option<u64>| value.map_or("unknown".to_owned(), |value| value.to_string());
    let removed = |counts: &std::collections::BTreeMap<String, u64>| counts.get("removed").copied().unwrap_or(0);
    let removals = report.removals.as_ref();
    let backlog = report.backlog.as_ref();
    let oldest = backlog.map(|backlog| backlog.oldest_seconds.map_or("none".to_owned(), age));
    vec![
        Figure { name: "Waiting", value: known(backlog.map(|backlog| backlog.unmarked)) },
        Figure { name: "Oldest", value: oldest.unwrap_or_else(|| "unknown".to_owned()) },
        Figure { name: "Removed, last hour", value: known(removals.map(|all| removed(&all.last_hour))) },
        Figure { name: "Removed, last day", value: known(removals.map(|all| removed(&all.last_day))) },
        Figure { name: "Failing", value: known(report.failing.as_ref().map(|failing| failing.threads)) },
        Figure { name: "Dead letters", value: known(report.queues.as_ref().map(|_| parked(report))) },
    ]
}

impl FailingRow {
    fn new(FailingThread { thread_id, failing }: &FailingThread) -> Self {
        Self {
            id: thread_id.clone(),
            link: found_at(thread_id),
            attempts: failing.failed.attempts,
            next_try: time(failing.next_try_at),
            error: failing.failed.error.clone(),
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
        let row = explanation.thread.as_ref();
        Self {
            frame,
            id: id.to_string(),
            answer: explanation.answer.clone(),
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

/// Where a thread's page is found, whatever stands in its id.
pub(super) fn found_at(id: &str) -> String {
    format!("/find?{}", address(&[("id", id)]))
}

pub(super) fn address(pairs: &[(&str, &str)]) -> String {
    let given = pairs.iter().filter(|(_, value)| !value.is_empty());
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
}

/// A moment, and how long ago it was.
pub(super) fn moment(at: Option<DateTime<Utc>>) -> String {
    let Some(at) = at else { return String::new() };
    let seconds = (Utc::now() - at).num_seconds();
    match u64::try_from(seconds) {
        Ok(seconds) => format!("{} ({} ago)", time(at), age(seconds)),
        Err(_) => time(at),
    }
}

/// An age in its two largest units.
fn age(seconds: u64) -> String {
    let age = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    age.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
