//! The dead-letter queue, for people: look at what is parked, replay it, delete it.
//!
//! AMQP can't look without taking. So a walk takes message after message without acknowledging them, and keeps them
//! until it is over, since one that is given back comes again. Then all are given back. Whatever ends the program
//! before that closes its connection, and the broker takes them back by itself. Their order is not kept: RabbitMQ 3.10
//! shuffles what comes back together.
//!
//! What the client library can't read is here too, of publishers and of the broker's own dead-lettering. So the queue
//! is read on a [channel of our own making](super::raw), and such a message is one without properties.
//!
//! A replay is published to the work queue and confirmed before the parked message is acknowledged: interrupted at
//! the worst moment, the message of that moment is in both queues.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use lapin::{BasicProperties, options::ConfirmSelectOptions, types::ShortString};
use serde_json::{Map, Value};
use tokio::{sync::Mutex, time::timeout};

use super::{
    Queues,
    connection::{Link, REQUEST_TIMEOUT, bounded},
    header_size, headers, publisher,
    raw::{RawChannel, RawMessage},
    received::message,
};
use crate::{
    delivery::{
        consumer,
        dead_letter::{self, DeadLetter},
        envelope,
        event::ThreadEvent,
        settlement::Reason,
    },
    failure::Failure,
    progress,
};

/// Messages that one subscription keeps; then it is cancelled and the next begins. A single one could not keep them
/// all: a prefetch has 16 bits, and none at all means 2,000 to a quorum queue. It bounds what waits in our memory.
const BATCH: u16 = 256;
/// How often it is asked whether what was given back is there; mostly once.
const GIVE_BACK_POLL: Duration = Duration::from_millis(20);

/// The dead-letter queue, on connections of its own.
pub struct DeadLetters {
    queues: Queues,
    /// Publishes.
    link: Link,
    /// Counts, takes and settles.
    channel: Mutex<RawChannel>,
    /// Messages that were visited, and neither settled nor given back.
    unacked: AtomicU32,
    /// Whether somebody else read from it before we did. Afterwards one can't tell: with messages unacked, a cancelled
    /// subscription of our own counts as well.
    others_read: bool,
}

/// A message of the dead-letter queue that we have taken.
pub struct Parked {
    tag: u64,
    properties: BasicProperties,
    /// Why there are none.
    unreadable: Option<&'static str>,
    body: Vec<u8>,
}

/// Names a message that we have not acknowledged, until all are given back.
#[derive(Clone, Copy, Debug)]
pub struct Unacked(u64);

/// What a visit says of the message, and of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The message stays unacked; continue.
    Keep,
    /// It was replayed or deleted; continue.
    Settled,
    /// That was all.
    End,
}

/// How much is in the queue.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Messages that were delivered to nobody.
    pub ready: u32,
    /// Programs that read from it now. What was delivered to them is not counted.
    pub readers: u32,
}

impl DeadLetters {
    /// Connects. Declares nothing: who looks at a queue that is not there hears of it.
    pub async fn open(queues: Queues) -> Result<Self, Failure> {
        let link = Link::connect(&queues, "volume-reaper dead-letters").await?;
        let confirm = link.channel.confirm_select(ConfirmSelectOptions::default());
        bounded(&queues.url, REQUEST_TIMEOUT, "confirm mode", confirm).await?;
        let mut channel = RawChannel::open(&queues, "volume-reaper dead-letters, reading", usize::MAX).await?;
        let (_, readers) = channel.count(&queues.dead_letter()).await?;
        Ok(Self { queues, link, channel: Mutex::new(channel), unacked: AtomicU32::new(0), others_read: readers > 0 })
    }

    /// How much there is now.
    pub async fn size(&self) -> Result<Size, Failure> {
        let (ready, readers) = self.channel.lock().await.count(&self.queues.dead_letter()).await?;
        Ok(Size { ready, readers })
    }

    /// Visits at most so many messages. Returns how many it were: fewer if the visitor says so, or if somebody else
    /// took some. What was visited and not settled is unacked until [`Self::give_back`].
    pub async fn walk(
        &self,
        most: u32,
        mut visit: impl AsyncFnMut(&Parked) -> Result<Then, Failure>,
    ) -> Result<u32, Failure> {
        let (mut walked, mut is_over) = (0, false);
        while walked < most && !is_over {
            let subscription = self.subscribe().await?;
            let mut unacked = 0;
            while walked < most && unacked < BATCH && !is_over {
                let Some(parked) = self.next().await? else {
                    is_over = true;
                    break;
                };
                walked += 1;
                progress::at(walked.into(), most.into());
                match visit(&parked).await? {
                    Then::Keep => {
                        unacked += 1;
                        self.unacked.fetch_add(1, Ordering::Relaxed);
                    }
                    Then::Settled => {}
                    Then::End => is_over = true,
                }
            }
            self.unsubscribe(&subscription).await?;
        }
        Ok(walked)
    }

