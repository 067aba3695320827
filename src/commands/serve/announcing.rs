//! Telling others which volumes are gone: the outbox is published by the leader, oldest first, and each event is kept
//! until the broker has it. While the broker is away they stay in the table.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{info, warn};

use super::Process;
use crate::{
    failure::{Dependency, Failure},
    operations::{DatabasePort, DockerPort},
    queue::Publisher,
    store::Announcement,
};

/// From one look into an empty outbox to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// After a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Events that are read at once.
const PAGE: u64 = 200;

impl<V: DockerPort, T: DatabasePort> Process<V, T> {
    /// Publishes the outbox as long as this replica leads.
    pub(super) async fn publish_announcements(
        self: Arc<Self>,
        mut is_leader: watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        let Some(exchange) = &self.config.removed_exchange else {
            self.stop.cancelled().await;
            return Ok(());
        };
        let publisher = Publisher::new(self.queues.clone());
        let publish = async {
            let mut has_failed = false;
            loop {
                let _ = is_leader.wait_for(|is_leader| *is_leader).await;
                self.health.until_up(&[Dependency::Database, Dependency::Broker]).await;
                let result = self.publish_page(&publisher, exchange).await;
                let wait = match &result {
                    Ok(true) => Duration::ZERO,
                    Ok(false) => INTERVAL,
                    Err(_) => RETRY_INTERVAL,
                };
                match result {
                    Ok(_) if std::mem::take(&mut has_failed) => info!(exchange, "events are published again"),
                    Err(error) if !std::mem::replace(&mut has_failed, true) => {
                        warn!(%error, exchange, "events about removed volumes wait in the outbox");
                    }
                    Ok(_) | Err(_) => {}
                }
                tokio::time::sleep(wait).await;
            }
        };
        tokio::select! {
            () = publish => {}
            () = self.stop.cancelled() => {}
        }
        publisher.close().await;
        Ok(())
    }

    /// Publishes the oldest events. Whether there may be more.
    async fn publish_page(&self, publisher: &Publisher, exchange: &str) -> Result<bool, Failure> {
        let page = self.store().announcements(PAGE).await?;
        let is_full = page.len() as u64 == PAGE;
        let mut rest = page.as_slice();
        while !rest.is_empty() {
            let (round, later) = rest.split_at(of_different_threads(rest));
            let events: Vec<_> = round.iter().map(|event| event.event.as_str()).collect();
            publisher.publish_announcements(exchange, &events).await?;
            self.store().announced(round.iter().map(|event| event.id).collect()).await?;
            rest = later;
        }
        Ok(is_full)
    }
}

/// How many of these, from the first on, are about threads that differ: they may overtake one another.
fn of_different_threads(events: &[Announcement]) -> usize {
    let mut threads = HashSet::new();
    events.iter().take_while(|event| threads.insert(event.thread_id.as_str())).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_waits_for_the_one_before_it_about_the_same_thread() {
        let event = |thread: &&str| Announcement { id: 1, thread_id: (*thread).to_owned(), event: String::new() };
        for (threads, expected) in [(&["a", "b", "a", "c"][..], 2), (&["a", "a"], 1), (&["a", "b"], 2), (&[], 0)] {
            assert_eq!(of_different_threads(&threads.iter().map(event).collect::<Vec<_>>()), expected, "{threads:?}");
        }
    }
}
