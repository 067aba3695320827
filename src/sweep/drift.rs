//! Where Docker and the database disagree: volumes that are there although their thread is marked.

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{PAGE_ROWS, Sweeper, report::SweepReport};
use crate::{
    cleanup::{Candidate, Database, Inventory, Rows, UnknownThreads, Volumes},
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
    pub(super) async fn look_up(&self, inventory: &Inventory, report: &mut SweepReport) -> Result<Found, Failure> {
        let present: Vec<_> = inventory.present.iter().cloned().collect();
        let host = &self.cleaner.host;
        let mut found = Found::default();
        for threads in present.chunks(PAGE_ROWS) {
            let Rows { threads: known, foreign, .. } = self.cleaner.threads().read(threads, None).await?;
            // Of threads in use, nobody tells who only tells of closed ones.
            if self.cleaner.policy().unknown_threads == UnknownThreads::Reject {
                report.orphans += (threads.len() - known.len() - foreign.len()) as u64;
            }
            for (thread, row) in known {
                match &row.host {
                    Some(named) if host.name() != Some(named) && !host.is_only() => report.misplaced += 1,
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
        metrics::orphans(host.name(), report.orphans);
        Ok(found)
    }

    /// Withdraws the marks of threads whose volume is there.
    pub(super) async fn sweep_drift(
        &self,
        mut marked: Vec<ThreadId>,
        report: &mut SweepReport,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        if marked.is_empty() {
            return Ok(());
        }
        // The consumer may have removed and marked these between the list and the rows: what counts is a later list.
        let still = self.cleaner.inventory(report.dry_run).await?;
        marked.retain(|thread| still.present.contains(thread));
        report.drift += marked.len() as u64;
        if report.dry_run || marked.is_empty() {
            return Ok(());
        }
        match self.cleaner.policy().unknown_threads {
            UnknownThreads::Reject => {}
            UnknownThreads::Record => {
                info!(
                    threads = marked.len(),
                    "volumes are there although they were removed: their threads may have been reopened, of which an \
                     event is still to tell"
                );
                return Ok(());
            }
        }
        for thread in &marked {
            warn!(thread.id = %thread, "the thread is marked, but its volume is there; the mark is withdrawn");
            self.cleaner.threads().unmark(thread).await?;
        }
        marked.retain(|thread| !still.referenced.contains_key(thread));
        self.remove(marked, report, stop).await.map(drop)
    }
}
