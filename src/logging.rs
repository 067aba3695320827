//! Where log lines go: to standard error, for people or as JSON, so that standard output is a command's own.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::{
    config::{Config, LogFormat},
    progress::Stderr,
};

/// Installs the subscriber for this process.
pub fn install(config: &Config) {
    let filter = EnvFilter::new(&config.log_filter);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(Stderr::default);
    match config.log_format {
        LogFormat::Pretty => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_current_span(true)).init(),
    }
}
