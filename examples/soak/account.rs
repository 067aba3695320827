//! The account: what became of every thread, volume and event, and whether that is what should have.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    Try,
    acknowledged::Acknowledged,
    broker::DeadLetter,
    meanwhile::is_good,
    plan::{Fate, Thread},
    platform::{ORPHANS, Platform, Published},
    shape::time,
};

/// What happened that should not have, printed at once and kept for the end.
pub(crate) struct Notes {
    began: Instant,
    incidents: Mutex<Vec<String>>,
}

impl Notes {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), incidents: Mutex::default() }
    }

    /// A line of progress.
    pub(crate) fn say(&self, what: &str) {
        println!("   {:>6.1} s   {what}", self.began.elapsed().as_secs_f64());
    }

    /// Something that fails the soak.
    pub(crate) fn incident(&self, what: String) {
        self.say(&format!("VIOLATED: {what}"));
        self.incidents.lock().push(what);
    }

    /// Checks an invariant.
    pub(crate) fn claim(&self, what: &str, broken_by: &[String]) {
        if broken_by.is_empty() {
            println!("   ok  {what}");
        } else {
            let some = broken_by.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
            self.incident(format!("{what}: not so for {}: {some}", broken_by.len()));
        }
    }

    pub(crate) fn incidents(&self) -> Vec<String> {
        self.incidents.lock().clone()
    }
}

/// A thread's row, with its receipts.
struct Row {
    open: bool,
    closed_at: Option<DateTime<Utc>>,
    marked_at: Option<DateTime<Utc>>,
    receipts: usize,
}

/// What the database says at the end.
pub(crate) struct Rows(HashMap<String, Row>);

impl Rows {
    pub(crate) async fn read(platform: &Platform) -> Try<Self> {
        let select = format!(
            "SELECT id, status, closed_at, {}, (SELECT count(*) FROM volume_removals WHERE thread_id = threads.id) \
             FROM threads",
            platform.shape.mark()
        );
        let mut rows = HashMap::new();
        for row in platform.query(&select).await? {
            let receipts: i64 = row.try_get_by_index(4)?;
            let status: String = row.try_get_by_index(1)?;
            rows.insert(
                row.try_get_by_index(0)?,
                Row {
                    open: status == "open",
                    closed_at: time(&row, 2),
                    marked_at: time(&row, 3),
                    receipts: usize::try_from(receipts)?,
                },
            );
        }
        Ok(Self(rows))
    }

    /// Every thread is as its fate says, with its receipts.
    pub(crate) fn check(&self, threads: &[Thread], volumes: usize, notes: &Notes) {
        let broken = |is_as_it_should: &dyn Fn(&Thread, &Row) -> bool| -> Vec<String> {
            let known = threads.iter().filter(|thread| thread.fate.has_row());
            let wrong = known.filter(|thread| !self.0.get(&thread.id).is_some_and(|row| is_as_it_should(thread, row)));
            wrong.map(|thread| self.describe(thread)).collect()
        };
        notes.claim(
            "every thread is open or closed as the platform left it",
            &broken(&|thread, row| row.open == thread.fate.is_open_at_the_end()),
        );
        notes.claim(
            "every closed thread is marked, no open one is",
            &broken(&|_, row| row.marked_at.is_some() != row.open),
        );
        // The platform's own repetitions can make a volume twice; the second one is removed with a receipt too.
        notes.claim(
            "every close has one receipt for each volume, and there are no others but where one was made anew",
            &broken(&|thread, row| {
                let expected = thread.fate.closes() * volumes;
                row.receipts == expected || thread.fate == Fate::ClosedAgain && row.receipts > expected
            }),
        );
    }

    fn describe(&self, thread: &Thread) -> String {
        match self.0.get(&thread.id) {
            None => format!("{} ({:?}): no row", thread.id, thread.fate),
            Some(Row { open, marked_at, receipts, .. }) => {
                format!("{} ({:?}): open {open}, marked {marked_at:?}, receipts {receipts}", thread.id, thread.fate)
            }
        }
    }

