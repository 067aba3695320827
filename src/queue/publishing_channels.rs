//! Channels to publish on, each for one message at a time.
//!
//! What the library says of a message can be relied on only if no other is unconfirmed on the channel:
//!
//! - The broker returns a message that no queue takes without its number. The library keeps it and adds it to whichever
//!   confirmation comes next or, where the broker confirms several at once, to any of these. Then a message that is
//!   nowhere counts as taken, and one that was taken as returned.
//! - The library numbers a message before it queues its frames, so that two that are published at once may be given
//!   each other's confirmation. If the connection ends between these, one counts as taken that never was.

use std::sync::Arc;

use lapin::{Channel, options::ConfirmSelectOptions};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use super::{
    Declared, Queues,
    connection::{Link, REQUEST_TIMEOUT, bounded},
};
use crate::failure::{Dependency, Failure};

/// Messages that are unconfirmed at once; more wait. A broker allows 2,047 channels a connection by default.
const MOST_CHANNELS: usize = 32;
const NAME: &str = "volume-reaper publisher";

/// Channels of one connection, which is made when it is needed.
pub(super) struct PublishingChannels {
    queues: Queues,
    permits: Semaphore,
    current: Mutex<Option<Current>>,
}

struct Current {
    link: Arc<Link>,
    /// All that was published on these is confirmed.
    idle: Vec<Channel>,
}

/// A channel in confirm mode, for one message. Closed when it is dropped.
pub(super) struct PublishingChannel<'a> {
    pub(super) channel: Channel,
    link: Arc<Link>,
    _permit: SemaphorePermit<'a>,
}

impl PublishingChannel<'_> {
    /// The largest frame that may be sent, in bytes, as agreed with the broker.
    pub(super) fn frame_max(&self) -> u32 {
        self.link.frame_max()
    }
}

impl PublishingChannels {
    /// Not connected yet.
    pub(super) fn new(queues: Queues) -> Self {
        Self { queues, permits: Semaphore::new(MOST_CHANNELS), current: Mutex::new(None) }
    }

    /// A channel that nobody else publishes on.
    pub(super) async fn take(&self) -> Result<PublishingChannel<'_>, Failure> {
        let permit = self.permits.acquire().await;
        let permit = permit.map_err(|error| Failure::unavailable(Dependency::Broker, error.to_string()))?;
        let (link, idle) = self.connected().await?;
        let channel = match idle {
            Some(channel) => channel,
            None => match self.open(&link).await {
                Ok(channel) => channel,
                Err(failure) => {
                    self.end(&link).await;
                    return Err(failure);
                }
            },
        };
        Ok(PublishingChannel { channel, link, _permit: permit })
    }

    /// Of a channel whose message the broker has: it may carry another.
    pub(super) async fn put_back(&self, used: PublishingChannel<'_>) {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_mut().filter(|current| Arc::ptr_eq(&current.link, &used.link)) {
            current.idle.push(used.channel);
        }
    }

    /// Of a channel whose message the broker does not have: begins anew, topology included, since the queue may have
    /// been deleted, or the connection may be dead.
    pub(super) async fn give_up(&self, used: PublishingChannel<'_>) {
        self.end(&used.link).await;
    }

    /// Closes the connection, if there is one.
    pub(super) async fn close(&self) {
        let current = self.current.lock().await.take();
        if let Some(current) = current {
            current.link.close().await;
        }
    }

    /// The connection, and a channel of it that is idle, if there is one.
    async fn connected(&self) -> Result<(Arc<Link>, Option<Channel>), Failure> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_mut().filter(|current| current.link.connection.status().connected()) {
            return Ok((Arc::clone(&current.link), current.idle.pop()));
        }
        let link = match self.queues.declared {
            Declared::ByUs | Declared::ByOthers => Link::open(&self.queues, NAME).await?,
            // They are there as long as the consumer's connection, and are nobody else's to declare.
            Declared::AsCopies => Link::connect(&self.queues, NAME).await?,
        };
        self.confirm(&link.channel).await?;
        let (first, link) = (link.channel.clone(), Arc::new(link));
        *current = Some(Current { link: Arc::clone(&link), idle: Vec::new() });
        Ok((link, Some(first)))
    }

    async fn open(&self, link: &Link) -> Result<Channel, Failure> {
        let opening = link.connection.create_channel();
        let channel = bounded(&self.queues.url, REQUEST_TIMEOUT, "open a channel", opening).await?;
        self.confirm(&channel).await?;
        Ok(channel)
    }

    async fn confirm(&self, channel: &Channel) -> Result<(), Failure> {
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        Ok(bounded(&self.queues.url, REQUEST_TIMEOUT, "confirm mode", confirm).await?)
    }

    /// Ends a connection, unless there is another in its place by now.
    async fn end(&self, link: &Arc<Link>) {
        let ended = self.current.lock().await.take_if(|current| Arc::ptr_eq(&current.link, link));
        if let Some(ended) = ended {
            ended.link.close().await;
        }
    }
}
