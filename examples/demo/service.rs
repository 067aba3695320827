//! A `volume-reaper serve` as a child process, and what it says of itself over HTTP.

use std::{fs::OpenOptions, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{SOME_SWEEPS, SOON, Try, platform::Platform, soon, until};

/// A running service; killed if it is dropped.
pub(crate) struct Service {
    process: Child,
    http: String,
}

impl Service {
    /// Starts the service and waits until it is ready.
    pub(crate) async fn start(platform: &Platform) -> Try<Self> {
        // A port that was free a moment ago.
        let http = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let log = OpenOptions::new().create(true).append(true).open(platform.log())?;
        let mut command = platform.command("serve")?;
        command.env("VOLUME_REAPER_HTTP_ADDR", &http).stdin(Stdio::null()).stderr(log);
        let mut service = Self { process: command.spawn()?, http };
        let is_ready = async || match service.process.try_wait()? {
            Some(status) => Err(format!("the service ended: {status}").into()),
            None => Ok(service.get("/readyz").await.is_ok()),
        };
        let took = until("the service is ready", SOON, is_ready).await?;
        println!("   ok  ready after {took:.1?}: broker, database and Docker answer");
        Ok(service)
    }

    /// Where its console is.
    pub(crate) fn console(&self) -> String {
        format!("http://{}/", self.http)
    }

    /// SIGTERM; returns the exit code.
    pub(crate) async fn stop(&mut self) -> Try<Option<i32>> {
        let id = self.process.id().ok_or("the service has ended by itself")?;
        // The shell's own `kill`: the standard library knows no signal but SIGKILL.
        soon("kill", Command::new("sh").arg("-c").arg(format!("kill -s TERM {id}")).status()).await?;
        Ok(soon("the service's end", self.process.wait()).await?.code())
    }

    /// How often this process asked Docker to remove a volume, whatever the answer.
    pub(crate) async fn removal_requests(&self) -> Try<u64> {
        self.metric("volume_reaper_docker_requests_total{", r#"operation="remove_volume""#).await
    }

    pub(crate) async fn two_more_sweeps(&self) -> Try<Duration> {
        let sweeps = async || self.metric("volume_reaper_sweep_seconds_count", "").await;
        let enough = sweeps().await? + 2;
        until("two more sweeps", SOME_SWEEPS, async || Ok(sweeps().await? >= enough)).await
    }

    /// The sum of a metric over the series with this label.
    async fn metric(&self, name: &str, label: &str) -> Try<u64> {
        let metrics = self.get("/metrics").await?;
        let series = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// The response to a request, if it is 200.
    async fn get(&self, path: &str) -> Try<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.http).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut response = String::new();
            stream.read_to_string(&mut response).await.map(|_| response)
        };
        let response = soon("http", exchange).await?;
        let is_ok = response.split_whitespace().nth(1) == Some("200");
        if is_ok { Ok(response) } else { Err(response.lines().next().unwrap_or_default().into()) }
    }
}
