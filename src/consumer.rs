//! One message: read it, clean up, decide what becomes of it. Nothing here knows the broker.
#![warn(clippy::wildcard_enum_match_arm, reason = "a new outcome must not compile until it is decided")]

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use crate::{
    coordinator::{Coordinator, Origin, Threads, Volumes},
    event::ThreadClosed,
    failure::{Failure, Verdict},
    health::Health,
    metrics,
    settlement::{self, Settlement},
};

/// A message as the queue hands it over.
#[derive(Debug)]
pub struct Message<'a> {
    /// What it says.
    pub body: &'a [u8],
    /// The publisher's id of it, for the receipt.
    pub id: Option<String>,
    /// How often it was tried before.
    pub failed_attempts: usize,
}

/// Handles messages, one at a time or many at once.
pub struct Consumer<V, T> {
    /// Cleans up.
    pub coordinator: Arc<Coordinator<V, T>>,
    /// Told when a dependency turns out to be down.
    pub health: Arc<Health>,
    /// The waits before the second, third, ... attempt.
    pub retry_delays: Vec<Duration>,
}

impl<V: Volumes, T: Threads> Consumer<V, T> {
    /// Handles one message and returns what is to be done with its delivery.
    pub async fn handle(&self, message: &Message<'_>) -> Settlement {
        let event = match ThreadClosed::decode(message.body) {
            Ok(event) => event,
            Err(invalid) => return settlement::refuse(&invalid),
        };
        tracing::Span::current().record("thread.id", event.thread_id.as_str());
        let clean = self.coordinator.clean(&event.thread_id, Origin::Event(message.id.clone()));
        // A bug that shows with one thread must not take the others with it: that delivery is tried again.
        let result = AssertUnwindSafe(clean).catch_unwind().await.unwrap_or_else(|_| {
            metrics::panic();
            Err(Failure::transient("the handler panicked; standard error has the details"))
        });
        if let Err(Failure { verdict: Verdict::Unavailable(dependency), message }) = &result {
            self.health.down(*dependency, message);
        }
        settlement::decide(&result, message.failed_attempts, &self.retry_delays)
    }
}
