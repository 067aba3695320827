//! What commands print, and asking a person before something that can't be taken back.

use std::{
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use crate::{failure::Failure, progress, terminal};

static READER_IS_GONE: AtomicBool = AtomicBool::new(false);

/// Prints a line.
pub(super) fn say(line: impl AsRef<str>) -> Result<(), Failure> {
    write(&format!("{}\n", line.as_ref()))
}

/// Prints; not with `println!`, which panics if the reader of a pipe has seen enough.
pub(super) fn write(text: &str) -> Result<(), Failure> {
    if reader_is_gone() {
        return Ok(());
    }
    let written = progress::beside(|| {
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes()).and_then(|()| output.flush())
    });
    match written {
        Ok(()) => Ok(()),
        // What was begun is ended all the same, and its exit code says how.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            READER_IS_GONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(Failure::permanent(format!("standard output: {error}"))),
    }
}

/// Prints lines of a list, as much of each as fits the terminal; `--json` has all of it.
pub(super) fn list(text: &str) -> Result<(), Failure> {
    match terminal::columns() {
        Some(columns) => write(&text.lines().map(|line| terminal::cut(line, columns) + "\n").collect::<String>()),
        None => write(text),
    }
}

/// Whether the reader of a pipe has seen enough: what only prints may end.
pub(super) fn reader_is_gone() -> bool {
    READER_IS_GONE.load(Ordering::Relaxed)
}

/// A report as `--json` prints it.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a report is always valid JSON")
}

/// Fails where there is nobody to ask. `what` says what can't be taken back.
pub(super) fn require_terminal(what: &str) -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::permanent(format!("{what}: say --yes, or run it on a terminal to be asked")))
}

/// Has the person at the terminal type `count`; fails if something else is typed.
pub(super) async fn confirm(what: &str, count: usize) -> Result<(), Failure> {
    progress::quiet();
    eprint!("{what}. Type {count} to continue: ");
    let read = || {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    };
    // On another thread, since connections need their heartbeats meanwhile.
    let typed = tokio::task::spawn_blocking(read).await.expect("reading a line does not panic");
    match typed {
        Ok(line) if line.trim() == count.to_string() => Ok(()),
        Ok(_) => Err(Failure::permanent(format!("nothing was deleted, since {count} was not typed"))),
        Err(error) => Err(Failure::permanent(format!("standard input: {error}"))),
    }
}

/// Fails without a reason. `what` is found later, by somebody who wonders.
pub(super) fn require_reason(reason: &str, what: &str) -> Result<(), Failure> {
    if reason.trim().is_empty() {
        return Err(Failure::permanent(format!("--reason is empty: say why, for whoever finds the {what}")));
    }
    Ok(())
}
