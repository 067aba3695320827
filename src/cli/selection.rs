//! Which dead letters a command is about.

use std::time::Duration;

use clap::builder::PossibleValuesParser;

use crate::{delivery::dead_letter::reasons, volume_name::ThreadId};

/// Which dead letters; without conditions, all of them.
#[derive(Clone, Debug, clap::Args)]
pub struct Selection {
    /// Only those that were parked for this reason
    #[arg(long, value_parser = PossibleValuesParser::new(reasons()))]
    pub reason: Option<String>,
    /// Only those about this thread
    #[arg(long, value_name = "THREAD_ID", value_parser = ThreadId::parse)]
    pub thread: Option<ThreadId>,
    /// Only those that were parked longer ago, such as 2h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
    /// Only those that were parked more recently, such as 1d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub newer_than: Option<Duration>,
    /// At most so many of them; the counts are of all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
