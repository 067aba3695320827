//! What sweeps say of themselves: in the list of sweeps, and in the metrics. A sweep that could not be written there is
//! done all the same.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::debug;

use super::report::SweepReport;
use crate::{
    cleanup::{Cause, Context, Database, SweepEnd, SweepLog},
    metrics,
};

/// Writes that a sweep begins.
pub(super) async fn begin_log(log: &impl SweepLog, host: Option<&str>, cause: Cause) -> Option<String> {
    match log.sweep_began(host, cause).await {
        Ok(id) => id,
        Err(error) => {
            debug!(%error, "the sweep is not in the list of sweeps");
            None
        }
    }
}

/// Writes what it came to.
pub(super) async fn end_log(log: &impl SweepLog, id: Option<String>, report: &SweepReport) {
    let Some(id) = id else { return };
    let end = SweepEnd {
        report: serde_json::to_string(report).unwrap_or_default(),
        skipped_reason: report.skipped_reason.clone(),
        duration_ms: report.duration_ms,
    };
    if let Err(error) = log.sweep_ended(&id, end).await {
        debug!(%error, "the sweep's end is not in the list of sweeps");
    }
}

/// What a sweep that is over now says of its host, or of what is on none of several, for the metrics.
pub(super) fn observe(host: Option<&str>, report: &SweepReport, now: DateTime<Utc>) {
    metrics::sweep(Duration::from_millis(report.duration_ms));
    if report.dry_run {
        return;
    }
    metrics::threads(host, report.left().named());
    // A pause is somebody's decision, and has a metric of its own.
    if report.skipped_reason.is_none() || report.paused > 0 {
        metrics::swept_well(host, now);
    }
}

/// Counts what is left to do now, for the metrics.
pub async fn observe_backlog<T: Database>(context: &Context<T>) {
    let (threads, retention, now) = (&context.threads, context.policy.retention, context.clock.now());
    match threads.oldest_not_held().await {
        Ok(closed_at) => metrics::oldest_due(closed_at, retention.0, now),
        Err(error) => debug!(%error, "can't look for the oldest that is due"),
    }
    match threads.backlog().await {
        Ok(backlog) => metrics::backlog(backlog.unmarked, backlog.oldest_closed_at, now),
        Err(error) => debug!(%error, "can't count what is left to do"),
    }
}
