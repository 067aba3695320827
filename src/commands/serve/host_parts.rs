//! The parts of a process that each Docker host has for itself.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{Span, debug, error_span};

use super::Process;
use crate::{
    cleanup::{fleet::HostWorker, freed},
    failure::{Dependency, Failure, Verdict},
    operations::{DatabasePort, DockerPort, prepare_docker, sweep_lease},
    sweep::Sweeper,
};

/// One Docker host of the process.
pub(super) struct Host<V, T> {
    pub(super) process: Arc<Process<V, T>>,
    pub(super) number: usize,
}

impl<V, T> Clone for Host<V, T> {
    fn clone(&self) -> Self {
        Self { process: Arc::clone(&self.process), number: self.number }
    }
}

impl<V: DockerPort, T: DatabasePort> Host<V, T> {
    fn worker(&self) -> &HostWorker<V, T> {
        &self.process.fleet.workers()[self.number]
    }

    /// Names the host in the log lines of its parts; not the only one.
    pub(super) fn span(&self) -> Span {
        self.worker().cleaner.host.name().map_or_else(Span::current, |host| error_span!("docker", host))
    }

    pub(super) async fn sweep(self, is_leader: watch::Receiver<bool>) -> Result<(), Failure> {
        let HostWorker { cleaner, health, .. } = self.worker();
        let config = &self.process.config;
        let sweeper = Sweeper::new(Arc::clone(cleaner), Arc::clone(health), config.reconcile_cooldown);
        tokio::select! {
            () = sweeper.run(self.process.schedule(is_leader)) => {}
            // The next sweep takes up what this one leaves.
            () = self.process.abort.cancelled() => {}
        }
        Ok(())
    }

    pub(super) async fn lead(self, is_leader: watch::Sender<bool>) -> Result<(), Failure> {
        let lease = sweep_lease(&self.worker().cleaner.host);
        Arc::clone(&self.process).lead(lease, is_leader).await
    }

    /// Asks now and then how much is in the volumes, as long as this replica sweeps the host.
    pub(super) async fn measure(self, mut is_leader: watch::Receiver<bool>) -> Result<(), Failure> {
        let (HostWorker { cleaner, health, .. }, config) = (self.worker(), &self.process.config);
        let Some(interval) = config.size_interval else {
            self.process.stop.cancelled().await;
            return Ok(());
        };
        let measure = async {
            loop {
                let _ = is_leader.wait_for(|is_leader| *is_leader).await;
                health.until_up(&[Dependency::Docker]).await;
                match cleaner.volumes.as_ref().measure(&config.volume_names).await {
                    Ok(volumes) => debug!(volumes, "measured"),
                    Err(error) => debug!(%error, "how much is in the volumes is not known"),
                }
                tokio::time::sleep(interval).await;
            }
        };
        tokio::select! {
            () = measure => {}
            () = self.process.stop.cancelled() => {}
        }
        Ok(())
    }

    pub(super) async fn clean_released(self) -> Result<(), Failure> {
        let HostWorker { cleaner, health, .. } = self.worker();
        tokio::select! {
            () = freed::clean_freed(cleaner, health, &self.process.stop) => {}
            // The next sweep takes up what this leaves.
            () = self.process.abort.cancelled() => {}
        }
        Ok(())
    }

    pub(super) async fn follow_docker(self) -> Result<(), Failure> {
        let HostWorker { cleaner, health, .. } = self.worker();
        freed::follow(cleaner, health, &self.process.stop).await;
        self.process.done.cancelled().await;
        Ok(())
    }

    pub(super) async fn probe_docker(self) -> Result<(), Failure> {
        let HostWorker { cleaner, health, .. } = self.worker();
        let probe = async || match prepare_docker(cleaner).await {
            // Not Docker's fault, and nothing can be done about volumes without the database anyway.
            Err(Failure { verdict: Verdict::Unavailable(Dependency::Database), .. }) => {
                health.until_up(&[Dependency::Database]).await;
                prepare_docker(cleaner).await
            }
            result => result,
        };
        tokio::select! {
            () = health.watch(Dependency::Docker, probe) => {}
            () = self.process.done.cancelled() => {}
        }
        Ok(())
    }
}
