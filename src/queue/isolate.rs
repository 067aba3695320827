//! After the library lost its connection over a message that it can't read: finds such messages in the work queue and
//! parks them, with their bodies and the reason. All others are given back untouched, and nothing else is done to them.
//! What the dead-letter queue does not take is held, so that the connection is not lost over it again, until it does.
//!
//! They come by a subscription. Taken one by one with `basic.get`, some of those that were given back were never
//! delivered again and gone from the queue, when a broker of a cluster had been frozen (RabbitMQ 3.10.8, by `make
//! chaos`).

use std::{collections::VecDeque, time::Duration};

use lapin::BasicProperties;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Declared, Publisher, Queues, header_size, headers,
    raw::{RawChannel, RawMessage},
    topology,
};
use crate::{
    delivery::settlement::{Reason, Settlement},
    failure::Failure,
    metrics,
    reconnect::Delays,
};

/// Messages that are looked at. They count one more delivery each, so not the whole of a long queue for one of them.
const LOOKED_AT: u16 = 500;
/// What waits in the queue comes at once; what does not is with others.
const MOST_WAIT: Duration = Duration::from_secs(1);
/// A message that was delivered so often is put into the queue anew: else those that the connection is lost over take
/// their neighbours to the delivery limit.
const MOST_DELIVERIES: i64 = topology::DELIVERY_LIMIT / 2;
/// A larger body is not taken into memory: the broker moves that message as it is.
const MOST_BODY_BYTES: usize = 1024 * 1024;
/// What is held takes memory, and connections; what finds no place is given back.
const PLACE_BYTES: usize = 64 * 1024;
static PLACES: Semaphore = Semaphore::const_new(64);

/// What was found.
pub(super) struct Found {
    /// How many messages were parked.
    parked: u32,
    /// Those that the dead-letter queue refused.
    pub(super) held: Option<Held>,
}

impl Found {
    const NOTHING: Self = Self { parked: 0, held: None };

    /// Whether the connection need not be lost again, so that it is worth to connect at once.
    pub(super) fn is_something(&self) -> bool {
        self.parked > 0 || self.held.is_some()
    }
}

/// Unreadable messages that wait for the dead-letter queue to take them. They are unacknowledged as long as the channel
/// lasts.
pub(super) struct Held {
    channel: RawChannel,
    messages: VecDeque<Unreadable>,
}

struct Unreadable {
    tag: u64,
    body: Vec<u8>,
    error: &'static str,
    places: Option<SemaphorePermit<'static>>,
}

/// Parks what the library can't read.
pub(super) async fn isolate(queues: &Queues, publisher: &Publisher, stop: &CancellationToken) -> Found {
    match queues.declared {
        Declared::ByUs | Declared::ByOthers => {}
        // They were gone with the connection.
        Declared::AsCopies => return Found::NOTHING,
    }
    match park_unreadable(queues, publisher, stop).await {
        Ok(found) => {
            let held = found.held.as_ref().map_or(0, |held| held.messages.len());
            info!(
                parked = found.parked,
                held, "the client library lost its connection over messages that it can't read"
            );
            found
        }
        Err(failure) => {
            warn!(error = %failure, "messages that the client library can't read could not be parked");
            Found::NOTHING
        }
    }
}

/// Parks the unreadable messages among the first of the work queue.
async fn park_unreadable(queues: &Queues, publisher: &Publisher, stop: &CancellationToken) -> Result<Found, Failure> {
    let channel = RawChannel::open(queues, "volume-reaper isolating", MOST_BODY_BYTES).await?;
    let (held, others) = (VecDeque::new(), Vec::new());
    let mut look = Look { channel, queues, publisher, parked: 0, is_refused: false, held, others };
    let looked = look.at_first(stop).await;
    let Look { mut channel, parked, held, others, .. } = look;
    if looked.is_err() || held.is_empty() {
        // With the channel's end the broker has back all that is unacknowledged.
        channel.close().await;
        return looked.map(|()| Found { parked, held: None });
    }
    channel.give_these_back(&others).await?;
    Ok(Found { parked, held: Some(Held { channel, messages: held }) })
}

/// A look at the first messages of the work queue.
struct Look<'a> {
    channel: RawChannel,
    queues: &'a Queues,
    publisher: &'a Publisher,
    parked: u32,
    /// While the dead-letter queue refuses one, it is asked once a look.
    is_refused: bool,
    held: VecDeque<Unreadable>,
    /// The tags of those that are to be given back.
    others: Vec<u64>,
}

