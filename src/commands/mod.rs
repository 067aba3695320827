//! The commands, each as a person types it.

mod dead_letters;
pub mod doctor;
pub mod explain;
mod healthcheck;
mod hold;
mod hosts;
mod migrate;
pub mod orphans;
mod output;
mod pause;
mod publish;
pub mod serve;
pub mod status;
mod sweep;

use std::{process::ExitCode, sync::Arc};

use self::output::person;
use crate::{
    cleanup::{Cleaner, Context, Database, dry_run::DryRun, fleet::Fleet, policy::Limits, record::Recording},
    cli::{Command, Invocation},
    config::{Config, DockerHost, UnknownThreads},
    docker::Docker,
    failure::{Dependency, Failure},
    health::Health,
    host::Host,
    journal::Journal,
    store::{Store, locking},
};

/// The lease whose holder sweeps; the only host, or what is on none of several.
const SWEEP_LEASE: &str = "sweep";
/// Connections to the database besides one per removal in flight: sweep, probe, and the lock of a migration.
const SPARE_CONNECTIONS: u32 = 4;
/// Connections for each further Docker host: their statements are short, and their removals are not.
const CONNECTIONS_A_HOST: u32 = 2;
/// The most that many hosts make it: PostgreSQL allows a hundred by default, to all replicas together.
const MOST_CONNECTIONS: u32 = 40;

/// Runs a command. An error is one line for standard error and exit code 1.
pub async fn run(Invocation { command, config }: Invocation) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve { dry_run: false } => serve::run(config).await,
        Command::Serve { dry_run: true } => serve::dry_run(config).await,
        Command::Migrate { direction } => migrate::run(&config, direction).await,
        Command::Sweep { dry_run, json } => sweep::run(&config, dry_run, json).await,
        Command::Publish { thread_ids, reopened } => publish::run(&config, thread_ids, reopened).await,
        Command::Doctor { json } => doctor::run(&config, json).await,
        Command::Health { ready } => healthcheck::run(&config, ready).await,
        Command::Orphans { action, json } => orphans::run(&config, action, json).await,
        Command::DeadLetters { action } => dead_letters::run(&config, action).await,
        Command::Explain { thread_id, json } => explain::run(&config, &thread_id, json).await,
        Command::Status { json } => status::run(&config, json).await,
        Command::Hosts { action } => hosts::run(&config, action).await,
        Command::Hold { thread_id, reason, until } => hold::hold(&config, &thread_id, &reason, until.as_deref()).await,
        Command::Release { thread_id } => hold::release(&config, &thread_id).await,
        Command::Pause { reason, on } => pause::pause(&config, &reason, on.as_deref()).await,
        Command::Resume { on } => pause::resume(&config, on.as_deref()).await,
    }
}

async fn store(config: &Config) -> Result<Store, Failure> {
    let threads = config.threads.clone();
    let store = Store::new(&config.database_url, threads, config.replica.clone(), connections(config)).await?;
    Ok(store.with_hosts(config.host_names()).acting_for(person()))
}

fn connections(config: &Config) -> u32 {
    let of_one = 2 * u32::from(config.concurrency) + SPARE_CONNECTIONS;
    let others = u32::try_from(config.docker_hosts.len() - 1).unwrap_or(u32::MAX);
    of_one.saturating_add(CONNECTIONS_A_HOST.saturating_mul(others)).min(of_one.max(MOST_CONNECTIONS))
}

/// The database for commands that only look: nothing is made or migrated on the way.
async fn store_to_look_at(config: &Config) -> Result<Store, Failure> {
    let store = Store::to_look_at(&config.database_url, config.threads.clone()).await;
    let store = store.map_err(|error| Failure::unavailable(Dependency::Database, error.to_string()))?;
    Ok(store.with_hosts(config.host_names()))
}

fn docker(config: &Config, host: &DockerHost) -> Docker {
    let docker = Docker::new(host.endpoint.clone(), config.docker_timeout);
    match host.name.name() {
        None => docker,
        Some(name) => docker.named(name.to_owned()),
    }
}

/// The database for commands that look, and may take long: it refuses to be written to.
async fn read_only_store(config: &Config) -> Result<Store, Failure> {
    let store = Store::read_only(&config.database_url, config.threads.clone(), connections(config)).await?;
    Ok(store.with_hosts(config.host_names()))
}

