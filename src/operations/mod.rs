//! What a person can ask and have done, whoever asks: the command line and the console both answer with it.
//!
//! Each file computes and prints nothing. What is common to them, the ways to the database and to Docker, is here.

pub mod audit_trail;
pub mod doctor;
pub mod explain;
pub mod finding;
pub mod fleet_view;
pub mod holding;
pub mod how_far;
pub mod orphan_removal;
pub mod parked;
pub mod parking;
pub mod pausing;
pub mod receipt_pages;
pub mod status;
pub mod sweeping;
pub mod waiting_list;

use std::{os::unix::fs::MetadataExt, sync::Arc};

use crate::{
    cleanup::{
        Cleaner, Context, Database, FreedVolumes, Volumes, dry_run::DryRun, fleet::Fleet, policy::Limits,
        record::Recording,
    },
    config::{Config, DockerHost, UnknownThreads},
    docker::{Docker, Looking},
    failure::{Dependency, Failure},
    health::Health,
    host::Host,
    journal::Journal,
    store::{Store, locking},
};

/// The lease whose holder sweeps; the only host, or what is on none of several.
pub(crate) const SWEEP_LEASE: &str = "sweep";
/// Connections to the database besides two per removal in flight: a sweep's marks and reads, probe, and the lock of a
/// migration.
const SPARE_CONNECTIONS: u32 = 6;
/// Connections for each further Docker host: their statements are short, and their removals are not.
const CONNECTIONS_A_HOST: u32 = 2;
/// The most that many hosts make it: PostgreSQL allows a hundred by default, to all replicas together.
const MOST_CONNECTIONS: u32 = 40;

pub(crate) async fn store(config: &Config) -> Result<Store, Failure> {
    store_for(config, person()).await
}

/// The database for what this person asks for.
pub(crate) async fn store_for(config: &Config, person: String) -> Result<Store, Failure> {
    let threads = config.threads.clone();
    let store = Store::new(&config.database_url, threads, config.replica.clone(), connections(config)).await?;
    let store = store.announcing(config.removed_exchange.is_some());
    Ok(store.with_hosts(config.host_names()).acting_for(person))
}

pub(crate) fn connections(config: &Config) -> u32 {
    let of_one = 2 * u32::from(config.concurrency) + SPARE_CONNECTIONS;
    let others = u32::try_from(config.docker_hosts.len() - 1).unwrap_or(u32::MAX);
    of_one.saturating_add(CONNECTIONS_A_HOST.saturating_mul(others)).min(of_one.max(MOST_CONNECTIONS))
}

/// The database for commands that only look: nothing is made or migrated on the way.
pub(crate) async fn store_to_look_at(config: &Config) -> Result<Store, Failure> {
    let store = Store::to_look_at(&config.database_url, config.threads.clone()).await;
    let store = store.map_err(|error| Failure::unavailable(Dependency::Database, error.to_string()))?;
    Ok(store.with_hosts(config.host_names()))
}

pub(crate) fn docker(config: &Config, host: &DockerHost) -> Docker {
    let docker = Docker::new(host.endpoint.clone(), config.docker_timeout);
    match host.name.name() {
        None => docker,
        Some(name) => docker.named(name.to_owned()),
    }
}

/// A Docker daemon as the clean-up asks it, and the adapter itself: a dry run decorates it.
pub(crate) trait DockerPort: Volumes + FreedVolumes + AsRef<Docker> {}

impl<V: Volumes + FreedVolumes + AsRef<Docker>> DockerPort for V {}

/// The database as the clean-up asks it, and the adapter itself: a dry run and unknown threads decorate it.
pub(crate) trait DatabasePort: Database + AsRef<Store> {}

impl<T: Database + AsRef<Store>> DatabasePort for T {}

/// The database for commands that look, and may take long: it refuses to be written to.
pub(crate) async fn read_only_store(config: &Config) -> Result<Store, Failure> {
    let store = Store::read_only(&config.database_url, config.threads.clone(), connections(config)).await?;
    Ok(store.with_hosts(config.host_names()))
}

/// The hosts for commands that look.
pub(crate) async fn read_only_fleet(config: &Config, health: &Health) -> Result<Fleet<Docker, Store>, Failure> {
    Ok(fleet_of(config, health, read_only_store(config).await?, |host| docker(config, host)))
}

pub(crate) async fn fleet(config: &Config, health: &Health) -> Result<Fleet<Docker, Store>, Failure> {
    Ok(fleet_of(config, health, store(config).await?, |host| docker(config, host)))
}

