//! Links to the daemon: each is one connection that is kept, and used by one caller at a time.
//!
//! That an answer and the daemon's identity came over one connection is what makes the answer count, so a link numbers
//! its connections. Only a question opens one: a removal goes over a connection whose daemon has said who it is, and is
//! never sent twice without its caller's knowledge.

use std::{
    io,
    ops::Deref,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, BollardRequest, errors::Error};
use hyper::{
    Method, Request, Response,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::http1::{SendRequest, handshake},
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::transport::connect;
use crate::config::Endpoint;

/// bollard takes whole seconds and covers only the response's head; our own timeouts are the ones that count.
const CLIENT_TIMEOUT_SECS: u64 = 24 * 60 * 60;
/// After this an address that neither accepts nor refuses is taken to be down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Links that nobody uses are kept so long: what lies between may have forgotten a connection that is idle for longer.
const LONGEST_IDLE: Duration = Duration::from_mins(1);
/// So many links are kept; as many as anybody has removals in flight.
const MOST_IDLE: usize = 512;

/// The links that nobody uses just now.
pub(super) struct Links {
    endpoint: Endpoint,
    idle: Mutex<Vec<(Instant, Arc<Line>, bollard::Docker)>>,
}

impl Links {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::default() }
    }

    /// The link that was used last, or a new one, which connects when it is first asked something.
    pub(super) fn take(&self) -> Result<Link<'_>, Error> {
        let kept = {
            let mut idle = self.idle();
            idle.retain(|(since, ..)| since.elapsed() < LONGEST_IDLE);
            idle.pop()
        };
        let (line, client) = if let Some((_, line, client)) = kept {
            (line, client)
        } else {
            let line = Arc::new(Line::new(self.endpoint.clone()));
            let transport = {
                let line = Arc::clone(&line);
                move |request| {
                    let line = Arc::clone(&line);
                    async move { line.send(request).await }
                }
            };
            let address = Some("http://docker");
            let client = bollard::Docker::connect_with_custom_transport(
                transport,
                address,
                CLIENT_TIMEOUT_SECS,
                API_DEFAULT_VERSION,
            )?;
            (line, client)
        };
        Ok(Link { links: self, line, client, is_discarded: AtomicBool::new(false) })
    }

    /// Closes the connections that nobody uses.
    pub(super) fn close_idle(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, Arc<Line>, bollard::Docker)>> {
        self.idle.lock()
    }
}

/// A link that its owner has for itself.
pub(super) struct Link<'a> {
    links: &'a Links,
    line: Arc<Line>,
    client: bollard::Docker,
    is_discarded: AtomicBool,
}

impl Link<'_> {
    /// Asks what the client library can't read.
    pub(super) async fn get(&self, path: &'static str) -> Result<Response<Incoming>, Error> {
        let mut request = Request::new(NoBody);
        *request.uri_mut() = hyper::Uri::from_static(path);
        request.headers_mut().insert(HOST, self.line.host()?);
        self.line.send_ours(request).await
    }

    /// Its connection is not used again: another daemon is at its end.
    pub(super) fn discard(&self) {
        self.is_discarded.store(true, Ordering::Relaxed);
    }

    /// Which of the link's connections the latest request went over, counted from 1.
    pub(super) fn connection(&self) -> u64 {
        self.line.connection.load(Ordering::Relaxed)
    }

    /// The daemon on this connection is the pinned one.
    pub(super) fn set_proven(&self) {
        self.line.proven.store(self.connection(), Ordering::Relaxed);
    }

    /// The daemon on this connection said often who it is, and always the same.
    pub(super) fn set_asked_often(&self) {
        self.line.asked_often.store(self.connection(), Ordering::Relaxed);
    }

    /// Whether it did so on the connection that there is.
    pub(super) fn was_asked_often(&self) -> bool {
        self.line.asked_often.load(Ordering::Relaxed) == self.connection()
    }

    /// Whether there is a connection, and the daemon at its end is the pinned one.
    pub(super) fn is_proven(&self) -> bool {
        let is_open = |open: &Option<Connection>| open.as_ref().is_some_and(|open| !open.requests.is_closed());
        self.line.proven.load(Ordering::Relaxed) == self.connection()
            && self.line.open.try_lock().is_ok_and(|open| is_open(&open))
    }
}

impl Deref for Link<'_> {
    type Target = bollard::Docker;

    fn deref(&self) -> &bollard::Docker {
        &self.client
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        let mut idle = self.links.idle();
        if idle.len() < MOST_IDLE && !self.is_discarded.load(Ordering::Relaxed) {
            idle.push((Instant::now(), Arc::clone(&self.line), self.client.clone()));
        }
    }
}

/// What a link's client sends its requests over.
struct Line {
    endpoint: Endpoint,
    /// The connection, unless a request is on its way over it: one that is given up takes its connection along.
    open: tokio::sync::Mutex<Option<Connection>>,
    connection: AtomicU64,
    proven: AtomicU64,
    asked_often: AtomicU64,
}

struct Connection {
    requests: SendRequest<NoBody>,
    _driver: AbortOnDropHandle<()>,
}

impl Line {
    fn new(endpoint: Endpoint) -> Self {
        let [connection, proven, asked_often] = [const { AtomicU64::new(0) }; 3];
        Self { endpoint, open: tokio::sync::Mutex::default(), connection, proven, asked_often }
    }

    async fn send(&self, request: BollardRequest) -> Result<Response<Incoming>, Error> {
        self.send_ours(self.without_body(request)?).await
    }

    async fn send_ours(&self, request: Request<NoBody>) -> Result<Response<Incoming>, Error> {
        let mut open = self.open.lock().await;
        let is_question = request.method() == Method::GET || request.method() == Method::HEAD;
        if let Some(mut kept) = open.take() {
            let answer = match kept.requests.ready().await {
                Ok(()) => kept.requests.send_request(request.clone()).await,
                Err(closed) => Err(closed),
            };
            match answer {
                Ok(answer) => {
                    *open = Some(kept);
                    return Ok(answer);
                }
                // The other side may close what it finds idle: a question is asked again.
                Err(error) if !is_question => return Err(error.into()),
                Err(_) => {}
            }
        } else if !is_question {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        let connecting = timeout(CONNECT_TIMEOUT, self.connect()).await;
        let mut new = connecting.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))?;
        self.connection.fetch_add(1, Ordering::Relaxed);
        let answer = new.requests.send_request(request).await?;
        *open = Some(new);
        Ok(answer)
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let (requests, connection) = handshake(TokioIo::new(connect(&self.endpoint).await?)).await?;
        // How it ended is said to whoever waits for an answer.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { requests, _driver: AbortOnDropHandle::new(driver) })
    }

    /// The request as it goes over the connection. None of ours has a body.
    fn without_body(&self, request: BollardRequest) -> Result<Request<NoBody>, Error> {
        let (mut parts, _) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().map_err(io::Error::other)?;
        parts.headers.insert(HOST, self.host()?);
        Ok(Request::from_parts(parts, NoBody))
    }

    fn host(&self) -> Result<HeaderValue, Error> {
        let host = match &self.endpoint {
            Endpoint::Unix(_) | Endpoint::Ssh(_) => "localhost",
            Endpoint::Tcp(address) | Endpoint::Tls(address, _) => address,
        };
        Ok(HeaderValue::from_str(host).map_err(io::Error::other)?)
    }
}

/// The body of a request that has none.
#[derive(Clone)]
struct NoBody;

impl Body for NoBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}
