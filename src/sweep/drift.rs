//! Where Docker and the database disagree: volumes that are there although their thread is marked.

use std::collections::HashMap;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ROWS_AT_ONCE, Sweeper, tally::Tally};
use crate::{
    cleanup::{Candidate, Database, Inventory, Rows, Volumes},
    failure::Failure,
    metrics,
    volume_name::{ThreadId, VolumeName},
};

/// What the rows of the volumes that are there say.
#[derive(Default)]
pub(super) struct Found {
    /// Volumes whose threads are closed and marked.
    pub(super) marked: Vec<(ThreadId, VolumeName)>,
    /// Closed and unmarked, and no host is named.
    pub(super) unplaced: Vec<Candidate>,
}

impl<V: Volumes, T: Database> Sweeper<V, T> {
    /// Looks up the threads of all volumes that are there.
    pub(super) async fn look_up(&self, inventory: &Inventory, tally: &mut Tally) -> Result<Found, Failure> {
        if self.cleaner.context.names.are_in_rows() {
            return self.look_up_owners(inventory, tally).await;
        }
        let mut volumes_of: HashMap<ThreadId, Vec<VolumeName>> = HashMap::new();
        for volume in &inventory.present {
            if let Some(thread) = self.cleaner.context.names.thread_of(volume.as_str()) {
                volumes_of.entry(thread).or_default().push(volume.clone());
            }
        }
        let present: Vec<_> = volumes_of.keys().cloned().collect();
        let host = &self.cleaner.host;
        let mut found = Found::default();
        for threads in present.chunks(ROWS_AT_ONCE) {
            let Rows { threads: known, foreign, .. } = self.cleaner.threads().read(threads, None).await?;
            if self.cleaner.threads().knows_threads_in_use() {
                let without = threads.iter().filter(|&thread| !known.contains_key(thread) && !foreign.contains(thread));
                tally.orphans += without.map(|thread| volumes_of[thread].len() as u64).sum::<u64>();
            }
            // In one order always: a sweep that is looked into can be repeated.
            let mut known: Vec<_> = known.into_iter().collect();
            known.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            for (thread, row) in known {
                match &row.host {
                    Some(named) if host.name() != Some(named) && !host.is_only() => {
                        tally.misplaced += volumes_of[&thread].len() as u64;
                    }
                    _ if !row.closed => {}
                    _ if row.marked => {
                        let volumes = volumes_of.remove(&thread).unwrap_or_default();
                        found.marked.extend(volumes.into_iter().map(|volume| (thread.clone(), volume)));
                    }
                    // Rows that name this host, or have only this one, were read by their pages.
                    None if !host.is_only() => {
                        found.unplaced.push(Candidate {
                            id: thread.to_string(),
                            close: row.close,
                            held: row.held,
                            volumes: None,
                        });
                    }
                    None | Some(_) => {}
                }
            }
        }
        metrics::orphans(host.name(), tally.orphans);
        Ok(found)
    }

    /// Looks up the rows that name the volumes that are there, each with a mark of its own.
    async fn look_up_owners(&self, inventory: &Inventory, tally: &mut Tally) -> Result<Found, Failure> {
        let host = &self.cleaner.host;
        let present: Vec<_> = inventory.present.iter().cloned().collect();
        let (mut found, mut unplaced) = (Found::default(), HashMap::new());
        for volumes in present.chunks(ROWS_AT_ONCE) {
            let owners = self.cleaner.threads().owners(volumes).await?;
            // What no thread's id can be in the place of the id is somebody else's, unless a row names it.
            let is_ours =
                |volume: &&VolumeName| self.cleaner.context.names.thread_by_template(volume.as_str()).is_some();
            let without = volumes.iter().filter(|volume| !owners.contains_key(*volume));
            tally.orphans += without.filter(is_ours).count() as u64;
            for (volume, (thread, row)) in owners.into_iter().filter_map(|(volume, owner)| Some((volume, owner?))) {
                match &row.host {
                    Some(named) if host.name() != Some(named) && !host.is_only() => tally.misplaced += 1,
                    _ if !row.closed => {}
                    _ if row.marked => found.marked.push((thread, volume)),
                    // Rows that name this host, or have only this one, were read by their pages.
                    None if !host.is_only() => drop(unplaced.insert(thread, row)),
                    None | Some(_) => {}
                }
            }
        }
        found.unplaced.extend(unplaced.into_iter().map(|(thread, row)| Candidate {
            id: thread.to_string(),
            close: row.close,
            held: row.held,
            // The others are candidates of their hosts.
            volumes: row.volumes.map(|rows| rows.into_iter().filter(|volume| volume.host.is_none()).collect()),
        }));
        found.marked.sort();
        metrics::orphans(host.name(), tally.orphans);
        Ok(found)
    }

    /// Withdraws the marks of threads whose volume is there.
    pub(super) async fn sweep_drift(
        &self,
        mut marked: Vec<(ThreadId, VolumeName)>,
        tally: &mut Tally,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        if marked.is_empty() {
            return Ok(());
        }
        // The consumer may have removed and marked these between the list and the rows: what counts is a later list.
        let still = self.cleaner.inventory(tally.dry_run).await?;
        marked.retain(|(_, volume)| still.present.contains(volume));
        tally.drift += marked.len() as u64;
        if tally.dry_run || marked.is_empty() {
            return Ok(());
        }
        if !self.cleaner.threads().knows_threads_in_use() {
            info!(
                volumes = marked.len(),
                "volumes are there although they were removed: their threads may have been reopened, and the event of \
                 that may still come"
            );
            return Ok(());
        }
        for (thread, volume) in &marked {
            warn!(
                thread.id = %thread, volume.name = %volume,
                "the thread is marked, but its volume is there; the mark is withdrawn"
            );
            self.cleaner.threads().unmark(thread, volume).await?;
        }
        marked.retain(|(_, volume)| !still.referenced.contains_key(volume));
        let mut threads: Vec<_> = marked.into_iter().map(|(thread, _)| thread).collect();
        threads.dedup();
        self.remove(threads, tally, stop).await.map(drop)
    }
}
