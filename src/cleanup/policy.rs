//! What the operator decides about clean-ups, once for all hosts.

use std::time::Duration;

use super::{breaker::Budgets, exited::ExitedRule, retention::Retention};

/// How long rows stay locked while their volumes are removed, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locking {
    /// After so long, locks are given up; removals that are still running continue without. Zero never locks.
    pub limit: Duration,
    /// Threads a batch, at most.
    pub batch: usize,
    /// Batches of one host that may overlap.
    pub batches: usize,
}

impl Locking {
    /// Rows are locked one by one: for up to `limit`.
    #[must_use]
    pub fn of_rows(limit: Duration) -> Self {
        Self { limit, batch: 32, batches: 2 }
    }

    /// The whole database is locked, for up to `limit`.
    #[must_use]
    pub fn of_file(limit: Duration) -> Self {
        if limit.is_zero() {
            return Self::of_rows(limit);
        }
        Self { limit, batch: 32, batches: 1 }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long, and how many, rows are locked.
    pub locking: Locking,
    /// How long a caller waits for a permit, and a removal keeps others from theirs.
    pub timeout: Duration,
}

/// When a volume may be removed, beyond what its thread's status says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long after the close.
    pub retention: Retention,
    /// How many before somebody has to look.
    pub budgets: Budgets,
    /// Which containers may be removed for its sake; none if there is no rule.
    pub exited: Option<ExitedRule>,
}
