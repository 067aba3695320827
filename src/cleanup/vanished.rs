//! A host whose volumes have vanished by no doing of ours: then its lists are doubted until a person has looked.
//!
//! A daemon may be the pinned one and still not have what it had: its disk is not mounted, or holds an older backup.
//! To its list, every volume is absent then. So the number of our volumes is remembered from sweep to sweep, and what
//! we removed in between is in the receipts. Threads that never had a volume here, such as a million old ones on the
//! first day, change none of these numbers.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{Cleaner, Database, Inventory, Sighting, Volumes};
use crate::failure::Failure;

/// So many have to have vanished, and more than half, before that is more than somebody's tidying up.
const MANY: u64 = 10;
/// So many are enough if nothing is left.
const ALL: u64 = 3;
/// Of what was removed when the list was asked for, the receipt is committed when the rows are unlocked, or so much
/// later at most.
const COMMIT_TAKES: Duration = Duration::from_secs(1);
/// How often receipts are counted again meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// What the host has of our volumes. If too much of what it had is gone, it is doubted, and removal is paused
    /// there; with `only_looks`, nothing is written.
    pub async fn inventory(&self, only_looks: bool) -> Result<Inventory, Failure> {
        let mut inventory = self.volumes.inventory(&self.context.names).await?;
        if !inventory.warnings.is_empty() {
            return Ok(inventory);
        }
        let seen = self.threads().seen(&self.host).await?;
        let now = inventory.present.len() as u64;
        inventory.doubt = match (seen.doubt, seen.latest) {
            (Some(reason), _) => Some(reason),
            // One that lies ahead was written by a clock that was wrong: which receipts came after it is not known.
            (None, Some(before)) if before.at <= self.context.clock.now() => self.loss_since(&before, now).await?,
            (None, Some(_) | None) => None,
        };
        if let Some(reason) = &inventory.doubt
            && !only_looks
        {
            self.breaker.doubt(self.threads(), reason).await?;
        }
        Ok(inventory)
    }

    /// What is to be said of the volumes that have vanished since `before`, if that is a loss. What is removed in this
    /// moment, by any replica, is missing from the list before its receipt can be counted, so that is looked at again.
    async fn loss_since(&self, before: &Sighting, now: u64) -> Result<Option<String>, Failure> {
        if !is_loss(before.volumes, now, 0) {
            return Ok(None);
        }
        let all_are_committed = Instant::now() + self.context.limits.locking.limit + COMMIT_TAKES;
        loop {
            let unmarked = self.unmarked.lock().len() as u64;
            let removed = self.threads().removed_since(&self.host, before.at).await? + unmarked;
            if !is_loss(before.volumes, now, removed) {
                return Ok(None);
            }
            if Instant::now() >= all_are_committed {
                return Ok(Some(told(before, now, removed)));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Remembers what a list had that was asked for at `asked_at`: later ones are compared with it.
    ///
    /// Once a sweep, at its end: while it removes, another write would have to wait for SQLite's only lock.
    pub async fn remember_volumes(&self, inventory: &Inventory, asked_at: DateTime<Utc>) {
        if inventory.doubt.is_some() || !inventory.warnings.is_empty() {
            return;
        }
        let sighting = Sighting { volumes: inventory.present.len() as u64, at: asked_at.trunc_subsecs(3) };
        if let Err(error) = self.threads().saw(&self.host, &sighting).await {
            debug!(%error, "can't remember what the list had; the next one is compared with one before");
        }
    }
}

/// Whether so many volumes have vanished that somebody has to look.
fn is_loss(before: u64, now: u64, removed: u64) -> bool {
    let vanished = before.saturating_sub(now).saturating_sub(removed);
    (vanished >= MANY && vanished > before / 2) || (now == 0 && vanished >= ALL)
}

fn told(before: &Sighting, now: u64, removed: u64) -> String {
    let at = before.at.format("%Y-%m-%d %H:%M:%S UTC");
    let vanished = before.volumes.saturating_sub(now).saturating_sub(removed);
    format!(
        "{vanished} of the {} volumes that the host had at {at} are gone, and this service did not remove them: no \
         volume is taken for absent until somebody has looked whether the daemon's disk is mounted and the right one",
        before.volumes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_more_than_half_by_no_doing_of_ours() {
        let cases = [
            // Before, now, removed by us.
            (60, 20, 0, true),
            (60, 30, 0, false),
            (60, 29, 0, true),
            (60, 20, 40, false),
            (60, 20, 9, true),
            (60, 20, 10, false),
            (19, 9, 0, true),
            (18, 9, 0, false),
            (0, 0, 0, false),
            (2, 0, 0, false),
            (3, 0, 0, true),
            (3, 0, 1, false),
            (3, 1, 0, false),
            (20, 90, 0, false),
        ];
        for (before, now, removed, expected) in cases {
            assert_eq!(is_loss(before, now, removed), expected, "{before} {now} {removed}");
        }
    }
}
