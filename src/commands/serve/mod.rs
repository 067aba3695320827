//! `serve`: consumer, sweeps, lease, probes and HTTP in one process, until a signal.

mod announcing;
mod history;
mod host_parts;
mod last_steps;
pub mod leader;
mod queue_counts;
mod signals;

use std::{process::ExitCode, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinError, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Instrument, error_span, info, warn};

use self::{host_parts::Host, signals::Signals};
use crate::{
    cleanup::fleet::Fleet,
    config::{Config, DockerHost, UnknownThreads},
    console::http::{self, ConnectionLimits, Console},
    delivery::consumer::Consumer,
    failure::{Dependency, Failure},
    health::Health,
    journal::Journal,
    metrics,
    operations::{
        DatabasePort, DockerPort, SWEEP_LEASE, dry_fleet, fleet, prepare_database, prepare_dry_run, recording_fleet,
    },
    queue::{Publisher, Queues, Subscription},
    store::Store,
    sweep::{Schedule, Unplaced},
};

/// Serves until SIGTERM or SIGINT. Fails if a part can't start or ends by itself.
pub(super) async fn run(config: Config) -> Result<ExitCode, Failure> {
    let outside = Outside::begin()?;
    let health = Health::of_hosts(config.host_names());
    let queues = Queues::new(&config);
    match config.unknown_threads {
        UnknownThreads::Reject => {
            let fleet = fleet(&config, &health).await?;
            serve(config, outside, fleet, health, queues, false).await
        }
        UnknownThreads::Record => {
            let fleet = recording_fleet(&config, &health).await?;
            serve(config, outside, fleet, health, queues, false).await
        }
    }
}

/// Serves with a copy of the events, with nothing changed anywhere, and a journal on standard output.
pub(super) async fn dry_run(config: Config) -> Result<ExitCode, Failure> {
    let outside = Outside::begin()?;
    if config.unknown_threads == UnknownThreads::Record {
        return Err(Failure::permanent(
            "VOLUME_REAPER_UNKNOWN_THREADS=record writes the threads that it decides on, so there is no dry run of it: \
             leave it out",
        ));
    }
    let health = Health::of_hosts(config.host_names());
    let fleet = dry_fleet(&config, &health, Journal::new(std::io::stdout())).await?;
    let queues = Queues::copies(&config);
    // What would be migrated is said by `migrate up --dry-run`.
    let config = Config { migrate: false, ..config };
    serve(config, outside, fleet, health, queues, true).instrument(error_span!("dry_run")).await
}

async fn serve<V: DockerPort, T: DatabasePort>(
    config: Config,
    Outside { signals, recorder }: Outside,
    fleet: Fleet<V, T>,
    health: Health,
    queues: Queues,
    is_dry_run: bool,
) -> Result<ExitCode, Failure> {
    let listener = TcpListener::bind(config.http_addr)
        .await
        .map_err(|error| Failure::permanent(format!("can't listen on {}: {error}", config.http_addr)))?;
    info!(
        version = crate::build_info::one_line(), replica = config.replica,
        http = %listener.local_addr().unwrap_or(config.http_addr),
        broker = %config.amqp_url, database = %config.database_url, docker = %DockerHost::listed(&config.docker_hosts),
        "starting"
    );
    let process = Arc::new(Process {
        fleet: Arc::new(fleet),
        queues,
        is_dry_run,
        health: Arc::new(health),
        config,
        stop: CancellationToken::new(),
        abort: CancellationToken::new(),
        done: CancellationToken::new(),
    });
    let obeying = tokio::spawn(Arc::clone(&process).obey(signals).in_current_span());
    let mut obeying = AbortOnDropHandle::new(obeying);

    let mut work = JoinSet::new();
    let mut services = JoinSet::new();
    work.spawn(Arc::clone(&process).consume().in_current_span());
    services.spawn(Arc::clone(&process).probe_database().in_current_span());
    services.spawn(Arc::clone(&process).serve_http(listener, recorder).in_current_span());
    // Who sweeps the only host, or else what is on none of several, does what only one may do.
    let leads_all = watch::Sender::new(false);
    if !process.is_dry_run {
        history::spawn(&process, &leads_all, &mut work);
    }
    // Each host has its own parts, so that none waits for another.
    for number in 0..process.fleet.workers().len() {
        let host = Host { process: Arc::clone(&process), number };
        let is_only = process.fleet.only().is_some();
        let (is_leader, span) = (if is_only { leads_all.clone() } else { watch::Sender::new(false) }, host.span());
        work.spawn(host.clone().sweep(is_leader.subscribe()).instrument(span.clone()));
        work.spawn(host.clone().measure(is_leader.subscribe()).instrument(span.clone()));
        work.spawn(host.clone().lead(is_leader).instrument(span.clone()));
        work.spawn(host.clone().clean_released().instrument(span.clone()));
        services.spawn(host.clone().probe_docker().instrument(span.clone()));
        services.spawn(host.follow_docker().instrument(span));
    }
    if process.fleet.only().is_none() {
        work.spawn(Arc::clone(&process).sweep_unplaced(leads_all.subscribe()).in_current_span());
        work.spawn(Arc::clone(&process).lead(SWEEP_LEASE.to_owned(), leads_all).in_current_span());
    }

    let ended_early = tokio::select! {
        // First, because a part that was asked to stop ends too.
        biased;
        () = process.stop.cancelled() => Ok(()),
        Some(ended) = work.join_next() => Err(early(ended)),
        Some(ended) = services.join_next() => Err(early(ended)),
        ended = &mut obeying => Err(early(ended.map(Ok))),
    };
    process.stop.cancel();
    if ended_early.is_err() {
        process.abort.cancel();
    }
    process.end(work, services).await;
    drop(obeying);
    info!("stopped");
    ended_early.map(|()| ExitCode::SUCCESS)
}

