//! A fault every second: which one is up to the dice, as is how long it lasts.
//!
//! A server that is being killed, paused or started is left alone by further faults of its own, not by those of others.
//! `deploy/local/servers` does one thing at a time, so the next server's fault may come some seconds late.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    Try,
    account::Notes,
    plan::Dice,
    replica::Order,
    servers::{Server, Servers},
};

const INTERVAL: Duration = Duration::from_secs(1);
/// Between the death of a server or a replica and its next start.
const LONGEST_DEATH: Duration = Duration::from_secs(2);
/// Longer than the service's `DOCKER_TIMEOUT` now and then.
const LONGEST_PAUSE: Duration = Duration::from_secs(7);
/// For the broker's queues to be there again after its start.
const QUEUES_DEADLINE: Duration = Duration::from_secs(30);

/// The name is what the report calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    BrokerKilled,
    DatabaseKilled,
    DockerKilled,
    DockerPaused,
    BrokerCut,
    DatabaseCut,
    DockerCut,
    ReplicaKilled,
    ReplicaStopped,
}

impl Fault {
    /// How often each comes, of 22 times. A server's start takes seconds: if their kills were as frequent as the
    /// others, nothing would ever be up at once.
    const WEIGHTS: [(Self, usize); 9] = [
        (Self::BrokerKilled, 1),
        (Self::DatabaseKilled, 2),
        (Self::DockerKilled, 2),
        (Self::DockerPaused, 3),
        (Self::BrokerCut, 3),
        (Self::DatabaseCut, 3),
        (Self::DockerCut, 3),
        (Self::ReplicaKilled, 3),
        (Self::ReplicaStopped, 2),
    ];

    fn any(dice: &mut Dice) -> Self {
        let all: Vec<_> =
            Self::WEIGHTS.iter().flat_map(|&(fault, weight)| std::iter::repeat_n(fault, weight)).collect();
        all[dice.below(all.len())]
    }
}

pub(crate) struct Chaos {
    pub(crate) servers: Arc<Servers>,
    pub(crate) notes: Arc<Notes>,
    pub(crate) replicas: Vec<mpsc::Sender<Order>>,
}

impl Chaos {
    /// Reigns for so long, then lets every fault come to its end. Returns how often each was there.
    pub(crate) async fn reign(self, mut dice: Dice, lasts: Duration) -> BTreeMap<Fault, usize> {
        let mut counts = BTreeMap::new();
        let mut lasting = JoinSet::new();
        let until = Instant::now() + lasts;
        let mut tick = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < until {
            tick.tick().await;
            // Not every fault is possible at every moment; a cut always is.
            let fault = loop {
                let fault = Fault::any(&mut dice);
                if self.strike(fault, &mut dice, &mut lasting) {
                    break fault;
                }
            };
            *counts.entry(fault).or_default() += 1;
            while lasting.try_join_next().is_some() {}
        }
        lasting.join_all().await;
        counts
    }

    /// Whether the fault is possible now, and was begun.
    fn strike(&self, fault: Fault, dice: &mut Dice, lasting: &mut JoinSet<()>) -> bool {
        let replica = &self.replicas[dice.below(self.replicas.len())];
        let (death, pause) = (dice.up_to(LONGEST_DEATH), dice.up_to(LONGEST_PAUSE));
        let servers = &self.servers;
        match fault {
            Fault::BrokerKilled => self.harm(|servers| &servers.broker, "kill", death, lasting),
            Fault::DatabaseKilled => self.harm(|servers| &servers.postgres, "kill", death, lasting),
            Fault::DockerKilled => self.harm(|servers| &servers.docker, "kill", death, lasting),
            Fault::DockerPaused => self.harm(|servers| &servers.docker, "pause", pause, lasting),
            Fault::BrokerCut => servers.broker.proxy.cut(),
            Fault::DatabaseCut => servers.postgres.proxy.cut(),
            Fault::DockerCut => servers.docker.proxy.cut(),
            Fault::ReplicaKilled => replica.try_send(Order::Kill(death)).is_ok(),
            Fault::ReplicaStopped => replica.try_send(Order::Stop(death)).is_ok(),
        }
    }

    /// Kills or pauses a server, and brings it back some time later.
    fn harm(
        &self,
        which: impl Fn(&Servers) -> &Server + Send + 'static,
        action: &'static str,
        lasts: Duration,
        lasting: &mut JoinSet<()>,
    ) -> bool {
        if which(&self.servers).turn.try_lock().is_err() {
            return false;
        }
        let (servers, notes) = (Arc::clone(&self.servers), Arc::clone(&self.notes));
        lasting.spawn(async move {
            let server = which(&servers);
            let _turn = server.turn.lock().await;
            if let Err(error) = kill_and_start(&servers, server, action, lasts).await {
                notes.incident(error.to_string());
            }
        });
        true
    }
}

async fn kill_and_start(servers: &Servers, server: &Server, action: &str, lasts: Duration) -> Try {
    servers.control(action, Some(server)).await?;
    tokio::time::sleep(lasts).await;
    // Of one that is paused, too.
    servers.control("start", Some(server)).await?;
    if server.name != "broker" {
        return Ok(());
    }
    let began = Instant::now();
    loop {
        match servers.waiting().await {
            Ok(_) => return Ok(()),
            // The broker lost a queue, which no client can make up for.
            Err(error) if began.elapsed() > QUEUES_DEADLINE => return Err(error),
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}
