//! After the library lost its connection over a message that it can't read: finds such messages in the work queue and
//! parks them, with their bodies and the reason. All others are given back untouched, and nothing else is done to them.
//!
//! They come by a subscription. Taken one by one with `basic.get`, some of those that were given back were never
//! delivered again and gone from the queue, when a broker of a cluster had been frozen (RabbitMQ 3.10.8, by `make
//! chaos`).

use std::time::Duration;

use lapin::BasicProperties;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Declared, Publisher, Queues, header_size, headers, raw::RawChannel, topology};
use crate::{
    delivery::settlement::{Reason, Settlement},
    failure::Failure,
    metrics,
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

/// Parks what the library can't read. Returns whether there was something, so that it is worth to connect at once.
pub(super) async fn isolate(queues: &Queues, publisher: &Publisher, stop: &CancellationToken) -> bool {
    match queues.declared {
        Declared::ByUs | Declared::ByOthers => {}
        // They were gone with the connection.
        Declared::AsCopies => return false,
    }
    match park_unreadable(queues, publisher, stop).await {
        Ok(parked) => {
            info!(parked, "the client library lost its connection over messages that it can't read");
            parked > 0
        }
        Err(failure) => {
            warn!(error = %failure, "messages that the client library can't read could not be parked");
            false
        }
    }
}

/// Parks the unreadable messages among the first of the work queue. Returns how many that were.
async fn park_unreadable(queues: &Queues, publisher: &Publisher, stop: &CancellationToken) -> Result<u32, Failure> {
    let mut channel = RawChannel::open(queues, "volume-reaper isolating", MOST_BODY_BYTES).await?;
    let parked = park_some(&mut channel, queues, publisher, stop).await;
    let given_back = channel.give_back().await;
    channel.close().await;
    given_back.and(parked)
}

async fn park_some(
    channel: &mut RawChannel,
    queues: &Queues,
    publisher: &Publisher,
    stop: &CancellationToken,
) -> Result<u32, Failure> {
    let (waiting, _) = channel.count(&queues.work()).await?;
    let subscription = channel.subscribe(&queues.work(), LOOKED_AT).await?;
    let mut parked = 0;
    for _ in 0..waiting.min(LOOKED_AT.into()) {
        if stop.is_cancelled() {
            break;
        }
        let Some(message) = channel.next(MOST_WAIT).await? else { break };
        let unreadable = match &message.properties {
            Err(unreadable) => *unreadable,
            Ok(properties) if header_size::exceed_frames(properties) => "its headers are larger than a frame",
            Ok(properties) => {
                if let Some(body) = message.body.filter(|_| headers::deliveries(properties) >= MOST_DELIVERIES) {
                    let key = message.routing_key.unwrap_or_default();
                    let is_reopened = queues.is_reopening(&key) || headers::is_reopened(properties);
                    let host = queues.host_of(&key).filter(|_| queues.host.is_none());
                    let anew = headers::handed_back(properties, is_reopened, host);
                    publisher.publish_to_queue(&queues.work(), anew, &body).await?;
                    channel.acknowledge(message.tag).await?;
                }
                continue;
            }
        };
        let reason = Reason::Unreadable;
        match message.body {
            Some(body) => {
                let properties = headers::parked(&BasicProperties::default(), 1, reason.as_str(), unreadable);
                publisher.publish_to_queue(&queues.dead_letter(), properties, &body).await?;
                channel.acknowledge(message.tag).await?;
            }
            None => channel.reject(message.tag).await?,
        }
        let settlement = Settlement::DeadLetter { reason, error: unreadable.to_owned() };
        error!(
            settlement = settlement.as_str(),
            reason = reason.as_str(),
            body_bytes = message.body_bytes,
            error = unreadable
        );
        metrics::settlement(settlement.as_str());
        parked += 1;
    }
    // Or what is given back would come again.
    channel.cancel(&subscription).await?;
    Ok(parked)
}
