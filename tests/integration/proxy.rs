//! A proxy in front of the Docker daemon's socket that counts what goes through it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use crate::world::server;

pub(crate) struct CountingProxy {
    socket: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
    is_cut: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl CountingProxy {
    /// Listens on a socket in `dir` and passes everything on to the daemon.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::before(dir, &server("DOCKER_HOST"))
    }

    /// Listens in front of another daemon.
    pub(crate) fn before(dir: &Path, endpoint: &str) -> Self {
        Self::listen(dir, endpoint, false)
    }

    /// Listens in front of the daemon, but answers removals itself, with the error of a full disk.
    pub(crate) fn start_failing_removals(dir: &Path) -> Self {
        Self::listen(dir, &server("DOCKER_HOST"), true)
    }

    fn listen(dir: &Path, endpoint: &str, fail_removals: bool) -> Self {
        let socket = dir.join("proxy.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let daemon = endpoint.trim_start_matches("unix://").to_owned();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let is_cut = watch::Sender::new(false);
        let accepting = tokio::spawn({
            let (requests, is_cut) = (Arc::clone(&requests), is_cut.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let mut is_cut = is_cut.subscribe();
                    let passing = pass_on(client, daemon.clone(), Arc::clone(&requests), fail_removals);
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = is_cut.wait_for(|is_cut| *is_cut) => {}
                            () = passing => {}
                        }
                    });
                }
            }
        });
        Self { socket, requests, is_cut, accepting }
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

/// The client makes one request a connection, so the first line is the request.
async fn pass_on(mut client: UnixStream, daemon: String, requests: Arc<Mutex<Vec<String>>>, fail_removals: bool) {
    let mut head = vec![0; 4096];
    let Ok(length) = client.read(&mut head).await else { return };
    let text = String::from_utf8_lossy(&head[..length]);
    let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let is_removal = line.starts_with("DELETE ");
    requests.lock().expect("lock").push(line);
    if is_removal && fail_removals {
        let body = r#"{"message":"error removing volume path: no space left on device"}"#;
        let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close";
        let response = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let _ = client.write_all(response.as_bytes()).await;
        return;
    }
    let Ok(mut server) = UnixStream::connect(daemon).await else { return };
    if server.write_all(&head[..length]).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
