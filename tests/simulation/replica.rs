//! A process of the service: the real cleaner, fleet, consumer and sweeps, and around them what `serve` does with
//! sockets: taking deliveries, probing, keeping the leases, and beginning sweeps.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use volume_reaper::{
    cleanup::{
        Cleaner, Context, Policy, Volumes,
        breaker::Budgets,
        fleet::Fleet,
        policy::{Limits, Locking},
        retention::Retention,
    },
    clock::Clock,
    delivery::consumer::{Consumer, Message},
    failure::Dependency,
    health::Health,
    host::Host,
    sweep::{Sweeper, Unplaced},
};

use crate::{
    broker::{Channel, Delivery},
    daemon::Docker,
    database::ONLY,
    mutants::Mutant,
    names::names,
    store::Store,
    world::{Process, World, now},
};

pub(crate) const INTERVAL: Duration = Duration::from_secs(20);
pub(crate) const COOLDOWN: Duration = Duration::from_secs(30);
pub(crate) const LEASE: Duration = Duration::from_secs(30);
const RENEWAL: Duration = Duration::from_secs(10);
/// While all is well; more often while it is not.
const PROBE: Duration = Duration::from_secs(10);
const PREFETCH: u16 = 8;
pub(crate) const RETRY_DELAYS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

struct Running {
    world: Arc<World>,
    process: Process,
    store: Store,
    channel: Channel,
    fleet: Arc<Fleet<Docker, Store>>,
    health: Arc<Health>,
    consumer: Consumer<Docker, Store>,
}

/// Starts a replica, or starts it again.
pub(crate) fn start(world: &Arc<World>, replica: usize) {
    let process = {
        let mut state = world.state();
        let it = &mut state.replicas[replica];
        (it.is_down, it.frozen_until) = (false, None);
        it.starts += 1;
        Process { replica, start: it.starts }
    };
    let setup = &world.setup;
    let limit = if setup.locks_file { Duration::from_millis(500) } else { Duration::from_secs(2) };
    let locking = if setup.locks_file { Locking::of_file(limit) } else { Locking::of_rows(limit) };
    let limits = Limits { locking, timeout: Duration::from_secs(20) };
    let policy = Policy {
        retention: Retention(setup.retention),
        budgets: Budgets { per_sweep: setup.per_sweep, per_hour: setup.per_hour },
        exited: None,
    };
    let store = Store { world: Arc::clone(world), process };
    let context = Arc::new(Context::new(store.clone(), names(), policy, limits).with_clock(Clock::new(now)));
    let hosts: Vec<_> = if setup.hosts.is_empty() { vec![ONLY] } else { setup.hosts.clone() };
    let health = Health::of_hosts(hosts.iter().map(|host| Host::from_key(host)));
    let cleaner = |host: &&'static str| {
        let docker = Docker { world: Arc::clone(world), process, host };
        Arc::new(Cleaner::new(Host::from_key(host), docker, 4, Arc::clone(&context)))
    };
    let fleet = Arc::new(Fleet::new(hosts.iter().map(cleaner).collect(), &health, PREFETCH));
    let health = Arc::new(health);
    let consumer =
        Consumer { fleet: Arc::clone(&fleet), health: Arc::clone(&health), retry_delays: RETRY_DELAYS.to_vec() };
    let channel = Channel { world: Arc::clone(world), process };
    let running = Arc::new(Running { world: Arc::clone(world), process, store, channel, fleet, health, consumer });
    tokio::spawn(Arc::clone(&running).probe());
    tokio::spawn(Arc::clone(&running).consume());
    for number in 0..hosts.len() {
        tokio::spawn(Arc::clone(&running).sweep(number));
    }
    if !setup.hosts.is_empty() {
        tokio::spawn(running.sweep_unplaced());
    }
}

impl Running {
    async fn probe(self: Arc<Self>) {
        loop {
            match self.store.ping().await {
                Ok(()) => self.health.up(Dependency::Database),
                Err(failure) => self.health.down(Dependency::Database, &failure.message),
            }
            for worker in self.fleet.workers() {
                match worker.cleaner.volumes.probe().await {
                    Ok(()) => worker.health.up(Dependency::Docker),
                    Err(failure) => worker.health.down(Dependency::Docker, &failure.message),
                }
            }
            let is_up = self.health.first_down(&[Dependency::Database]).is_none() && self.health.are_all_hosts_up();
            sleep(if is_up { PROBE } else { PROBE / 5 }).await;
        }
    }

