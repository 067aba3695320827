//! Where Docker and the database disagree: volumes that are there although their thread is marked.

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{PAGE_ROWS, Sweeper, tally::Tally};
use crate::{
    cleanup::{Candidate, Database, Inventory, Rows, Volumes},
    failure::Failure,
    metrics,
    volume_name::ThreadId,
};

/// What the rows of the volumes that are there say.
#[derive(Default)]
pub(super) struct Found {
    /// Closed and marked.
    pub(super) marked: Vec<ThreadId>,
    /// Closed and unmarked, and no host is named.
    pub(super) unplaced: Vec<Candidate>,
}

impl<V: Volumes, T: Database> Sweeper<V, T> {
    /// Looks up the threads of all volumes that are there.
    pub(super) async fn look_up(&self, inventory: &Inventory, tally: &mut Tally) -> Result<Found, Failure> {
        let present: Vec<_> = inventory.present.iter().cloned().collect();
        let host = &self.cleaner.host;
        let mut found = Found::default();
        for threads in present.chunks(PAGE_ROWS) {
            let Rows { threads: known, foreign, .. } = self.cleaner.threads().read(threads, None).await?;
            if self.cleaner.threads().knows_threads_in_use() {
                tally.orphans += (threads.len() - known.len() - foreign.len()) as u64;
            }
            for (thread, row) in known {
                match &row.host {
                    Some(named) if host.name() != Some(named) && !host.is_only() => tally.misplaced += 1,
                    _ if !row.closed => {}
                    _ if row.marked => found.marked.push(thread),
                    // Rows that name this host, or have only this one, were read by their pages.
                    None if !host.is_only() => {
                        found.unplaced.push(Candidate { id: thread.to_string(), close: row.close, held: row.held });
                    }
                    None | Some(_) => {}
                }
            }
        }
        metrics::orphans(host.name(), tally.orphans);
        Ok(found)
    }

    /// Withdraws the marks of threads whose volume is there.
    pub(super) async fn sweep_drift(
        &self,
        mut marked: Vec<ThreadId>,
        tally: &mut Tally,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        if marked.is_empty() {
            return Ok(());
        }
        // The consumer may have removed and marked these between the list and the rows: what counts is a later list.
        let still = self.cleaner.inventory(tally.dry_run).await?;
        marked.retain(|thread| still.present.contains(thread));
        tally.drift += marked.len() as u64;
        if tally.dry_run || marked.is_empty() {
            return Ok(());
        }
        if !self.cleaner.threads().knows_threads_in_use() {
            info!(
                threads = marked.len(),
                "volumes are there although they were removed: their threads may have been reopened, and the event of \
                 that may still come"
            );
            return Ok(());
        }
        for thread in &marked {
            warn!(thread.id = %thread, "the thread is marked, but its volume is there; the mark is withdrawn");
            self.cleaner.threads().unmark(thread).await?;
        }
        marked.retain(|thread| !still.referenced.contains_key(thread));
        self.remove(marked, tally, stop).await.map(drop)
    }
}
