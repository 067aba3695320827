//! What became of the threads of a sweep, each counted once, when it is known; the report is derived at the end.

use std::{collections::HashMap, time::Duration};

use super::report::SweepReport;
use crate::cleanup::Swept;

/// What became of a closed and unmarked thread in one sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// Its volume was removed; in a dry run, it would be tried.
    Removed,
    /// Its volume is absent, and it was marked; in a dry run, it would be.
    NotFound,
    /// A container uses its volume.
    Referenced,
    /// Its retention is not over.
    NotDue,
    /// A person holds it.
    Held,
    /// All removal is paused.
    Paused,
    /// The removal takes long and has not ended yet.
    Removing,
    /// It is left alone for now.
    CoolingDown,
    /// It could not be cleaned or marked.
    Failed,
    /// Its id can't name a volume.
    Unnameable,
}

/// The counts of a running sweep. None of them ever goes down.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Nothing is removed or marked.
    pub(super) dry_run: bool,
    /// What had been removed for sweeps before.
    pub(super) swept_before: Swept,
    /// Closed and unmarked threads that were read.
    pub(super) candidates: u64,
    /// Marked threads whose volume is there.
    pub(super) drift: u64,
    /// The most volumes that a thread of this sweep has.
    pub(super) most_volumes: usize,
    /// Volumes without a thread.
    pub(super) orphans: u64,
    /// Volumes whose thread is on another host.
    pub(super) misplaced: u64,
    /// Why the list of a host is not believed.
    pub(super) doubt: Option<String>,
    /// Containers that were removed for their volumes' sake; in a dry run, that would be.
    pub(super) containers_removed: u64,
    fates: HashMap<Fate, u64>,
}

impl Tally {
    pub(super) fn new(dry_run: bool) -> Self {
        Self { dry_run, ..Self::default() }
    }

    /// Counts some more threads with this fate.
    pub(super) fn add(&mut self, fate: Fate, threads: usize) {
        *self.fates.entry(fate).or_default() += threads as u64;
    }

    /// How many threads had this fate.
    pub(super) fn of(&self, fate: Fate) -> u64 {
        self.fates.get(&fate).copied().unwrap_or_default()
    }

    /// The report of a sweep that is over, when so much has been removed for sweeps.
    pub(super) fn report(&self, skipped_reason: Option<String>, duration: Duration, swept: Swept) -> SweepReport {
        let unnameable = self.of(Fate::Unnameable);
        SweepReport {
            candidates: self.candidates,
            removed: self.of(Fate::Removed),
            bytes: swept.bytes - self.swept_before.bytes,
            unsized_volumes: swept.unsized_volumes - self.swept_before.unsized_volumes,
            containers_removed: self.containers_removed,
            not_found: self.of(Fate::NotFound),
            referenced: self.of(Fate::Referenced),
            not_due: self.of(Fate::NotDue),
            held: self.of(Fate::Held),
            paused: self.of(Fate::Paused),
            removing: self.of(Fate::Removing),
            cooling_down: self.of(Fate::CoolingDown),
            failed: self.of(Fate::Failed) + unnameable,
            unnameable,
            drift: self.drift,
            orphans: self.orphans,
            misplaced: self.misplaced,
            skipped_reason,
            dry_run: self.dry_run,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_of_this_sweep_alone_and_counts_what_cannot_be_named_as_failed() {
        let mut tally = Tally::new(true);
        (tally.candidates, tally.drift, tally.orphans, tally.misplaced, tally.containers_removed) = (9, 4, 5, 6, 7);
        tally.swept_before = Swept { volumes: 1, bytes: 100, unsized_volumes: 10 };
        tally.add(Fate::Removed, 1);
        tally.add(Fate::Failed, 2);
        tally.add(Fate::Failed, 1);
        tally.add(Fate::Unnameable, 2);
        let swept = Swept { volumes: 2, bytes: 350, unsized_volumes: 13 };
        let report = tally.report(Some("why".to_owned()), Duration::from_millis(12), swept);
        assert_eq!((report.removed, report.failed, report.unnameable, report.not_found), (1, 5, 2, 0));
        assert_eq!((report.bytes, report.unsized_volumes), (250, 3));
        assert_eq!((report.candidates, report.drift, report.orphans, report.misplaced), (9, 4, 5, 6));
        assert_eq!((report.containers_removed, report.duration_ms, report.dry_run), (7, 12, true));
        assert_eq!(report.skipped_reason.as_deref(), Some("why"));
    }
}
