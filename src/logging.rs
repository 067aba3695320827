//! Where log lines go: to standard error, for people or as JSON, so that standard output is a command's own.
//!
//! A thread of their own writes them. Whoever reads standard error and stops reading stops that thread and nothing
//! else: lines that find no room in its queue are dropped, counted and told of.
//!
//! The writer of `tracing-appender` does not block either, but it prints on standard output, which is the commands'
//! own, if its queue is full when the process ends, and says nowhere that lines were dropped.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::warn;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::{
    config::{Config, LogFormat},
    metrics,
    progress::Stderr,
    traces,
};

/// Lines that wait to be written: some megabytes.
const MOST_QUEUED: usize = 10_000;
/// How long the end of the process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();
/// Lines that were dropped and not yet told of.
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Entry {
    Line(Vec<u8>),
    /// All that came before is written.
    Written(SyncSender<()>),
}

/// Installs the subscriber for this process.
pub fn install(config: &Config) {
    let (queue, entries) = sync_channel(MOST_QUEUED);
    let writer = thread::Builder::new().name("log".to_owned()).spawn(move || write(&entries));
    if writer.is_ok() {
        QUEUE.get_or_init(|| queue);
    }
    // The last one wins, and the spans of traces are nobody's lines.
    let filter = EnvFilter::new(format!("{},{}=off", config.log_filter, traces::TARGET));
    let lines = fmt::layer().with_writer(|| Queued);
    let lines = match config.log_format {
        LogFormat::Pretty => lines.with_ansi(has_colors()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(traces::layer(&config.replica, config.trace_relation))
        .init();
}

/// Whether log lines have colors: by the variables that others obey too (no-color.org, bixense.com/clicolors), or else
/// on a terminal.
fn has_colors() -> bool {
    wants_colors(|name| std::env::var(name).ok()).unwrap_or_else(|| io::stderr().is_terminal())
}

fn wants_colors(variable: impl Fn(&str) -> Option<String>) -> Option<bool> {
    let is_set = |name| variable(name).is_some_and(|value| !value.is_empty() && value != "0");
    if variable("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        Some(false)
    } else if is_set("CLICOLOR_FORCE") {
        Some(true)
    } else {
        variable("CLICOLOR").filter(|value| value == "0").map(|_| false)
    }
}

/// Says a line for people, behind the log lines.
pub fn say(line: &str) {
    let _ = Queued.write_all(format!("{line}\n").as_bytes());
}

/// Waits until the lines are written, for a moment.
pub fn finish() {
    let (written, waiting) = sync_channel(1);
    if QUEUE.get().is_some_and(|queue| queue.try_send(Entry::Written(written)).is_ok()) {
        let _ = waiting.recv_timeout(LAST_LINES);
    }
}

fn write(entries: &Receiver<Entry>) {
    for entry in entries {
        match entry {
            // Nobody is left to tell.
            Entry::Line(line) => drop(Stderr.write_all(&line)),
            Entry::Written(waiting) => drop(waiting.send(())),
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            warn!(lines = dropped, "log lines were dropped: whoever reads standard error did not keep up");
        }
    }
}

/// The end of the queue. Each write is a whole line.
struct Queued;

impl Write for Queued {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            None => Stderr.write_all(line)?,
            Some(queue) => {
                if queue.try_send(Entry::Line(line.to_vec())).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                    metrics::log_line_dropped();
                }
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_as_the_variables_say_that_others_obey_too() {
        for (variables, expected) in [
            (&[][..], None),
            (&[("NO_COLOR", "1")], Some(false)),
            (&[("NO_COLOR", "")], None),
            (&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], Some(false)),
            (&[("CLICOLOR_FORCE", "1")], Some(true)),
            (&[("CLICOLOR_FORCE", "0")], None),
            (&[("CLICOLOR", "0")], Some(false)),
            (&[("CLICOLOR", "1")], None),
        ] {
            let value = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(wants_colors(value), expected, "{variables:?}");
        }
    }
}
