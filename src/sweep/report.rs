//! What a sweep did.

use serde::{Deserialize, Serialize};
use tracing::{Span, debug, info};
use utoipa::ToSchema;

/// What one sweep did. Written by `sweep --json` as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct SweepReport {
    /// Closed and unmarked threads.
    pub candidates: u64,
    /// Volumes removed; in a dry run, those that would be tried.
    pub removed: u64,
    /// What was in the volumes that were removed, in bytes, as far as it is known.
    pub bytes: u64,
    /// Volumes that were removed and of whose size nothing is known.
    pub unsized_volumes: u64,
    /// Containers that had exited and were removed before their volume; in a dry run, those that would be.
    pub containers_removed: u64,
    /// Volumes found absent; in a dry run, those whose thread would be marked.
    pub not_found: u64,
    /// Volumes that a container uses.
    pub referenced: u64,
    /// Threads whose retention is not over.
    pub not_due: u64,
    /// Threads that a person holds.
    pub held: u64,
    /// Volumes left alone since all removal is paused.
    pub paused: u64,
    /// Volumes whose removal takes long and has not ended.
    pub removing: u64,
    /// Volumes left alone for now: they could not be removed before, or somebody else has locked their thread's row.
    pub cooling_down: u64,
    /// Volumes that could not be removed or marked.
    pub failed: u64,
    /// Those of them whose thread's id can't name a volume. They fail in every sweep, which is not worth a line each.
    #[serde(skip)]
    pub unnameable: u64,
    /// Marked threads whose volume was there all the same; their mark was withdrawn.
    pub drift: u64,
    /// Volumes of ours without a thread; never touched.
    pub orphans: u64,
    /// Volumes whose thread is on another host, by its row; never touched.
    pub misplaced: u64,
    /// Why the sweep was not done, or not to its end.
    pub skipped_reason: Option<String>,
    /// Nothing was removed or marked.
    pub dry_run: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// Closed and unmarked threads that a sweep left, by why they were left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ThreadStates {
    /// Nothing is in their way: they are being removed, or their turn comes.
    pub waiting: u64,
    /// A container uses their volume.
    pub referenced: u64,
    /// Their clean-up failed, and is tried again.
    pub failing: u64,
    /// A person holds them.
    pub held: u64,
    /// Their retention is not over.
    pub not_due: u64,
    /// All removal is paused.
    pub paused: u64,
}

impl ThreadStates {
    /// Each state's name with its count.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 6] {
        let Self { waiting, referenced, failing, held, not_due, paused } = *self;
        [
            ("waiting", waiting),
            ("referenced", referenced),
            ("failing", failing),
            ("held", held),
            ("not_due", not_due),
            ("paused", paused),
        ]
    }
}

impl SweepReport {
    /// The threads that it left.
    #[must_use]
    pub fn left(&self) -> ThreadStates {
        let Self { candidates, removed, not_found, referenced, cooling_down, failed, held, not_due, paused, .. } =
            *self;
        let failing = failed + cooling_down;
        let accounted = removed + not_found + referenced + failing + held + not_due + paused;
        let waiting = candidates.saturating_sub(accounted);
        ThreadStates { waiting, referenced, failing, held, not_due, paused }
    }

    /// Both together, as one sweep that took as long as the longer one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let both = |one: Option<String>, other: Option<String>| match (one, other) {
            (Some(one), Some(other)) if one != other => Some(format!("{one}; {other}")),
            (one, other) => one.or(other),
        };
        Self {
            candidates: self.candidates + other.candidates,
            removed: self.removed + other.removed,
            bytes: self.bytes.saturating_add(other.bytes),
            unsized_volumes: self.unsized_volumes + other.unsized_volumes,
            containers_removed: self.containers_removed + other.containers_removed,
            not_found: self.not_found + other.not_found,
            referenced: self.referenced + other.referenced,
            not_due: self.not_due + other.not_due,
            held: self.held + other.held,
            paused: self.paused + other.paused,
            removing: self.removing + other.removing,
            cooling_down: self.cooling_down + other.cooling_down,
            failed: self.failed + other.failed,
            unnameable: self.unnameable + other.unnameable,
            drift: self.drift + other.drift,
            orphans: self.orphans + other.orphans,
            misplaced: self.misplaced + other.misplaced,
            skipped_reason: both(self.skipped_reason, other.skipped_reason),
            dry_run: self.dry_run || other.dry_run,
            duration_ms: self.duration_ms.max(other.duration_ms),
        }
    }

    /// Says in its span what a sweep came to.
    pub(super) fn record_in(&self, span: &Span) {
        span.record("candidates", self.candidates).record("removed", self.removed).record("not_found", self.not_found);
        span.record("referenced", self.referenced).record("failed", self.failed);
    }

    /// One info line if something happened, debug if not.
    pub(super) fn log(&self) {
        let Self {
            candidates,
            removed,
            bytes,
            containers_removed,
            not_found,
            referenced,
            not_due,
            held,
            paused,
            removing,
            ..
        } = *self;
        let Self { cooling_down, failed, drift, orphans, misplaced, dry_run, duration_ms, .. } = *self;
        macro_rules! swept {
            ($level:ident) => {
                $level!(
                    candidates,
                    removed,
                    bytes,
                    containers_removed,
                    not_found,
                    referenced,
                    not_due,
                    held,
                    paused,
                    removing,
                    cooling_down,
                    failed,
                    drift,
                    orphans,
                    misplaced,
                    dry_run,
                    duration_ms,
                    "swept"
                )
            };
        }
        if removed + containers_removed + not_found + failed - self.unnameable + drift + paused > 0 {
            swept!(info);
        } else {
            swept!(debug);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_that_a_sweep_left_has_one_state() {
        let report = SweepReport {
            candidates: 100,
            removed: 10,
            not_found: 5,
            referenced: 1,
            not_due: 2,
            held: 3,
            paused: 4,
            removing: 6,
            cooling_down: 7,
            failed: 8,
            ..SweepReport::default()
        };
        let left = ThreadStates { waiting: 60, referenced: 1, failing: 15, held: 3, not_due: 2, paused: 4 };
        assert_eq!(report.left(), left);
        assert_eq!(left.named().iter().map(|(_, threads)| threads).sum::<u64>(), 85);
    }

    #[test]
    fn a_report_is_read_as_it_is_written() {
        let report = SweepReport { candidates: 3, skipped_reason: Some("why".to_owned()), ..SweepReport::default() };
        let text = serde_json::to_string(&report).expect("JSON");
        assert_eq!(serde_json::from_str::<SweepReport>(&text).expect("a report"), report);
    }
}
