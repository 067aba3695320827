//! Docker in memory: a daemon for each host, with volumes, who uses them, and the lock on a name that orders a removal
//! and a creation. What is sent to it arrives and is done even if the sender dies.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use volume_reaper::{
    cleanup::{Container, ContainerId, ContainerRemoval, Containers, Inventory, Removal, Volumes},
    failure::{Dependency, Failure},
    volume_name::{VolumeName, VolumeNames},
};

use crate::{
    database::{ONLY, THREADS, UNSERVED},
    mutants::Mutant,
    names::{names, thread_of, volume_of},
    plan::{Fault, Setup},
    world::{Process, State, World, failure, take},
};

/// Volumes that are not to be touched: of no thread, of another's prefix, and of another's name.
pub(crate) const STRANGERS: [&str; 3] = ["ha_ws_orphan", "ha_wsx", "other_ha_ws_t1"];

#[derive(Debug, Default)]
pub(crate) struct Daemon {
    /// With the containers that use them.
    pub(crate) volumes: BTreeMap<String, BTreeSet<String>>,
    /// Who has the lock on a name, and who waits for it, in the order in which they came.
    pub(crate) names: BTreeMap<String, VecDeque<u64>>,
    pub(crate) down_until: Option<Instant>,
    pub(crate) hangs_until: Option<Instant>,
    pub(crate) swapped_until: Option<Instant>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) slow_ms: Option<u64>,
    pub(crate) is_partial: bool,
    /// The list before, for a mutant.
    before: Option<Inventory>,
}

#[derive(Debug, Default)]
pub(crate) struct Daemons {
    pub(crate) hosts: BTreeMap<&'static str, Daemon>,
    /// How often a volume was removed by request.
    pub(crate) removed: BTreeMap<String, usize>,
    /// Requests about a single volume.
    pub(crate) calls: usize,
    /// How many locks on names were asked for.
    locks: u64,
}

fn is_later(time: Option<Instant>) -> bool {
    time.is_some_and(|time| time > Instant::now())
}

impl Daemon {
    pub(crate) fn is_down(&self) -> bool {
        is_later(self.down_until)
    }

    pub(crate) fn is_swapped(&self) -> bool {
        is_later(self.swapped_until)
    }
}

impl Daemons {
    pub(crate) fn of(setup: &Setup) -> Self {
        let hosts = if setup.hosts.is_empty() { vec![ONLY] } else { setup.hosts.clone() };
        let hosts = hosts.into_iter().chain(setup.has_unserved.then_some(UNSERVED));
        let mut daemons = Self::default();
        for host in hosts {
            let volumes = STRANGERS.iter().map(|name| ((*name).to_owned(), BTreeSet::new())).collect();
            daemons.hosts.insert(host, Daemon { volumes, ..Daemon::default() });
        }
        daemons
    }

    /// Whether nothing is under way.
    pub(crate) fn are_idle(&self) -> bool {
        self.hosts.values().all(|daemon| daemon.names.is_empty())
    }

    /// Whether any host has the thread's volume.
    pub(crate) fn have(&self, thread: &str) -> bool {
        let volume = volume_of(thread);
        self.hosts.values().any(|daemon| daemon.volumes.contains_key(&volume))
    }

    pub(crate) fn at(&mut self, host: &str) -> &mut Daemon {
        self.hosts.get_mut(host).expect("a host")
    }
}

impl World {
    /// Takes the daemon's lock on a name, after those who came before.
    pub(crate) async fn take_name(&self, host: &str, name: &str) -> u64 {
        let number = {
            let mut state = self.state();
            state.daemons.locks += 1;
            let number = state.daemons.locks;
            state.daemons.at(host).names.entry(name.to_owned()).or_default().push_back(number);
            number
        };
        self.until(|state| (state.daemons.at(host).names[name].front() == Some(&number)).then_some(())).await;
        number
    }
}

impl State {
    /// Gives the lock on a name to the next one.
    pub(crate) fn give_name(&mut self, host: &str, name: &str, number: u64) {
        let names = &mut self.daemons.at(host).names;
        let waiting = names.get_mut(name).expect("it is locked");
        waiting.retain(|it| *it != number);
        if waiting.is_empty() {
            names.remove(name);
        }
    }
}

/// The way of a process to the daemon of a host.
pub(crate) struct Docker {
    pub(crate) world: Arc<World>,
    pub(crate) process: Process,
    pub(crate) host: &'static str,
}

