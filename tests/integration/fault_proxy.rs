//! A proxy on a TCP port that can refuse, stall and cut what goes through it: the faults of a network, on command.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use crate::world::server;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They pass.
    Pass,
    /// New connections are closed at once; those that are open stay.
    Refuse,
    /// Nothing passes, nothing closes.
    Stall,
    /// Nothing passes towards the server.
    StallToServer,
    /// Nothing passes towards the client.
    StallToClient,
    /// No answer of a Docker daemon to a removal passes.
    StallRemovals,
    /// What passes towards the client comes so much later.
    Slow(Duration),
}

impl Mode {
    fn lets_pass(self, to_server: bool, is_removal: bool) -> bool {
        match self {
            Self::Pass | Self::Refuse | Self::Slow(_) => true,
            Self::Stall => false,
            Self::StallToServer => !to_server,
            Self::StallToClient => to_server,
            Self::StallRemovals => to_server || !is_removal,
        }
    }
}

/// The mode, and how often everything was cut: a connection ends when that number changes.
type State = (Mode, usize);

pub(crate) struct FaultProxy {
    pub(crate) address: String,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
    open: Arc<AtomicUsize>,
    busiest: Arc<AtomicUsize>,
}

impl FaultProxy {
    /// In front of `target`: `host:port`, or the path of a socket.
    pub(crate) async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = watch::Sender::new((Mode::Pass, 0));
        let (open, busiest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let accepting = tokio::spawn({
            let (state, target) = (state.clone(), target.to_owned());
            let (open, busiest) = (Arc::clone(&open), Arc::clone(&busiest));
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if state.borrow().0 == Mode::Refuse {
                        continue;
                    }
                    let (state, target) = (state.subscribe(), target.clone());
                    let (open, busiest) = (Arc::clone(&open), Arc::clone(&busiest));
                    tokio::spawn(async move {
                        busiest.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                        pass_on(client, &target, state).await;
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        });
        Self { address, state, accepting, open, busiest }
    }

    /// In front of the test's Docker daemon; the endpoint is for `DOCKER_HOST`.
    pub(crate) async fn docker() -> (Self, String) {
        let proxy = Self::start(server("DOCKER_HOST").trim_start_matches("unix://")).await;
        let endpoint = format!("tcp://{}", proxy.address);
        (proxy, endpoint)
    }

    /// In front of the server of a URL; returns the URL that leads through the proxy.
    pub(crate) async fn url(url: &str) -> (Self, String) {
        let (head, rest) = url.split_once('@').expect("a user in the URL");
        let (target, tail) = rest.split_once('/').expect("a path in the URL");
        let proxy = Self::start(target).await;
        let url = format!("{head}@{}/{tail}", proxy.address);
        (proxy, url)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.0 = mode);
    }

    /// Cuts every connection that is open.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.1 += 1);
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The most connections that were open at once.
    pub(crate) fn busiest(&self) -> usize {
        self.busiest.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_busiest(&self) {
        self.busiest.store(0, Ordering::Relaxed);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn pass_on(client: TcpStream, target: &str, mut state: watch::Receiver<State>) {
    let generation = state.borrow().1;
    let (from_client, to_client) = client.into_split();
    // Whether the connection's latest request is a removal; a client sends the next one after the answer.
    let is_removal = AtomicBool::new(false);
    let (to_server_state, to_client_state) = (state.clone(), state.clone());
    let passing = async {
        if target.starts_with('/') {
            let Ok(server) = UnixStream::connect(target).await else { return };
            let (from_server, to_server) = split(server);
            both(
                pump(from_client, to_server, to_server_state, true, &is_removal),
                pump(from_server, to_client, to_client_state, false, &is_removal),
            )
            .await;
        } else {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let (from_server, to_server) = server.into_split();
            both(
                pump(from_client, to_server, to_server_state, true, &is_removal),
                pump(from_server, to_client, to_client_state, false, &is_removal),
            )
            .await;
        }
    };
    tokio::select! {
        // What is cut is gone: nothing that was held up passes after all when the mode changes behind the cut.
        biased;
        _ = state.wait_for(|(_, cuts)| *cuts != generation) => {}
        () = passing => {}
    }
}

async fn both(up: impl Future<Output = ()>, down: impl Future<Output = ()>) {
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    to_server: bool,
    is_removal: &AtomicBool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to_server {
            is_removal.store(buffer.starts_with(b"DELETE "), Ordering::Relaxed);
        }
        let mode = state.borrow().0;
        if let (Mode::Slow(delay), false) = (mode, to_server) {
            // The fault itself: a daemon that answers late.
            tokio::time::sleep(delay).await;
        }
        if state.wait_for(|(mode, _)| mode.lets_pass(to_server, is_removal.load(Ordering::Relaxed))).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
