//! What a command that does several things is to do.

use std::time::Duration;

use clap::Subcommand;

use super::Selection;

/// Which way to migrate.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Direction {
    /// Apply what is pending
    Up {
        /// Only print the SQL that would be executed
        #[arg(long)]
        dry_run: bool,
    },
    /// Take back the last migrations; the threads table itself stays
    Down {
        /// How many
        #[arg(long, default_value_t = 1, conflicts_with = "all")]
        steps: u32,
        /// All of them: marks and receipts are lost
        #[arg(long)]
        all: bool,
    },
    /// List the migrations and whether they are applied
    Status,
}

/// What to do about Docker hosts.
#[derive(Clone, Debug, Subcommand)]
pub enum HostsAction {
    /// Show each host's pinned daemon, the one that answers now, and what is left to do there
    List {
        /// Print it as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Pin the daemon that answers now: a new host's, or in place of the one before, which was replaced for good
    Adopt {
        /// The host; may be left out if there is only one
        name: Option<String>,
        /// Only show what follows from it
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a host that is empty or gone for good: its threads are marked, and its answer is no longer needed
    Retire {
        /// The host
        name: String,
        /// Only show what follows from it
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

/// What to do about volumes without a thread.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum OrphansAction {
    /// Remove those that no container uses, after a confirmation. Exit code 1 if one could not be removed
    Remove {
        /// Only those that were created at least so long ago, such as 30d: a thread's volume may be there before its
        /// row
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        older_than: Duration,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// What to do about receipts.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ReceiptsAction {
    /// Look whether all receipts are as they were written, and say which are not. Exit code 1 if one was changed, taken
    /// away or put in
    Verify {
        /// Print what was found as one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What to do about dead letters.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadLettersAction {
    /// Count them by reason, then list them, oldest first; 100 if no limit is given
    List {
        /// Which ones
        #[command(flatten)]
        selection: Selection,
    },
    /// Show them whole, with headers and body; 10 if no limit is given
    Show {
        /// Which ones
        #[command(flatten)]
        selection: Selection,
    },
    /// Publish them to the work queue again, as if they were new. What is no event stays, unless --reason is given
    Replay {
        /// Which ones
        #[command(flatten)]
        selection: Selection,
    },
    /// Delete them for good
    Purge {
        /// Which ones
        #[command(flatten)]
        selection: Selection,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}
