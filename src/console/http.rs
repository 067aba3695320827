//! The server: live, ready and metrics for everybody, and what the console answers, on one port.
//!
//! Whoever opens connections takes nothing from anybody else: they have a number and a time. The oldest one makes room
//! for a newer one, so that a question is answered however many others are open that never ask.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub use super::Console;
use super::router::routes;
use crate::{
    health::{Health, HostStatus, Status},
    metrics,
};

/// For answers that are on their way when the service ends. They come from memory.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Until a connection is taken again after there were no descriptors for one.
const WAIT_FOR_DESCRIPTORS: Duration = Duration::from_secs(1);

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// How many there are at most.
    pub count: usize,
    /// How long each may take, from its first byte to the last.
    pub time: Duration,
}

#[derive(Clone)]
struct Shared {
    health: Arc<Health>,
    recorder: PrometheusHandle,
    stop: CancellationToken,
}

/// What `/readyz` says.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// We were asked to stop and finish what is in flight.
    stopping: bool,
    dependencies: BTreeMap<&'static str, Status>,
    /// The Docker hosts, where there are several. Ready is who has one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostStatus>,
    /// What can't do its work although all dependencies answer, and why. Others may do it, so who is degraded is ready.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    degraded: BTreeMap<String, String>,
}

/// Serves until `done` is cancelled. `stop` says that we are about to end, which `/readyz` reports.
pub async fn serve(
    listener: TcpListener,
    limits: ConnectionLimits,
    health: Arc<Health>,
    recorder: PrometheusHandle,
    console: Arc<Console>,
    stop: CancellationToken,
    done: CancellationToken,
) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(|State(shared): State<Shared>| async move { metrics::render(&shared.recorder) }))
        .with_state(Shared { health, recorder, stop })
        .merge(routes(Arc::clone(&console)));
    let mut connections = Connections { limits, tasks: JoinSet::new(), by_age: VecDeque::new() };
    loop {
        tokio::select! {
            biased;
            () = done.cancelled() => break,
            () = connections.one_ended(), if !connections.tasks.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.serve(stream, router.clone()).await,
                Err(error) => refused(&error).await,
            },
        }
    }
    drop(listener);
    console.closing.cancel();
    let answered = async { while connections.tasks.join_next().await.is_some() {} };
    // Who has not asked by now, or does not read, is not waited for.
    let _ = timeout(LAST_ANSWERS, answered).await;
    connections.tasks.shutdown().await;
}

/// A connection was not to be had: its client has gone, or there are no descriptors left.
async fn refused(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        warn!(%error, "no HTTP connection can be taken for the moment");
        tokio::time::sleep(WAIT_FOR_DESCRIPTORS).await;
    }
}

/// The connections that are open.
struct Connections {
    limits: ConnectionLimits,
    tasks: JoinSet<()>,
    /// The oldest first.
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    /// Serves one request, and closes the oldest connections that it has no room beside.
    async fn serve(&mut self, stream: TcpStream, router: Router) {
        while self.tasks.len() >= self.limits.count {
            if let Some(oldest) = self.by_age.pop_front() {
                oldest.abort();
            }
            self.one_ended().await;
        }
        // One request each: who wants to ask again connects again, and holds nothing meanwhile.
        let served = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let time = self.limits.time;
        self.by_age.push_back(self.tasks.spawn(async move {
            // How it ended is its client's affair.
            let _ = timeout(time, served).await;
        }));
    }

    async fn one_ended(&mut self) {
        if let Some(Err(error)) = self.tasks.join_next().await
            && error.is_panic()
        {
            error!(%error, "an answer over HTTP failed");
        }
        self.by_age.retain(|connection| !connection.is_finished());
    }
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    let statuses = shared.health.statuses();
    let stopping = shared.stop.is_cancelled();
    let ready = !stopping && statuses.iter().all(|(_, status)| status.up);
    let dependencies = statuses.into_iter().map(|(dependency, status)| (dependency.as_str(), status)).collect();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (hosts, degraded) = (shared.health.hosts(), shared.health.degraded());
    (code, Json(Readiness { ready, stopping, dependencies, hosts, degraded }))
}