    /// When the threads with an ordinary event were closed and marked.
    pub(crate) fn good(&self, threads: &[Thread]) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        let good = threads.iter().filter(|thread| is_good(thread.fate));
        good.filter_map(|thread| self.0.get(&thread.id))
            .filter_map(|row| Some((row.closed_at?, row.marked_at?)))
            .collect()
    }

    /// Prints what there is, and how long it took from the close to the mark; without the volumes that were held.
    pub(crate) fn print(&self, threads: &[Thread]) {
        let times = |thread: &Thread| self.0.get(&thread.id).and_then(|row| Some((row.closed_at?, row.marked_at?)));
        let free = threads.iter().filter(|thread| thread.fate != Fate::Held);
        let mut lags: Vec<Duration> =
            free.filter_map(times).map(|(closed, marked)| (marked - closed).to_std().unwrap_or_default()).collect();
        lags.sort();
        println!();
        line("threads, open at the end", self.0.values().filter(|row| row.open).count());
        line("threads, closed and marked", self.0.values().filter(|row| row.marked_at.is_some()).count());
        line("receipts", self.0.values().map(|row| row.receipts).sum::<usize>());
        for (name, percent) in [("median", 50), ("p99", 99), ("longest", 100)] {
            let lag = lags.get((lags.len() * percent / 100).min(lags.len().saturating_sub(1)));
            let lag = lag.copied().unwrap_or_default().as_secs_f64();
            line(&format!("seconds from close to mark, {name}"), format!("{lag:.2}"));
        }
    }
}

/// What the replicas' logs say. One that was killed may have had lines that were not written yet.
#[derive(Default)]
pub(crate) struct Logs {
    /// How often a delivery was settled so, by settlement.
    settlements: BTreeMap<String, usize>,
    /// What was tried again, and why, by the first words of it.
    retries: BTreeMap<String, usize>,
    /// How often each thread's deliveries were settled for good.
    settled: HashMap<String, usize>,
    /// Threads that were acknowledged as stale.
    stale: HashSet<String>,
    panics: Vec<String>,
}

impl Logs {
    pub(crate) fn read(paths: &[PathBuf]) -> Try<Self> {
        let mut logs = Self::default();
        for path in paths {
            for line in std::fs::read_to_string(path)?.lines() {
                if line.contains("panicked at") {
                    logs.panics.push(format!("{}: {line}", path.display()));
                }
                // The last line of a killed process may be half a line.
                if let Ok(line) = serde_json::from_str(line) {
                    logs.add(&line);
                }
            }
        }
        Ok(logs)
    }

    fn add(&mut self, line: &Value) {
        let Some(settlement) = line["settlement"].as_str() else { return };
        // A delivery whose channel was lost says so in a second line.
        if line["message"].is_string() && settlement != "stale" {
            return;
        }
        *self.settlements.entry(settlement.to_owned()).or_default() += 1;
        if settlement == "retry" {
            *self.retries.entry(kind(line["error"].as_str().unwrap_or_default())).or_default() += 1;
        }
        let is_final = matches!(settlement, "ack" | "stale" | "dead_letter");
        if let Some(thread) = line["span"]["thread.id"].as_str().filter(|_| is_final) {
            *self.settled.entry(thread.to_owned()).or_default() += 1;
            if settlement == "stale" {
                self.stale.insert(thread.to_owned());
            }
        }
    }

    /// Whether a delivery about this thread was settled for good.
    pub(crate) fn is_settled(&self, thread: &str) -> bool {
        self.settled.contains_key(thread)
    }

    /// `also` are the first words of what may be tried again besides.
    pub(crate) fn print(&self, notes: &Notes, also: &[&str]) {
        println!();
        for (settlement, count) in &self.settlements {
            line(&format!("deliveries decided on: {settlement}"), count);
        }
        for (error, count) in &self.retries {
            line(&format!("  retry: {error}"), count);
        }
        println!();
        notes.claim("nothing panicked", &self.panics);
        // A daemon that was paused and answers again when it is asked has been slow; one that does not is down.
        let expected = [
            "the thread is not closed",
            "there is no such thread",
            "docker at removing takes longer than",
            // Cut between its answer and its name, which proves nothing.
            "docker at the connection ended before the daemon had said who",
        ];
        let is_expected = |error: &&String| expected.iter().chain(also).any(|expected| error.starts_with(expected));
        let others = self.retries.keys().filter(|error| !is_expected(error));
        notes.claim("nothing that was down cost an attempt", &others.cloned().collect::<Vec<_>>());
    }
}

/// An error without what differs from thread to thread.
fn kind(error: &str) -> String {
    let words = error
        .split_whitespace()
        .filter(|word| !["ha_ws_", "ha_cache_"].iter().any(|ours| word.contains(ours)) && !word.contains("127.0.0.1"));
    words.take(12).collect::<Vec<_>>().join(" ")
}

/// What was seen of the broker, and may have been.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) acknowledged: &'a Acknowledged,
    /// Events that may have been delivered on so many connections that were lost that the broker parked them, of a
    /// thousand.
    pub(crate) returned_of_thousand: usize,
}