/// What to say of a part that ended although nobody asked it to.
fn early(ended: Result<Result<(), Failure>, JoinError>) -> Failure {
    match ended {
        Ok(Ok(())) => Failure::permanent("a part of the program ended by itself"),
        Ok(Err(failure)) => failure,
        Err(error) => Failure::permanent(format!("a part of the program failed: {error}")),
    }
}

/// What has to be there before any other part.
struct Outside {
    signals: Signals,
    recorder: PrometheusHandle,
}

impl Outside {
    fn begin() -> Result<Self, Failure> {
        // First: without a handler, SIGTERM ends a process at once, or not at all if it is a container's first.
        let signals = Signals::listen();
        // Who sets a metric before that, sets none.
        let recorder = metrics::install().map_err(|error| Failure::permanent(format!("metrics: {error}")))?;
        Ok(Self { signals, recorder })
    }
}

/// What the parts share.
struct Process<V, T> {
    config: Config,
    fleet: Arc<Fleet<V, T>>,
    queues: Queues,
    /// Nothing is written, and no lease is taken.
    is_dry_run: bool,
    health: Arc<Health>,
    /// Take nothing new and finish what is in flight.
    stop: CancellationToken,
    /// Drop what is in flight.
    abort: CancellationToken,
    /// The last ones may go too.
    done: CancellationToken,
}

impl<V: DockerPort, T: DatabasePort> Process<V, T> {
    fn store(&self) -> &Store {
        self.fleet.threads().as_ref()
    }

    async fn consume(self: Arc<Self>) -> Result<(), Failure> {
        let queues = self.queues.clone();
        let subscription = Subscription {
            publisher: Arc::new(Publisher::new(queues.clone())),
            queues,
            consumer: Arc::new(Consumer {
                fleet: Arc::clone(&self.fleet),
                health: Arc::clone(&self.health),
                retry_delays: self.config.retry_delays.clone(),
            }),
            health: Arc::clone(&self.health),
            prefetch: self.config.prefetch,
        };
        Box::pin(subscription.run(&self.stop, &self.abort)).await
    }

    async fn sweep_unplaced(self: Arc<Self>, is_leader: watch::Receiver<bool>) -> Result<(), Failure> {
        let one_of_several = self.config.host.is_some();
        let unplaced = Unplaced::new(Arc::clone(&self.fleet), Arc::clone(&self.health), one_of_several);
        tokio::select! {
            () = unplaced.run(self.schedule(is_leader)) => {}
            // The next sweep takes up what this one leaves.
            () = self.abort.cancelled() => {}
        }
        Ok(())
    }

    fn schedule(&self, is_leader: watch::Receiver<bool>) -> Schedule {
        Schedule { interval: self.config.reconcile_interval, is_leader, stop: self.stop.clone() }
    }

    async fn lead(self: Arc<Self>, lease: String, is_leader: watch::Sender<bool>) -> Result<(), Failure> {
        if self.is_dry_run {
            // Who only looks does not have to be alone, and can't take the lease.
            is_leader.send_replace(true);
            metrics::leads(leader::host_of(&lease), Some(DateTime::<Utc>::MAX_UTC));
            self.stop.cancelled().await;
            return Ok(());
        }
        // Unlike the replica's name, which two may share by mistake.
        let holder = format!("{}/{}", self.config.replica, uuid::Uuid::new_v4());
        tokio::select! {
            () = self.health.until_up(&[Dependency::Database]) => {
                leader::keep(self.store(), &self.health, &lease, &holder, &is_leader, &self.stop).await;
            }
            () = self.stop.cancelled() => {}
        }
        Ok(())
    }

    async fn probe_database(self: Arc<Self>) -> Result<(), Failure> {
        let probe = async || {
            if self.is_dry_run {
                prepare_dry_run(self.store(), &self.config).await?;
            } else {
                prepare_database(self.store(), &self.config).await?;
            }
            self.store().ping().await?;
            if !self.is_dry_run && !self.health.is_up(Dependency::Database) {
                self.store().check_rights().await?;
            }
            // So that the metric is true on a replica without work too.
            for worker in self.fleet.workers() {
                worker.cleaner.look_for_pause().await?;
            }
            Ok(())
        };
        tokio::select! {
            () = self.health.watch(Dependency::Database, probe) => {}
            () = self.done.cancelled() => {}
        }
        Ok(())
    }

    async fn serve_http(self: Arc<Self>, listener: TcpListener, recorder: PrometheusHandle) -> Result<(), Failure> {
        let limits = ConnectionLimits { count: self.config.http_connections.into(), time: self.config.http_timeout };
        let (health, stop) = (Arc::clone(&self.health), self.stop.clone());
        let console = Arc::new(Console::new(self.config.clone(), &listener, self.is_dry_run));
        tokio::select! {
            () = metrics::keep_up(recorder.clone()) => {}
            () = http::serve(listener, limits, health, recorder, console, stop, self.done.clone()) => {}
            () = async { self.done.cancelled().await; self.abort.cancelled().await } => {}
        }
        Ok(())
    }

    /// The first signal stops, the second one or the end of the grace period aborts.
    async fn obey(self: Arc<Self>, mut signals: Signals) {
        let first = signals.next().await;
        let grace: Duration = self.config.shutdown_grace;
        info!(signal = first, grace = %humantime::format_duration(grace), "stopping: finishing what is in flight");
        self.stop.cancel();
        if let Ok(second) = tokio::time::timeout(grace, signals.next()).await {
            warn!(signal = second, "stopping at once");
        } else {
            warn!("the grace period is over, stopping at once");
        }
        self.abort.cancel();
    }
}
