//! Publishing with confirms, on a connection of its own.
//!
//! A broker that runs out of memory or disk stops reading from connections that publish. If the consumer published on
//! its own connection, its acknowledgements would be stuck with it.

use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, ExchangeKind,
    options::{BasicPublishOptions, ExchangeDeclareOptions},
    types::FieldTable,
};

use super::{
    Queues,
    connection::{REQUEST_TIMEOUT, bounded},
    header_size,
    publishing_channels::PublishingChannels,
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
    channels: PublishingChannels,
}

impl Publisher {
    /// Not connected yet.
    #[must_use]
    pub fn new(queues: Queues) -> Self {
        Self { channels: PublishingChannels::new(queues.clone()), queues }
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
        let taken = self.channels.take().await?;
        let published = self.announce_all(&taken.channel, exchange, events).await;
        match published {
            Ok(()) => self.channels.put_back(taken).await,
            Err(_) => self.channels.give_up(taken).await,
        }
        published
    }

    /// On one channel: none is returned, and if one fails, all are published again.
    async fn announce_all(&self, channel: &Channel, exchange: &str, events: &[&str]) -> Result<(), Failure> {
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
            try_join_all(some.iter().map(|event| announce(channel, url, exchange, event))).await?;
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
        let taken = self.channels.take().await?;
        let properties = header_size::fitting(properties, taken.frame_max());
        let url = &self.queues.url;
        let published = confirmed(&taken.channel, url, exchange, routing_key, properties, body).await;
        match published {
            Ok(()) => self.channels.put_back(taken).await,
            Err(_) => self.channels.give_up(taken).await,
        }
        published
    }

    /// Closes the connection, if there is one.
    pub async fn close(&self) {
        self.channels.close().await;
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

/// Publishes on a channel in confirm mode, on which nothing else is unconfirmed. Returns when the broker has the
/// message safely.
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use futures_util::future::join_all;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::config::Config;

    /// Published at once.
    const MESSAGES: usize = 16;
    const THERE: &str = "there";
    const GONE: &str = "gone";

    /// A broker with one queue. When all messages have come, it answers each channel as RabbitMQ may: first with those
    /// that no queue takes, then with one confirmation for all. Channels without the former come first.
    struct FakeBroker {
        stream: TcpStream,
        /// The routing keys of what came, by channel.
        published: BTreeMap<u16, Vec<String>>,
    }

    impl FakeBroker {
        async fn serve(listener: TcpListener) {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut broker = Self { stream, published: BTreeMap::new() };
            broker.stream.read_exact(&mut [0; 8]).await.expect("a protocol header");
            broker.method(0, [10, 10], &[&[0, 9, 0, 0, 0, 0][..], &long(b"PLAIN"), &long(b"en_US")].concat()).await;
            while let Some((channel, arguments)) = broker.next_method().await {
                broker.answer(channel, &arguments).await;
            }
        }

        async fn answer(&mut self, channel: u16, method: &[u8]) {
            let (ids, arguments) = method.split_at(4);
            match [ids[1], ids[3]] {
                // connection.start-ok, and no heartbeats
                [10, 11] => self.method(0, [10, 30], &[0x07, 0xff, 0, 2, 0, 0, 0, 0]).await,
                [10, 31] => {}
                [10, 40] => self.method(0, [10, 41], &short(b"")).await,
                [10, 50] => self.method(0, [10, 51], &[]).await,
                [20, 10] => self.method(channel, [20, 11], &long(b"")).await,
                [20, 40] => self.method(channel, [20, 41], &[]).await,
                [85, 10] => self.method(channel, [85, 11], &[]).await,
                // basic.publish: a reserved number, the default exchange, the routing key
                [60, 40] => {
                    let key = &arguments[4..4 + usize::from(arguments[3])];
                    self.published.entry(channel).or_default().push(String::from_utf8_lossy(key).into_owned());
                    if self.published.values().map(Vec::len).sum::<usize>() == MESSAGES {
                        self.return_and_confirm().await;
                    }
                }
                other => panic!("{other:?}"),
            }
        }

        async fn return_and_confirm(&mut self) {
            let returned = |keys: &[String]| keys.iter().filter(|key| *key == GONE).count();
            let mut channels: Vec<_> = std::mem::take(&mut self.published).into_iter().collect();
            channels.sort_by_key(|(_, keys)| returned(keys));
            for (channel, keys) in channels {
                for _ in 0..returned(&keys) {
                    let (code, key) = (312_u16.to_be_bytes(), short(GONE.as_bytes()));
                    let arguments = [&code[..], &short(b"NO_ROUTE"), &short(b""), &key].concat();
                    self.method(channel, [60, 50], &arguments).await;
                    // Without a body.
                    self.frame(2, channel, &[&[0, 60][..], &[0; 12]].concat()).await;
                }
                self.method(channel, [60, 80], &[&(keys.len() as u64).to_be_bytes()[..], &[1]].concat()).await;
            }
        }

        async fn method(&mut self, channel: u16, [class, method]: [u8; 2], arguments: &[u8]) {
            self.frame(1, channel, &[&[0, class, 0, method][..], arguments].concat()).await;
        }

        async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
            let length = u32::try_from(payload.len()).expect("32 bits").to_be_bytes();
            let frame = [&[kind][..], &channel.to_be_bytes(), &length, payload, &[0xce]].concat();
            // The client may have gone meanwhile.
            let _ = self.stream.write_all(&frame).await;
        }

        /// The channel of the next method, and its payload; `None` when the client has gone.
        async fn next_method(&mut self) -> Option<(u16, Vec<u8>)> {
            loop {
                let mut head = [0; 7];
                self.stream.read_exact(&mut head).await.ok()?;
                let [kind, high, low, length @ ..] = head;
                let mut payload = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("a length") + 1];
                self.stream.read_exact(&mut payload).await.ok()?;
                if kind == 1 {
                    return Some((u16::from_be_bytes([high, low]), payload));
                }
            }
        }
    }

    fn short(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).expect("short")][..], text].concat()
    }

    fn long(text: &[u8]) -> Vec<u8> {
        [&u32::try_from(text.len()).expect("32 bits").to_be_bytes()[..], text].concat()
    }

    #[tokio::test]
    async fn a_message_that_no_queue_takes_never_counts_as_one_that_was_published_beside_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("amqp://{}/%2f", listener.local_addr().expect("bound"));
        let env = HashMap::from([("AMQP_URL".to_owned(), url)]);
        // Copies, whose publisher declares nothing.
        let queues = Queues::copies(&Config::load(|_| None, &env, None).expect("valid"));
        let (publisher, broker) = (Publisher::new(queues), tokio::spawn(FakeBroker::serve(listener)));
        let keys: Vec<_> = [THERE, GONE].into_iter().cycle().take(MESSAGES).collect();
        let publish = |&key| publisher.publish_to_queue(key, BasicProperties::default(), b"");
        let answers = join_all(keys.iter().map(publish)).await;
        let taken: Vec<_> = keys.iter().zip(&answers).filter(|(_, it)| it.is_ok()).map(|(key, _)| *key).collect();
        assert_eq!(taken, [THERE; MESSAGES / 2], "{answers:?}");
        publisher.close().await;
        broker.await.expect("the broker saw what it knows");
    }
}
