//! `serve`: consumer, reconciler, probes and HTTP in one process, until a signal.

use std::{process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{coordinator, prepare_database, prepare_docker};
use crate::{
    config::Config,
    consumer::Consumer,
    coordinator::Coordinator,
    docker::Docker,
    failure::{Dependency, Failure, Verdict},
    health::Health,
    http, metrics,
    queue::{Publisher, Queues, Subscription},
    reconciler::Reconciler,
    store::Store,
};

/// Serves until SIGTERM or SIGINT. Fails if a part can't start or ends by itself.
pub(super) async fn run(config: Config) -> Result<ExitCode, Failure> {
    let recorder = metrics::install().map_err(|error| Failure::permanent(format!("metrics: {error}")))?;
    let listener = TcpListener::bind(config.http_addr)
        .await
        .map_err(|error| Failure::permanent(format!("can't listen on {}: {error}", config.http_addr)))?;
    let http = listener.local_addr().unwrap_or(config.http_addr);
    let coordinator = Arc::new(coordinator(&config).await?);
    let health = Arc::new(Health::new());
    let config = Arc::new(config);
    info!(
        version = env!("CARGO_PKG_VERSION"), replica = config.replica, %http,
        broker = %config.amqp_url, database = %config.database_url, docker = %config.docker_host, "starting"
    );

    // `stop`: take nothing new and finish. `abort`: drop what is in flight. `done`: the last ones may go too.
    let (stop, abort, done) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let signals = tokio::spawn(signals(stop.clone(), abort.clone(), config.shutdown_grace));

    let queues = Queues::new(&config);
    let subscription = Subscription {
        publisher: Arc::new(Publisher::new(queues.clone())),
        queues,
        consumer: Arc::new(Consumer {
            coordinator: Arc::clone(&coordinator),
            health: Arc::clone(&health),
            retry_delays: config.retry_delays.clone(),
        }),
        health: Arc::clone(&health),
        prefetch: config.prefetch,
        concurrency: config.concurrency,
    };
    let reconciler = Reconciler::new(Arc::clone(&coordinator), Arc::clone(&health), config.reconcile_cooldown);

    let mut consuming = tokio::spawn({
        let (stop, abort) = (stop.clone(), abort.clone());
        async move { subscription.run(&stop, &abort).await }
    });
    let mut sweeping = tokio::spawn({
        let (stop, abort, interval) = (stop.clone(), abort.clone(), config.reconcile_interval);
        async move {
            tokio::select! {
                () = reconciler.run(interval, &stop) => {}
                // The next sweep takes up what this one leaves.
                () = abort.cancelled() => {}
            }
            Ok(())
        }
    });
    let mut probing_database = tokio::spawn({
        let (coordinator, health, config) = (Arc::clone(&coordinator), Arc::clone(&health), Arc::clone(&config));
        async move {
            health.watch(Dependency::Database, || probe_database(&coordinator, &config)).await;
            Ok(())
        }
    });
    let mut probing_docker = tokio::spawn({
        let (coordinator, health) = (Arc::clone(&coordinator), Arc::clone(&health));
        async move {
            health.watch(Dependency::Docker, || probe_docker(&coordinator, &health)).await;
            Ok(())
        }
    });
    let mut serving = tokio::spawn({
        let served = http::serve(listener, Arc::clone(&health), recorder, stop.clone(), done.clone());
        async move { served.await.map_err(|error| Failure::permanent(format!("http: {error}"))) }
    });

    let ended_early = tokio::select! {
        // First, because a part that was told to stop ends too.
        biased;
        () = stop.cancelled() => None,
        ended = &mut consuming => Some(early("consumer", ended)),
        ended = &mut sweeping => Some(early("reconciler", ended)),
        ended = &mut probing_database => Some(early("database probe", ended)),
        ended = &mut probing_docker => Some(early("docker probe", ended)),
        ended = &mut serving => Some(early("http", ended)),
    };
    stop.cancel();
    if ended_early.is_some() {
        abort.cancel();
    }
    for task in [&mut consuming, &mut sweeping] {
        finish(task).await;
    }
    for probe in [&probing_database, &probing_docker] {
        probe.abort();
    }
    done.cancel();
    finish(&mut serving).await;
    signals.abort();
    if let Err(error) = coordinator.threads.close().await {
        warn!(%error, "the database was not closed cleanly");
    }
    info!("stopped");
    ended_early.map_or(Ok(ExitCode::SUCCESS), Err)
}

async fn probe_database(coordinator: &Coordinator<Docker, Store>, config: &Config) -> Result<(), Failure> {
    prepare_database(&coordinator.threads, config).await?;
    coordinator.threads.ping().await
}

async fn probe_docker(coordinator: &Coordinator<Docker, Store>, health: &Health) -> Result<(), Failure> {
    match prepare_docker(coordinator).await {
        // Not Docker's fault, and nothing can be done about volumes without the database anyway.
        Err(Failure { verdict: Verdict::Unavailable(Dependency::Database), .. }) => {
            health.until_up(&[Dependency::Database]).await;
            prepare_docker(coordinator).await
        }
        result => result,
    }
}

type Ended = Result<Result<(), Failure>, tokio::task::JoinError>;

/// What to say of a part that ended although nobody told it to.
fn early(part: &str, ended: Ended) -> Failure {
    match ended {
        Ok(Ok(())) => Failure::permanent(format!("the {part} ended by itself")),
        Ok(Err(failure)) => failure,
        Err(error) => Failure::permanent(format!("the {part} failed: {error}")),
    }
}

/// Waits for a task that was told to stop; one that has ended before was reported then.
async fn finish(task: &mut JoinHandle<Result<(), Failure>>) {
    if !task.is_finished() {
        let _ = task.await;
    }
}

/// The first signal stops, the second one or the end of the grace period aborts.
async fn signals(stop: CancellationToken, abort: CancellationToken, grace: Duration) {
    let listen = |kind| signal(kind).expect("signals can be listened to within a runtime");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    let mut next = async || tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
    let first = next().await;
    info!(signal = first, grace = %humantime::format_duration(grace), "stopping: finishing what is in flight");
    stop.cancel();
    if let Ok(second) = tokio::time::timeout(grace, next()).await {
        warn!(signal = second, "stopping at once");
    } else {
        warn!("the grace period is over, stopping at once");
    }
    abort.cancel();
}