impl Look<'_> {
    async fn at_first(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        let (waiting, _) = self.channel.count(&self.queues.work()).await?;
        let subscription = self.channel.subscribe(&self.queues.work(), LOOKED_AT).await?;
        for _ in 0..waiting.min(LOOKED_AT.into()) {
            if stop.is_cancelled() {
                break;
            }
            let Some(message) = self.channel.next(MOST_WAIT).await? else { break };
            self.at(message).await?;
        }
        // Or what is given back would come again.
        self.others.extend(self.channel.cancel(&subscription).await?);
        Ok(())
    }

    async fn at(&mut self, message: RawMessage) -> Result<(), Failure> {
        let error = match &message.properties {
            Err(unreadable) => *unreadable,
            Ok(properties) if header_size::exceed_frames(properties) => "its headers are larger than a frame",
            Ok(properties) => return self.at_readable(&message, properties).await,
        };
        let Some(body) = message.body else {
            self.channel.reject(message.tag).await?;
            is_dead_lettered(error, message.body_bytes);
            self.parked += 1;
            return Ok(());
        };
        let mut unreadable = Unreadable { tag: message.tag, body, error, places: None };
        self.is_refused = self.is_refused || !unreadable.is_taken(self.queues, self.publisher).await;
        if !self.is_refused {
            self.channel.acknowledge(unreadable.tag).await?;
            self.parked += 1;
            return Ok(());
        }
        unreadable.places = u32::try_from(unreadable.body.len().div_ceil(PLACE_BYTES).max(1))
            .ok()
            .and_then(|places| PLACES.try_acquire_many(places).ok());
        if unreadable.places.is_some() {
            self.held.push_back(unreadable);
        } else {
            self.others.push(unreadable.tag);
        }
        Ok(())
    }

    /// Puts a message into the queue anew that was delivered too often.
    async fn at_readable(&mut self, message: &RawMessage, properties: &BasicProperties) -> Result<(), Failure> {
        let body = message.body.as_ref().filter(|_| headers::deliveries(properties) >= MOST_DELIVERIES);
        let Some(body) = body else {
            self.others.push(message.tag);
            return Ok(());
        };
        let anew = self.queues.handed_back(message.routing_key.as_deref().unwrap_or_default(), properties);
        self.publisher.publish_to_queue(&self.queues.work(), anew, body).await?;
        self.channel.acknowledge(message.tag).await
    }
}

impl Unreadable {
    /// Publishes it to the dead-letter queue. Whether that takes it.
    async fn is_taken(&self, queues: &Queues, publisher: &Publisher) -> bool {
        let properties = headers::parked(&BasicProperties::default(), 1, Reason::Unreadable.as_str(), self.error);
        if let Err(failure) = publisher.publish_to_queue(&queues.dead_letter(), properties, &self.body).await {
            debug!(error = %failure, "a message that the client library can't read is held until it can be parked");
            return false;
        }
        is_dead_lettered(self.error, self.body.len() as u64);
        true
    }
}

impl Held {
    /// Parks them when the dead-letter queue takes them. What it has not taken when `stop` is cancelled, or the
    /// connection ends, is delivered again.
    pub(super) async fn park(mut self, queues: &Queues, publisher: &Publisher, stop: &CancellationToken) {
        let mut delays = Delays::new();
        while let Some(message) = self.messages.front() {
            let is_taken = tokio::select! {
                is_taken = message.is_taken(queues, publisher) => is_taken,
                () = stop.cancelled() => break,
            };
            if is_taken {
                if self.channel.acknowledge(message.tag).await.is_err() {
                    break;
                }
                self.messages.pop_front();
                delays.reset();
                continue;
            }
            tokio::select! {
                () = sleep(delays.next_delay()) => {}
                () = stop.cancelled() => break,
            }
        }
        self.channel.close().await;
    }
}

fn is_dead_lettered(unreadable: &str, body_bytes: u64) {
    let reason = Reason::Unreadable;
    let settlement = Settlement::DeadLetter { reason, error: unreadable.to_owned() };
    error!(settlement = settlement.as_str(), reason = reason.as_str(), body_bytes, error = unreadable);
    metrics::settlement(settlement.as_str());
}