/// Every published message is acknowledged, with an outcome, or in the dead-letter queue with its reason.
pub(crate) fn check_events(
    published: &[Published],
    letters: &[DeadLetter],
    (logs, seen): (&Logs, Seen<'_>),
    notes: &Notes,
) {
    let parked: BTreeMap<String, &DeadLetter> = letters.iter().map(|letter| (letter.id(), letter)).collect();
    let mut of_thread: HashMap<&str, usize> = HashMap::new();
    for message in published {
        *of_thread.entry(&message.thread).or_default() += 1;
    }
    // Which of a thread's messages is missing is not known, but how many.
    let unsettled = |(&thread, &messages): (&&str, &usize)| {
        (thread.to_owned(), messages.saturating_sub(logs.settled.get(thread).copied().unwrap_or_default()))
    };
    let mut missing: HashMap<String, usize> = of_thread.iter().map(unsettled).collect();
    let (mut acked, mut stale, mut lost, mut wrongly_parked) = (0, 0, Vec::new(), Vec::new());
    let (mut unlogged, mut returned) = (HashSet::new(), Vec::new());
    for message in published {
        match (message.dead_letter, parked.get(message.id.as_str())) {
            (Some(reason), Some(letter)) if letter.reason == reason => {}
            (_, Some(letter)) if message.may_be_unreadable && letter.reason == "unreadable" => {}
            (Some(reason), letter) => {
                let found = letter.map_or("nothing", |letter| &letter.reason);
                wrongly_parked.push(format!("{} ({reason}): {found}", message.id));
            }
            (None, Some(letter)) if letter.reason == "delivery_limit" => {
                returned.push(format!("{}: {}", message.id, letter.reason));
            }
            (None, Some(letter)) => {
                let error = letter.error.as_deref().unwrap_or_default();
                wrongly_parked.push(format!("{}: {} {error}", message.id, letter.reason));
            }
            (None, None) => {
                let thread = message.thread.as_str();
                let is_missing = missing.get_mut(thread).filter(|missing| **missing > 0);
                let was_acknowledged = seen.acknowledged.has(&message.id);
                if is_missing.is_some() && was_acknowledged {
                    unlogged.insert(thread);
                }
                if let Some(missing) = is_missing.filter(|_| !was_acknowledged) {
                    *missing -= 1;
                    lost.push(format!("{} ({:?})", message.id, message.fate));
                } else if logs.stale.contains(thread) {
                    stale += 1;
                } else {
                    acked += 1;
                }
            }
        }
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for letter in parked.values() {
        *reasons.entry(&letter.reason).or_default() += 1;
    }
    let settled: usize = logs.settled.values().sum();
    println!();
    line("events published and confirmed", published.len());
    line("  acknowledged with an outcome", acked);
    line("  of threads that were not closed: stale", stale);
    line("  threads with one that a killed replica did not log", unlogged.len());
    for (reason, messages) in &reasons {
        line(&format!("  dead-lettered: {reason}"), messages);
    }
    line("  unaccounted for", lost.len());
    line("duplicates settled", settled.saturating_sub(of_thread.values().sum()));
    line("duplicates in the dead-letter queue", letters.len() - parked.len());
    println!();
    notes.claim("every published event is accounted for", &lost);
    if returned.len() * 1000 > published.len() * seen.returned_of_thousand {
        wrongly_parked.append(&mut returned);
    }
    notes.claim("what belongs into the dead-letter queue is there with its reason, nothing else is", &wrongly_parked);
}

/// What is left in Docker are the volumes of open threads, those that are held, and those that are nobody's.
pub(crate) async fn check_volumes(platform: &Platform, are_held: bool, notes: &Notes) -> Try {
    let there = platform.volumes().await?;
    let stays = |thread: &&Thread| thread.fate.is_open_at_the_end() && thread.fate.has_volume();
    let held = platform.with(Fate::Held).filter(|_| are_held).map(|thread| platform.held_volume(thread));
    let expected: BTreeSet<_> = platform
        .threads
        .iter()
        .filter(stays)
        .flat_map(|thread| platform.volumes_of(thread))
        .chain(held)
        .chain(ORPHANS.map(str::to_owned))
        .collect();
    let missing: Vec<_> = expected.difference(&there).cloned().collect();
    let left: Vec<_> = there.difference(&expected).cloned().collect();
    notes.claim("no volume is missing: not an open thread's, not a held one, not one that is nobody's", &missing);
    notes.claim(&format!("of all others, none is left ({} are there)", there.len()), &left);
    Ok(())
}

/// A line of the table.
pub(crate) fn line(what: &str, number: impl std::fmt::Display) {
    println!("   {what:<52} {number:>8}");
}
