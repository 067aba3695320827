//! The fastest client that the daemon can have: connections that are kept, and a removal after the other on each.

use std::time::Instant;

use axum::body::Body;
use hyper::{Method, Request, client::conn::http1::handshake, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, task::JoinSet};

use crate::{
    processes::Used,
    setup::{IN_FLIGHT, Result, float, rate, variable},
};

/// Removals a second, and the daemon's processor time for each in milliseconds.
pub(crate) async fn remove(names: &[String]) -> Result<(f64, f64)> {
    let socket = variable("DOCKER_HOST")?.trim_start_matches("unix://").to_owned();
    let before = Used::now(&[])?;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..IN_FLIGHT {
        let mine: Vec<_> = names.iter().skip(client).step_by(IN_FLIGHT).cloned().collect();
        clients.spawn(remove_over_one_connection(socket.clone(), mine));
    }
    while let Some(done) = clients.join_next().await {
        done?.map_err(|error| format!("the daemon alone: {error}"))?;
    }
    let took = began.elapsed();
    let used = Used::now(&[])?.since(before).docker();
    Ok((rate(names.len(), took), used.as_secs_f64() * 1000.0 / float(names.len() as u64)))
}

async fn remove_over_one_connection(socket: String, names: Vec<String>) -> std::result::Result<(), String> {
    let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
    let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driving = tokio::spawn(connection);
    for name in names {
        let request = Request::builder()
            .method(Method::DELETE)
            .uri(format!("/volumes/{name}"))
            .header(HOST, "docker")
            .body(Body::empty())
            .map_err(|error| error.to_string())?;
        requests.ready().await.map_err(|error| error.to_string())?;
        let answer = requests.send_request(request).await.map_err(|error| error.to_string())?;
        if answer.status() != 204 {
            return Err(format!("{name}: {}", answer.status()));
        }
    }
    drop(requests);
    driving.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
