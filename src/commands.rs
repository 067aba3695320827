//! The commands, each as a person types it.

mod dead_letters;
mod doctor;
mod explain;
mod health;
mod hold;
mod hosts;
mod migrate;
mod orphans;
mod output;
mod pause;
mod publish;
mod serve;
mod status;
mod sweep;

use std::{process::ExitCode, sync::Arc};

use crate::{
    cli::{Command, Invocation},
    config::Config,
    coordinator::{Coordinator, Threads, UnknownThreads},
    docker::Docker,
    dry_run::{DryRun, Journal},
    failure::{Dependency, Failure},
    store::Store,
};

/// What the one daemon is called in the database.
const DAEMON: &str = "default";
/// The lease whose holder sweeps.
const SWEEP_LEASE: &str = "sweep";
/// Connections to the database besides one per removal in flight: sweep, probe, and the lock of a migration.
const SPARE_CONNECTIONS: u32 = 4;

/// Runs a command. An error is one line for standard error and exit code 1.
pub async fn run(Invocation { command, config }: Invocation) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve { dry_run: false } => serve::run(config).await,
        Command::Serve { dry_run: true } => serve::dry_run(config).await,
        Command::Migrate { direction } => migrate::run(&config, direction).await,
        Command::Sweep { dry_run, json } => sweep::run(&config, dry_run, json).await,
        Command::Publish { thread_ids, reopened } => publish::run(&config, thread_ids, reopened).await,
        Command::Doctor { json } => doctor::run(&config, json).await,
        Command::Health { ready } => health::run(&config, ready).await,
        Command::Orphans { action, json } => orphans::run(&config, action, json).await,
        Command::DeadLetters { action } => dead_letters::run(&config, action).await,
        Command::Explain { thread_id, json } => explain::run(&config, &thread_id, json).await,
        Command::Status { json } => status::run(&config, json).await,
        Command::Hosts { action } => hosts::run(&config, action).await,
        Command::Hold { thread_id, reason, until } => hold::hold(&config, &thread_id, &reason, until.as_deref()).await,
        Command::Release { thread_id } => hold::release(&config, &thread_id).await,
        Command::Pause { reason } => pause::pause(&config, &reason).await,
        Command::Resume => pause::resume(&config).await,
    }
}

async fn store(config: &Config) -> Result<Store, Failure> {
    Store::new(&config.database_url, config.threads.clone(), config.replica.clone(), connections(config)).await
}

fn connections(config: &Config) -> u32 {
    2 * u32::from(config.concurrency) + SPARE_CONNECTIONS
}

/// The same for commands that only look: nothing is made or migrated on the way.
async fn store_to_look_at(config: &Config) -> Result<Store, Failure> {
    let store = Store::to_look_at(&config.database_url, config.threads.clone()).await;
    store.map_err(|error| Failure::unavailable(Dependency::Database, error.to_string()))
}

fn docker(config: &Config) -> Docker {
    Docker::new(config.docker_host.clone(), config.docker_timeout)
}

async fn coordinator(config: &Config) -> Result<Coordinator<Docker, Store>, Failure> {
    let (docker, store) = (docker(config), store(config).await?);
    Ok(Coordinator::new(docker, store, config.volume_prefix.clone(), config.concurrency).with_policy(config.policy))
}

/// The same for a dry run: neither Docker nor the database is changed, and the journal has what would have been.
async fn dry_coordinator(config: &Config, journal: Arc<Journal>) -> Result<Coordinator<Docker, DryRun>, Failure> {
    let store = Store::read_only(&config.database_url, config.threads.clone(), connections(config)).await?;
    let (docker, threads) = (docker(config).only_looking(), DryRun::new(store, journal));
    Ok(Coordinator::new(docker, threads, config.volume_prefix.clone(), config.concurrency).with_policy(config.policy))
}

/// Whether the database answers and has our schema; brings it up to date if the configuration says so.
async fn prepare_database(store: &Store, config: &Config) -> Result<(), Failure> {
    prepare(store, config, false).await
}

/// The same; a dry run needs nothing of ours.
async fn prepare(store: &Store, config: &Config, is_dry_run: bool) -> Result<(), Failure> {
    if config.migrate {
        store.migrate_up().await?;
        return check_threads(store, config).await;
    }
    let all = store.migration_status().await?;
    let pending: Vec<_> = all.iter().filter(|migration| !migration.applied).collect();
    match pending.first() {
        None => check_threads(store, config).await,
        Some(_) if is_dry_run && pending.len() == all.len() => {
            store.expect_nothing_of_ours();
            check_threads(store, config).await
        }
        Some(first) => Err(Failure::permanent(format!(
            "database at {}: {} migrations are pending, {} first: run `volume-reaper migrate up`",
            config.database_url,
            pending.len(),
            first.name
        ))),
    }
}

/// Whether the threads table is as the configuration describes it, and ours to write if it says so.
async fn check_threads(store: &Store, config: &Config) -> Result<(), Failure> {
    store.check_threads().await?;
    match config.policy.unknown_threads {
        UnknownThreads::Reject => Ok(()),
        UnknownThreads::Record => store.can_record().await,
    }
}

/// Whether the daemon answers and is the one that the database knows; the first one ever is pinned.
async fn prepare_docker<T: Threads + AsRef<Store>>(coordinator: &Coordinator<Docker, T>) -> Result<(), Failure> {
    let identity = coordinator.volumes.identify().await?;
    coordinator.threads.as_ref().pin_daemon(DAEMON, &identity).await?;
    coordinator.volumes.pin(identity);
    Ok(())
}
