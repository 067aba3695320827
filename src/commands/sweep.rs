//! `sweep`: one pass of the reconciler, by hand.

use std::{process::ExitCode, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{coordinator, prepare_database, prepare_docker};
use crate::{
    config::Config,
    failure::Failure,
    health::Health,
    reconciler::{Reconciler, Report},
};

pub(super) async fn run(config: &Config, dry_run: bool, json: bool) -> Result<ExitCode, Failure> {
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
    let report = reconciler.sweep(dry_run, &stop).await;
    interrupted.abort();
    if json {
        println!("{}", serde_json::to_string(&report).expect("a report is always valid JSON"));
    } else {
        print(&report);
    }
    coordinator.threads.close().await?;
    let failed = report.failed > 0 || report.skipped_reason.is_some();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(report: &Report) {
    let Report { candidates, removed, not_found, referenced, cooling_down, failed, drift, orphans, .. } = report;
    let would = if report.dry_run { " (dry run: nothing was changed)" } else { "" };
    println!("{candidates} closed threads were not marked{would}");
    println!("  removed     {removed}\n  not found   {not_found}\n  referenced  {referenced}");
    println!("  cooling     {cooling_down}\n  failed      {failed}");
    println!("  drift       {drift}\n  orphans     {orphans}\n  took        {} ms", report.duration_ms);
    if let Some(reason) = &report.skipped_reason {
        println!("ended early: {reason}");
    }
}
