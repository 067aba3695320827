//! A fault every second. Rounds of 36 have each kind as often as it is to come; their order is up to the dice, as is
//! how long each lasts.
//!
//! A server that is being killed, paused or started is left alone by further faults of its own, not by those of others.
//! `deploy/local/servers` does one thing at a time, so the next server's fault may come some seconds late.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::Utc;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    Try,
    account::Notes,
    others::{Others, bound_queues, fill_broker, lock_rows, open_halves},
    plan::Dice,
    platform::Platform,
    replica::Order,
    servers::{Server, Servers},
};

const INTERVAL: Duration = Duration::from_secs(1);
/// Between the death of a server or a replica and its next start.
const LONGEST_DEATH: Duration = Duration::from_secs(2);
/// Longer than the service's `DOCKER_TIMEOUT` now and then.
const LONGEST_PAUSE: Duration = Duration::from_secs(7);
/// After so many rounds every kind of fault has been possible at some moment.
const ROUNDS_FOR_ALL: usize = 2;
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
    /// Somebody has locked rows.
    RowsLocked,
    /// Clients open connections and send half a request.
    ClientsHalfOpen,
    /// It is deleted, and comes back without its binding.
    ExchangeDeleted,
    /// A policy bounds the queues that messages are moved to.
    PolicySet,
    /// The broker takes nothing from publishers.
    BrokerDiskFull,
    /// The database can't write receipts.
    DatabaseDiskFull,
    /// Another daemon answers in the right one's place.
    DaemonSwapped,
    /// A read-only database answers that says of every thread that it is closed.
    DatabaseSwapped,
    /// A database answers that has no table of ours.
    DatabaseEmpty,
}

impl Fault {
    /// How often each comes, of 36 times. A server's start takes seconds: if their kills were as frequent as the
    /// others, nothing would ever be up at once.
    const WEIGHTS: [(Self, usize); 18] = [
        (Self::BrokerKilled, 1),
        (Self::DatabaseKilled, 1),
        (Self::DockerKilled, 1),
        (Self::DockerPaused, 2),
        (Self::BrokerCut, 3),
        (Self::DatabaseCut, 3),
        (Self::DockerCut, 3),
        (Self::ReplicaKilled, 2),
        (Self::ReplicaStopped, 2),
        (Self::RowsLocked, 3),
        (Self::ClientsHalfOpen, 3),
        (Self::ExchangeDeleted, 2),
        (Self::PolicySet, 2),
        (Self::BrokerDiskFull, 1),
        (Self::DatabaseDiskFull, 2),
        (Self::DaemonSwapped, 2),
        (Self::DatabaseSwapped, 2),
        (Self::DatabaseEmpty, 1),
    ];

    /// Each as often as it comes, in random order.
    fn round(dice: &mut Dice) -> Vec<Self> {
        let mut all: Vec<_> =
            Self::WEIGHTS.iter().flat_map(|&(fault, weight)| std::iter::repeat_n(fault, weight)).collect();
        dice.shuffle(&mut all);
        all
    }
}

#[derive(Clone)]
pub(crate) struct Chaos {
    pub(crate) servers: Arc<Servers>,
    pub(crate) notes: Arc<Notes>,
    pub(crate) replicas: Vec<mpsc::Sender<Order>>,
    /// Where they listen.
    pub(crate) http: Vec<String>,
    pub(crate) platform: Arc<Platform>,
    pub(crate) others: Arc<Others>,
}

impl Chaos {
    /// Reigns for so long, then lets every fault come to its end. Returns how often each was there.
    pub(crate) async fn reign(self, mut dice: Dice, lasts: Duration) -> BTreeMap<Fault, usize> {
        let mut counts = BTreeMap::new();
        // The next one comes last.
        let mut waiting = Vec::new();
        let mut lasting = JoinSet::new();
        let until = Instant::now() + lasts;
        let mut tick = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < until {
            tick.tick().await;
            // Not every fault is possible at every moment: it comes as soon as it is. A cut always is.
            let fault = loop {
                let mut turns = (0..waiting.len()).rev();
                if let Some(turn) = turns.find(|&turn| self.strike(waiting[turn], &mut dice, &mut lasting)) {
                    break waiting.remove(turn);
                }
                waiting.splice(0..0, Fault::round(&mut dice));
            };
            *counts.entry(fault).or_default() += 1;
            while lasting.try_join_next().is_some() {}
        }
        lasting.join_all().await;
        if counts.values().sum::<usize>() >= ROUNDS_FOR_ALL * Fault::round(&mut dice).len() {
            let missing = Fault::WEIGHTS.iter().filter(|(fault, _)| !counts.contains_key(fault));
            let missing: Vec<_> = missing.map(|(fault, _)| format!("{fault:?}")).collect();
            self.notes.claim("every kind of fault came", &missing);
        }
        counts
    }

