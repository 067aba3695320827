//! Publishing with confirms, on a connection of its own.
//!
//! A broker that runs out of memory or disk stops reading from connections that publish. If the consumer published on
//! its own connection, its acknowledgements would be stuck with it.

use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, ExchangeKind,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::FieldTable,
};
use tokio::sync::Mutex;

use super::{
    Declared, Queues,
    connection::{Link, REQUEST_TIMEOUT, bounded},
    header_size,
};
use crate::{
    config::SecretUrl,
    delivery::event::ThreadEvent,
    failure::{Dependency, Failure},
};

/// The routing key of what is told of removed volumes, which is the type of the CloudEvent too.
const REMOVED: &str = "workspace.volume.removed";
/// Events about removed volumes that the broker has not confirmed yet, at most.
const UNCONFIRMED: usize = 32;
/// For the broker's confirmation that it has a message safely. Longer than a request: a quorum of disks has to answer.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(20);

/// Publishes messages and knows of each whether the broker has it. Connects when first used and again when needed.
pub struct Publisher {
    queues: Queues,
    link: Mutex<Option<Link>>,
}

impl Publisher {
    /// Not connected yet.
    #[must_use]
    pub fn new(queues: Queues) -> Self {
        Self { queues, link: Mutex::new(None) }
    }

    /// Publishes an event as the platform would, by the routing key of what it says and of the host it names. Returns
    /// when the broker has it safely.
    pub async fn publish_event(&self, event: &ThreadEvent) -> Result<(), Failure> {
        let routing_key = self.queues.routing_key_for(event.reopened_at.is_some(), event.host.as_deref());
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(uuid::Uuid::new_v4().to_string().into());
        self.publish(&self.queues.exchange, &routing_key, properties, &event.encode()).await
    }

    /// Publishes CloudEvents for whoever wants to hear them, in JSON. Returns when the broker has all of them safely;
    /// if nobody listens, they are gone.
    pub async fn publish_announcements(&self, exchange: &str, events: &[&str]) -> Result<(), Failure> {
        let published = self.try_announce(exchange, events).await;
        if published.is_err()
            && let Some(link) = self.link.lock().await.take()
        {
            link.close().await;
        }
        published
    }

    async fn try_announce(&self, exchange: &str, events: &[&str]) -> Result<(), Failure> {
        let (channel, _) = self.channel().await?;
        let url = &self.queues.url;
        // Each time: an exchange that was deleted is there again.
        let options = ExchangeDeclareOptions {
            durable: true,
            passive: !self.queues.declared_by_us(),
            ..ExchangeDeclareOptions::default()
        };
        let declare = channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default());
        bounded(url, REQUEST_TIMEOUT, "declare the exchange of removed volumes", declare).await?;
        for some in events.chunks(UNCONFIRMED) {
            try_join_all(some.iter().map(|event| announce(&channel, url, exchange, event))).await?;
        }
        Ok(())
    }

    /// Publishes to one of our queues. Returns when the broker has it safely.
    pub(super) async fn publish_to_queue(
        &self,
        queue: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), Failure> {
        // The default exchange routes to the queue of that name.
        self.publish("", queue, properties, body).await
    }

    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), Failure> {
        let published = self.try_publish(exchange, routing_key, properties, body).await;
        if published.is_err() {
            // Begin anew, topology included: the queue may have been deleted, or the link may be dead.
            if let Some(link) = self.link.lock().await.take() {
                link.close().await;
            }
        }
        published
    }

    async fn try_publish(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), Failure> {
        let (channel, frame_max) = self.channel().await?;
        let properties = header_size::fitting(properties, frame_max);
        confirmed(&channel, &self.queues.url, exchange, routing_key, properties, body).await
    }

    /// A channel in confirm mode, and the size of the largest frame that its connection may carry, in bytes.
    async fn channel(&self) -> Result<(Channel, u32), Failure> {
        let mut current = self.link.lock().await;
        if let Some(link) = current.as_ref().filter(|link| link.channel.status().connected()) {
            return Ok((link.channel.clone(), link.frame_max()));
        }
        let name = "volume-reaper publisher";
        let link = match self.queues.declared {
            Declared::ByUs | Declared::ByOthers => Link::open(&self.queues, name).await?,
            // They are there as long as the consumer's connection, and are nobody else's to declare.
            Declared::AsCopies => Link::connect(&self.queues, name).await?,
        };
        let confirm = link.channel.confirm_select(ConfirmSelectOptions::default());
        bounded(&self.queues.url, REQUEST_TIMEOUT, "confirm mode", confirm).await?;
        let opened = (link.channel.clone(), link.frame_max());
        *current = Some(link);
        Ok(opened)
    }

    /// Closes the connection, if there is one.
    pub async fn close(&self) {
        if let Some(link) = self.link.lock().await.take() {
            link.close().await;
        }
    }
}

/// Publishes a CloudEvent on a channel in confirm mode. Returns when the broker has it safely.
async fn announce(channel: &Channel, url: &SecretUrl, exchange: &str, event: &str) -> Result<(), Failure> {
    let properties = BasicProperties::default()
        .with_content_type("application/cloudevents+json; charset=utf-8".into())
        .with_delivery_mode(2);
    let publish = async {
        let anybody = BasicPublishOptions::default();
        let send = channel.basic_publish(exchange.into(), REMOVED.into(), anybody, event.as_bytes(), properties);
        send.await?.await
    };
    match bounded(url, CONFIRM_TIMEOUT, "publish", publish).await? {
        Confirmation::Ack(_) => Ok(()),
        Confirmation::Nack(_) | Confirmation::NotRequested => Err(Failure::unavailable(
            Dependency::Broker,
            format!("broker at {url}: it did not take an event for {exchange:?}"),
        )),
    }
}

/// Publishes on a channel in confirm mode. Returns when the broker has the message safely.
pub(super) async fn confirmed(
    channel: &lapin::Channel,
    url: &SecretUrl,
    exchange: &str,
    routing_key: &str,
    properties: BasicProperties,
    body: &[u8],
) -> Result<(), Failure> {
    // Mandatory: without it, the broker confirms a message that no queue took, and drops it.
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publish = async {
        let send = channel.basic_publish(exchange.into(), routing_key.into(), mandatory, body, properties);
        send.await?.await
    };
    match bounded(url, CONFIRM_TIMEOUT, "publish", publish).await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) => Err(Failure::transient(format!(
            "broker at {url}: no queue takes routing key {routing_key:?} of exchange {exchange:?}"
        ))),
        Confirmation::Nack(_) => Err(Failure::unavailable(
            Dependency::Broker,
            format!("broker at {url}: it refused a message for {routing_key:?}"),
        )),
        Confirmation::NotRequested => Err(Failure::permanent("the channel is not in confirm mode".to_owned())),
    }
}