/// The hosts for what this person asks for.
pub(crate) async fn fleet_for(
    config: &Config,
    health: &Health,
    person: String,
) -> Result<Fleet<Docker, Store>, Failure> {
    Ok(fleet_of(config, health, store_for(config, person).await?, |host| docker(config, host)))
}

/// The hosts where threads are known from events alone.
pub(crate) async fn recording_fleet(
    config: &Config,
    health: &Health,
) -> Result<Fleet<Docker, Recording<Store>>, Failure> {
    Ok(fleet_of(config, health, Recording::new(store(config).await?), |host| docker(config, host)))
}

/// The hosts of a dry run: neither Docker nor the database is changed, and the journal has what would have been.
pub(crate) async fn dry_fleet(
    config: &Config,
    health: &Health,
    journal: Journal,
) -> Result<Fleet<Looking, DryRun<Store>>, Failure> {
    let threads = DryRun::new(read_only_store(config).await?, journal);
    Ok(fleet_of(config, health, threads, |host| Looking::new(docker(config, host))))
}

pub(crate) fn fleet_of<V: Volumes, T: Database>(
    config: &Config,
    health: &Health,
    threads: T,
    docker: impl Fn(&DockerHost) -> V,
) -> Fleet<V, T> {
    let (prefix, limits) = (
        config.volume_names.clone(),
        Limits { locking: locking(&config.database_url, config.lock_limit), timeout: config.docker_timeout },
    );
    let context = Arc::new(Context::new(threads, prefix, config.policy, limits));
    let cleaner = |host: &DockerHost| {
        Arc::new(Cleaner::new(host.name.clone(), docker(host), host.concurrency, Arc::clone(&context)))
    };
    Fleet::new(config.docker_hosts.iter().map(cleaner).collect(), health, config.prefetch)
}

/// The lease whose holder sweeps a host.
pub(crate) fn sweep_lease(host: &Host) -> String {
    host.name().map_or_else(|| SWEEP_LEASE.to_owned(), |name| format!("{SWEEP_LEASE}/{name}"))
}

/// Whether the database answers and has our schema; brings it up to date if the configuration says so.
pub(crate) async fn prepare_database(store: &Store, config: &Config) -> Result<(), Failure> {
    if config.migrate {
        store.migrate_up().await?;
    }
    require_schema(store, config).await
}

/// Whether the database answers and has our schema. Changes nothing.
pub(crate) async fn require_schema(store: &Store, config: &Config) -> Result<(), Failure> {
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
pub(crate) async fn prepare_dry_run(store: &Store, config: &Config) -> Result<(), Failure> {
    if store.migration_status().await?.iter().any(|migration| migration.applied) {
        return require_schema(store, config).await;
    }
    store.expect_nothing_of_ours();
    check_threads(store, config).await
}

/// Whether the threads table is as the configuration describes it, and ours to write if it says so.
pub(crate) async fn check_threads(store: &Store, config: &Config) -> Result<(), Failure> {
    store.check_threads().await?;
    match config.unknown_threads {
        UnknownThreads::Reject => Ok(()),
        UnknownThreads::Record => store.can_record().await,
    }
}

/// Whether the daemon answers and is the one that the database knows; the first one ever is pinned.
pub(crate) async fn prepare_docker<V: DockerPort, T: DatabasePort>(cleaner: &Cleaner<V, T>) -> Result<(), Failure> {
    let (docker, store) = (cleaner.volumes.as_ref(), cleaner.threads().as_ref());
    let identity = docker.identify().await?;
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
    docker.pin(identity);
    Ok(())
}

/// Who started this process, as far as the system says: for the audit trail.
pub(crate) fn person() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    let mut names = names.filter(|name| !name.is_empty());
    let id = || std::fs::metadata("/proc/self").map_or("unknown".to_owned(), |own| format!("user {}", own.uid()));
    names.next().unwrap_or_else(id)
}

/// Why what a person asked for was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It can't be meant so.
    #[error("{0}")]
    Invalid(String),
    /// What it is about is not there.
    #[error("{0}")]
    NotThere(String),
    /// Things are not as they were taken to be.
    #[error("{0}")]
    Conflict(String),
    /// A dependency failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(failure) => failure,
            Refusal::Invalid(what) | Refusal::NotThere(what) | Refusal::Conflict(what) => Self::permanent(what),
        }
    }
}
