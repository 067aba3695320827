//! Counting the messages in our queues, for the metrics: the leader asks, so that replicas do not ask all at once.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::debug;

use super::Process;
use crate::{
    failure::{Dependency, Failure},
    metrics,
    operations::{DatabasePort, DockerPort},
    queue,
};

/// From one count to the next. Each is a connection, which the broker writes into its log.
const INTERVAL: Duration = Duration::from_mins(1);

impl<V: DockerPort, T: DatabasePort> Process<V, T> {
    pub(super) async fn count_queues(self: Arc<Self>, mut is_leader: watch::Receiver<bool>) -> Result<(), Failure> {
        loop {
            let ready = async {
                // Whoever holds the other end holds it as long as the process.
                let _ = is_leader.wait_for(|is_leader| *is_leader).await;
                self.health.until_up(&[Dependency::Broker]).await;
            };
            tokio::select! {
                () = ready => {}
                () = self.stop.cancelled() => return Ok(()),
            }
            tokio::select! {
                counted = queue::count(&self.queues) => match counted {
                    Ok(counts) => {
                        for count in counts {
                            count.messages.iter().for_each(|messages| metrics::queue_messages(&count.name, *messages));
                        }
                    }
                    Err(error) => debug!(%error, "the messages in the queues are not counted"),
                },
                () = self.stop.cancelled() => return Ok(()),
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.stop.cancelled() => return Ok(()),
            }
        }
    }
}
