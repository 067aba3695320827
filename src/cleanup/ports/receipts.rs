//! The audit trail, as the clean-up needs it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{
    super::outcome::{Gone, Origin, Outcome},
    container::ContainerId,
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
    /// With it, all volumes of the thread are gone: only then is the thread marked. Where each volume has a mark of its
    /// own, it is marked.
    pub completes: bool,
    /// Where that was, and what it took.
    pub details: Details,
}

/// Where a volume was, and what its removal took; none where that is unknown, or cannot be said of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The Docker host, by its key.
    pub host: Option<String>,
    /// The identity of its daemon.
    pub daemon: Option<String>,
    /// What was in the volume.
    pub bytes: Option<u64>,
    /// From the decision to the daemon's answer.
    pub duration: Option<Duration>,
}

/// One row of the audit trail: a container that was removed, since it had exited and its volume was to go.
#[derive(Clone, Debug)]
pub struct ContainerReceipt {
    /// The thread.
    pub thread_id: ThreadId,
    /// The volume that it referenced.
    pub volume: VolumeName,
    /// The container.
    pub container: ContainerId,
    /// Its name.
    pub name: String,
    /// Who asked for the clean-up.
    pub origin: Origin,
    /// When it was gone. UTC, whole milliseconds.
    pub at: DateTime<Utc>,
}

impl ContainerReceipt {
    /// The `outcome` of such a receipt.
    pub const OUTCOME: &str = "container_removed";
}

/// The audit trail.
pub trait Receipts: Send + Sync + 'static {
    /// An event about this thread was handled, and its delivery is settled so. Only a journal takes note of all.
    fn event_handled(&self, _thread: &ThreadId, _result: &Result<Outcome, Failure>, _settlement: &'static str) {}

    /// Writes a receipt for a volume that has no thread to mark.
    fn record(&self, receipt: &Receipt) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Writes receipts of containers.
    fn record_containers(&self, receipts: &[ContainerReceipt]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Counts the volumes and containers that were removed within the last hour, or since removal was last resumed if
    /// that is less.
    fn removed_last_hour(&self) -> impl Future<Output = Result<u64, Failure>> + Send;
}
