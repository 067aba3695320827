//! `status`: how things stand. Looks, and changes nothing.

use std::{collections::BTreeMap, process::ExitCode};

use chrono::Utc;
use futures_util::future::join_all;

use super::{
    SWEEP_LEASE, docker,
    output::{json, say, write},
    sweep_lease,
};
use crate::{
    config::{Config, DockerHost},
    coordinator::{ONLY_HOST, Threads},
    docker::Identity,
    failed_cleanup::Failing,
    failure::Failure,
    queue::{self, Queues},
    status::{Facts, FailingThread, FailingThreads, Host, Report, Rows},
    store::Store,
};

/// Failing threads that are named.
const WORST: u64 = 10;

pub(super) async fn run(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let queues = Queues::new(config);
    let hosts = config.docker_hosts.iter().map(|host| answering(config, host));
    let (database, queues, hosts) =
        tokio::join!(Box::pin(rows(config)), Box::pin(queue::count(&queues)), Box::pin(join_all(hosts)));
    let report = Report::new(Facts { now: Utc::now(), database, queues, hosts });
    if as_json {
        say(json(&report))?;
    } else {
        write(&report.to_string())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn answering(config: &Config, host: &DockerHost) -> Host {
    let identity = docker(config, host).identify().await;
    Host { name: host.name.clone(), answering: identity.map(|identity: Identity| identity.as_str().to_owned()) }
}

async fn rows(config: &Config) -> Result<Rows, Failure> {
    let store = super::store_to_look_at(config).await?;
    // First, so that a database that is down is waited for once and not in every section.
    let rows = match store.ping().await {
        Ok(()) => Ok(read_rows(&store, config).await),
        Err(down) => Err(down),
    };
    // Everything is known; a database that does not say goodbye holds up nobody.
    let _ = store.close().await;
    rows
}

async fn read_rows(store: &Store, config: &Config) -> Rows {
    let failing = store.worst_failures(WORST).await.map(|(threads, worst)| {
        let worst = worst.into_iter();
        let failing = |failed| Failing::new(failed, config.reconcile_cooldown);
        FailingThreads {
            threads,
            worst: worst.map(|(thread_id, failed)| FailingThread { thread_id, failing: failing(failed) }).collect(),
        }
    });
    let mut sweepers = BTreeMap::new();
    for lease in config.docker_hosts.iter().map(|host| sweep_lease(&host.name)).chain([SWEEP_LEASE.to_owned()]) {
        let sweeper = store.look_up_lease(&lease).await;
        sweepers.insert(lease, sweeper);
    }
    let mut sweeper_of = |lease: &str| sweepers.remove(lease).unwrap_or(Ok(None));
    let sweeper = sweeper_of(SWEEP_LEASE);
    let named = config.docker_hosts.iter().filter(|host| host.name != ONLY_HOST);
    let sweeper_of_host = |host: &DockerHost| Ok((host.name.clone(), sweeper_of(&sweep_lease(&host.name))?));
    Rows {
        sweepers: named.map(sweeper_of_host).collect(),
        unmarked_by_host: store.unmarked_by_host().await,
        backlog: store.backlog().await,
        removals: store.removals(Utc::now()).await,
        failing,
        pause: store.pause().await,
        sweeper,
        daemons: store.pinned_daemons().await,
    }
}