fn unavailable(what: &str) -> Failure {
    Failure::unavailable(Dependency::Docker, what)
}

impl Docker {
    fn daemon<R>(&self, look: impl FnOnce(&mut Daemon) -> R) -> R {
        look(self.world.state().daemons.at(self.host))
    }

    /// A request arrives at a daemon that answers; fails if it does not.
    async fn arrive(&self) -> Result<(), Failure> {
        self.hang().await;
        self.accept().await
    }

    /// Waits as long as the daemon hangs.
    async fn hang(&self) {
        while let Some(until) = self.daemon(|it| it.hangs_until.filter(|until| *until > Instant::now())) {
            sleep_until(until).await;
        }
    }

    async fn accept(&self) -> Result<(), Failure> {
        self.world.on_its_way().await;
        let mut state = self.world.state();
        let State { rng, daemons, .. } = &mut *state;
        let daemon = daemons.at(self.host);
        if daemon.is_down() {
            return Err(unavailable("connection refused"));
        }
        if take(&mut daemon.faults, Fault::Before) {
            return Err(failure(rng, Dependency::Docker));
        }
        Ok(())
    }

    /// The answer is on its way, or lost.
    async fn answered<R>(&self, answer: R) -> Result<R, Failure> {
        self.world.on_its_way().await;
        self.world.runs(self.process).await;
        let mut state = self.world.state();
        let State { rng, daemons, .. } = &mut *state;
        let daemon = daemons.at(self.host);
        if take(&mut daemon.faults, Fault::After) {
            return Err(failure(rng, Dependency::Docker));
        }
        if daemon.is_down() { Err(unavailable("connection reset")) } else { Ok(answer) }
    }

    fn not_pinned(&self) -> Result<(), Failure> {
        if self.daemon(|it| it.is_swapped()) { Err(unavailable("unknown daemon")) } else { Ok(()) }
    }

    /// Removes a volume, as the daemon does it.
    async fn remove_at_daemon(&self, volume: &str) -> Result<Removal, Failure> {
        let name = self.world.take_name(self.host, volume).await;
        let begun = {
            let mut state = self.world.state();
            let ignores_users = state.is(Mutant::InUseIgnored);
            let daemon = state.daemons.at(self.host);
            match daemon.volumes.get(volume) {
                None => Err(Removal::Missing),
                Some(users) if !users.is_empty() && !ignores_users => {
                    Err(Removal::Referenced { containers: users.iter().cloned().collect() })
                }
                Some(_) => {
                    let slow_ms = daemon.slow_ms.take();
                    state.check_removal(volume, self.host);
                    Ok(slow_ms.unwrap_or_else(|| state.rng.u64(..20)))
                }
            }
        };
        let result = match begun {
            Err(found) => Ok(found),
            Ok(ms) => {
                sleep(Duration::from_millis(ms)).await;
                let mut state = self.world.state();
                state.note(|| format!("{volume} is removed at {}", self.host));
                state.daemons.at(self.host).volumes.remove(volume);
                *state.daemons.removed.entry(volume.to_owned()).or_default() += 1;
                Ok(Removal::Removed)
            }
        };
        self.world.state().give_name(self.host, volume, name);
        self.world.freed.notify_waiters();
        result
    }

    async fn remove_sent(&self, volume: &str) -> Result<Removal, Failure> {
        self.accept().await?;
        if self.daemon(|it| it.is_swapped()) {
            // It does not have the volume.
            return self.answered(Removal::Missing).await;
        }
        let removal = self.remove_at_daemon(volume).await?;
        self.answered(removal).await
    }
}

impl Containers for Docker {
    async fn look_at(&self, container: &ContainerId) -> Result<Option<Container>, Failure> {
        unreachable!("{container}: no rule lets containers be removed")
    }

    async fn remove_container_by(&self, container: &ContainerId, _: Instant) -> Result<ContainerRemoval, Failure> {
        unreachable!("{container}: no rule lets containers be removed")
    }
}

