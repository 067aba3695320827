//! The end of a process, in its order: the work, removals that nobody waits for, the services, the database.

use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tracing::{error, info, warn};

use super::Process;
use crate::{
    failure::Failure,
    operations::{DatabasePort, DockerPort},
};

/// For what is left when the grace period is over: goodbyes to others who may not answer.
const LAST_STEPS: Duration = Duration::from_secs(3);
/// Threads that are named in one log line.
const MOST_NAMED: usize = 100;

/// Parts of the process that run side by side.
pub(super) type Parts = JoinSet<Result<(), Failure>>;

impl<V: DockerPort, T: DatabasePort> Process<V, T> {
    /// Waits until everything has ended that was told to; not for ever, when it is to be dropped.
    pub(super) async fn end(&self, work: Parts, services: Parts) {
        let overdue = async {
            self.abort.cancelled().await;
            tokio::time::sleep(LAST_STEPS).await;
        };
        tokio::select! {
            () = self.end_in_order(work, services) => {}
            () = overdue => warn!("what is left does not end in time, and is dropped"),
        }
    }

    async fn end_in_order(&self, work: Parts, services: Parts) {
        // The services stay until the work is done: it needs to know who is up, and others want to know of us.
        all_ended(work).await;
        self.finish_removals().await;
        self.done.cancel();
        all_ended(services).await;
        if let Err(error) = self.store().close().await {
            warn!(%error, "the database was not closed cleanly");
        }
    }

    /// Waits for removals that took longer than their batch, and names those that it is too late for.
    async fn finish_removals(&self) {
        let workers = self.fleet.workers();
        let detached = || workers.iter().flat_map(|worker| worker.cleaner.detached()).collect::<Vec<_>>();
        if !detached().is_empty() {
            info!(removals = detached().len(), "waiting for removals that take long");
        }
        // All hosts have them in one place.
        let tasks = &workers[0].cleaner.context.tasks;
        tasks.close();
        tokio::select! {
            () = tasks.wait() => {}
            () = self.abort.cancelled() => {
                let left = detached();
                if !left.is_empty() {
                    let named: Vec<_> = left.iter().take(MOST_NAMED).map(ToString::to_string).collect();
                    warn!(
                        removals = left.len(), threads = named.join(" "),
                        "removals are left to the daemon, which goes on with them; a sweep marks their threads"
                    );
                }
            }
        }
    }
}

async fn all_ended(mut parts: Parts) {
    while let Some(ended) = parts.join_next().await {
        tell(ended);
    }
}

/// Says what went wrong with a part that has ended.
fn tell(ended: Result<Result<(), Failure>, JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(%error, "a part of the program failed at its end"),
        Err(error) => error!(%error, "a part of the program failed at its end"),
    }
}
