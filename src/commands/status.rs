//! `status`: how things stand. Looks, and changes nothing.

use std::process::ExitCode;

use chrono::Utc;

use super::{
    SWEEP_LEASE, docker,
    output::{json, say, write},
};
use crate::{
    config::Config,
    coordinator::Threads,
    docker::Identity,
    failed_cleanup::Failing,
    failure::Failure,
    queue::{self, Queues},
    status::{Facts, FailingThread, FailingThreads, Report, Rows},
    store::Store,
};

/// Failing threads that are named.
const WORST: u64 = 10;

pub(super) async fn run(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let docker = docker(config);
    let queues = Queues::new(config);
    let (database, queues, answering) =
        tokio::join!(Box::pin(rows(config)), Box::pin(queue::count(&queues)), Box::pin(docker.identify()));
    let answering = answering.map(|identity: Identity| identity.as_str().to_owned());
    let report = Report::new(Facts { now: Utc::now(), database, queues, answering });
    if as_json {
        say(json(&report))?;
    } else {
        write(&report.to_string())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    Rows {
        backlog: store.backlog().await,
        removals: store.removals(Utc::now()).await,
        failing,
        pause: store.pause().await,
        sweeper: store.look_up_lease(SWEEP_LEASE).await,
        daemons: store.pinned_daemons().await,
    }
}
