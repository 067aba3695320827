//! After the library lost its connection over a message that it can't read: finds such messages in the work queue and
//! parks them, with their bodies and the reason. All others are given back untouched, and nothing else is done to them.

use lapin::BasicProperties;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{Publisher, Queues, headers, raw::RawChannel};
use crate::{
    failure::Failure,
    metrics,
    settlement::{Reason, Settlement},
};

/// Messages that are looked at. They count one more delivery each, so not the whole of a long queue for one of them.
const LOOKED_AT: u32 = 500;
/// A larger body is not taken into memory: the broker moves that message as it is.
const MOST_BODY_BYTES: usize = 1024 * 1024;

/// Parks the unreadable messages among the first of the work queue. Returns how many that were.
pub(super) async fn park_unreadable(
    queues: &Queues,
    publisher: &Publisher,
    stop: &CancellationToken,
) -> Result<u32, Failure> {
    let mut channel = RawChannel::open(queues, "volume-reaper isolating", MOST_BODY_BYTES).await?;
    let parked = park(&mut channel, queues, publisher, stop).await;
    let given_back = channel.give_back().await;
    channel.close().await;
    given_back.and(parked)
}

async fn park(
    channel: &mut RawChannel,
    queues: &Queues,
    publisher: &Publisher,
    stop: &CancellationToken,
) -> Result<u32, Failure> {
    let mut parked = 0;
    for _ in 0..LOOKED_AT {
        if stop.is_cancelled() {
            break;
        }
        let Some(message) = channel.get(&queues.work()).await? else { break };
        let unreadable = match message.properties {
            Err(unreadable) => unreadable,
            Ok(properties) if headers::exceed_frames(&properties) => "its headers are larger than a frame",
            Ok(_) => continue,
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
    Ok(parked)
}
