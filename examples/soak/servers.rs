//! The private servers, as the faults reach them: `deploy/local/servers` kills, pauses and starts them, and a proxy in
//! front of each cuts its connections.

use std::{io, path::PathBuf, process::Stdio};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
    process::Command,
    sync::{Mutex, watch},
};

use crate::{Try, broker, soon};

pub(crate) struct Server {
    /// As `deploy/local/servers` calls it.
    pub(crate) name: &'static str,
    /// Taken by whoever does something to it.
    pub(crate) turn: Mutex<()>,
    pub(crate) proxy: Proxy,
}

pub(crate) struct Servers {
    dir: PathBuf,
    pub(crate) broker: Server,
    pub(crate) postgres: Server,
    pub(crate) docker: Server,
}

impl Servers {
    /// The servers in `dir`; a target is `host:port`, or the path of a socket.
    pub(crate) async fn new(dir: PathBuf, broker: &str, postgres: &str, docker: &str) -> Try<Self> {
        let server = async |name, target| {
            Ok::<_, io::Error>(Server { name, turn: Mutex::new(()), proxy: Proxy::start(target).await? })
        };
        Ok(Self {
            dir,
            broker: server("broker", broker).await?,
            postgres: server("postgres", postgres).await?,
            docker: server("docker", docker).await?,
        })
    }

    /// `start`, `kill`, `pause`, `resume` or `import-image`; of all servers if none is named.
    pub(crate) async fn control(&self, action: &str, server: Option<&Server>) -> Try {
        let name = server.map(|server| server.name);
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers"));
        let output = command.arg(action).arg(&self.dir).args(name).stdin(Stdio::null()).output().await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("servers {action} {}: {}", name.unwrap_or_default(), said.trim()).into())
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

    async fn rabbitmqctl(&self, arguments: &[&str]) -> Try<String> {
        let mut command = Command::new(self.dir.join("rabbitmqctl"));
        command.args(["-q", "--timeout", "20"]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = soon("rabbitmqctl", command.output()).await?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(format!("rabbitmqctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }
}

/// A TCP port in front of a server, whose connections can be cut all at once.
pub(crate) struct Proxy {
    /// `host:port` to connect to instead of the server.
    pub(crate) address: String,
    /// How often everything was cut: a connection ends when this changes.
    cuts: watch::Sender<usize>,
}

impl Proxy {
    /// Lives until the process ends.
    async fn start(target: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let cuts = watch::Sender::new(0);
        let (target, cut) = (target.to_owned(), cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, target.clone(), cut.subscribe()));
            }
        });
        Ok(Self { address, cuts })
    }

    /// Cuts every connection that is open. It is always possible, which is what it returns.
    pub(crate) fn cut(&self) -> bool {
        self.cuts.send_modify(|cuts| *cuts += 1);
        true
    }
}

async fn pass_on(client: TcpStream, target: String, cuts: watch::Receiver<usize>) {
    // A server that is down refuses; so does this, by closing what it had accepted.
    if target.starts_with('/') {
        if let Ok(server) = UnixStream::connect(&target).await {
            until_cut(client, server, cuts).await;
        }
    } else if let Ok(server) = TcpStream::connect(&target).await {
        until_cut(client, server, cuts).await;
    }
}

async fn until_cut(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    mut cuts: watch::Receiver<usize>,
) {
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cuts.changed() => {}
    }
}
