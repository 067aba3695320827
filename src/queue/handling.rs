//! One delivery's way from the broker's hand to its settlement, whatever panics there.
//!
//! The delivery stays outside of what may panic: one that was dropped unsettled would be unacknowledged, and nobody's,
//! as long as its channel lasts. A panic is one more failed attempt, so that a message over which we always panic ends
//! in the dead-letter queue. If that panics too, the broker moves the message there as it is: a requeue would bring it
//! back at once, for ever from RabbitMQ 4.3 on.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use lapin::message::Delivery;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error};

use super::{
    Publisher, Queues, header_size, headers,
    received::{message, span_of},
    settle::{execute, reject},
};
use crate::{
    cleanup::{Database, Volumes},
    delivery::{
        consumer::{Consumer, Message},
        settlement::{self, Settlement},
    },
    failure::Failure,
    metrics,
};

/// Handles a delivery and settles it. Returns it if it is to be given back, once nothing new is delivered to us.
pub(super) async fn handle<V: Volumes, T: Database>(
    mut delivery: Delivery,
    consumer: &Consumer<V, T>,
    queues: &Queues,
    publisher: &Publisher,
    stop: &CancellationToken,
) -> Option<Delivery> {
    // The channel may have died while the delivery waited here; then it is somebody else's by now.
    if !delivery.acker.usable() {
        return None;
    }
    let settling = AssertUnwindSafe(async {
        header_size::take_deep(&mut delivery.properties);
        let attempt = headers::failed_attempts(&delivery.properties).saturating_add(1);
        let span = span_of(&delivery, attempt, queues);
        let settle = async {
            let settlement = settlement_of(&delivery, consumer, queues).await;
            execute(&delivery, &settlement, queues, publisher, stop).await
        };
        settle.instrument(span).await
    });
    if let Ok(goes_back) = settling.catch_unwind().await {
        return goes_back.then_some(delivery);
    }
    metrics::panic();
    let retrying = AssertUnwindSafe(async {
        let settlement = settlement_of_failed(&delivery, &consumer.retry_delays);
        execute(&delivery, &settlement, queues, publisher, stop).await
    });
    if let Ok(goes_back) = retrying.catch_unwind().await {
        return goes_back.then_some(delivery);
    }
    metrics::panic();
    error!("a delivery panicked, and its retry too: a bug; standard error has the details. It is dead-lettered");
    reject(&delivery, queues).await;
    None
}

/// What is to become of the delivery, after its clean-up.
async fn settlement_of<V: Volumes, T: Database>(
    delivery: &Delivery,
    consumer: &Consumer<V, T>,
    queues: &Queues,
) -> Settlement {
    let came_as_reopened = queues.came_as_reopened(delivery.routing_key.as_str(), &delivery.properties);
    let host = queues.host_of(delivery.routing_key.as_str()).or_else(|| headers::host(&delivery.properties));
    consumer.handle(&Message { came_as_reopened, host, ..message(&delivery.properties, &delivery.data) }).await
}

/// What is to become of a delivery over which we panicked: as if its clean-up had failed.
fn settlement_of_failed(delivery: &Delivery, retry_delays: &[Duration]) -> Settlement {
    let panicked = Err(Failure::transient("settling it panicked; standard error has the details"));
    settlement::decide(&panicked, headers::failed_attempts(&delivery.properties), retry_delays)
}
