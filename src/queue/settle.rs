//! Executes what was decided on a delivery: the only code that acknowledges.
//!
//! A retry is published to its delay queue and confirmed, and only then is the original acknowledged. If that publish
//! fails, the original stays unacknowledged and waits until it succeeds, so that a message may exist twice but never
//! not at all.
//!
//! lapin's answer to an acknowledgement only says that it was written. One that is made in the moment in which the
//! connection breaks may never get it, so every wait here has a limit.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use lapin::{
    message::Delivery,
    options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions},
};
use tokio::{task::JoinError, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, warn};

use super::{Publisher, Queues, connection::REQUEST_TIMEOUT, headers, received::log};
use crate::{delivery::settlement::Settlement, metrics, reconnect::Delays, traces};

/// For publishing one delivery that is given back: there is another way, and many may wait.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(2);
/// A body over this is not sent through our memory a second time: the broker moves the message as it is, and the
/// dead-letter queue's `x-death` says `rejected`.
const MOST_PUBLISHED_BYTES: usize = 1024 * 1024;

/// What a delivery comes to that the broker moves to the dead-letter queue: as [`Settlement::as_str`] calls it.
const DEAD_LETTER: &str = "dead_letter";

/// A delivery whose channel was gone before the broker was told.
const LOST_CHANNEL: &str = "lost_channel";

/// A message that the broker does not take in time.
const NOT_TAKEN: &str = "not_taken";

/// Logs `settlement` and executes it. Gives up on publishing when `stop` is cancelled or the delivery's channel is
/// gone.
///
/// Returns whether the delivery is still ours and has to be given back, once nothing new is delivered to us.
pub(super) async fn execute(
    delivery: &Delivery,
    settlement: &Settlement,
    queues: &Queues,
    publisher: &Publisher,
    stop: &CancellationToken,
) -> bool {
    log(settlement);
    let original = || {
        let original = delivery.properties.clone();
        let is_reopened = queues.came_as_reopened(delivery.routing_key.as_str(), &original);
        if is_reopened { headers::reopened(original) } else { original }
    };
    let attempt = headers::failed_attempts(&delivery.properties).saturating_add(1);
    let next_stop = match settlement {
        Settlement::Ack | Settlement::Stale => None,
        Settlement::DeadLetter { .. } if delivery.data.len() > MOST_PUBLISHED_BYTES => {
            reject(delivery, queues).await;
            return false;
        }
        Settlement::Retry { delay, error } => {
            Some((queues.retry(*delay), headers::onward(&original(), attempt, "retry", error)))
        }
        // As it was: somebody else's lock is no attempt of ours.
        Settlement::Busy { delay } => {
            Some((queues.retry(*delay), headers::onward(&original(), attempt - 1, "busy", "its row is locked")))
        }
        Settlement::DeadLetter { reason, error } => {
            let properties = headers::parked(&original(), attempt, reason.as_str(), error);
            Some((queues.dead_letter(), properties))
        }
        Settlement::HandBack { .. } => return true,
    };
    if let Some((queue, properties)) = next_stop {
        let mut delays = Delays::new();
        loop {
            let span = traces::send(&queue);
            let publish = publisher.publish_to_queue(&queue, properties.clone(), &delivery.data);
            let Err(failure) = publish.instrument(span.clone()).await else { break };
            span.record("error.type", failure.verdict.as_str());
            warn!(queue, error = %failure, "can't move the delivery on; it stays where it is until that works");
            if !delivery.acker.usable() {
                return false;
            }
            tokio::select! {
                () = tokio::time::sleep(delays.next_delay()) => {}
                () = stop.cancelled() => return true,
            }
        }
    }
    let acknowledge = delivery.acker.ack(BasicAckOptions::default());
    settled(settlement.as_str(), told("ack", queues, acknowledge).await);
    false
}

/// Has the broker move a delivery to the dead-letter queue as it is, which its `x-death` calls `rejected`.
pub(super) async fn reject(delivery: &Delivery, queues: &Queues) {
    let reject = delivery.acker.reject(BasicRejectOptions { requeue: false });
    settled(DEAD_LETTER, told("reject", queues, reject).await);
}

/// Tells the broker what becomes of a delivery. Whether it was told.
async fn told(operation: &'static str, queues: &Queues, tell: impl Future<Output = lapin::Result<bool>>) -> bool {
    let span = traces::settle(operation, &queues.work());
    let sent = timeout(REQUEST_TIMEOUT, tell).instrument(span.clone()).await;
    let is_told = matches!(sent, Ok(Ok(true)));
    if !is_told {
        span.record("error.type", LOST_CHANNEL);
    }
    is_told
}

/// Counts a settlement, by what came of it.
fn settled(settlement: &'static str, is_told: bool) {
    if is_told {
        metrics::settlement(settlement);
    } else {
        // The channel is gone, and with it the tag: the broker delivers the message again, as a duplicate.
        debug!(settlement, "the channel was gone before the acknowledgement");
        metrics::settlement(LOST_CHANNEL);
    }
}

/// Puts deliveries back into the work queue, at its end and untouched: published anew and then acknowledged, since a
/// requeue would count towards the delivery limit before RabbitMQ 4.3. Where the broker takes no message, they are
/// requeued all the same. Nothing must be delivered to us meanwhile, or it would go round.
pub(super) async fn give_back(deliveries: &[Delivery], queues: &Queues, publisher: &Publisher) {
    let mut is_taken = true;
    for delivery in deliveries {
        let given = AssertUnwindSafe(give_one_back(delivery, &mut is_taken, queues, publisher));
        if given.catch_unwind().await.is_err() {
            metrics::panic();
            error!("giving a delivery back panicked: a bug; standard error has the details. It is dead-lettered");
            reject(delivery, queues).await;
        }
    }
}

/// Gives one back, published anew if the broker takes messages. Sets `is_taken` to whether it does.
async fn give_one_back(delivery: &Delivery, is_taken: &mut bool, queues: &Queues, publisher: &Publisher) {
    if *is_taken && delivery.acker.usable() {
        let properties = queues.handed_back(delivery.routing_key.as_str(), &delivery.properties);
        let queue = queues.work();
        let publish = publisher.publish_to_queue(&queue, properties, &delivery.data);
        let span = traces::send(&queue);
        let answer = timeout(GIVE_BACK_TIMEOUT, publish).instrument(span.clone()).await;
        *is_taken = matches!(answer, Ok(Ok(())));
        if !*is_taken {
            span.record("error.type", NOT_TAKEN);
        }
    }
    // If the channel is gone, the broker has it back already.
    if *is_taken {
        told("ack", queues, delivery.acker.ack(BasicAckOptions::default())).await;
    } else {
        let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        told("nack", queues, delivery.acker.nack(requeue)).await;
    }
    metrics::settlement("hand_back");
}

/// The delivery that a finished task wants given back.
pub(super) fn returned(finished: Result<Option<Delivery>, JoinError>) -> Option<Delivery> {
    finished.unwrap_or_else(|error| {
        // What panics on a delivery's way is caught there, where the delivery is at hand.
        error!(%error, "the task of a delivery failed; the delivery stays unacknowledged as long as its channel lasts");
        metrics::panic();
        None
    })
}