    async fn consume(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(PREFETCH.into()));
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("open");
            while self.health.first_down(&[Dependency::Database, Dependency::Docker]).is_some() {
                sleep(Duration::from_millis(500)).await;
            }
            let delivery = self.channel.next().await;
            let running = Arc::clone(&self);
            tokio::spawn(async move {
                running.handle(delivery).await;
                drop(slot);
            });
        }
    }

    async fn handle(&self, delivery: Delivery) {
        if self.world.is_mutant(Mutant::AckFirst) {
            self.channel.ack(delivery.tag).await;
        }
        let id = delivery.copy.event.to_string();
        let message = Message {
            body: &delivery.copy.body,
            content_type: None,
            headers: Vec::new(),
            id: Some(&id),
            came_as_reopened: false,
            host: None,
            failed_attempts: delivery.copy.attempts,
        };
        let settlement = self.consumer.handle(&message).await;
        self.channel.settle(delivery, &settlement).await;
    }

    /// Keeps the lease, and returns whether this process has it.
    async fn leads(&self, lease: &str, renewed: &mut Option<Instant>) -> bool {
        if renewed.is_some_and(|at| at.elapsed() < RENEWAL) {
            return true;
        }
        let is_held = matches!(self.store.lease(lease, LEASE).await, Ok(true));
        *renewed = is_held.then(Instant::now);
        is_held
    }

    async fn sweep(self: Arc<Self>, number: usize) {
        let worker = &self.fleet.workers()[number];
        let (cleaner, health) = (&worker.cleaner, &worker.health);
        let sweeper = Sweeper::new(Arc::clone(cleaner), Arc::clone(health), COOLDOWN);
        let lease = format!("sweep/{}", cleaner.host.key());
        let (mut renewed, mut next) = (None, Instant::now());
        loop {
            let is_leader = self.leads(&lease, &mut renewed).await;
            let is_up = health.first_down(&[Dependency::Database, Dependency::Docker]).is_none();
            if is_leader && is_up && next <= Instant::now() {
                self.world.state().check_sweep(self.process, &lease);
                let report = sweeper.sweep(false, &CancellationToken::new()).await;
                self.note_sweep(&lease, report.skipped_reason.as_deref(), report.removed);
                next = Instant::now() + INTERVAL;
            }
            let tick = sleep(Duration::from_secs(1).max(next.saturating_duration_since(Instant::now()).min(RENEWAL)));
            tokio::select! {
                biased;
                () = cleaner.users.sweep_is_due() => {
                    next = Instant::now();
                    sleep(Duration::from_secs(1)).await;
                }
                () = tick => {}
            }
        }
    }

    async fn sweep_unplaced(self: Arc<Self>) {
        let unplaced = Unplaced::new(Arc::clone(&self.fleet), Arc::clone(&self.health), false);
        let mut renewed = None;
        loop {
            let is_leader = self.leads("sweep", &mut renewed).await;
            let needed = [Dependency::Database, Dependency::Docker];
            if is_leader && self.health.first_down(&needed).is_none() {
                self.world.state().check_sweep(self.process, "sweep");
                let report = unplaced.sweep(false, &CancellationToken::new()).await;
                self.note_sweep("sweep", report.skipped_reason.as_deref(), report.removed);
            }
            sleep(INTERVAL / 2).await;
        }
    }

    fn note_sweep(&self, lease: &str, skipped: Option<&str>, removed: u64) {
        let mut state = self.world.state();
        if !state.is_alive(self.process) {
            return;
        }
        let replica = self.process.replica;
        state.note(|| format!("replica {replica}: {lease} removed {removed}; {}", skipped.unwrap_or("done")));
        if self.world.setup.per_sweep.is_some_and(|budget| removed > budget) {
            state.violated(format!("budget: one sweep removed {removed}"));
        }
    }
}
