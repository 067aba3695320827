//! One delivery: as the consumer reads it, and what is logged of its settlement.

use lapin::{BasicProperties, message::Delivery, types::ShortString};
use tracing::{Span, debug, error, error_span, info, warn};

use super::{Queues, headers, repeats::Repeats};
use crate::{
    delivery::{
        consumer::{Message, trace},
        settlement::Settlement,
    },
    traces::{self, Delivered},
};

/// A message as the consumer reads it.
pub(super) fn message<'a>(properties: &'a BasicProperties, body: &'a [u8]) -> Message<'a> {
    Message {
        body,
        content_type: properties.content_type().as_ref().map(ShortString::as_str),
        headers: headers::texts(properties),
        id: properties.message_id().as_ref().map(ShortString::as_str),
        came_as_reopened: headers::is_reopened(properties),
        host: None,
        failed_attempts: headers::failed_attempts(properties),
    }
}

/// The span of a delivery, for its log lines and for traces.
pub(super) fn span_of(delivery: &Delivery, attempt: usize, queues: &Queues) -> Span {
    let properties = &delivery.properties;
    // At the highest level, or a filter that lets only errors through would take the span's fields from them.
    let span = error_span!(
        traces::DELIVERY,
        thread.id = tracing::field::Empty,
        attempt,
        replayed = headers::replayed(properties),
        trace_id = tracing::field::Empty,
        parent_span_id = tracing::field::Empty,
    );
    traces::describe_delivery(
        &span,
        &Delivered {
            exchange: delivery.exchange.as_str(),
            routing_key: delivery.routing_key.as_str(),
            queue: &queues.work(),
            delivery_tag: delivery.delivery_tag,
            message_id: properties.message_id().as_ref().map(ShortString::as_str),
        },
    );
    if let Some(publisher) = trace(&headers::texts(properties), None) {
        traces::relate(&span, publisher.trace_id, publisher.parent_span_id, publisher.is_sampled);
    }
    span
}

/// What was logged of late.
pub(super) static REPEATS: Repeats = Repeats::new();

/// One line per settlement, at the level of what it means; at that of details, if many others said the same.
pub(super) fn log(settlement: &Settlement) {
    let name = settlement.as_str();
    traces::settled(name, settlement.error());
    match settlement {
        Settlement::Ack => debug!(settlement = name),
        Settlement::Stale if REPEATS.is_written(name) => info!(settlement = name, "the thread is not closed"),
        Settlement::Stale => debug!(settlement = name, "the thread is not closed"),
        Settlement::Busy { delay } => debug!(settlement = name, ?delay, "its row is locked"),
        Settlement::Retry { delay, error } if REPEATS.is_written(name) => warn!(settlement = name, ?delay, error),
        Settlement::Retry { delay, error } => debug!(settlement = name, ?delay, error),
        Settlement::DeadLetter { reason, error } if REPEATS.is_written(reason.as_str()) => {
            error!(settlement = name, reason = reason.as_str(), error);
        }
        Settlement::DeadLetter { reason, error } => debug!(settlement = name, reason = reason.as_str(), error),
        Settlement::HandBack { dependency, .. } => debug!(settlement = name, %dependency),
    }
}