    /// Publishes a message to the work queue, as if it were new, and then takes it out of this one.
    pub async fn replay(&self, parked: &Parked) -> Result<(), Failure> {
        let properties = header_size::fitting(headers::replay(&parked.properties), self.link.frame_max());
        let (queue, body) = (self.queues.work(), &parked.body);
        // The default exchange routes to the queue of that name.
        publisher::confirmed(&self.link.channel, &self.queues.url, "", &queue, properties, body).await?;
        self.acknowledge(parked.unacked()).await
    }

    /// Deletes a message that a visit kept. Not certain before [`Self::settled`] returned.
    pub async fn remove(&self, unacked: Unacked) -> Result<(), Failure> {
        self.unacked.fetch_sub(1, Ordering::Relaxed);
        self.acknowledge(unacked).await
    }

    async fn acknowledge(&self, unacked: Unacked) -> Result<(), Failure> {
        self.channel.lock().await.acknowledge(unacked.0).await
    }

    /// Waits until what was replayed or deleted is out of the queue.
    ///
    /// Nothing confirms an acknowledgement, and a quorum queue applies it after the broker has read it; what is not
    /// applied when the channel closes may come back. A subscription and its cancellation are answered after both went
    /// through the queue's log, behind what the channel sent to it before.
    pub async fn settled(&self) -> Result<(), Failure> {
        let subscription = self.subscribe().await?;
        self.unsubscribe(&subscription).await
    }

    /// Gives back all that is unacked, and waits until others can have it: a quorum queue applies that after the broker
    /// has read it, and whoever looked in between would find nothing.
    pub async fn give_back(&self) -> Result<(), Failure> {
        // What came and was not visited included. Since 4.3 this does not count towards a delivery limit, unlike
        // closing the channel.
        self.channel.lock().await.give_back().await?;
        let given_back = self.unacked.swap(0, Ordering::Relaxed);
        let is_there = async {
            loop {
                let size = self.size().await?;
                if size.ready >= given_back || (self.others_read && size.readers > 0) {
                    return Ok(());
                }
                tokio::time::sleep(GIVE_BACK_POLL).await;
            }
        };
        // They are in the queue in any case, if not for everybody yet.
        timeout(REQUEST_TIMEOUT, is_there).await.unwrap_or(Ok(()))
    }

    /// Closes the connections.
    pub async fn close(self) {
        self.channel.into_inner().close().await;
        self.link.close().await;
    }

    /// Each has a name of its own, given by the broker: to a quorum queue, one with the name of a cancelled one is that
    /// one, with its prefetch used up by what is unacked.
    async fn subscribe(&self) -> Result<String, Failure> {
        self.channel.lock().await.subscribe(&self.queues.dead_letter(), BATCH).await
    }

    async fn unsubscribe(&self, subscription: &str) -> Result<(), Failure> {
        self.channel.lock().await.cancel(subscription).await.map(drop)
    }

    /// The next message; `None` if none comes.
    async fn next(&self) -> Result<Option<Parked>, Failure> {
        Ok(self.channel.lock().await.next(REQUEST_TIMEOUT).await?.map(Parked::from))
    }
}

impl From<RawMessage> for Parked {
    fn from(RawMessage { tag, properties, body, .. }: RawMessage) -> Self {
        let unreadable = properties.as_ref().err().copied();
        let mut properties = properties.unwrap_or_default();
        header_size::take_deep(&mut properties);
        Self { tag, properties, unreadable, body: body.unwrap_or_default() }
    }
}

impl Parked {
    /// What to call it as long as it is unacked.
    #[must_use]
    pub fn unacked(&self) -> Unacked {
        Unacked(self.tag)
    }

    /// What is shown of it and selected by. The event is read as the consumer would read it today.
    #[must_use]
    pub fn read(&self) -> DeadLetter {
        let message = message(&self.properties, &self.body);
        let header = |key| message.headers.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let time = |text| DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
        let death = headers::last_death(&self.properties);
        let (death_reason, died_at): (_, Option<DateTime<Utc>>) = death.unwrap_or_default();
        let opened = envelope::open(message.body, message.content_type, &message.headers);
        let trace = consumer::trace(&message.headers, opened.as_ref().ok());
        DeadLetter {
            reason: match self.unreadable {
                Some(_) => Reason::Unreadable.as_str(),
                None => dead_letter::reason(header(headers::REASON), death_reason),
            },
            thread_id: opened.as_ref().ok().and_then(|opened| Some(ThreadEvent::read(&opened.data).ok()?.thread_id)),
            attempts: message.failed_attempts,
            parked_at: header(headers::PARKED_AT).and_then(time).or(died_at),
            error: header(headers::ERROR).or(self.unreadable).map(str::to_owned),
            message_id: message.id.map(str::to_owned),
            trace_id: trace.map(|trace| trace.trace_id.to_owned()),
            replayed: header(headers::REPLAYED).map(str::to_owned),
            replays: headers::replays(&self.properties),
        }
    }

    /// Its headers, as JSON.
    #[must_use]
    pub fn headers(&self) -> Map<String, Value> {
        self.properties.headers().as_ref().map(headers::json).unwrap_or_default()
    }

    /// What its body is, if it says so.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.properties.content_type().as_ref().map(ShortString::as_str)
    }

    /// Its body, of any length.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}
