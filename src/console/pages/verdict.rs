//! The overview: one sentence, what it rests on, and what went lately.

use askama::Template;
use chrono::{DateTime, Utc};

use super::{
    chart::{Chart, Sum},
    looks::{Frame, OperationLine, PauseLine, age, count, found_at, moment},
    records::SweepRow,
};
use crate::{
    cleanup::policy::Policy,
    console::lately::{Lately, Range},
    operations::status::overview::{FailingThread, Report},
    store::Stats,
    terminal::{amount, time},
};

/// How things stand.
#[derive(Template)]
#[template(path = "overview.html")]
pub(super) struct Overview {
    pub(super) frame: Frame,
    pub(super) now: Now,
}

/// What open pages are kept up to date with.
#[derive(Template)]
#[template(path = "live.html")]
pub(super) struct Live {
    pub(super) frame: Frame,
    pub(super) operation: Option<OperationLine>,
    /// Only for the overview.
    pub(super) now: Option<Now>,
    /// Only for the list of sweeps, when it has changed.
    pub(super) sweeps: Option<Vec<SweepRow>>,
}

/// How things stand at this moment.
pub(super) struct Now {
    pub(super) verdict: String,
    is_well: bool,
    lines: Vec<Line>,
    figures: Vec<Figure>,
    chart: Option<Chart>,
    worst: Vec<FailingRow>,
    at: String,
}

/// One thing that was looked at.
struct Line {
    ok: bool,
    text: String,
    /// The page that has more.
    more: &'static str,
}

struct Figure {
    name: &'static str,
    value: String,
    note: String,
}

struct FailingRow {
    id: String,
    link: String,
    attempts: u64,
    next_try: String,
    error: String,
}

impl Now {
    pub(super) fn new(report: &Report, lately: &Lately, range: Range, policy: &Policy) -> Self {
        let now = Utc::now();
        let mut lines = lines(report);
        if let Err(problem) = &lately.stats {
            lines.push(Line {
                ok: false,
                text: format!("What went lately can't be read: {}", problem.detail),
                more: "",
            });
        }
        let ill: Vec<_> = lines.iter().filter(|line| !line.ok).collect();
        let verdict = match ill.as_slice() {
            [] => "All is well".to_owned(),
            [one] => one.text.clone(),
            [first, others @ ..] => format!("{}, and {} more to look at", first.text, others.len()),
        };
        let worst = report.failing.iter().flat_map(|failing| &failing.worst).map(FailingRow::new).collect();
        Self {
            verdict,
            is_well: ill.is_empty(),
            figures: figures(report, lately, policy),
            chart: lately.of(range).map(|stats| Chart::new(range, &stats.stats, now)),
            worst,
            lines,
            at: time(now),
        }
    }
}

/// The pauses that the status names.
pub(super) fn pauses(report: &Report) -> Vec<PauseLine> {
    let pauses = report.pause.iter().chain(report.hosts.iter().filter_map(|host| host.pause.as_ref()));
    let mut lines: Vec<_> = pauses.map(PauseLine::new).collect();
    lines.dedup();
    lines
}

/// Checks in words, what is wrong in the same place as what is right.
fn lines(report: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, answering) in &report.dependencies {
        let error = answering.error.as_deref().unwrap_or_default();
        let name = if *name == "docker" { "Docker".to_owned() } else { format!("The {name}") };
        let text = if answering.up { format!("{name} answers") } else { format!("{name} is down: {error}") };
        lines.push(Line { ok: answering.up, text, more: "health" });
    }
    for host in &report.hosts {
        let error = host.answering.error.as_deref().unwrap_or_default();
        let up = host.answering.up;
        let text = if up { format!("Host {} answers", host.name) } else { format!("Host {}: {error}", host.name) };
        lines.push(Line { ok: up, text, more: "hosts" });
    }
    let pauses = report.pause.iter().chain(report.hosts.iter().filter_map(|host| host.pause.as_ref()));
    let (ok, text) = match pauses.min_by_key(|pause| pause.paused_at) {
        Some(pause) => (false, format!("Removal is paused: {}", pause.reason)),
        None => (true, "Removal is not paused".to_owned()),
    };
    lines.push(Line { ok, text, more: "activity" });
    let is_swept = report.sweeper.as_ref().is_some_and(|sweeper| sweeper.current);
    let text = if is_swept { "A replica sweeps" } else { "No replica sweeps: is serve running?" };
    lines.push(Line { ok: is_swept, text: text.to_owned(), more: "sweeps" });
    let failing = report.failing.as_ref().map_or(0, |failing| failing.threads);
    let text = match failing {
        0 => "No clean-up fails".to_owned(),
        1 => "1 clean-up fails".to_owned(),
        more => format!("{} clean-ups fail", count(more)),
    };
    lines.push(Line { ok: failing == 0, text, more: "threads?waits_for=failing" });
    let parked = parked(report);
    let text = match parked {
        0 => "No dead letters".to_owned(),
        1 => "1 dead letter is parked".to_owned(),
        more => format!("{} dead letters are parked", count(more)),
    };
    lines.push(Line { ok: parked == 0, text, more: "dead-letters" });
    let unread = report.errors.iter().map(|(section, error)| Line {
        ok: false,
        text: format!("The section {section} can't be read: {error}"),
        more: "health",
    });
    lines.extend(unread);
    lines
}

fn parked(report: &Report) -> u64 {
    let queues = report.queues.iter().flatten().filter(|queue| queue.name.ends_with(".dead-letter"));
    queues.filter_map(|queue| queue.messages).map(u64::from).sum()
}

