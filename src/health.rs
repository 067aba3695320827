//! Which dependencies answer. Whoever finds one down says so here; consumer and sweeps wait here; a probe per
//! dependency finds out when it is back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use crate::{
    failure::{Dependency, Failure},
    host::Host,
    metrics,
    reconnect::Delays,
};

/// How often a dependency that is up is asked whether it still is, so that `/readyz` is true without traffic.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// A dependency that was up for so long is taken to be stable: its next outage begins with short waits again.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Why a dependency is taken for down before anything is known of it.
const NOT_CONTACTED: &str = "not contacted yet";

/// What is known of a dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether it answers.
    pub up: bool,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is known of a Docker host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostStatus {
    /// What it is called.
    pub name: Host,
    /// The rest.
    #[serde(flatten)]
    pub status: Status,
}

/// The state of all dependencies. Docker is up while one of its hosts is; whoever works for one host has a view in
/// which it is that host ([`Health::of_host`]).
#[derive(Clone)]
pub struct Health {
    all: Arc<watch::Sender<All>>,
    host: Option<usize>,
}

struct All {
    broker: Status,
    database: Status,
    hosts: Vec<HostStatus>,
    degraded: BTreeMap<String, String>,
}

impl Health {
    /// Nothing has been contacted yet; there is one Docker host.
    #[must_use]
    pub fn new() -> Self {
        Self::of_hosts([Host::Only])
    }

    /// Nothing has been contacted yet of these Docker hosts.
    #[must_use]
    pub fn of_hosts(hosts: impl IntoIterator<Item = Host>) -> Self {
        let since = Utc::now();
        for dependency in Dependency::ALL {
            metrics::dependency_up(dependency, false);
        }
        let unknown = || Status { up: false, since, reason: Some(NOT_CONTACTED.to_owned()) };
        let hosts = hosts.into_iter().map(|name| HostStatus { name, status: unknown() });
        let hosts = hosts.collect();
        let all = All { broker: unknown(), database: unknown(), hosts, degraded: BTreeMap::new() };
        for host in &all.hosts {
            metrics::host_up(host.name.name(), false);
        }
        Self { all: Arc::new(watch::Sender::new(all)), host: None }
    }

    /// The view of who works for one host.
    #[must_use]
    pub fn of_host(&self, name: &Host) -> Self {
        let host = self.all.borrow().hosts.iter().position(|host| host.name == *name);
        Self { all: Arc::clone(&self.all), host }
    }

    /// The dependency answers.
    pub fn up(&self, dependency: Dependency) {
        self.set(dependency, None);
    }

    /// The dependency is down.
    pub fn down(&self, dependency: Dependency, reason: &str) {
        self.set(dependency, Some(reason));
    }

    fn set(&self, dependency: Dependency, reason: Option<&str>) {
        self.all.send_if_modified(|all| {
            let up = reason.is_none();
            let (name, status) = match dependency {
                Dependency::Broker => (None, &mut all.broker),
                Dependency::Database => (None, &mut all.database),
                // Without a view of one, there is only one.
                Dependency::Docker => {
                    let host = &mut all.hosts[self.host.unwrap_or(0)];
                    (Some(host.name.clone()), &mut host.status)
                }
            };
            // The first report on a dependency is news too, though it was taken for down before.
            let is_news = status.up != up || (!up && status.reason.as_deref() == Some(NOT_CONTACTED));
            if is_news {
                // That of the only one goes without saying.
                let host = name.as_ref().and_then(Host::name);
                match reason {
                    None => info!(%dependency, host, "up"),
                    Some(reason) => warn!(%dependency, host, reason, "down"),
                }
                status.since = Utc::now();
            }
            status.up = up;
            status.reason = reason.map(str::to_owned);
            if let Some(host) = name {
                metrics::host_up(host.name(), up);
            }
            metrics::dependency_up(dependency, all.is_up(dependency, None));
            is_news
        });
    }

    /// A part can't do its work although all dependencies answer, or can again. Whether that is news.
    pub(crate) fn degrade(&self, part: &str, reason: Option<&str>) -> bool {
        self.all.send_if_modified(|all| match reason {
            Some(reason) => all.degraded.insert(part.to_owned(), reason.to_owned()).is_none(),
            None => all.degraded.remove(part).is_some(),
        })
    }

    /// The parts that can't do their work although all dependencies answer, with the reasons.
    #[must_use]
    pub fn degraded(&self) -> BTreeMap<String, String> {
        self.all.borrow().degraded.clone()
    }

    /// The state of each dependency.
    #[must_use]
    pub fn statuses(&self) -> [(Dependency, Status); Dependency::ALL.len()] {
        let all = self.all.borrow();
        Dependency::ALL.map(|dependency| (dependency, all.status(dependency, self.host)))
    }

    /// The state of each Docker host; none if there is only one, which goes by no name.
    #[must_use]
    pub fn hosts(&self) -> Vec<HostStatus> {
        let hosts = self.all.borrow().hosts.clone();
        hosts.into_iter().filter(|host| !host.name.is_only()).collect()
    }

