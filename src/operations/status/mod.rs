//! How things stand. Looks, and changes nothing.

pub mod overview;

use std::collections::BTreeMap;

use chrono::Utc;
use futures_util::future::join_all;

use self::overview::{AskedHost, Facts, FailingThread, FailingThreads, Report, Rows};
use super::{SWEEP_LEASE, docker, sweep_lease};
use crate::{
    cleanup::Identity,
    cleanup::{Pause, Pauses, Threads, failing::Failing},
    config::{Config, DockerHost},
    failure::Failure,
    host::Host,
    queue::{self, Queues},
    store::{Store, Sweeper},
    sweep::{SweepReport, ThreadStates},
};

/// Failing threads that are named.
const WORST: usize = 10;

/// Waiting threads that are counted for who looks at a glance. More are not: that would take the longer the more.
pub const COUNTED: u64 = 10_000;

/// How things stand.
pub async fn status(config: &Config) -> Report {
    found(config, None).await
}

/// How things stand, for pages: [`COUNTED`] waiting threads are counted, and no more.
pub async fn at_a_glance(config: &Config) -> Report {
    found(config, Some(COUNTED)).await
}

async fn found(config: &Config, most: Option<u64>) -> Report {
    let queues = Queues::new(config);
    let hosts = config.docker_hosts.iter().map(|host| answering(config, host));
    let (database, queues, hosts) =
        tokio::join!(Box::pin(rows(config, most)), Box::pin(queue::count(&queues)), Box::pin(join_all(hosts)));
    let report = Report::new(Facts { now: Utc::now(), database, queues, hosts });
    most.into_iter().fold(report, Report::counted_to)
}

async fn answering(config: &Config, host: &DockerHost) -> AskedHost {
    let identity = docker(config, host).identify().await;
    AskedHost { name: host.name.clone(), answering: identity.map(|identity: Identity| identity.as_str().to_owned()) }
}

async fn rows(config: &Config, most: Option<u64>) -> Result<Rows, Failure> {
    let store = super::store_to_look_at(config).await?;
    // First, so that a database that is down is waited for once and not in every section.
    let rows = match store.ping().await {
        Ok(()) => Ok(read_rows(&store, config, most).await),
        Err(down) => Err(down),
    };
    // Everything is known; a database that does not say goodbye holds up nobody.
    let _ = store.close().await;
    rows
}

async fn read_rows(store: &Store, config: &Config, most: Option<u64>) -> Rows {
    let failing = match most {
        None => store.worst_failures(WORST as u64).await,
        Some(_) => store.worst_failures_at_a_glance(WORST).await,
    };
    let failing = failing.map(|(threads, worst)| {
        let worst = worst.into_iter();
        let failing = |failed| Failing::new(failed, config.reconcile_cooldown, Utc::now());
        FailingThreads {
            threads,
            worst: worst.map(|(thread_id, failed)| FailingThread { thread_id, failing: failing(failed) }).collect(),
        }
    });
    Rows {
        sweepers: sweepers(store, config).await,
        unmarked_by_host: match most {
            None => store.unmarked_by_host().await,
            Some(most) => store.unmarked_by_host_to(most).await.map(Option::unwrap_or_default),
        },
        backlog: match most {
            None => store.backlog().await,
            Some(most) => store.backlog_to(most).await,
        },
        removals: store.removals(Utc::now()).await,
        failing,
        threads: threads_left(store).await,
        pause: pause_of_all(store, config).await,
        pauses: pauses(store, config).await,
        sweeper: store.look_up_lease(SWEEP_LEASE).await,
        daemons: store.pinned_daemons().await,
    }
}

/// What the latest sweeps left; none before the first one.
async fn threads_left(store: &Store) -> Result<Option<ThreadStates>, Failure> {
    let reports = store.latest_reports().await?.into_iter().filter_map(|report| serde_json::from_value(report).ok());
    Ok(reports.reduce(SweepReport::and).map(|report| report.left()))
}

fn named(config: &Config) -> impl Iterator<Item = &Host> {
    config.docker_hosts.iter().map(|host| &host.name).filter(|host| !host.is_only())
}

/// Of several hosts' pauses only that of everything; the doubt about the only host is about everything.
async fn pause_of_all(store: &Store, config: &Config) -> Result<Option<Pause>, Failure> {
    if named(config).next().is_some() { store.pause_of_everything().await } else { store.pause(None).await }
}

async fn pauses(store: &Store, config: &Config) -> Result<BTreeMap<String, Option<Pause>>, Failure> {
    let mut pauses = BTreeMap::new();
    for host in named(config) {
        pauses.insert(host.to_string(), store.pause(host.name()).await?);
    }
    Ok(pauses)
}

async fn sweepers(store: &Store, config: &Config) -> Result<BTreeMap<String, Option<Sweeper>>, Failure> {
    let mut sweepers = BTreeMap::new();
    for host in named(config) {
        sweepers.insert(host.to_string(), store.look_up_lease(&sweep_lease(host)).await?);
    }
    Ok(sweepers)
}
