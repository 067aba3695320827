//! The platform's side of the broker: publishing until it is confirmed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::FieldTable,
};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};

use crate::{RETRY_DELAYS, Try, poison::MARK, raw_publisher::RawPublisher, soon};

/// For the broker's confirmation; it comes in milliseconds or not on this connection.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Before what was not confirmed is published again.
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// Messages that are published and not confirmed yet.
const UNCONFIRMED: usize = 256;

pub(crate) const EXCHANGE: &str = "threads";
pub(crate) const WORK_QUEUE: &str = "volume-reaper.thread-closed";
pub(crate) const DEAD_LETTER_QUEUE: &str = "volume-reaper.dead-letter";

pub(crate) struct Broker {
    url: String,
    exchange: String,
    link: Mutex<Option<Arc<Link>>>,
    places: Semaphore,
    /// Publishes that were not confirmed and made again: the platform delivers at least once.
    pub(crate) repeated: AtomicUsize,
    /// Of these, messages that the broker gave back, since no queue took them.
    pub(crate) returned: AtomicUsize,
}

struct Link {
    /// Closed when it is dropped.
    connection: Connection,
    /// Channels on which nothing is unconfirmed. A message has one of its own: the library does not know which of
    /// several on a channel a returned one is, and takes any of those that are confirmed with it for that.
    idle: parking_lot::Mutex<Vec<Channel>>,
    has_failed: AtomicBool,
}

impl Broker {
    pub(crate) fn new(url: String, exchange: String) -> Self {
        Self {
            url,
            exchange,
            link: Mutex::default(),
            places: Semaphore::new(UNCONFIRMED),
            repeated: AtomicUsize::new(0),
            returned: AtomicUsize::new(0),
        }
    }

    /// Publishes until the broker says that it has the message.
    pub(crate) async fn publish(&self, id: &str, body: &[u8]) {
        let _place = self.places.acquire().await;
        while self.try_publish(id, body).await.is_err() {
            self.repeated.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Publishes a message with properties as they stand in the frame, until the broker says that it has it.
    pub(crate) async fn publish_raw(&self, properties: &[u8], body: &[u8]) {
        let _place = self.places.acquire().await;
        let publish = async || -> Try {
            let mut publisher = RawPublisher::connect(&self.url).await?;
            Ok(publisher.publish(WORK_QUEUE, properties, body).await?)
        };
        while !matches!(timeout(CONFIRM_TIMEOUT, publish()).await, Ok(Ok(()))) {
            self.repeated.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Deletes the exchange, and makes it anew some time later, without a binding.
    pub(crate) async fn make_exchange_anew(&self, later: Duration) -> Try {
        let connection = self.connect().await?;
        let channel = soon("broker", connection.create_channel()).await?;
        let delete = channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default());
        soon("deleting the exchange", delete).await?;
        tokio::time::sleep(later).await;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declare = channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default());
        soon("declaring the exchange", declare).await
    }

    async fn try_publish(&self, id: &str, body: &[u8]) -> Try {
        let link = self.link().await?;
        let published = timeout(CONFIRM_TIMEOUT, self.publish_on(&link, id, body)).await;
        match published {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                self.returned.fetch_add(1, Ordering::Relaxed);
                Err("no queue took it".into())
            }
            other @ (Ok(Err(_)) | Err(_)) => {
                link.has_failed.store(true, Ordering::Relaxed);
                Err(format!("{other:?}").into())
            }
        }
    }

    /// Whether a queue took it.
    async fn publish_on(&self, link: &Link, id: &str, body: &[u8]) -> Try<bool> {
        let idle = link.idle.lock().pop();
        let channel = if let Some(channel) = idle {
            channel
        } else {
            let channel = link.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channel
        };
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id.into());
        let exchange = self.exchange.as_str().into();
        let send = channel.basic_publish(exchange, "thread.closed".into(), mandatory, body, properties);
        match send.await?.await? {
            Confirmation::Ack(returned) => {
                link.idle.lock().push(channel);
                Ok(returned.is_none())
            }
            other @ (Confirmation::Nack(_) | Confirmation::NotRequested) => Err(format!("{other:?}").into()),
        }
    }

    /// The link that all publish on; a new one if that has failed.
    async fn link(&self) -> Try<Arc<Link>> {
        let mut current = self.link.lock().await;
        if let Some(link) = current.as_ref().filter(|link| !link.has_failed.load(Ordering::Relaxed)) {
            return Ok(Arc::clone(link));
        }
        let connection = self.connect().await?;
        let idle = parking_lot::Mutex::default();
        let link = Arc::new(Link { connection, idle, has_failed: AtomicBool::new(false) });
        *current = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn connect(&self) -> Try<Connection> {
        soon("broker", Connection::connect(&self.url, ConnectionProperties::default())).await
    }
}

/// All queues of the service.
pub(crate) fn queues() -> impl Iterator<Item = String> {
    let delays = RETRY_DELAYS.split(',').map(|delay| format!("volume-reaper.retry.{delay}"));
    delays.chain([WORK_QUEUE.to_owned(), DEAD_LETTER_QUEUE.to_owned()])
}

/// A message of the dead-letter queue, as `dead-letters show --json` has it. A client library reads not all of them.
#[derive(Deserialize)]
pub(crate) struct DeadLetter {
    #[serde(default)]
    pub(crate) message_id: Option<String>,
    thread_id: Option<String>,
    pub(crate) reason: String,
    pub(crate) error: Option<String>,
    body: Option<String>,
}

impl DeadLetter {
    /// The id of the message as the platform counts it: some have none but in their body.
    pub(crate) fn id(&self) -> String {
        let in_body = || self.body.as_deref()?.strip_prefix(MARK).map(str::to_owned);
        let thread = || Some(format!("{}/1", in_body().or_else(|| self.thread_id.clone())?));
        self.message_id.clone().or_else(thread).unwrap_or_default()
    }
}