    /// Whether the dependency is up.
    #[must_use]
    pub fn is_up(&self, dependency: Dependency) -> bool {
        self.all.borrow().status(dependency, self.host).up
    }

    /// The first of `dependencies` that is down, with its reason.
    #[must_use]
    pub fn first_down(&self, dependencies: &[Dependency]) -> Option<(Dependency, Status)> {
        let all = self.all.borrow();
        let mut statuses = dependencies.iter().map(|&dependency| (dependency, all.status(dependency, self.host)));
        statuses.find(|(_, status)| !status.up)
    }

    /// Waits until all of `dependencies` are up.
    pub async fn until_up(&self, dependencies: &[Dependency]) {
        self.until(|all| dependencies.iter().all(|&dependency| all.is_up(dependency, self.host))).await;
    }

    /// Waits until one of `dependencies` is down.
    pub async fn until_down(&self, dependencies: &[Dependency]) {
        self.until(|all| dependencies.iter().any(|&dependency| !all.is_up(dependency, self.host))).await;
    }

    /// Whether all Docker hosts are up.
    #[must_use]
    pub fn are_all_hosts_up(&self) -> bool {
        self.all.borrow().hosts.iter().all(|host| host.status.up)
    }

    /// Waits until all Docker hosts are up.
    pub async fn until_all_hosts_up(&self) {
        self.until(|all| all.hosts.iter().all(|host| host.status.up)).await;
    }

    /// Waits until of all Docker hosts it is known whether they are up.
    pub async fn until_all_hosts_known(&self) {
        let is_known = |host: &HostStatus| host.status.reason.as_deref() != Some(NOT_CONTACTED);
        self.until(|all| all.hosts.iter().all(is_known)).await;
    }

    async fn until(&self, condition: impl Fn(&All) -> bool) {
        // The sender lives as long as this borrow of it, so the channel can't be closed.
        let _ = self.all.subscribe().wait_for(|all| condition(all)).await;
    }

    /// Probes a dependency for ever: now and then while it is up, with growing waits while it is down.
    pub async fn watch<F: Future<Output = Result<(), Failure>>>(&self, dependency: Dependency, probe: impl Fn() -> F) {
        let mut delays = Delays::new();
        loop {
            match probe().await {
                Ok(()) => {
                    self.up(dependency);
                    let up_since = Instant::now();
                    let went_down = tokio::time::timeout(PROBE_INTERVAL, self.until_down(&[dependency])).await.is_ok();
                    if !went_down {
                        delays.reset();
                        continue;
                    }
                    if up_since.elapsed() >= STABLE_AFTER {
                        delays.reset();
                    }
                }
                Err(failure) => self.down(dependency, &failure.message),
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
    }
}

impl All {
    fn is_any_host_up(&self) -> bool {
        self.hosts.iter().any(|host| host.status.up)
    }

    fn is_up(&self, dependency: Dependency, host: Option<usize>) -> bool {
        match (dependency, host) {
            (Dependency::Broker, _) => self.broker.up,
            (Dependency::Database, _) => self.database.up,
            (Dependency::Docker, Some(host)) => self.hosts[host].status.up,
            (Dependency::Docker, None) => self.is_any_host_up(),
        }
    }

    fn status(&self, dependency: Dependency, host: Option<usize>) -> Status {
        match (dependency, host) {
            (Dependency::Broker, _) => self.broker.clone(),
            (Dependency::Database, _) => self.database.clone(),
            (Dependency::Docker, Some(host)) => self.hosts[host].status.clone(),
            // The first that is up speaks for all, and if none is, the first.
            (Dependency::Docker, None) => {
                let host = self.hosts.iter().find(|host| host.status.up).unwrap_or(&self.hosts[0]);
                host.status.clone()
            }
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_woken_by_the_last_dependency_that_comes_up() {
        let health = Arc::new(Health::new());
        let waiting = tokio::spawn({
            let health = Arc::clone(&health);
            async move { health.until_up(&[Dependency::Docker, Dependency::Database]).await }
        });
        health.up(Dependency::Docker);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        health.up(Dependency::Database);
        waiting.await.expect("woken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dependency_that_is_reported_down_is_probed_until_it_is_back() {
        let health = Arc::new(Health::new());
        let probes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let watch = tokio::spawn({
            let (health, probes) = (Arc::clone(&health), Arc::clone(&probes));
            async move {
                health
                    .watch(Dependency::Docker, || {
                        let probe = probes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        std::future::ready(match probe {
                            1..=20 => Err(Failure::unavailable(Dependency::Docker, "refused")),
                            _ => Ok(()),
                        })
                    })
                    .await;
            }
        });
        health.until_up(&[Dependency::Docker]).await;
        let began = Instant::now();
        health.down(Dependency::Docker, "refused");
        assert_eq!(health.first_down(&Dependency::ALL).map(|(dependency, _)| dependency), Some(Dependency::Broker));
        health.until_up(&[Dependency::Docker]).await;
        // 21 waits: the first six grow from a quarter of a second, the others are at most 15 s each.
        assert!(began.elapsed() > Duration::from_mins(2) && began.elapsed() < Duration::from_mins(5));
        watch.abort();
    }
}
