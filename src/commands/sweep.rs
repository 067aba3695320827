//! `sweep`: one pass of the reconciler, by hand.

use std::{process::ExitCode, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    coordinator,
    output::{json, say},
    prepare_database, prepare_docker,
};
use crate::{
    config::Config,
    coordinator::Threads,
    failure::Failure,
    health::Health,
    progress,
    reconciler::{Reconciler, Report},
};

pub(super) async fn run(config: &Config, dry_run: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let coordinator = Arc::new(coordinator(config).await?);
    prepare_database(&coordinator.threads, config).await?;
    prepare_docker(&coordinator).await?;

    let stop = CancellationToken::new();
    let interrupted = tokio::spawn({
        let stop = stop.clone();
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.cancel();
            }
        }
    });
    let health = Arc::new(Health::new());
    let reconciler = Reconciler::new(Arc::clone(&coordinator), health, config.reconcile_cooldown);
    progress::show(coordinator.threads.backlog().await?.unmarked);
    let mut done = reconciler.progress();
    let shown = tokio::spawn(async move {
        while done.changed().await.is_ok() {
            progress::advance_to(*done.borrow_and_update());
        }
    });
    let report = reconciler.sweep(dry_run, &stop).await;
    shown.abort();
    progress::clear();
    interrupted.abort();
    if as_json {
        say(json(&report))?;
    } else {
        print(&report)?;
    }
    coordinator.threads.close().await?;
    let failed = report.failed > 0 || report.skipped_reason.is_some();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(report: &Report) -> Result<(), Failure> {
    let Report { candidates, removed, not_found, referenced, cooling_down, failed, drift, orphans, .. } = report;
    let Report { not_due, held, paused, .. } = report;
    let would = if report.dry_run { " (dry run: nothing was changed)" } else { "" };
    say(format!("{candidates} closed threads were not marked{would}"))?;
    say(format!("  removed     {removed}\n  not found   {not_found}\n  referenced  {referenced}"))?;
    say(format!("  not due     {not_due}\n  held        {held}\n  paused      {paused}"))?;
    say(format!("  cooling     {cooling_down}\n  failed      {failed}"))?;
    say(format!("  drift       {drift}\n  orphans     {orphans}\n  took        {} ms", report.duration_ms))?;
    match &report.skipped_reason {
        Some(reason) => say(format!("ended early: {reason}")),
        None => Ok(()),
    }
}