/// The hosts for commands that look.
async fn read_only_fleet(config: &Config, health: &Health) -> Result<Fleet<Docker, Store>, Failure> {
    Ok(fleet_of(config, health, read_only_store(config).await?, |host| docker(config, host).only_looking()))
}

async fn fleet(config: &Config, health: &Health) -> Result<Fleet<Docker, Store>, Failure> {
    Ok(fleet_of(config, health, store(config).await?, |host| docker(config, host)))
}

/// The hosts where threads are known from events alone.
async fn recording_fleet(config: &Config, health: &Health) -> Result<Fleet<Docker, Recording<Store>>, Failure> {
    Ok(fleet_of(config, health, Recording::new(store(config).await?), |host| docker(config, host)))
}

/// The hosts of a dry run: neither Docker nor the database is changed, and the journal has what would have been.
async fn dry_fleet(
    config: &Config,
    health: &Health,
    journal: Journal,
) -> Result<Fleet<Docker, DryRun<Store>>, Failure> {
    let threads = DryRun::new(read_only_store(config).await?, journal);
    Ok(fleet_of(config, health, threads, |host| docker(config, host).only_looking()))
}

fn fleet_of<T: Database>(
    config: &Config,
    health: &Health,
    threads: T,
    docker: impl Fn(&DockerHost) -> Docker,
) -> Fleet<Docker, T> {
    let (names, limits) = (
        config.volume_names.clone(),
        Limits { locking: locking(&config.database_url, config.lock_limit), timeout: config.docker_timeout },
    );
    let context = Arc::new(Context::new(threads, names, config.policy, limits));
    let cleaner = |host: &DockerHost| {
        Arc::new(Cleaner::new(host.name.clone(), docker(host), host.concurrency, Arc::clone(&context)))
    };
    Fleet::new(config.docker_hosts.iter().map(cleaner).collect(), health, config.prefetch)
}

/// The lease whose holder sweeps a host.
fn sweep_lease(host: &Host) -> String {
    host.name().map_or_else(|| SWEEP_LEASE.to_owned(), |name| format!("{SWEEP_LEASE}/{name}"))
}

/// Whether the database answers and has our schema; brings it up to date if the configuration says so.
async fn prepare_database(store: &Store, config: &Config) -> Result<(), Failure> {
    if config.migrate {
        store.migrate_up().await?;
    }
    require_schema(store, config).await
}

/// Whether the database answers and has our schema. Changes nothing.
async fn require_schema(store: &Store, config: &Config) -> Result<(), Failure> {
    let pending = store.pending_migrations().await?;
    match pending.first() {
        None => check_threads(store, config).await,
        Some(first) => Err(Failure::permanent(format!(
            "database at {}: {} migrations are pending, {first} first: run `volume-reaper migrate up`",
            config.database_url,
            pending.len(),
        ))),
    }
}

/// Whether the database answers, and has our schema or nothing of ours: a dry run needs nothing of ours.
async fn prepare_dry_run(store: &Store, config: &Config) -> Result<(), Failure> {
    if store.migration_status().await?.iter().any(|migration| migration.applied) {
        return require_schema(store, config).await;
    }
    store.expect_nothing_of_ours();
    check_threads(store, config).await
}

/// Whether the threads table is as the configuration describes it, and ours to write if it says so.
async fn check_threads(store: &Store, config: &Config) -> Result<(), Failure> {
    store.check_threads().await?;
    match config.unknown_threads {
        UnknownThreads::Reject => Ok(()),
        UnknownThreads::Record => store.can_record().await,
    }
}

/// Whether the daemon answers and is the one that the database knows; the first one ever is pinned.
async fn prepare_docker<T: Database + AsRef<Store>>(cleaner: &Cleaner<Docker, T>) -> Result<(), Failure> {
    let store: &Store = cleaner.threads().as_ref();
    let identity = cleaner.volumes.identify().await?;
    if cleaner.host.is_only()
        && let Some(other) = cleaner.threads().unserved_host().await?
    {
        return Err(Failure::unavailable(
            Dependency::Docker,
            format!(
                "the database knows Docker host {other:?}, and ours has no name: whether a volume is nowhere, it \
                 can't say. \
                 Name it in VOLUME_REAPER_HOST, or all of them in VOLUME_REAPER_DOCKER_HOSTS; if {other:?} is gone for \
                 good, run `volume-reaper hosts retire {other}`"
            ),
        ));
    }
    store.pin_daemon(cleaner.host.key(), &identity).await?;
    cleaner.volumes.pin(identity);
    Ok(())
}
