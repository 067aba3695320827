//! Has the planned faults happen. One that comes before the last one's consequences are over, about the same servers,
//! waits for that.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use chrono::Utc;
use tokio::{
    sync::{Mutex, MutexGuard, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Doors,
    broker_nodes::Nodes,
    daemons::Daemons,
    database_pair::Pair,
    fault_plan::{Kind, Planned},
};
use crate::{
    Try,
    account::Notes,
    others::{lock_rows, open_halves},
    platform::Platform,
    replica::Order,
};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Where a replica's clock jumps to.
const JUMPS: [&str; 6] = ["+2h", "-2h", "+40d", "-40d", "+90", "-90"];

pub(crate) struct Strikes {
    pub(crate) nodes: Nodes,
    pub(crate) pair: Pair,
    pub(crate) daemons: Daemons,
    pub(crate) for_platform: Doors,
    pub(crate) for_replicas: Doors,
    pub(crate) replicas: Vec<mpsc::Sender<Order>>,
    /// Where they listen.
    pub(crate) http: Vec<String>,
    /// The files of their clocks.
    pub(crate) clocks: Vec<Option<PathBuf>>,
    pub(crate) platform: Arc<Platform>,
    pub(crate) notes: Arc<Notes>,
    pub(crate) replica_turns: Vec<Mutex<()>>,
}

impl Strikes {
    /// Until the last fault is over. Returns how often each was there.
    pub(crate) async fn reign(self: Arc<Self>, plan: &[Planned]) -> BTreeMap<Kind, usize> {
        let began = Instant::now();
        let mut counts = BTreeMap::new();
        let mut lasting = JoinSet::new();
        for planned in plan.iter().copied() {
            sleep_until(began + planned.at).await;
            let strikes = Arc::clone(&self);
            lasting.spawn(async move { strikes.strike(planned).await });
            *counts.entry(planned.kind).or_default() += 1;
            while lasting.try_join_next().is_some() {}
        }
        lasting.join_all().await;
        counts
    }

    async fn strike(&self, planned: Planned) {
        let _turns = self.turns(planned).await;
        let since = Utc::now();
        if let Err(error) = self.have_happen(planned).await {
            self.notes.incident(format!("{planned:?}: {error}"));
        }
        self.platform.meanwhile.was(&format!("{:?}", planned.kind), since);
    }

    async fn turns(&self, Planned { kind, which, .. }: Planned) -> Vec<MutexGuard<'_, ()>> {
        match kind {
            Kind::BrokerKilled
            | Kind::BrokerFrozen
            | Kind::BrokerCutOff
            | Kind::BrokersRolled
            | Kind::ExchangeDeleted => vec![self.nodes.turn.lock().await],
            Kind::PrimaryKilled | Kind::StandbyKilled | Kind::StandbyAsked => vec![self.pair.turn.lock().await],
            Kind::DaemonKilled | Kind::DaemonFrozen | Kind::DaemonDiskFull => {
                vec![self.daemons.turns[which % 2].lock().await]
            }
            Kind::DaemonsSwapped => {
                vec![self.daemons.turns[0].lock().await, self.daemons.turns[1].lock().await]
            }
            Kind::ReplicaKilled
            | Kind::ReplicaStopped
            | Kind::ReplicaFrozen
            | Kind::ClockJumped
            | Kind::ClientsHalfOpen => {
                vec![self.replica_turns[which % self.replicas.len()].lock().await]
            }
            Kind::BrokerConnectionsCut
            | Kind::DatabaseConnectionsCut
            | Kind::RowsLocked
            | Kind::DaemonConnectionsCut => vec![],
        }
    }

    async fn have_happen(&self, Planned { kind, which, lasts, .. }: Planned) -> Try {
        let (nodes, pair, daemons) = (&self.nodes, &self.pair, &self.daemons);
        let (broker, database) = (&self.for_replicas.broker, &self.for_replicas.database);
        let replica = which % self.replicas.len();
        match kind {
            Kind::BrokerKilled => self.harm_node(which, "kill", lasts).await?,
            Kind::BrokerFrozen => self.harm_node(which, "pause", lasts).await?,
            Kind::BrokerCutOff => nodes.cut_off(which, lasts).await?,
            Kind::BrokersRolled => nodes.roll().await?,
            Kind::BrokerConnectionsCut => drop(broker.cut()),
            Kind::ExchangeDeleted => self.platform.broker.make_exchange_anew(lasts).await?,
            Kind::PrimaryKilled => {
                pair.fail_over(lasts, &[database, &self.for_platform.database], database).await?;
            }
            Kind::StandbyKilled => pair.lose_standby(lasts).await?,
            Kind::StandbyAsked => pair.ask_standby(lasts, database).await?,
            Kind::DatabaseConnectionsCut => drop(database.cut()),
            // A database that goes away meanwhile unlocks them.
            Kind::RowsLocked => {
                let _ = lock_rows(&self.platform, &self.for_platform.database_url(), lasts).await;
            }
            Kind::DaemonKilled => daemons.harm(which % 2, "kill", lasts).await?,
            Kind::DaemonFrozen => daemons.harm(which % 2, "pause", lasts).await?,
            Kind::DaemonsSwapped => daemons.swap(lasts).await,
            Kind::DaemonDiskFull => daemons.fill(which % 2, lasts).await?,
            Kind::DaemonConnectionsCut => drop(daemons.proxies[which % 2].cut()),
            Kind::ReplicaKilled => self.order(replica, Order::Kill(lasts)).await?,
            Kind::ReplicaStopped => self.order(replica, Order::Stop(lasts)).await?,
            Kind::ReplicaFrozen => {
                self.order(replica, Order::Freeze(lasts)).await?;
                sleep(lasts).await;
            }
            Kind::ClockJumped => self.have_clock_jump(replica, which, lasts).await?,
            Kind::ClientsHalfOpen => open_halves(&self.http[replica], lasts).await?,
        }
        Ok(())
    }

    async fn harm_node(&self, which: usize, action: &str, lasts: Duration) -> Try {
        self.nodes.control(which, action).await?;
        sleep(lasts).await;
        self.nodes.control(which, "start").await
    }

    /// Until the replica has begun to obey, which it does when it has done what it was told before.
    async fn order(&self, replica: usize, order: Order) -> Try {
        let orders = &self.replicas[replica];
        orders.send(order).await?;
        while orders.capacity() < orders.max_capacity() {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn have_clock_jump(&self, replica: usize, which: usize, lasts: Duration) -> Try {
        let Some(clock) = &self.clocks[replica] else { return Ok(()) };
        fs::write(clock, JUMPS[which % JUMPS.len()])?;
        sleep(lasts).await;
        Ok(fs::write(clock, "+0")?)
    }
}
