//! Which dependencies answer. Whoever finds one down says so here; consumer and reconciler wait here; a probe per
//! dependency finds out when it is back.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use crate::{
    failure::{Dependency, Failure},
    metrics,
    reconnect::Delays,
};

/// How often a dependency that is up is asked whether it still is, so that `/readyz` is true without traffic.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// A dependency that was up for so long is taken to be stable: its next outage begins with short waits again.
const STABLE_AFTER: Duration = Duration::from_secs(30);

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

/// The state of all dependencies.
pub struct Health(watch::Sender<[Status; Dependency::ALL.len()]>);

impl Health {
    /// Nothing has been contacted yet.
    #[must_use]
    pub fn new() -> Self {
        let since = Utc::now();
        for dependency in Dependency::ALL {
            metrics::dependency_up(dependency, false);
        }
        let unknown = || Status { up: false, since, reason: Some("not contacted yet".to_owned()) };
        Self(watch::Sender::new(Dependency::ALL.map(|_| unknown())))
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
        self.0.send_if_modified(|all| {
            let status = &mut all[dependency as usize];
            let up = reason.is_none();
            // The first word about a dependency is news too, though it was taken for down before.
            let is_news = status.up != up || (!up && status.reason.as_deref() == Some("not contacted yet"));
            if is_news {
                metrics::dependency_up(dependency, up);
                match reason {
                    None => info!(%dependency, "up"),
                    Some(reason) => warn!(%dependency, reason, "down"),
                }
                status.since = Utc::now();
            }
            status.up = up;
            status.reason = reason.map(str::to_owned);
            is_news
        });
    }

    /// The state of each dependency.
    #[must_use]
    pub fn statuses(&self) -> [(Dependency, Status); Dependency::ALL.len()] {
        let all = self.0.borrow();
        Dependency::ALL.map(|dependency| (dependency, all[dependency as usize].clone()))
    }

    /// The first of `dependencies` that is down, with its reason.
    #[must_use]
    pub fn first_down(&self, dependencies: &[Dependency]) -> Option<(Dependency, Status)> {
        let all = self.0.borrow();
        let down = dependencies.iter().find(|&&dependency| !all[dependency as usize].up);
        down.map(|&dependency| (dependency, all[dependency as usize].clone()))
    }

    /// Waits until all of `dependencies` are up.
    pub async fn until_up(&self, dependencies: &[Dependency]) {
        self.until(|all| dependencies.iter().all(|&dependency| all[dependency as usize].up)).await;
    }

    /// Waits until one of `dependencies` is down.
    pub async fn until_down(&self, dependencies: &[Dependency]) {
        self.until(|all| dependencies.iter().any(|&dependency| !all[dependency as usize].up)).await;
    }

    async fn until(&self, condition: impl Fn(&[Status; Dependency::ALL.len()]) -> bool) {
        // The sender lives as long as this borrow of it, so the channel can't be closed.
        let _ = self.0.subscribe().wait_for(|all| condition(all)).await;
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
