//! Live, ready and metrics, on one local port.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, HostStatus, Status};

#[derive(Clone)]
struct Shared {
    health: Arc<Health>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
}

/// What `/readyz` says.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// We were told to stop and finish what is in flight.
    stopping: bool,
    dependencies: BTreeMap<&'static str, Status>,
    /// The Docker hosts, where there are several. Ready is who has one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostStatus>,
    /// What can't do its work although all dependencies answer, and why. Others may do it, so who is degraded is ready.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    degraded: BTreeMap<String, String>,
}

/// Serves until `done` is cancelled. `stop` says that we are about to end, which `/readyz` tells.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
    done: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(|State(shared): State<Shared>| async move { shared.metrics.render() }))
        .with_state(Shared { health, metrics, stop });
    axum::serve(listener, router).with_graceful_shutdown(async move { done.cancelled().await }).await
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
