//! A proxy in front of the Docker daemon's socket that counts what goes through it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use crate::world::{eventually, server};

pub(crate) struct CountingProxy {
    socket: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    is_cut: watch::Sender<bool>,
    holds_removals: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// What becomes of removals.
#[derive(Clone)]
enum Removals {
    Fail,
    /// They are passed on when it is no longer set; those of other paths than this one at once.
    Pass(&'static str, watch::Receiver<bool>),
}

impl CountingProxy {
    /// Listens on a socket in `dir` and passes everything on to the daemon.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::before(dir, &server("DOCKER_HOST"))
    }

    /// Listens in front of another daemon.
    pub(crate) fn before(dir: &Path, endpoint: &str) -> Self {
        Self::listen(dir, endpoint, Some("/"))
    }

    /// Listens in front of the daemon, but answers removals itself, with the error of a full disk.
    pub(crate) fn start_failing_removals(dir: &Path) -> Self {
        Self::listen(dir, &server("DOCKER_HOST"), None)
    }

    /// Listens in front of the daemon, and keeps removals back until they are released.
    pub(crate) fn start_holding_removals(dir: &Path) -> Self {
        let proxy = Self::start(dir);
        proxy.holds_removals.send_replace(true);
        proxy
    }

    /// Listens in front of the daemon, and keeps removals of containers back until they are released.
    pub(crate) fn start_holding_containers(dir: &Path) -> Self {
        let proxy = Self::listen(dir, &server("DOCKER_HOST"), Some("/containers/"));
        proxy.holds_removals.send_replace(true);
        proxy
    }

    /// Waits until the daemon is to be asked for the removal of a container.
    pub(crate) async fn until_container_removal(&self) {
        let is_it = |request: &String| request.starts_with("DELETE /containers/");
        eventually("a container is to be removed", async || self.requests().iter().any(is_it).then_some(())).await;
    }

    pub(crate) fn hold_removals(&self) {
        self.holds_removals.send_replace(true);
    }

    pub(crate) fn release_removals(&self) {
        self.holds_removals.send_replace(false);
    }

    /// Without a path, removals fail.
    fn listen(dir: &Path, endpoint: &str, held: Option<&'static str>) -> Self {
        let socket = dir.join("proxy.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let daemon = endpoint.trim_start_matches("unix://").to_owned();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let is_cut = watch::Sender::new(false);
        let holds_removals = watch::Sender::new(false);
        let removals = held.map_or(Removals::Fail, |path| Removals::Pass(path, holds_removals.subscribe()));
        let accepting = tokio::spawn({
            let (requests, connections, is_cut) = (Arc::clone(&requests), Arc::clone(&connections), is_cut.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::Relaxed);
                    let mut is_cut = is_cut.subscribe();
                    let passing = pass_on(client, daemon.clone(), Arc::clone(&requests), removals.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = is_cut.wait_for(|is_cut| *is_cut) => {}
                            () = passing => {}
                        }
                    });
                }
            }
        });
        Self { socket, requests, connections, is_cut, holds_removals, accepting }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Cuts all connections and every new one, or lets them through again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }

    /// Method and path of every request, in their order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("lock").clone()
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many volumes the daemon was asked to remove.
    pub(crate) fn removals(&self) -> usize {
        self.requests().iter().filter(|request| request.starts_with("DELETE ")).count()
    }
}

impl Drop for CountingProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes on one request after the other: they may come over one connection.
async fn pass_on(client: UnixStream, daemon: String, requests: Arc<Mutex<Vec<String>>>, mut removals: Removals) {
    let Ok(server) = UnixStream::connect(daemon).await else { return };
    let (from_client, to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let to_client = tokio::sync::Mutex::new(to_client);
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if to_client.lock().await.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    let up = async {
        let mut from_client = BufReader::new(from_client);
        while let Some(request) = HttpRequest::read(&mut from_client).await {
            requests.lock().expect("lock").push(request.line.clone());
            let is_removal = request.line.starts_with("DELETE ");
            if let (Removals::Pass(path, held), true) = (&mut removals, is_removal)
                && request.line.starts_with(&format!("DELETE {path}"))
                && held.wait_for(|held| !held).await.is_err()
            {
                return;
            }
            let answered = if is_removal && matches!(removals, Removals::Fail) {
                let body = r#"{"message":"error removing volume path: no space left on device"}"#;
                let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json";
                let response = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                to_client.lock().await.write_all(response.as_bytes()).await
            } else {
                to_server.write_all(&request.bytes).await
            };
            if answered.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = down => {}
        () = up => {}
    }
}

/// A request as it came.
pub(crate) struct HttpRequest {
    /// Method and path.
    pub(crate) line: String,
    pub(crate) bytes: Vec<u8>,
    /// Where the body begins.
    head: usize,
}

impl HttpRequest {
    /// The next one of a connection, with its body if its length is said.
    pub(crate) async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> Option<Self> {
        let (mut bytes, mut length) = (Vec::new(), 0);
        loop {
            let before = bytes.len();
            from.read_until(b'\n', &mut bytes).await.ok().filter(|length| *length > 0)?;
            let line = String::from_utf8_lossy(&bytes[before..]).to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let head = bytes.len();
        bytes.resize(head + length, 0);
        from.read_exact(&mut bytes[head..]).await.ok()?;
        let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
        let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
        Some(Self { line, bytes, head })
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.head..]
    }
}
