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
use tokio_util::io::InspectReader;

use crate::{
    Try,
    acknowledged::{Acknowledged, Watched},
    authority, broker, given, soon,
};

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
    /// What the replicas have acknowledged.
    pub(crate) acknowledged: Arc<Acknowledged>,
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
        let acknowledged = Arc::default();
        let proxy = Proxy::of_broker(authority(&given("AMQP_URL")?)?, &acknowledged).await?;
        Ok(Self {
            dir: PathBuf::from(given("VOLUME_REAPER_TEST_SERVERS")?),
            broker: Server { name: "broker", turn: Mutex::new(()), proxy },
            acknowledged,
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
        with_messages(&self.rabbitmqctl(&LIST_QUEUES).await?)
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

/// What [`with_messages`] reads the answer to.
pub(crate) const LIST_QUEUES: [&str; 4] = ["list_queues", "--no-table-headers", "name", "messages"];

/// The queues that hold messages, without the parking lot. Fails if a queue is not there.
pub(crate) fn with_messages(listed: &str) -> Try<Vec<String>> {
    let queues: Vec<_> = listed.lines().filter_map(|line| line.split_once(char::is_whitespace)).collect();
    if let Some(missing) = broker::queues().find(|queue| !queues.iter().any(|(name, _)| name == queue)) {
        return Err(format!("the broker has no queue {missing}").into());
    }
    let full = queues.iter().filter(|(name, messages)| *name != broker::DEAD_LETTER_QUEUE && messages.trim() != "0");
    Ok(full.map(|(name, messages)| format!("{name}: {messages}")).collect())
}

/// Has `deploy/local/servers` do something to the servers in a directory.
pub(crate) async fn control(dir: &Path, action: &str, names: &[&str]) -> Try {
    let mut command = Command::new(SCRIPT);
    command.arg(action).arg(dir).args(names);
    output_of(command).await.map(drop)
}

/// What a command printed; its last words if it failed.
pub(crate) async fn output_of(mut command: Command) -> Try<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{:?}: {}", command.as_std(), said.trim()).into())
}

/// A TCP port in front of a server, whose connections can be cut all at once.
pub(crate) struct Proxy {
    /// `host:port` to connect to instead of the server.
    pub(crate) address: String,
    /// How often everything was cut: a connection ends when this changes.
    cuts: watch::Sender<usize>,
    /// Each `host:port`, or the path of a socket. A new connection goes to the next one that takes it.
    targets: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl Proxy {
    /// In front of `target`, which is `host:port` or the path of a socket. What that answers comes so much later. Lives
    /// until the process ends.
    pub(crate) async fn start(target: &str, late_by: Duration) -> io::Result<Self> {
        Self::watching(target, late_by, None).await
    }

    /// In front of a broker, whose acknowledgements are written down.
    pub(crate) async fn of_broker(target: &str, acknowledged: &Arc<Acknowledged>) -> io::Result<Self> {
        Self::watching(target, Duration::ZERO, Some(Arc::clone(acknowledged))).await
    }

    async fn watching(target: &str, late_by: Duration, watched: Option<Arc<Acknowledged>>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let cuts = watch::Sender::new(0);
        let targets = Arc::new(parking_lot::Mutex::new(vec![target.to_owned()]));
        let (towards, cut) = (Arc::clone(&targets), cuts.clone());
        tokio::spawn(async move {
            let mut accepted = 0_usize;
            while let Ok((client, _)) = listener.accept().await {
                let mut targets = towards.lock().clone();
                let next = accepted % targets.len().max(1);
                targets.rotate_left(next);
                accepted += 1;
                let how = How { late_by, watched: watched.clone() };
                tokio::spawn(pass_on(client, targets, how, cut.subscribe()));
            }
        });
        Ok(Self { address, cuts, targets })
    }

    /// Leads to other servers from now on. Returns those before.
    pub(crate) fn swap(&self, targets: &[String]) -> Vec<String> {
        let before = std::mem::replace(&mut *self.targets.lock(), targets.to_vec());
        self.cut();
        before
    }

    /// Cuts every connection that is open. It is always possible, which is what it returns.
    pub(crate) fn cut(&self) -> bool {
        self.cuts.send_modify(|cuts| *cuts += 1);
        true
    }
}

/// How bytes are passed on.
struct How {
    late_by: Duration,
    watched: Option<Arc<Acknowledged>>,
}

async fn pass_on(client: TcpStream, targets: Vec<String>, how: How, cuts: watch::Receiver<usize>) {
    for target in targets {
        if target.starts_with('/') {
            if let Ok(server) = UnixStream::connect(&target).await {
                return until_cut(client, server, how, cuts).await;
            }
        } else if let Ok(server) = TcpStream::connect(&target).await {
            return until_cut(client, server, how, cuts).await;
        }
    }
    // A server that is down refuses; so does this, by closing what it had accepted.
}

async fn until_cut(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    How { late_by, watched }: How,
    mut cuts: watch::Receiver<usize>,
) {
    let passing = async {
        if let Some(all) = watched {
            let watched = parking_lot::Mutex::new(Watched::new(all));
            let mut client = InspectReader::new(client, |bytes: &[u8]| watched.lock().client_sent(bytes));
            let mut server = InspectReader::new(server, |bytes: &[u8]| watched.lock().broker_sent(bytes));
            return copy_bidirectional(&mut client, &mut server).await.map(drop);
        }
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
