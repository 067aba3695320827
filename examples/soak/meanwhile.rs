//! The table: each kind of fault and of message, how many there were, what became of them, and the slowest good event
//! meanwhile.
//!
//! Faults overlap, since one begins every second: the slowest event is that of all closes in its time, whatever else
//! there was then.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::{
    account::{Logs, Rows},
    broker::DeadLetter,
    plan::{Fate, Thread},
    platform::Published,
};

/// How long a message that stops something may be felt.
const FELT: Duration = Duration::from_secs(5);

/// From when to when.
type Span = (DateTime<Utc>, DateTime<Utc>);

/// When there was what.
#[derive(Default)]
pub(crate) struct Meanwhile(Mutex<BTreeMap<String, Vec<Span>>>);

impl Meanwhile {
    /// Something of this kind was there since then, and is over now.
    pub(crate) fn was(&self, kind: &str, since: DateTime<Utc>) {
        self.0.lock().entry(kind.to_owned()).or_default().push((since, Utc::now()));
    }

    /// A message of this kind was published.
    pub(crate) fn published(&self, kind: &str) {
        let now = Utc::now();
        self.0.lock().entry(kind.to_owned()).or_default().push((now, now + FELT));
    }

    /// What was there at some time between these.
    pub(crate) fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<(DateTime<Utc>, String)> {
        let mut met = Vec::new();
        for (kind, spans) in self.0.lock().iter() {
            for (since, until) in spans.iter().filter(|(since, until)| *since <= to && from <= *until) {
                met.push((*since, format!("fault: {kind}, until {}", until.format("%H:%M:%S%.3f"))));
            }
        }
        met
    }

    /// Prints the table.
    pub(crate) fn print(
        &self,
        rows: &Rows,
        threads: &[Thread],
        published: &[Published],
        letters: &[DeadLetter],
        logs: &Logs,
    ) {
        let good = rows.good(threads);
        println!("\n   {:<38} {:>5}   {:<58} {:>9}", "kind", "times", "what became of it", "slowest");
        for (kind, times) in self.0.lock().iter() {
            let of_kind: Vec<_> = published.iter().filter(|message| message.kind.as_ref() == Some(kind)).collect();
            let met = good.iter().filter(|(closed, _)| times.iter().any(|(from, to)| from <= closed && closed <= to));
            let (mut count, mut slowest) = (0, Duration::ZERO);
            for (closed, marked) in met {
                count += 1;
                slowest = slowest.max((*marked - *closed).to_std().unwrap_or_default());
            }
            let became = if of_kind.is_empty() {
                format!("over; of {count} closes meanwhile every one is marked")
            } else {
                became(&of_kind, letters, logs)
            };
            println!("   {kind:<38} {:>5}   {became:<58} {:>7.1} s", times.len(), slowest.as_secs_f64());
        }
    }
}

/// What became of messages.
fn became(messages: &[&Published], letters: &[DeadLetter], logs: &Logs) -> String {
    let parked: HashMap<String, &DeadLetter> = letters.iter().map(|letter| (letter.id(), letter)).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for message in messages {
        let became = match parked.get(&message.id) {
            Some(letter) => format!("dead-lettered as {}", letter.reason),
            None if logs.is_settled(&message.thread) => "acknowledged, the volume removed".to_owned(),
            None => "LOST".to_owned(),
        };
        *counts.entry(became).or_default() += 1;
    }
    counts.iter().map(|(became, count)| format!("{count} {became}")).collect::<Vec<_>>().join(", ")
}

/// Whether a thread's close is one that only the service's own speed decides on.
pub(crate) fn is_good(fate: Fate) -> bool {
    matches!(fate, Fate::Removed | Fate::Absent | Fate::Repeated | Fate::Dressed)
}
