//! The platform's side of the broker: publishing until it is confirmed, and at the end, what is left in the queues.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::AMQPValue,
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};

use crate::{RETRY_DELAYS, Try, soon};

/// For the broker's confirmation; it comes in milliseconds or not on this connection.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Before what was not confirmed is published again.
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// Messages that are published and not confirmed yet.
const UNCONFIRMED: usize = 256;

pub(crate) const EXCHANGE: &str = "threads";
pub(crate) const DEAD_LETTER_QUEUE: &str = "volume-reaper.dead-letter";

pub(crate) struct Broker {
    url: String,
    exchange: String,
    link: Mutex<Option<Arc<Link>>>,
    places: Semaphore,
    /// Publishes that were not confirmed and made again: the platform delivers at least once.
    pub(crate) repeated: AtomicUsize,
}

struct Link {
    /// Closed when it is dropped.
    _connection: Connection,
    channel: Channel,
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

    async fn try_publish(&self, id: &str, body: &[u8]) -> Try {
        let link = self.link().await?;
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id.into());
        let publish = async {
            let exchange = self.exchange.as_str().into();
            let send = link.channel.basic_publish(exchange, "thread.closed".into(), mandatory, body, properties);
            send.await?.await
        };
        match timeout(CONFIRM_TIMEOUT, publish).await {
            Ok(Ok(Confirmation::Ack(None))) => Ok(()),
            other => {
                link.has_failed.store(true, Ordering::Relaxed);
                Err(format!("{other:?}").into())
            }
        }
    }

    /// The link that all publish on; a new one if that has failed.
    async fn link(&self) -> Try<Arc<Link>> {
        let mut current = self.link.lock().await;
        if let Some(link) = current.as_ref().filter(|link| !link.has_failed.load(Ordering::Relaxed)) {
            return Ok(Arc::clone(link));
        }
        let (connection, channel) = self.connect().await?;
        soon("broker", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let link = Arc::new(Link { _connection: connection, channel, has_failed: AtomicBool::new(false) });
        *current = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn connect(&self) -> Try<(Connection, Channel)> {
        let connection = soon("broker", Connection::connect(&self.url, ConnectionProperties::default())).await?;
        let channel = soon("broker", connection.create_channel()).await?;
        Ok((connection, channel))
    }

    /// Takes everything out of the dead-letter queue.
    pub(crate) async fn drain_dead_letters(&self) -> Try<Vec<DeadLetter>> {
        let (_connection, channel) = self.connect().await?;
        let mut letters = Vec::new();
        loop {
            let get = channel.basic_get(DEAD_LETTER_QUEUE.into(), BasicGetOptions { no_ack: true });
            match soon("dead letters", get).await? {
                Some(message) => letters.push(DeadLetter::from(&message)),
                None => return Ok(letters),
            }
        }
    }
}

/// All queues of the service.
pub(crate) fn queues() -> impl Iterator<Item = String> {
    let delays = RETRY_DELAYS.split(',').map(|delay| format!("volume-reaper.retry.{delay}"));
    delays.chain(["volume-reaper.thread-closed".to_owned(), DEAD_LETTER_QUEUE.to_owned()])
}

/// A message of the dead-letter queue.
pub(crate) struct DeadLetter {
    pub(crate) message_id: String,
    pub(crate) reason: String,
    pub(crate) error: String,
}

impl From<&BasicGetMessage> for DeadLetter {
    fn from(message: &BasicGetMessage) -> Self {
        let properties = &message.delivery.properties;
        let header = |key: &str| match properties.headers().as_ref().and_then(|headers| headers.inner().get(key)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => "none".to_owned(),
        };
        Self {
            message_id: properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default(),
            reason: header("volume-reaper-reason"),
            error: header("volume-reaper-error"),
        }
    }
}
