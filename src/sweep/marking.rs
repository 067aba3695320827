//! What a sweep marks without having removed anything: threads whose volumes are proven absent, a page at a time.

use std::collections::HashSet;

use chrono::{SubsecRound, Utc};
use tracing::{debug, warn};

use super::{PAGE_ROWS, Reconciler, Report};
use crate::{
    cleanup::{Candidate, Coordinator, Inventory, Origin, Outcome, Receipt, Threads, Volumes},
    failure::{Failure, Verdict},
    metrics,
    volume_name::ThreadId,
};

impl<V: Volumes, T: Threads> Reconciler<V, T> {
    /// Marks the threads of absent volumes, all at once. If that fails, because of one of them perhaps, returns all: each
    /// is then cleaned by itself, so that one never keeps others from their mark.
    pub(super) async fn mark_absent(
        &self,
        absent: &[(ThreadId, Candidate)],
        inventory: &Inventory,
        report: &mut Report,
    ) -> Result<Vec<ThreadId>, Failure> {
        if absent.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(warning) = inventory.warnings.first() {
            warn!(warning, threads = absent.len(), "Docker's list may lack volumes, so none is taken for absent");
            report.failed += absent.len() as u64;
            return Ok(Vec::new());
        }
        // After the list, so that it was this daemon that made it.
        self.coordinator.volumes.prove_identity().await?;
        mark_all_absent(&self.coordinator, absent, report).await
    }
}

/// Marks threads whose volumes are proven absent. Returns those that could not be marked with others.
pub(super) async fn mark_all_absent<V: Volumes, T: Threads>(
    coordinator: &Coordinator<V, T>,
    absent: &[(ThreadId, Candidate)],
    report: &mut Report,
) -> Result<Vec<ThreadId>, Failure> {
    let at = Utc::now().trunc_subsecs(3);
    let receipt = |thread: &ThreadId| Receipt {
        thread_id: thread.clone(),
        volume: coordinator.prefix.volume_of(thread),
        outcome: Outcome::NotFound.as_str(),
        origin: Origin::Sweep,
        at,
    };
    let receipts: Vec<_> = absent.iter().map(|(thread, _)| receipt(thread)).collect();
    let mut marked = HashSet::new();
    let mut unmarked = Vec::new();
    for page in receipts.chunks(PAGE_ROWS) {
        match coordinator.threads.mark_all(page).await {
            Ok(threads) => marked.extend(threads),
            Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => return Err(failure),
            Err(error) => {
                debug!(%error, threads = page.len(), "can't mark them at once; one by one");
                unmarked.extend(page.iter().map(|receipt| receipt.thread_id.clone()));
            }
        }
    }
    report.not_found += marked.len() as u64;
    metrics::cleanups(Origin::Sweep.as_str(), Outcome::NotFound.as_str(), marked.len() as u64);
    for (_, candidate) in absent.iter().filter(|(thread, _)| marked.contains(thread)) {
        metrics::close_to_mark(candidate.closed_at, at);
    }
    Ok(unmarked)
}
