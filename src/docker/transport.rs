//! Connections to the daemon: over its socket, TCP, TCP with TLS, or the program `ssh`.

use std::{
    io,
    pin::Pin,
    process::Stdio,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};
use tokio_rustls::TlsConnector;

use crate::{config::Endpoint, tls::ServerName};

/// What is kept of what `ssh` says on its standard error.
const LONGEST_COMPLAINT: usize = 4096;

/// Bytes to and from the daemon.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens a connection.
pub(super) async fn connect(endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
    Ok(match endpoint {
        Endpoint::Unix(path) => Box::new(unix(path).await?),
        Endpoint::Tcp(address) => Box::new(tcp(address).await?),
        // With our own trust in certificates, which is in no authority but Docker's own.
        Endpoint::Tls(address, files) => {
            let tls = TlsConnector::from(Arc::new(files.client_config().map_err(io::Error::other)?));
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
            Box::new(tls.connect(name, tcp(address).await?).await?)
        }
        Endpoint::Ssh(address) => Box::new(Ssh::start(address)?),
    })
}

async fn unix(path: &str) -> io::Result<UnixStream> {
    UnixStream::connect(path).await.map_err(|error| {
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        if is_missing { io::Error::new(error.kind(), format!("Socket not found: {path}")) } else { error }
    })
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Requests are single small packets, and each waits for its answer.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A program `ssh` that runs `docker system dial-stdio` on the other host, which passes bytes on to the daemon there.
struct Ssh {
    /// Killed when this is dropped.
    _program: Child,
    to: ChildStdin,
    from: ChildStdout,
    complaints: ChildStderr,
    complaint: Vec<u8>,
    has_answered: bool,
}

impl Ssh {
    fn start(address: &str) -> io::Result<Self> {
        let mut ssh = Command::new("ssh");
        // Nobody is there to be asked for a password, or whether a new host is the right one.
        ssh.args(["-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "--", address]);
        ssh.args(["docker", "system", "dial-stdio"]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut program = ssh.spawn().map_err(|error| io::Error::new(error.kind(), format!("ssh: {error}")))?;
        let (to, from, complaints) = (program.stdin.take(), program.stdout.take(), program.stderr.take());
        let (Some(to), Some(from), Some(complaints)) = (to, from, complaints) else {
            return Err(io::Error::other("ssh has no standard streams"));
        };
        Ok(Self { _program: program, to, from, complaints, complaint: Vec::new(), has_answered: false })
    }

    /// What `ssh` said before it ended, in its last line: why there is no connection.
    fn poll_complaint(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let mut bytes = [0; 512];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.complaints).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() || self.complaint.len() >= LONGEST_COMPLAINT {
                let said = String::from_utf8_lossy(&self.complaint);
                let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it ended");
                return Poll::Ready(io::Error::other(format!("ssh: {}", last.trim())));
            }
            self.complaint.extend_from_slice(buffer.filled());
        }
    }
}

impl AsyncRead for Ssh {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut self.from).poll_read(context, to))?;
        if to.filled().len() > before {
            self.has_answered = true;
        } else if !self.has_answered {
            return Poll::Ready(Err(ready!(self.poll_complaint(context))));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ssh {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.to).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(context)
    }
}
