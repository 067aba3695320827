//! `sweep`: one sweep of all hosts, by hand.

use std::{process::ExitCode, sync::Arc};

use futures_util::future::{select_all, try_join_all};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    acting::{act, noted},
    docker, fleet_of,
    output::{json, say, write},
    prepare_database, prepare_docker, prepare_dry_run, read_only_store, store,
};
use crate::{
    cleanup::{
        Database,
        fleet::{Fleet, HostWorker},
        record::Recording,
    },
    config::{Config, DockerHost, UnknownThreads},
    docker::Docker,
    failure::{Dependency, Failure, Verdict},
    health::Health,
    progress,
    store::Store,
    sweep::{SweepReport, Sweeper, Unplaced},
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

async fn report(config: &Config, dry_run: bool) -> Result<SweepReport, Failure> {
    let health = Health::of_hosts(config.host_names());
    let docker = |host: &DockerHost| {
        let docker = docker(config, host);
        if dry_run { docker.only_looking() } else { docker }
    };
    let store = if dry_run {
        let store = read_only_store(config).await?;
        prepare_dry_run(&store, config).await?;
        store
    } else {
        let store = store(config).await?;
        prepare_database(&store, config).await?;
        store
    };
    health.up(Dependency::Database);
    match config.unknown_threads {
        UnknownThreads::Reject => sweep(config, fleet_of(config, &health, store, docker), dry_run).await,
        UnknownThreads::Record => {
            sweep(config, fleet_of(config, &health, Recording::new(store), docker), dry_run).await
        }
    }
}

/// Sweeps until it is done or interrupted, and shows how far it is.
async fn sweep<T: Database + AsRef<Store>>(
    config: &Config,
    fleet: Fleet<Docker, T>,
    dry_run: bool,
) -> Result<SweepReport, Failure> {
    let fleet = Arc::new(fleet);
    let stop = CancellationToken::new();
    let interrupted = AbortOnDropHandle::new(tokio::spawn(cancel_when_interrupted(stop.clone())));
    let sweeper = |worker: &HostWorker<Docker, T>| {
        Sweeper::new(Arc::clone(&worker.cleaner), Arc::clone(&worker.health), config.reconcile_cooldown).for_a_person()
    };
    let sweepers: Vec<_> = fleet.workers().iter().map(sweeper).collect();
    progress::show(fleet.threads().backlog().await?.unmarked);
    let shown = tokio::spawn(show_progress(sweepers.iter().map(Sweeper::progress).collect()));
    let shown = AbortOnDropHandle::new(shown);
    let report = sweep_hosts(&fleet, &sweepers, config.host.is_some(), dry_run, &stop).await;
    drop((shown, interrupted));
    progress::clear();
    let store = fleet.threads().as_ref();
    let report = if dry_run {
        report
    } else {
        let details = report.as_ref().ok().and_then(|report| serde_json::to_value(report).ok()).unwrap_or_default();
        noted(store, &act("sweep", None, details), report).await
    };
    let report = report?;
    store.close().await?;
    Ok(report)
}

/// Sweeps all hosts at once, and then what is on none of them. A host that is down is said so in the report, unless
/// it is the only one: then it is an error.
async fn sweep_hosts<T: Database + AsRef<Store>>(
    fleet: &Arc<Fleet<Docker, T>>,
    sweepers: &[Sweeper<Docker, T>],
    one_of_several: bool,
    dry_run: bool,
    stop: &CancellationToken,
) -> Result<SweepReport, Failure> {
    let one = async |(worker, sweeper): (&HostWorker<Docker, T>, &Sweeper<Docker, T>)| {
        let prepared = prepare_docker(&worker.cleaner).await;
        match prepared {
            Ok(()) => {
                worker.health.up(Dependency::Docker);
                Ok(sweeper.sweep(dry_run, stop).await)
            }
            Err(Failure { verdict: Verdict::Unavailable(Dependency::Docker), message }) if fleet.only().is_none() => {
                worker.health.down(Dependency::Docker, &message);
                let skipped_reason = Some(format!("host {:?}: {message}", worker.cleaner.host.key()));
                Ok(SweepReport { skipped_reason, dry_run, ..SweepReport::default() })
            }
            Err(failure) => Err(failure),
        }
    };
    let began = Instant::now();
    let reports = try_join_all(fleet.workers().iter().zip(sweepers).map(one)).await?;
    let mut report = reports.into_iter().reduce(SweepReport::and).unwrap_or_default();
    if fleet.only().is_none() && !stop.is_cancelled() {
        let unplaced = Unplaced::new(Arc::clone(fleet), Arc::clone(&fleet.workers()[0].health), one_of_several);
        let unplaced = unplaced.for_a_person();
        report = report.and(unplaced.sweep(dry_run, stop).await);
        report.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    }
    Ok(report)
}

async fn cancel_when_interrupted(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
    }
}

async fn show_progress(mut of_hosts: Vec<watch::Receiver<u64>>) {
    loop {
        let changed = of_hosts.iter_mut().map(|host| Box::pin(host.changed()));
        if select_all(changed).await.0.is_err() {
            return;
        }
        progress::advance_to(of_hosts.iter_mut().map(|host| *host.borrow_and_update()).sum());
    }
}

/// The report for people.
fn text(report: &SweepReport) -> String {
    let SweepReport { candidates, removed, not_found, referenced, cooling_down, failed, drift, orphans, .. } = report;
    let SweepReport { not_due, held, paused, removing, misplaced, duration_ms, .. } = report;
    let containers = match report.containers_removed {
        0 => String::new(),
        removed => format!("  containers  {removed} that had exited were removed before their volumes\n"),
    };
    let would = if report.dry_run { " (dry run: nothing was changed)" } else { "" };
    let ended = report.skipped_reason.as_ref().map(|reason| format!("ended early: {reason}\n")).unwrap_or_default();
    format!(
        "{candidates} closed threads were not marked{would}
  removed     {removed}
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
        let cut_short = SweepReport { dry_run: true, skipped_reason, ..report() };
        insta::assert_snapshot!("report_of_a_dry_run_that_ended_early", text(&cut_short));
    }
}
