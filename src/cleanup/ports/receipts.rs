//! The audit trail, as the clean-up needs it.

use chrono::{DateTime, Utc};

use super::{
    super::outcome::{Gone, Origin, Outcome},
    thread_rows::Close,
};
use crate::{
    failure::Failure,
    volume_name::{ThreadId, VolumeName},
};

/// One row of the audit trail: how a volume was found to be gone.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The thread.
    pub thread_id: ThreadId,
    /// The close of it that was read before.
    pub close: Close,
    /// Its volume.
    pub volume: VolumeName,
    /// How it went.
    pub gone: Gone,
    /// Who asked for it.
    pub origin: Origin,
    /// When the volume was known to be gone: the mark's time too. UTC, whole milliseconds.
    pub at: DateTime<Utc>,
    /// It is in the audit trail already, only the mark is missing.
    pub is_written: bool,
    /// With it, all volumes of the thread are gone: only then is the thread marked.
    pub completes: bool,
}

/// The audit trail.
pub trait Receipts: Send + Sync + 'static {
    /// An event about this thread was handled, and its delivery is settled so. Only a journal takes note of all.
    fn event_handled(&self, _thread: &ThreadId, _result: &Result<Outcome, Failure>, _settlement: &'static str) {}

    /// Writes a receipt for a volume that has no thread to mark.
    fn record(&self, receipt: &Receipt) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Counts the volumes that were removed within the last hour, or since removal was last resumed if that is less.
    fn removed_last_hour(&self) -> impl Future<Output = Result<u64, Failure>> + Send;
}
