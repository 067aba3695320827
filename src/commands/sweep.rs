//! `sweep`: one sweep of all hosts, by hand.

use std::process::ExitCode;

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    acting::{act, noted_if_there},
    output::{json, say, write},
};
use crate::{
    config::Config,
    failure::Failure,
    operations::{person, sweeping},
    progress,
    sweep::SweepReport,
    terminal::amount_of,
};

pub(super) async fn run(config: &Config, dry_run: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let report = report(config, dry_run).await;
    match &report {
        Ok(report) if as_json => say(json(report))?,
        Ok(report) => write(&text(report))?,
        // Programs get their object all the same.
        Err(failure) if as_json => {
            let skipped_reason = Some(failure.message.clone());
            say(json(&SweepReport { skipped_reason, dry_run, ..SweepReport::default() }))?;
        }
        Err(_) => {}
    }
    let report = report?;
    let failed = report.failed > 0 || report.skipped_reason.is_some();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Sweeps until it is done or interrupted, and shows how far it is.
async fn report(config: &Config, dry_run: bool) -> Result<SweepReport, Failure> {
    let stop = CancellationToken::new();
    let interrupted = AbortOnDropHandle::new(tokio::spawn(cancel_when_interrupted(stop.clone())));
    let show = |total, of_hosts| {
        progress::show(total);
        AbortOnDropHandle::new(tokio::spawn(sweeping::follow(of_hosts, progress::advance_to)))
    };
    let report = Box::pin(sweeping::sweep(config, &person(), dry_run, &stop, show)).await;
    drop(interrupted);
    progress::clear();
    // What could not begin did nothing, and often for want of the database that it would be written to.
    let details = match &report {
        Ok(report) if !dry_run => serde_json::to_value(report).unwrap_or_default(),
        Ok(_) | Err(_) => return report,
    };
    noted_if_there(config, &act("sweep", None, details), report).await
}

async fn cancel_when_interrupted(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
    }
}

/// The report for people.
fn text(report: &SweepReport) -> String {
    let SweepReport { candidates, removed, not_found, referenced, cooling_down, failed, drift, orphans, .. } = report;
    let SweepReport { not_due, held, paused, removing, misplaced, duration_ms, .. } = report;
    let size = amount_of(*removed, report.bytes, report.unsized_volumes);
    let containers = match report.containers_removed {
        0 => String::new(),
        removed => format!("  containers  {removed} that had exited were removed before their volumes\n"),
    };
    let would = if report.dry_run { " (dry run: nothing was changed)" } else { "" };
    let ended = report.skipped_reason.as_ref().map(|reason| format!("ended early: {reason}\n")).unwrap_or_default();
    format!(
        "{candidates} closed threads were not marked{would}
  removed     {removed}{size}
  not found   {not_found}
  referenced  {referenced}
  not due     {not_due}
  held        {held}
  paused      {paused}
  removing    {removing}
  cooling     {cooling_down}
  failed      {failed}
  drift       {drift}
  orphans     {orphans}
  misplaced   {misplaced}
  took        {duration_ms} ms
{containers}{ended}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report whose every count is another number.
    fn report() -> SweepReport {
        SweepReport {
            candidates: 91,
            removed: 21,
            bytes: 3 << 20,
            unsized_volumes: 14,
            containers_removed: 13,
            not_found: 2,
            referenced: 3,
            not_due: 4,
            held: 5,
            paused: 6,
            removing: 7,
            cooling_down: 8,
            failed: 9,
            unnameable: 1,
            drift: 10,
            orphans: 11,
            misplaced: 12,
            skipped_reason: None,
            dry_run: false,
            duration_ms: 1234,
        }
    }

    #[test]
    fn a_report_reads_well() {
        insta::assert_snapshot!("report", text(&report()));
        let skipped_reason = Some("host \"b\": docker at unix:///b.sock: connection refused".to_owned());
        let cut_short = SweepReport { dry_run: true, bytes: 0, unsized_volumes: 0, skipped_reason, ..report() };
        insta::assert_snapshot!("report_of_a_dry_run_that_ended_early", text(&cut_short));
    }
}
