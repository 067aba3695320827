//! A progress bar on a terminal, and log lines beside it. The only file that names `indicatif`.

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use indicatif::{ProgressBar, ProgressStyle};

/// The bar of this process: log lines have to know of it, so that they do not run through it.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Shows a bar on standard error, if that is a terminal; `total` steps are to come.
pub fn show(total: u64) {
    if io::stderr().is_terminal() {
        let template = "{bar:30} {human_pos} of {human_len}  {per_sec}  {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        BAR.get_or_init(|| ProgressBar::new(total).with_style(style));
    }
}

/// So many of the steps are done.
pub fn advance_to(done: u64) {
    if let Some(bar) = BAR.get() {
        bar.set_position(done);
    }
}

/// Takes the bar away.
pub fn clear() {
    if let Some(bar) = BAR.get() {
        bar.finish_and_clear();
    }
}

/// Standard error; what is written goes above the bar.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match BAR.get() {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