fn figures(report: &Report, lately: &Lately, policy: &Policy) -> Vec<Figure> {
    let known = |value: Option<u64>| value.map_or("unknown".to_owned(), count);
    let figure = |name, value| Figure { name, value, note: String::new() };
    let hour = lately.of(Range::Hour).map(|stats| Sum::of(&stats.stats));
    let waiting = waiting(report);
    vec![
        Figure { name: "Waiting", value: waiting, note: done_in(report, hour) },
        oldest(report, policy),
        removed("Removed, last hour", lately.of(Range::Hour)),
        removed("Removed, last day", lately.of(Range::Day)),
        figure("Failing", known(report.failing.as_ref().map(|failing| failing.threads))),
        figure("Dead letters", known(report.queues.as_ref().map(|_| parked(report)))),
        last_sweep(report, lately),
        replicas(report),
        budget(policy, hour),
    ]
}

/// Since when the oldest one waits, and whether its retention is over.
fn oldest(report: &Report, policy: &Policy) -> Figure {
    let backlog = report.backlog.as_ref().filter(|backlog| !backlog.and_more);
    let (value, note) = match backlog.map(|backlog| backlog.oldest_seconds) {
        None => ("unknown".to_owned(), String::new()),
        Some(None) => ("none".to_owned(), String::new()),
        Some(Some(oldest)) => {
            let retention = policy.retention.0.as_secs();
            let note = match oldest.checked_sub(retention) {
                _ if retention == 0 => String::new(),
                Some(due) => format!("due for {}", age(due)),
                None => format!("due in {}", age(retention - oldest)),
            };
            (age(oldest), note)
        }
    };
    Figure { name: "Oldest of them", value, note }
}

fn last_sweep(report: &Report, lately: &Lately) -> Figure {
    let sweeper = report.sweeper.as_ref().filter(|sweeper| sweeper.current);
    // Behind the replica's name stands which process of it.
    let replica = |holder: &str| holder.rsplit_once('/').map_or(holder, |(replica, _)| replica).to_owned();
    let sweeper = sweeper.map(|sweeper| format!(" by {}", replica(&sweeper.sweeper.holder))).unwrap_or_default();
    let (value, note) = match &lately.last_sweep {
        Ok(Some(sweep)) => (age_of(sweep.began_at, Utc::now()), format!("{}{sweeper}", time(sweep.began_at))),
        Ok(None) => ("none yet".to_owned(), sweeper),
        Err(_) => ("unknown".to_owned(), sweeper),
    };
    Figure { name: "Last sweep", value, note: note.trim_start().to_owned() }
}

/// Replicas take events, each as one consumer.
fn replicas(report: &Report) -> Figure {
    let work = report.queues.iter().flatten().find(|queue| queue.name.ends_with(".thread-closed"));
    let taking = work.and_then(|queue| queue.consumers);
    let value = taking.map_or("unknown".to_owned(), |taking| count(taking.into()));
    Figure { name: "Replicas that take events", value, note: String::new() }
}

/// How much may go before all removal is paused, and how much of it has.
fn budget(policy: &Policy, hour: Option<Sum>) -> Figure {
    let budgets = policy.budgets;
    let value = match (budgets.per_hour, hour) {
        (None, _) => "off".to_owned(),
        (Some(most), Some(sum)) => format!("{} of {}", count(sum.removed.min(most)), count(most)),
        (Some(most), None) => count(most),
    };
    let sweep = budgets.per_sweep.map(|most| format!("{} a sweep", count(most)));
    Figure { name: "Budget of an hour", value, note: sweep.unwrap_or_default() }
}

/// How many wait: counted now, or at the last sweeps where they are too many for that.
fn waiting(report: &Report) -> String {
    let Some(backlog) = &report.backlog else { return "unknown".to_owned() };
    if !backlog.and_more {
        return count(backlog.unmarked);
    }
    let left: u64 = report.threads.as_ref().map_or(0, |threads| threads.named().iter().map(|(_, count)| count).sum());
    if left > backlog.unmarked {
        format!("about {}", count(left))
    } else {
        format!("more than {}", count(backlog.unmarked))
    }
}

fn removed(name: &'static str, stats: Option<&Stats>) -> Figure {
    let Some(Stats { stats, at_least }) = stats else {
        return Figure { name, value: "unknown".to_owned(), note: String::new() };
    };
    let sum = Sum::of(stats);
    let note = match (sum.bytes, sum.unsized_ones) {
        (0, _) => String::new(),
        (bytes, 0) => amount(bytes),
        (bytes, unsized_ones) => format!("{}, and {} of unknown size", amount(bytes), count(unsized_ones)),
    };
    let least = if *at_least { "at least " } else { "" };
    Figure { name, value: format!("{least}{}", count(sum.removed)), note }
}

/// When the backlog will be done, if it goes on as in the last hour. Only what nothing is in the way of but a pause
/// counts.
fn done_in(report: &Report, hour: Option<Sum>) -> String {
    let waiting = report.threads.as_ref().map_or(0, |threads| threads.waiting + threads.paused);
    let Some(Sum { removed, .. }) = hour.filter(|_| waiting > 0) else { return String::new() };
    if report.pause.is_some() {
        return "not before removal is resumed".to_owned();
    }
    match waiting.saturating_mul(3600).checked_div(removed) {
        Some(seconds) => format!("done in about {}", age(seconds)),
        None => "none went in the last hour".to_owned(),
    }
}

fn age_of(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ago", age((now - at).num_seconds().max(0).unsigned_abs()))
}

impl FailingRow {
    fn new(FailingThread { thread_id, failing }: &FailingThread) -> Self {
        Self {
            id: thread_id.clone(),
            link: found_at(thread_id),
            attempts: failing.failed.attempts,
            next_try: moment(Some(failing.next_try_at)),
            error: failing.failed.error.clone(),
        }
    }
}
