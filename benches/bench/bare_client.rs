//! The fastest client that the daemon can have: connections that are kept, and a removal after the other on each.

use std::time::Instant;

use axum::body::Body;
use hyper::{
    Method, Request,
    client::conn::http1::{SendRequest, handshake},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::UnixStream, sync::Semaphore, task::JoinSet};

use crate::{
    processes::Used,
    setup::{IN_FLIGHT, Result, float, rate, variable},
};

/// Removals a second, and the daemon's processor time for each in milliseconds.
pub(crate) async fn remove(names: &[String]) -> Result<(f64, f64)> {
    let socket = socket()?;
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
    let mut connection = Connection::open(socket).await?;
    for name in names {
        connection.remove(&name).await?;
    }
    Ok(())
}

/// As many connections as there are removals in flight, for whoever removes.
pub(crate) struct Connections {
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Connections {
    pub(crate) async fn open() -> Result<Self> {
        let mut idle = Vec::new();
        for _ in 0..IN_FLIGHT {
            idle.push(Connection::open(socket()?).await?);
        }
        Ok(Self { permits: Semaphore::new(IN_FLIGHT), idle: Mutex::new(idle) })
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let _permit = self.permits.acquire().await?;
        let mut connection = self.idle.lock().pop().ok_or("more removals than connections")?;
        connection.remove(name).await?;
        self.idle.lock().push(connection);
        Ok(())
    }
}

struct Connection {
    requests: SendRequest<Body>,
}

impl Connection {
    async fn open(socket: String) -> std::result::Result<Self, String> {
        let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends with the requests; what breaks it, they tell.
        tokio::spawn(connection);
        Ok(Self { requests })
    }

    async fn remove(&mut self, name: &str) -> std::result::Result<(), String> {
        let request = Request::builder()
            .method(Method::DELETE)
            .uri(format!("/volumes/{name}"))
            .header(HOST, "docker")
            .body(Body::empty())
            .map_err(|error| error.to_string())?;
        self.requests.ready().await.map_err(|error| error.to_string())?;
        let answer = self.requests.send_request(request).await.map_err(|error| error.to_string())?;
        if answer.status() == 204 { Ok(()) } else { Err(format!("{name}: {}", answer.status())) }
    }
}

fn socket() -> Result<String> {
    Ok(variable("DOCKER_HOST")?.trim_start_matches("unix://").to_owned())
}
