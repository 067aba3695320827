//! Which receipts a command is about.

use crate::{store::ReceiptPlace, volume_name::ThreadId};

/// Which receipts; without conditions, all of them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ReceiptsSelection {
    /// Only those from then on: a time, as in 2026-12-24T18:00:00Z, or a duration ago, as in 7d
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Only those before then, likewise
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// Only those of this thread
    #[arg(long, value_name = "THREAD_ID", value_parser = ThreadId::parse)]
    pub thread: Option<ThreadId>,
    /// Only those with this outcome, such as removed
    #[arg(long)]
    pub outcome: Option<String>,
    /// At most so many; 100 if nothing is said, and all with --json and --csv
    #[arg(long)]
    pub limit: Option<u64>,
    /// Continue behind this place, which the page before ends with
    #[arg(long, value_name = "PLACE", value_parser = place)]
    pub after: Option<ReceiptPlace>,
    /// Print them as one JSON object
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Print them as CSV
    #[arg(long)]
    pub csv: bool,
    /// Only those of this Docker host: `--host`, which is a setting elsewhere.
    #[arg(skip)]
    pub host: Option<String>,
}

fn place(text: &str) -> Result<ReceiptPlace, &'static str> {
    text.parse()
}
