//! A volume that has no thread: removed only when a person says so, and within the same bounds as any other.

use super::{Cleaner, Database, Removal, Volumes};
use crate::{failure::Failure, volume_name::VolumeName};

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// Removes a volume that has no thread, unless removal is paused or the budget of an hour is used up.
    pub async fn remove_orphan(&self, volume: &VolumeName) -> Result<Option<Removal>, Failure> {
        self.look_for_pause().await?;
        if self.pause_reason().is_some() {
            return Ok(None);
        }
        let Some(reservation) = self.context.hour.reserve(self.threads(), 1).await?.pop() else {
            self.breaker.trip_hour(self.threads(), &self.context.hour).await?;
            return Ok(None);
        };
        let removal = self.remove(volume, None, self.limiter.permit().await).await?;
        if removal == Removal::Removed {
            reservation.removed();
        }
        Ok(Some(removal))
    }
}
