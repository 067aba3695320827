//! What a sweep marks without having removed anything: threads whose volumes are proven absent, many at once.

use std::{collections::HashMap, panic::resume_unwind, pin::pin, sync::Arc};

use chrono::{DateTime, SubsecRound, Utc};
use futures_util::{StreamExt, stream};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug, warn};

use super::{
    ROWS_AT_ONCE, Sweeper,
    classify::Row,
    planned::Would,
    tally::{Fate, Tally},
};
use crate::{
    cleanup::{Context, Database, Details, Inventory, Mark, Origin, Outcome, Volumes, absent},
    failure::{Failure, Verdict},
    metrics,
    volume_name::ThreadId,
};

/// Whether this list proves that the volumes of so many threads are absent. Says why, if it does not.
pub(super) fn proves_absence(inventory: &Inventory, threads: usize, tally: &mut Tally) -> bool {
    if threads == 0 {
        return false;
    }
    if let Some(doubt) = &inventory.doubt {
        tally.add(Fate::Paused, threads);
        tally.doubt.get_or_insert_with(|| format!("removal is paused: {doubt}"));
        return false;
    }
    if let Some(warning) = inventory.warnings.first() {
        warn!(warning, threads, "Docker's list may lack volumes, so none is taken for absent");
        tally.add(Fate::Failed, threads);
        return false;
    }
    true
}

impl<V: Volumes, T: Database> Sweeper<V, T> {
    /// Marks the threads of volumes that the list lacks, if that proves their absence. Returns those that could not be
    /// marked with others.
    pub(super) async fn mark_if_proven(
        &self,
        absent: Vec<Row>,
        inventory: &Inventory,
        tally: &mut Tally,
    ) -> Result<Vec<Row>, Failure> {
        if !proves_absence(inventory, absent.len(), tally) {
            return Ok(Vec::new());
        }
        if tally.dry_run {
            tally.add(Fate::NotFound, absent.len());
            for row in &absent {
                self.plan(&row.thread, &row.volumes, Would::Mark);
            }
            return Ok(Vec::new());
        }
        mark_absent(&self.cleaner.context, &self.cleaner.here(), absent, tally).await
    }
}

/// Marks threads whose volumes are proven absent, all at once. Returns those that could not be marked with others,
/// because of one of them perhaps: each is then cleaned by itself, so that one never keeps others from their mark. The
/// receipts say by which host the volumes were found absent.
pub(super) async fn mark_absent<T: Database>(
    context: &Arc<Context<T>>,
    found_by: &Details,
    mut rows: Vec<Row>,
    tally: &mut Tally,
) -> Result<Vec<Row>, Failure> {
    let at = context.clock.now().trunc_subsecs(3);
    let mut pages = Vec::new();
    while !rows.is_empty() {
        let later = rows.split_off(rows.len().min(ROWS_AT_ONCE));
        pages.push(std::mem::replace(&mut rows, later));
    }
    // In tasks, so that several threads of this process make receipts at once.
    let mark = |page| {
        let marks = mark_page(Arc::clone(context), found_by.clone(), page, at);
        AbortOnDropHandle::new(tokio::spawn(marks.in_current_span()))
    };
    let mut unmarked = Vec::new();
    let mut marked = 0;
    let mut pages = pin!(stream::iter(pages.into_iter().map(mark)).buffer_unordered(context.threads.marks_at_once()));
    while let Some(ended) = pages.next().await {
        let (page, marks) = ended.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        let marks = match marks {
            Ok(marks) => marks,
            Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => return Err(failure),
            Err(error) => {
                debug!(%error, threads = page.len(), "can't mark them at once; one by one");
                unmarked.extend(page);
                continue;
            }
        };
        for row in &page {
            match marks.get(&row.thread) {
                Some(Mark::Set) => {
                    marked += 1;
                    metrics::close_to_mark(row.close.at, at);
                }
                Some(Mark::Busy) => tally.add(Fate::CoolingDown, 1),
                // Somebody else was faster, or it is another close, or none.
                Some(Mark::AlreadySet | Mark::Reopened | Mark::NoRow) => {}
                None => {
                    warn!(thread.id = %row.thread, "the mark could not be set; `volume-reaper doctor` looks for why");
                    tally.add(Fate::Failed, 1);
                }
            }
        }
    }
    tally.add(Fate::NotFound, marked);
    metrics::cleanups(Origin::Sweep.as_str(), Outcome::NotFound.as_str(), marked as u64);
    Ok(unmarked)
}

/// Marks a page of threads by one transaction.
async fn mark_page<T: Database>(
    context: Arc<Context<T>>,
    found_by: Details,
    page: Vec<Row>,
    at: DateTime<Utc>,
) -> (Vec<Row>, Result<HashMap<ThreadId, Mark>, Failure>) {
    let receipts = |row: &Row| absent(row.volumes.clone(), &row.thread, &row.close, &Origin::Sweep, &found_by, at);
    let receipts: Vec<_> = page.iter().flat_map(receipts).collect();
    let marks = context.threads.mark(&receipts).await;
    (page, marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_proves_absence_unless_it_is_in_doubt_or_has_warnings() {
        let proves = |inventory: &Inventory, threads| {
            let mut tally = Tally::default();
            let proves = proves_absence(inventory, threads, &mut tally);
            (proves, tally.of(Fate::Paused), tally.of(Fate::Failed), tally.doubt)
        };
        let whole = Inventory::default();
        assert_eq!(proves(&whole, 1), (true, 0, 0, None));
        assert_eq!(proves(&whole, 0), (false, 0, 0, None));
        let warned = Inventory { warnings: vec!["a plugin is gone".to_owned()], ..Inventory::default() };
        assert_eq!(proves(&warned, 2), (false, 0, 2, None));
        let doubted = Inventory { doubt: Some("all are gone".to_owned()), ..warned };
        assert_eq!(proves(&doubted, 2), (false, 2, 0, Some("removal is paused: all are gone".to_owned())));
    }
}
