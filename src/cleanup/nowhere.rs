//! Threads whose volumes are on no host: every host has said so.

use chrono::SubsecRound;
use tracing::debug;

use super::{Database, Details, Mark, Origin, Outcome, Thread, Volumes, absent, fleet::Fleet};
use crate::{
    failure::Failure,
    metrics,
    volume_name::{ThreadId, VolumeName},
};

impl<V: Volumes, T: Database> Fleet<V, T> {
    /// Marks a thread whose volume is on no host.
    pub(super) async fn mark_absent(
        &self,
        thread: &ThreadId,
        volumes: Vec<VolumeName>,
        row: &Thread,
        origin: Origin,
    ) -> Result<Outcome, Failure> {
        let at = self.context().clock.now().trunc_subsecs(3);
        let receipts = absent(volumes, thread, &row.close, &origin, &Details::default(), at);
        let marks = self.threads().mark(&receipts).await?;
        Ok(match marks.get(thread) {
            Some(Mark::Set) => {
                metrics::close_to_mark(row.close.at, at);
                for receipt in &receipts {
                    debug!(thread.id = %thread, volume.name = %receipt.volume, "the volume is absent; marked");
                }
                Outcome::NotFound
            }
            Some(Mark::AlreadySet) => Outcome::AlreadyClean,
            Some(Mark::Reopened) => Outcome::Reopened,
            Some(Mark::Busy) => Outcome::Busy,
            Some(Mark::NoRow) | None => Outcome::UnknownThread,
        })
    }
}