impl Volumes for Docker {
    async fn remove_by(&self, volume: &VolumeName, latest: Option<Instant>) -> Result<Removal, Failure> {
        self.world.runs(self.process).await;
        // Of a daemon that answers nothing it is not known when it takes a request.
        if !self.world.is_mutant(Mutant::NotHeardFirst) {
            self.arrive().await?;
            self.world.on_its_way().await;
            self.world.runs(self.process).await;
        }
        let is_late = latest.is_some_and(|latest| Instant::now() > latest);
        if is_late && !self.world.is_mutant(Mutant::SentLate) {
            return Ok(Removal::NotSent);
        }
        if self.world.is_mutant(Mutant::NotHeardFirst) {
            self.hang().await;
        }
        let (name, mutant) = (volume.as_str(), {
            let mut state = self.world.state();
            state.check_sending(self.process, &thread_of(volume), self.host);
            state.mutant
        });
        match mutant {
            Some(Mutant::MarkBeforeRemove) => {
                let docker = Self { world: Arc::clone(&self.world), process: self.process, host: self.host };
                let name = name.to_owned();
                tokio::spawn(async move { docker.remove_sent(&name).await });
                Ok(Removal::Removed)
            }
            Some(Mutant::NameByPrefix) => {
                for other in THREADS.map(volume_of).into_iter().filter(|other| other != name && other.starts_with(name))
                {
                    if self.daemon(|it| it.volumes.contains_key(&other)) {
                        self.remove_sent(&other).await?;
                    }
                }
                self.remove_sent(name).await
            }
            Some(Mutant::Force) => {
                let removal = self.remove_sent(name).await?;
                Ok(if removal == Removal::Missing { Removal::Removed } else { removal })
            }
            Some(Mutant::ErrorIsNotFound) => Ok(self.remove_sent(name).await.unwrap_or(Removal::NotFound)),
            _ => self.remove_sent(name).await,
        }
    }

    async fn probe(&self) -> Result<(), Failure> {
        self.world.runs(self.process).await;
        self.arrive().await?;
        self.not_pinned()?;
        self.answered(()).await
    }

    async fn has(&self, volume: &VolumeName) -> Result<bool, Failure> {
        self.world.runs(self.process).await;
        self.world.state().daemons.calls += 1;
        let asked = async {
            self.arrive().await?;
            self.not_pinned()?;
            let has = self.daemon(|it| it.volumes.contains_key(volume.as_str()));
            self.answered(has).await
        };
        let has = asked.await;
        if has.is_err() && self.world.is_mutant(Mutant::DownIsAbsent) { Ok(false) } else { has }
    }

    /// What the removal of a missing volume asks next.
    async fn have(&self, volumes: &[VolumeName]) -> Vec<Result<bool, Failure>> {
        let asked = async {
            self.world.runs(self.process).await;
            self.arrive().await?;
            if !self.world.is_mutant(Mutant::OtherDaemonBelieved) {
                self.not_pinned()?;
            }
            let (is_swapped, mut there) = (self.daemon(|it| it.is_swapped()), Vec::new());
            for volume in volumes {
                there.push(!is_swapped && self.daemon(|it| it.volumes.contains_key(volume.as_str())));
            }
            self.answered(there).await
        };
        match asked.await {
            Ok(there) => there.into_iter().map(Ok).collect(),
            Err(failure) => vec![Err(failure); volumes.len()],
        }
    }

    async fn inventory(&self, _prefix: &VolumeNames) -> Result<Inventory, Failure> {
        self.world.runs(self.process).await;
        self.arrive().await?;
        if !self.world.is_mutant(Mutant::OtherListBelieved) {
            self.not_pinned()?;
        }
        let (list, ms) = {
            let mut state = self.world.state();
            let (is_old, is_believed) = (state.is(Mutant::ListBeforeRows), state.is(Mutant::WarningsIgnored));
            let ms = if state.rng.u8(..8) == 0 { state.rng.u64(..3000) } else { 0 };
            let daemon = state.daemons.at(self.host);
            let list = list(daemon, is_believed);
            let before = daemon.before.replace(list.clone());
            (before.filter(|_| is_old).unwrap_or(list), ms)
        };
        sleep(Duration::from_millis(ms)).await;
        self.answered(list).await
    }
}

/// What the daemon lists; of a swapped one, nothing.
fn list(daemon: &mut Daemon, is_believed: bool) -> Inventory {
    let mut inventory = Inventory::default();
    if daemon.is_swapped() {
        return inventory;
    }
    let is_partial = std::mem::take(&mut daemon.is_partial);
    if is_partial && !is_believed {
        inventory.warnings.push("a driver does not answer".to_owned());
    }
    for (name, users) in daemon.volumes.iter().filter(|_| !is_partial) {
        let Some(volume) = names().find(name) else { continue };
        if !users.is_empty() {
            inventory.referenced.insert(volume.clone(), users.iter().cloned().collect());
        }
        inventory.present.insert(volume);
    }
    inventory
}