    /// Whether the fault is possible now, and was begun.
    fn strike(&self, fault: Fault, dice: &mut Dice, lasting: &mut JoinSet<()>) -> bool {
        let which = dice.below(self.replicas.len());
        let (replica, http) = (&self.replicas[which], self.http[which].clone());
        let (death, pause) = (dice.up_to(LONGEST_DEATH), dice.up_to(LONGEST_PAUSE));
        let servers = &self.servers;
        let others = Arc::clone(&self.others);
        let begun = match fault {
            Fault::BrokerKilled => {
                return self.harm(fault, |it| Some(&it.broker), Harm::Server("kill", death), lasting);
            }
            Fault::DatabaseKilled => {
                return self.harm(fault, |it| it.database.as_ref(), Harm::Server("kill", death), lasting);
            }
            Fault::DockerKilled => {
                return self.harm(fault, |it| Some(&it.docker), Harm::Server("kill", death), lasting);
            }
            Fault::DockerPaused => {
                return self.harm(fault, |it| Some(&it.docker), Harm::Server("pause", pause), lasting);
            }
            Fault::DaemonSwapped => {
                return self.harm(
                    fault,
                    |it| Some(&it.docker),
                    Harm::Swap(others.wrong.docker.clone(), pause),
                    lasting,
                );
            }
            Fault::DatabaseSwapped | Fault::DatabaseEmpty => {
                let Some(wrong) = &others.wrong.databases else { return false };
                let wrong = if fault == Fault::DatabaseEmpty { &wrong.empty } else { &wrong.lying };
                return self.harm(fault, |it| it.database.as_ref(), Harm::Swap(wrong.clone(), pause), lasting);
            }
            Fault::DatabaseDiskFull if others.disk.is_none() => return false,
            Fault::DatabaseDiskFull => {
                return self.harm(fault, |it| it.database.as_ref(), Harm::FullDatabase(pause), lasting);
            }
            Fault::BrokerDiskFull => return self.harm(fault, |it| Some(&it.broker), Harm::FullBroker(pause), lasting),
            Fault::PolicySet => return self.harm(fault, |it| Some(&it.broker), Harm::Policy(pause), lasting),
            Fault::ExchangeDeleted => return self.harm(fault, |it| Some(&it.broker), Harm::Exchange(death), lasting),
            // Only a file has no rows to lock.
            Fault::RowsLocked if servers.database.is_none() => return false,
            Fault::RowsLocked => {
                let (chaos, since) = (self.clone(), Utc::now());
                lasting.spawn(async move {
                    // A database that goes away meanwhile unlocks them.
                    let _ = lock_rows(&chaos.platform, &others.database_url, pause).await;
                    chaos.platform.meanwhile.was(&format!("{fault:?}"), since);
                });
                return true;
            }
            Fault::ClientsHalfOpen => {
                let (chaos, since) = (self.clone(), Utc::now());
                lasting.spawn(async move {
                    if let Err(error) = open_halves(&http, pause).await {
                        chaos.notes.incident(error.to_string());
                    }
                    chaos.platform.meanwhile.was(&format!("{fault:?}"), since);
                });
                return true;
            }
            Fault::BrokerCut => servers.broker.proxy.cut(),
            Fault::DatabaseCut => servers.database.as_ref().is_some_and(|database| database.proxy.cut()),
            Fault::DockerCut => servers.docker.proxy.cut(),
            Fault::ReplicaKilled => replica.try_send(Order::Kill(death)).is_ok(),
            Fault::ReplicaStopped => replica.try_send(Order::Stop(death)).is_ok(),
        };
        if begun {
            self.platform.meanwhile.was(&format!("{fault:?}"), Utc::now() - INTERVAL);
        }
        begun
    }

    /// Does something to a server that nothing else is done to, and takes it back some time later.
    fn harm(
        &self,
        fault: Fault,
        which: impl Fn(&Servers) -> Option<&Server> + Send + 'static,
        harm: Harm,
        lasting: &mut JoinSet<()>,
    ) -> bool {
        if which(&self.servers).is_none_or(|server| server.turn.try_lock().is_err()) {
            return false;
        }
        let chaos = self.clone();
        lasting.spawn(async move {
            let Some(server) = which(&chaos.servers) else { return };
            let _turn = server.turn.lock().await;
            let since = Utc::now();
            if let Err(error) = chaos.do_harm(server, &harm).await {
                chaos.notes.incident(format!("{fault:?}: {error}"));
            }
            chaos.platform.meanwhile.was(&format!("{fault:?}"), since);
        });
        true
    }

    async fn do_harm(&self, server: &Server, harm: &Harm) -> Try {
        match harm {
            Harm::Server(action, lasts) => kill_and_start(&self.servers, server, action, *lasts).await,
            Harm::Swap(target, lasts) => {
                let right = server.proxy.swap(std::slice::from_ref(target));
                tokio::time::sleep(*lasts).await;
                server.proxy.swap(&right);
                Ok(())
            }
            Harm::FullDatabase(lasts) => match &self.others.disk {
                Some(disk) => disk.fill(*lasts).await,
                None => Ok(()),
            },
            Harm::FullBroker(lasts) => fill_broker(&self.servers, *lasts).await,
            Harm::Policy(lasts) => bound_queues(&self.servers, *lasts).await,
            Harm::Exchange(lasts) => self.platform.broker.make_exchange_anew(*lasts).await,
        }
    }
}

/// What is done to a server, and for how long.
enum Harm {
    /// `kill` or `pause`.
    Server(&'static str, Duration),
    /// Another one answers in its place.
    Swap(String, Duration),
    FullDatabase(Duration),
    FullBroker(Duration),
    Policy(Duration),
    Exchange(Duration),
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
