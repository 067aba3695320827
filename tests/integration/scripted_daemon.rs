//! A daemon, or a plugin of one, that answers as a test wants it to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinSet},
};
use volume_reaper::config::Endpoint;

use crate::proxy::HttpRequest;

/// What is done about a request.
pub(crate) enum Answer {
    /// This status code and body.
    Say(u16, String),
    /// This status code and body, and the connection is closed.
    SayLast(u16, String),
    /// No answer: the connection is closed.
    Close,
}

/// A server whose every answer is the test's.
pub(crate) struct Scripted {
    endpoint: String,
    accepting: AbortHandle,
    connections: Arc<AtomicUsize>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

impl Scripted {
    /// On a TCP port. The script gets the number of the connection, counted from 1, and method and path.
    pub(crate) async fn tcp(script: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("tcp://{}", listener.local_addr().expect("an address"));
        Self::start(endpoint, Listener::Tcp(listener), move |connection, request| script(connection, &request.line))
    }

    /// On a socket. The script gets method and path, and the body.
    pub(crate) fn unix(path: &str, script: impl Fn(&str, &[u8]) -> Answer + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let script = move |_, request: &HttpRequest| script(&request.line, request.body());
        Self::start(format!("unix://{path}"), Listener::Unix(listener), script)
    }

    fn start(
        endpoint: String,
        listener: Listener,
        script: impl Fn(usize, &HttpRequest) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (script, connections) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let accepting = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move {
                // Ends with this task.
                let mut serving = JoinSet::new();
                while let Ok(stream) = listener.accept().await {
                    let connection = connections.fetch_add(1, Ordering::Relaxed) + 1;
                    let script = Arc::clone(&script);
                    serving.spawn(async move { serve(stream, |request| script(connection, request)).await });
                }
            }
        });
        Self { endpoint, accepting: accepting.abort_handle(), connections }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&self.endpoint, None).expect("valid")
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: Box<dyn Stream>, script: impl Fn(&HttpRequest) -> Answer) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = HttpRequest::read(&mut stream).await {
        let (code, body, is_last) = match script(&request) {
            Answer::Say(code, body) => (code, body, false),
            Answer::SayLast(code, body) => (code, body, true),
            Answer::Close => return,
        };
        let close = if is_last { "Connection: close\r\n" } else { "" };
        let head = format!("HTTP/1.1 {code} Said\r\nContent-Type: application/json\r\n{close}");
        // What has no content has no length either.
        let length = if code == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        if stream.write_all(format!("{head}{length}\r\n{body}").as_bytes()).await.is_err() || is_last {
            return;
        }
    }
}
