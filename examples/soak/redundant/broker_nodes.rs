//! Three brokers, each in a network of its own, which are a cluster.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::Duration,
};

use tokio::{process::Command, sync::Mutex, time::sleep};

use crate::{
    Try,
    others::as_root,
    servers::{LIST_QUEUES, SCRIPT, output_of, with_messages},
    soon,
};

const NODES: usize = 3;
/// Until a node is noticed that is cut off, at most a quarter longer; a minute by default.
const NOTICED_AFTER_S: u32 = 8;

pub(crate) struct Nodes {
    /// Taken by whoever does something to one of them: two of three are always to be there.
    pub(crate) turn: Mutex<()>,
    bridge: String,
    members: Vec<Node>,
    /// Of the first node, and of the others, which join it.
    configs: [PathBuf; 2],
}

struct Node {
    dir: PathBuf,
    /// Of its network.
    network: String,
    /// Of the device that leads there.
    link: String,
    address: String,
}

impl Nodes {
    pub(crate) async fn start(base: &Path) -> Try<Self> {
        let (id, subnet) = (process::id(), process::id() % 250);
        let node = |number: usize| Node {
            dir: base.join(format!("broker-{number}")),
            network: format!("volume-reaper-{id}-{number}"),
            link: format!("vr{id}n{number}"),
            address: format!("10.213.{subnet}.{}", 10 + number),
        };
        let members: Vec<_> = (1..=NODES).map(node).collect();
        // A node that sees no other stops until it does, so that there are never two truths.
        let mut text = format!(
            "loopback_users = none\nnet_ticktime = {NOTICED_AFTER_S}\ncluster_partition_handling = pause_minority\n"
        );
        // The first one makes the cluster. From RabbitMQ 4 on, one that knows of others waits for them.
        let configs = [base.join("first.conf"), base.join("others.conf")];
        fs::write(&configs[0], &text)?;
        text.push_str("cluster_formation.peer_discovery_backend = classic_config\n");
        for (number, node) in members.iter().enumerate() {
            writeln!(text, "cluster_formation.classic_config.nodes.{} = volume-reaper@{}", number + 1, node.address)?;
        }
        fs::write(&configs[1], text)?;
        let all = Self { turn: Mutex::default(), bridge: format!("vr{id}b"), members, configs };
        all.make_networks(subnet).await?;
        all.control(0, "start").await?;
        tokio::try_join!(all.control(1, "start"), all.control(2, "start"))?;
        Ok(all)
    }

    async fn make_networks(&self, subnet: u32) -> Try {
        let bridge = &*self.bridge;
        ip(&["link", "add", bridge, "type", "bridge"]).await?;
        ip(&["addr", "add", &format!("10.213.{subnet}.1/24"), "dev", bridge]).await?;
        ip(&["link", "set", bridge, "up"]).await?;
        for Node { network, link, address, .. } in &self.members {
            ip(&["netns", "add", network]).await?;
            ip(&["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", network]).await?;
            ip(&["link", "set", link, "master", bridge, "up"]).await?;
            ip(&["-n", network, "link", "set", "lo", "up"]).await?;
            ip(&["-n", network, "addr", "add", &format!("{address}/24"), "dev", "eth0"]).await?;
            ip(&["-n", network, "link", "set", "eth0", "up"]).await?;
        }
        Ok(())
    }

    /// Where the nodes take clients.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|node| format!("{}:5672", node.address)).collect()
    }

    /// `start`, `stop`, `kill` or `pause`; `start` is for one that is paused too.
    pub(crate) async fn control(&self, which: usize, action: &str) -> Try {
        let Node { dir, network, address, .. } = &self.members[which % NODES];
        let config = &self.configs[usize::from(!which.is_multiple_of(NODES))];
        let mut command = Command::new("ip");
        command.args(["netns", "exec", network, SCRIPT, action]).arg(dir).arg("broker");
        command.env("BROKER_ADDRESS", address).env("EXTRA_BROKER_CONFIG", config);
        output_of(command).await.map(drop)
    }

    /// Restarts the nodes, one after the other.
    pub(crate) async fn roll(&self) -> Try {
        for which in 0..NODES {
            self.control(which, "stop").await?;
            self.control(which, "start").await?;
        }
        Ok(())
    }

    /// Cuts a node off from the others; its clients still reach it.
    pub(crate) async fn cut_off(&self, which: usize, lasts: Duration) -> Try {
        self.route("add", which % NODES).await?;
        sleep(lasts).await;
        self.route("del", which % NODES).await
    }

    async fn route(&self, action: &str, which: usize) -> Try {
        let cut = &self.members[which];
        for other in self.members.iter().filter(|other| other.address != cut.address) {
            for (from, to) in [(cut, other), (other, cut)] {
                ip(&["-n", &from.network, "route", action, "blackhole", &format!("{}/32", to.address)]).await?;
            }
        }
        Ok(())
    }

    /// The queues that hold messages, without the parking lot. Fails if a queue is not there.
    pub(crate) async fn waiting(&self) -> Try<Vec<String>> {
        with_messages(&self.ask(&LIST_QUEUES).await?)
    }

    /// What the first node says that answers.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Try<String> {
        let mut last = Err("no node".into());
        for which in 0..NODES {
            last = self.rabbitmqctl(which, arguments).await;
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// The number of the node with this name.
    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|node| name.ends_with(&format!("@{}", node.address)))
    }

    /// RabbitMQ 3.10 loses queues that were declared less than a second before it is killed.
    pub(crate) async fn write_down_queues(&self) -> Try {
        for which in 0..NODES {
            self.rabbitmqctl(which, &["eval", "[dets:sync(T) || T <- dets:all()]."]).await?;
        }
        Ok(())
    }

    pub(crate) async fn version(&self) -> Try<String> {
        Ok(self.rabbitmqctl(0, &["version"]).await?.trim().to_owned())
    }

    /// For whoever wants to know what the brokers thought.
    pub(crate) fn keep_logs(&self, place: &Path) -> Try {
        for (number, Node { dir, .. }) in self.members.iter().enumerate() {
            fs::copy(dir.join("broker/log"), place.join(format!("broker-{}.log", number + 1)))?;
        }
        Ok(())
    }

    async fn rabbitmqctl(&self, which: usize, arguments: &[&str]) -> Try<String> {
        let Node { dir, network, .. } = &self.members[which];
        let mut command = Command::new("ip");
        command.args(["netns", "exec", network]).arg(dir.join("rabbitmqctl"));
        command.args(["-q", "--timeout", "20"]).args(arguments);
        soon("rabbitmqctl", output_of(command)).await
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let run = |program: &str, arguments: &[&str]| {
            let _ = process::Command::new(program).args(arguments).stderr(Stdio::null()).status();
        };
        for Node { dir, network, .. } in &self.members {
            run(SCRIPT, &["remove", &dir.display().to_string()]);
            run("ip", &["netns", "del", network]);
        }
        run("ip", &["link", "del", &self.bridge]);
    }
}

async fn ip(arguments: &[&str]) -> Try {
    as_root(&[&["ip"][..], arguments].concat()).await
}
