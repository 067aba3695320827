//! What a sweep did.

use serde::Serialize;
use tracing::{debug, info};
use utoipa::ToSchema;

/// What one sweep did. Written by `sweep --json` as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct SweepReport {
    /// Closed and unmarked threads.
    pub candidates: u64,
    /// Volumes removed; in a dry run, those that would be tried.
    pub removed: u64,
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

impl SweepReport {
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

    /// One info line if something happened, debug if not.
    pub(super) fn log(&self) {
        let Self { candidates, removed, not_found, referenced, not_due, held, paused, removing, .. } = *self;
        let Self { cooling_down, failed, drift, orphans, misplaced, dry_run, duration_ms, .. } = *self;
        macro_rules! swept {
            ($level:ident) => {
                $level!(
                    candidates,
                    removed,
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
        if removed + not_found + failed - self.unnameable + drift + paused > 0 { swept!(info) } else { swept!(debug) }
    }
}
