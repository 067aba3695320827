//! The message queue: everything that speaks AMQP.
//!
//! Facts that it rests on, measured on RabbitMQ 3.10, 4.0 and 4.3: a plain requeue comes back at once; whether a
//! requeue counts towards the delivery limit depends on the version; a client's own `x-death` is ignored since 4.0;
//! the delayed-message plugin is not replicated. So we count attempts in a header of our own, and wait in queues of
//! our own: one per step of the retry schedule, each with a time to live that dead-letters back to the work queue.

mod broker_answers;
mod broker_facts;
mod connection;
mod counting;
mod dead_letter_queue;
mod difference;
#[cfg(fuzzing)]
pub mod fuzzed;
mod greeting;
mod handling;
mod header_size;
mod headers;
mod isolate;
mod lost;
mod management;
mod properties;
mod publisher;
mod publishing_channels;
mod raw;
mod raw_parts;
mod received;
mod repeats;
mod settle;
mod subscription;
mod topology;

use std::time::Duration;

pub use broker_answers::{Answer, Contents, Counts, Hello, Inspection, LoginRefused, QueueFacts, Unreachable};
pub use broker_facts::inspect;
pub use counting::{QueueCount, count};
pub use dead_letter_queue::{DeadLetters, Parked, Size, Then, Unacked};
use lapin::BasicProperties;
pub use management::{Harm, StandingStill};
pub use publisher::Publisher;
pub use subscription::Subscription;

use crate::{
    config::{Config, SecretUrl, Topology, UnknownThreads},
    host::Host,
    tls::TlsFiles,
};

/// Who declares our queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// We do, where they are missing.
    ByUs,
    /// Somebody else did: we look that they are there.
    ByOthers,
    /// We do, for a copy of the events: they are our connection's alone, and gone with it.
    AsCopies,
}

/// Where the broker is and what is ours on it.
#[derive(Clone, Debug)]
pub struct Queues {
    /// The broker.
    pub url: SecretUrl,
    /// Its management API, if it may be asked.
    pub management: Option<SecretUrl>,
    /// What TLS to it needs.
    pub tls: TlsFiles,
    /// The topic exchange that the platform publishes to.
    pub exchange: String,
    /// The routing key of thread-closed events.
    pub routing_key: String,
    /// The routing key of the events of threads that were reopened.
    pub reopened_routing_key: String,
    /// Those of them whose events are for us.
    pub subscribed_keys: Vec<String>,
    /// Who declares our queues.
    pub declared: Declared,
    /// What our queues are called before the dot.
    pub prefix: String,
    /// The one host whose events these are, in place of all.
    pub host: Option<String>,
    /// The hosts whose own routing keys are listened to.
    pub hosts: Vec<String>,
    /// The steps of the retry schedule.
    pub retry_delays: Vec<Duration>,
    /// How often exchange and bindings are looked at again.
    pub look_again: Duration,
}

impl Queues {
    /// The queues of this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            url: config.amqp_url.clone(),
            management: config.management_url.clone(),
            tls: config.amqp_tls.clone(),
            exchange: config.exchange.clone(),
            routing_key: config.routing_key.clone(),
            reopened_routing_key: config.reopened_routing_key.clone(),
            subscribed_keys: match config.unknown_threads {
                UnknownThreads::Reject => vec![config.routing_key.clone()],
                // Nobody but the event says that a thread was reopened.
                UnknownThreads::Record => vec![config.routing_key.clone(), config.reopened_routing_key.clone()],
            },
            prefix: match &config.host {
                None => config.queue_prefix.clone(),
                Some(host) => format!("{}.{host}", config.queue_prefix),
            },
            host: config.host.clone(),
            hosts: config.host_names().iter().filter_map(Host::name).map(str::to_owned).collect(),
            retry_delays: config.retry_delays.clone(),
            declared: match config.topology {
                Topology::Declare => Declared::ByUs,
                Topology::Check => Declared::ByOthers,
            },
            look_again: config.reconcile_interval,
        }
    }

    /// The queues of this configuration for who only uses them: what is not there is said, and not declared.
    #[must_use]
    pub fn as_they_are(config: &Config) -> Self {
        Self { declared: Declared::ByOthers, retry_delays: Vec::new(), ..Self::new(config) }
    }

    /// Queues for a copy of the events, of which nothing is left when we are gone.
    #[must_use]
    pub fn copies(config: &Config) -> Self {
        let queues = Self::new(config);
        let prefix = format!("{}.dry-run-{}", queues.prefix, uuid::Uuid::new_v4().simple());
        Self { declared: Declared::AsCopies, prefix, ..queues }
    }

    /// Whether it is for us to declare what is missing.
    #[must_use]
    pub fn declared_by_us(&self) -> bool {
        self.declared == Declared::ByUs
    }

    /// The routing keys that the work queue is bound by: with a host's name behind it, a key is of that host's events.
    #[must_use]
    pub fn bound_by(&self) -> Vec<String> {
        let keys = &self.subscribed_keys;
        let of_all = keys.iter().filter(|_| self.host.is_none()).cloned();
        let of_hosts = self.hosts.iter().flat_map(|host| keys.iter().map(move |key| of_host(key, host)));
        of_all.chain(of_hosts).collect()
    }

    /// The routing key of an event about this host's threads, or about those of any.
    #[must_use]
    pub fn routing_key_for(&self, is_reopening: bool, host: Option<&str>) -> String {
        let key = if is_reopening { &self.reopened_routing_key } else { &self.routing_key };
        host.map_or_else(|| key.clone(), |host| of_host(key, host))
    }

    /// The host whose events a routing key is of. One that the queue took through a delay says nothing any more, unless
    /// they are all of one host.
    #[must_use]
    pub fn host_of(&self, routing_key: &str) -> Option<&str> {
        let named = || {
            let of_hosts = self.hosts.iter();
            of_hosts.map(String::as_str).find(|host| {
                [&self.routing_key, &self.reopened_routing_key].into_iter().any(|key| of_host(key, host) == routing_key)
            })
        };
        self.host.as_deref().or_else(named)
    }

    /// Whether a routing key is that of threads that were reopened.
    fn is_reopening(&self, routing_key: &str) -> bool {
        let key = &self.reopened_routing_key;
        routing_key == key || self.hosts.iter().any(|host| routing_key == of_host(key, host))
    }

    /// Whether a message was published as the event of a thread that was reopened.
    fn came_as_reopened(&self, routing_key: &str, properties: &BasicProperties) -> bool {
        self.is_reopening(routing_key) || headers::is_reopened(properties)
    }

    /// The properties of a message that goes to the end of its queue untouched, with what its routing key said.
    fn handed_back(&self, routing_key: &str, properties: &BasicProperties) -> BasicProperties {
        let host = self.host_of(routing_key).filter(|_| self.host.is_none());
        headers::handed_back(properties, self.came_as_reopened(routing_key, properties), host)
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

    /// The dead-letter queue.
    #[must_use]
    pub fn dead_letter(&self) -> String {
        format!("{}.dead-letter", self.prefix)
    }
}

fn of_host(routing_key: &str, host: &str) -> String {
    format!("{routing_key}.{host}")
}
