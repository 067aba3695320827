//! What a terminal shows of work that takes over a second: a bar where its steps are counted, how long it has taken
//! where not; and log lines beside it. The only file that names `indicatif`.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

/// What is over sooner needs no sign that it goes on.
const SOON: Duration = Duration::from_secs(1);
/// From one drawing to the next, where nothing else has it drawn.
const TICK: Duration = Duration::from_millis(100);

/// What this process shows: log lines have to know of it, so that they do not run through it.
static SHOWN: Mutex<Shown> = Mutex::new(Shown::Nothing);

enum Shown {
    Nothing,
    /// How long it has taken.
    Elapsed(ProgressBar),
    /// How many steps are done.
    Steps(ProgressBar),
    /// A person is asked, or all is said: nothing is shown any more.
    Never,
}

impl Shown {
    fn bar(&self) -> Option<&ProgressBar> {
        match self {
            Self::Elapsed(bar) | Self::Steps(bar) => Some(bar),
            Self::Nothing | Self::Never => None,
        }
    }

    /// Takes away what is shown.
    fn replace(&mut self, by: Self) {
        if let Some(bar) = self.bar() {
            bar.finish_and_clear();
        }
        *self = by;
    }
}

/// As long as this is there, whoever waits at a terminal is shown after a second that the work goes on.
pub struct Waiting(Option<AbortOnDropHandle<()>>);

/// Shows on standard error, if that is a terminal, that work goes on.
pub fn wait() -> Waiting {
    let show = async {
        tokio::time::sleep(SOON).await;
        let mut shown = SHOWN.lock();
        if matches!(*shown, Shown::Nothing) {
            let bar = ProgressBar::new_spinner().with_style(style("{spinner} {elapsed}")).with_elapsed(SOON);
            bar.enable_steady_tick(TICK);
            *shown = Shown::Elapsed(bar);
        }
    };
    Waiting(io::stderr().is_terminal().then(|| AbortOnDropHandle::new(tokio::spawn(show))))
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.0.is_some() {
            quiet();
        }
    }
}

/// Shows a bar on standard error, if that is a terminal; `total` steps are to come.
pub fn show(total: u64) {
    if io::stderr().is_terminal() {
        let mut shown = SHOWN.lock();
        if !matches!(*shown, Shown::Never) {
            shown.replace(Shown::Steps(steps(total)));
        }
    }
}

/// So many of the steps are done.
pub fn advance_to(done: u64) {
    if let Shown::Steps(bar) = &*SHOWN.lock() {
        bar.set_position(done);
    }
}

/// So many of so many steps are done: a bar, if it takes long enough for one.
pub fn at(done: u64, total: u64) {
    let mut shown = SHOWN.lock();
    if let Shown::Elapsed(_) = *shown {
        shown.replace(Shown::Steps(steps(total)));
    }
    if let Shown::Steps(bar) = &*shown {
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// Takes away what is shown, until there is more to show.
pub fn clear() {
    let mut shown = SHOWN.lock();
    if !matches!(*shown, Shown::Never) {
        shown.replace(Shown::Nothing);
    }
}

/// Takes away what is shown, and shows nothing any more: a person is asked something.
pub fn quiet() {
    SHOWN.lock().replace(Shown::Never);
}

/// Writes what would run through what is shown.
pub fn beside<R>(write: impl FnOnce() -> R) -> R {
    match SHOWN.lock().bar() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

fn steps(total: u64) -> ProgressBar {
    ProgressBar::new(total).with_style(style("{bar:30} {human_pos} of {human_len}  {per_sec}  {eta} left"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Standard error; what is written goes above what is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        beside(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
