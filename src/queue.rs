//! The message queue: everything that speaks AMQP.
//!
//! Facts that it rests on, measured on RabbitMQ 3.10, 4.0 and 4.3: a plain requeue comes back at once; whether a
//! requeue counts towards the delivery limit depends on the version; a client's own `x-death` is ignored since 4.0;
//! the delayed-message plugin is not replicated. So we count attempts in a header of our own, and wait in queues of
//! our own: one per step of the ladder, each with a time to live that dead-letters back to the work queue.

mod connection;
mod counting;
mod dead_letters;
mod headers;
mod inspection;
mod publisher;
mod settle;
mod subscription;
mod topology;

use std::time::Duration;

pub use counting::{QueueCount, count};
pub use dead_letters::{DeadLetters, Held, Parked, Size, Then};
pub use inspection::{Answer, Contents, Counts, Hello, Inspection, LoginRefused, QueueFacts, Unreachable, inspect};
pub use publisher::Publisher;
pub use subscription::Subscription;

use crate::{
    config::{Config, SecretUrl, Topology},
    coordinator::UnknownThreads,
    tls::TlsFiles,
};

/// Where the broker is and what is ours on it.
#[derive(Clone, Debug)]
pub struct Queues {
    /// The broker.
    pub url: SecretUrl,
    /// What TLS to it needs.
    pub tls: TlsFiles,
    /// The topic exchange that the platform publishes to.
    pub exchange: String,
    /// The routing key of thread-closed events.
    pub routing_key: String,
    /// The routing key of the events of threads that were reopened.
    pub reopened_routing_key: String,
    /// Whether those are for us: nobody else would tell us.
    pub hears_of_reopening: bool,
    /// Whether our queues are for a copy of the events, and gone with our connection.
    pub are_copies: bool,
    /// What our queues are called before the dot.
    pub prefix: String,
    /// The steps of the ladder.
    pub retry_delays: Vec<Duration>,
    /// Whether we create what is missing.
    pub topology: Topology,
}

impl Queues {
    /// The queues of this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            url: config.amqp_url.clone(),
            tls: config.amqp_tls.clone(),
            exchange: config.exchange.clone(),
            routing_key: config.routing_key.clone(),
            reopened_routing_key: config.reopened_routing_key.clone(),
            hears_of_reopening: config.policy.unknown_threads == UnknownThreads::Record,
            are_copies: false,
            prefix: config.queue_prefix.clone(),
            retry_delays: config.retry_delays.clone(),
            topology: config.topology,
        }
    }

    /// Queues for a copy of the events, of which nothing is left when we are gone.
    #[must_use]
    pub fn copies(config: &Config) -> Self {
        let prefix = format!("{}.dry-run-{}", config.queue_prefix, uuid::Uuid::new_v4().simple());
        Self { are_copies: true, prefix, ..Self::new(config) }
    }

    /// The routing keys that the work queue is bound by.
    pub fn bound_by(&self) -> impl Iterator<Item = &str> {
        let reopened = self.hears_of_reopening.then_some(self.reopened_routing_key.as_str());
        std::iter::once(self.routing_key.as_str()).chain(reopened)
    }

    /// The queue that events arrive in.
    #[must_use]
    pub fn work(&self) -> String {
        format!("{}.thread-closed", self.prefix)
    }

    /// The queue in which a delivery waits for `delay`, such as `volume-reaper.retry.30s`.
    #[must_use]
    pub fn retry(&self, delay: Duration) -> String {
        let delay = humantime::format_duration(delay).to_string().replace(' ', "");
        format!("{}.retry.{delay}", self.prefix)
    }

    /// The parking lot.
    #[must_use]
    pub fn dead_letter(&self) -> String {
        format!("{}.dead-letter", self.prefix)
    }
}
