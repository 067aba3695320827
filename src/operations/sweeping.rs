//! One sweep of all hosts, when a person asks for it.

use std::sync::Arc;

use futures_util::future::{select_all, try_join_all};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    DatabasePort, docker, fleet_of, prepare_database, prepare_docker, prepare_dry_run, read_only_store, store,
};
use crate::{
    cleanup::{
        fleet::{Fleet, HostWorker},
        record::Recording,
    },
    config::{Config, DockerHost, UnknownThreads},
    docker::Docker,
    failure::{Dependency, Failure, Verdict},
    health::Health,
    sweep::{PlannedList, SweepReport, Sweeper, Unplaced},
};

/// Sweeps all hosts once for this person, until it is done or `stop` is cancelled. `begun` hears how many threads there
/// are to look at, and how many were, by host; what it returns is dropped at the end.
pub async fn sweep<G>(
    config: &Config,
    person: &str,
    dry_run: bool,
    stop: &CancellationToken,
    begun: impl FnOnce(u64, Vec<watch::Receiver<u64>>) -> G,
) -> Result<SweepReport, Failure> {
    sweep_listing(config, person, dry_run.then(PlannedList::default), stop, begun).await
}

/// Sweeps all hosts once for this person; with a list as a dry run, which writes into it what would be done.
pub async fn sweep_listing<G>(
    config: &Config,
    person: &str,
    planned: Option<PlannedList>,
    stop: &CancellationToken,
    begun: impl FnOnce(u64, Vec<watch::Receiver<u64>>) -> G,
) -> Result<SweepReport, Failure> {
    let dry_run = planned.is_some();
    let health = Health::of_hosts(config.host_names());
    let docker = |host: &DockerHost| docker(config, host);
    let store = if dry_run {
        let store = read_only_store(config).await?;
        prepare_dry_run(&store, config).await?;
        store
    } else {
        let store = store(config).await?.acting_for(person.to_owned());
        prepare_database(&store, config).await?;
        store
    };
    health.up(Dependency::Database);
    match config.unknown_threads {
        UnknownThreads::Reject => {
            sweep_fleet(config, fleet_of(config, &health, store, docker), planned, stop, begun).await
        }
        UnknownThreads::Record => {
            sweep_fleet(config, fleet_of(config, &health, Recording::new(store), docker), planned, stop, begun).await
        }
    }
}

async fn sweep_fleet<T: DatabasePort, G>(
    config: &Config,
    fleet: Fleet<Docker, T>,
    planned: Option<PlannedList>,
    stop: &CancellationToken,
    begun: impl FnOnce(u64, Vec<watch::Receiver<u64>>) -> G,
) -> Result<SweepReport, Failure> {
    let fleet = Arc::new(fleet);
    let sweeper = |worker: &HostWorker<Docker, T>| {
        Sweeper::new(Arc::clone(&worker.cleaner), Arc::clone(&worker.health), config.reconcile_cooldown)
            .for_a_person()
            .listing(planned.clone())
    };
    let sweepers: Vec<_> = fleet.workers().iter().map(sweeper).collect();
    let shown = begun(fleet.threads().backlog().await?.unmarked, sweepers.iter().map(Sweeper::progress).collect());
    let report = Box::pin(sweep_hosts(&fleet, &sweepers, config.host.is_some(), planned, stop)).await;
    drop(shown);
    let report = report?;
    fleet.threads().as_ref().close().await?;
    Ok(report)
}

/// Sweeps all hosts at once, and then what is on none of them. A host that is down is said so in the report, unless
/// it is the only one: then it is an error.
async fn sweep_hosts<T: DatabasePort>(
    fleet: &Arc<Fleet<Docker, T>>,
    sweepers: &[Sweeper<Docker, T>],
    one_of_several: bool,
    planned: Option<PlannedList>,
    stop: &CancellationToken,
) -> Result<SweepReport, Failure> {
    let dry_run = planned.is_some();
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
        let unplaced = unplaced.for_a_person().listing(planned);
        report = report.and(unplaced.sweep(dry_run, stop).await);
        report.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    }
    Ok(report)
}

/// Tells how many threads the sweeps of all hosts are done with, as often as one of them is further, until they end.
pub async fn follow(mut of_hosts: Vec<watch::Receiver<u64>>, told: impl Fn(u64)) {
    loop {
        let changed = of_hosts.iter_mut().map(|host| Box::pin(host.changed()));
        if select_all(changed).await.0.is_err() {
            return;
        }
        told(of_hosts.iter_mut().map(|host| *host.borrow_and_update()).sum());
    }
}
