//! `health`: for images without another HTTP client.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::output::say;
use crate::{config::Config, failure::Failure};

/// It answers from memory.
const LIMIT: Duration = Duration::from_secs(5);
/// The reasons of `/readyz` are some hundred bytes.
const MOST_BYTES: u64 = 64 * 1024;

pub(super) async fn run(config: &Config, ready: bool) -> Result<ExitCode, Failure> {
    if config.http_addr.port() == 0 {
        return Err(Failure::permanent(format!(
            "VOLUME_REAPER_HTTP_ADDR is {}, a port of the system's choice: name one, so that it is known where to ask",
            config.http_addr
        )));
    }
    let (address, path) = (reachable(config.http_addr), if ready { "/readyz" } else { "/livez" });
    let answer = timeout(LIMIT, get(address, path)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let answer = answer.map_err(|error| Failure::permanent(format!("http://{address}{path}: {error}")))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    say(body.trim_end())?;
    let is_ok = head.split(' ').nth(1) == Some("200");
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The address of who listens on all of them.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let mut address = listening;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    // Whoever else listens there may have more to say.
    stream.take(MOST_BYTES).read_to_string(&mut answer).await?;
    Ok(answer)
}
