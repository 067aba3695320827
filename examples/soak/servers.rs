//! The private servers, as the faults reach them: `deploy/local/servers` kills, pauses and starts them, and a proxy in
//! front of each cuts its connections.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional, split},
    net::{TcpListener, TcpStream, UnixStream},
    process::Command,
    sync::{Mutex, watch},
};

use crate::{Try, authority, broker, given, soon};

/// What starts and stops servers.
pub(crate) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers");

pub(crate) struct Server {
    /// As `deploy/local/servers` calls it.
    pub(crate) name: &'static str,
    /// Taken by whoever does something to it.
    pub(crate) turn: Mutex<()>,
    pub(crate) proxy: Proxy,
}

pub(crate) struct Servers {
    pub(crate) dir: PathBuf,
    pub(crate) broker: Server,
    /// None for a file.
    pub(crate) database: Option<Server>,
    pub(crate) docker: Server,
}

impl Servers {
    /// The servers that this process was started with, of which that of this database counts.
    pub(crate) async fn from_env(database_url: &str) -> Try<Self> {
        let server = async |name, target: &str| {
            let proxy = Proxy::start(target, Duration::ZERO).await?;
            Ok::<_, io::Error>(Server { name, turn: Mutex::new(()), proxy })
        };
        Ok(Self {
            dir: PathBuf::from(given("VOLUME_REAPER_TEST_SERVERS")?),
            broker: server("broker", authority(&given("AMQP_URL")?)?).await?,
            database: match database_url.split_once(':') {
                Some(("sqlite", _)) => None,
                Some(("mysql", _)) => Some(server("mariadb", authority(database_url)?).await?),
                Some(_) | None => Some(server("postgres", authority(database_url)?).await?),
            },
            docker: server("docker", given("DOCKER_HOST")?.trim_start_matches("unix://")).await?,
        })
    }

    /// `start`, `kill`, `pause`, `resume` or `import-image`; of all servers if none is named.
    pub(crate) async fn control(&self, action: &str, server: Option<&Server>) -> Try {
        control(&self.dir, action, server.map(|server| server.name).as_slice()).await
    }

    /// Makes the broker write down the queues that it has. Before that, RabbitMQ 3.10 loses those that were declared
    /// less than a second before it is killed.
    pub(crate) async fn write_down_queues(&self) -> Try {
        self.rabbitmqctl(&["eval", "[dets:sync(T) || T <- dets:all()]."]).await.map(drop)
    }

    /// The queues that hold messages, without the parking lot. Fails if a queue is not there.
    pub(crate) async fn waiting(&self) -> Try<Vec<String>> {
        let queues = self.rabbitmqctl(&["list_queues", "--no-table-headers", "name", "messages"]).await?;
        let queues: Vec<_> = queues.lines().filter_map(|line| line.split_once(char::is_whitespace)).collect();
        if let Some(missing) = broker::queues().find(|queue| !queues.iter().any(|(name, _)| name == queue)) {
            return Err(format!("the broker has no queue {missing}").into());
        }
        let full =
            queues.iter().filter(|(name, messages)| *name != broker::DEAD_LETTER_QUEUE && messages.trim() != "0");
        Ok(full.map(|(name, messages)| format!("{name}: {messages}")).collect())
    }

    pub(crate) async fn rabbitmqctl(&self, arguments: &[&str]) -> Try<String> {
        let mut command = Command::new(self.dir.join("rabbitmqctl"));
        command.args(["-q", "--timeout", "20"]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = soon("rabbitmqctl", command.output()).await?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(format!("rabbitmqctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }
}

/// Has `deploy/local/servers` do something to the servers in a directory.
pub(crate) async fn control(dir: &Path, action: &str, names: &[&str]) -> Try {
    let mut command = Command::new(SCRIPT);
    let output = command.arg(action).arg(dir).args(names).stdin(Stdio::null()).output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("servers {action} {}: {}", names.join(" "), said.trim()).into())
}

/// A TCP port in front of a server, whose connections can be cut all at once.
pub(crate) struct Proxy {
    /// `host:port` to connect to instead of the server.
    pub(crate) address: String,
    /// How often everything was cut: a connection ends when this changes.
    cuts: watch::Sender<usize>,
    /// `host:port`, or the path of a socket.
    target: Arc<parking_lot::Mutex<String>>,
}

impl Proxy {
    /// In front of `target`, which is `host:port` or the path of a socket. What that answers comes so much later. Lives
    /// until the process ends.
    pub(crate) async fn start(target: &str, late_by: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let cuts = watch::Sender::new(0);
        let target = Arc::new(parking_lot::Mutex::new(target.to_owned()));
        let (towards, cut) = (Arc::clone(&target), cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let target = towards.lock().clone();
                tokio::spawn(pass_on(client, target, late_by, cut.subscribe()));
            }
        });
        Ok(Self { address, cuts, target })
    }

    /// Leads to another server from now on. Returns the one before.
    pub(crate) fn swap(&self, target: &str) -> String {
        let before = std::mem::replace(&mut *self.target.lock(), target.to_owned());
        self.cut();
        before
    }

    /// Cuts every connection that is open. It is always possible, which is what it returns.
    pub(crate) fn cut(&self) -> bool {
        self.cuts.send_modify(|cuts| *cuts += 1);
        true
    }
}

async fn pass_on(client: TcpStream, target: String, late_by: Duration, cuts: watch::Receiver<usize>) {
    // A server that is down refuses; so does this, by closing what it had accepted.
    if target.starts_with('/') {
        if let Ok(server) = UnixStream::connect(&target).await {
            until_cut(client, server, late_by, cuts).await;
        }
    } else if let Ok(server) = TcpStream::connect(&target).await {
        until_cut(client, server, late_by, cuts).await;
    }
}

async fn until_cut(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    late_by: Duration,
    mut cuts: watch::Receiver<usize>,
) {
    let passing = async {
        if late_by.is_zero() {
            return copy_bidirectional(&mut client, &mut server).await.map(drop);
        }
        let (mut requests, answers) = client.split();
        let (from_server, mut to_server) = split(server);
        tokio::select! {
            done = copy(&mut requests, &mut to_server) => done.map(drop),
            done = pass_late(from_server, answers, late_by) => done,
        }
    };
    tokio::select! {
        _ = passing => {}
        _ = cuts.changed() => {}
    }
}

async fn pass_late(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    late_by: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        tokio::time::sleep(late_by).await;
        to.write_all(&buffer[..length]).await?;
    }
}
