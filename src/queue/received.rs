//! One delivery: as the consumer reads it, and what is logged of its settlement.

use lapin::{BasicProperties, types::ShortString};
use tracing::{debug, error, info, warn};

use super::{headers, repeats::Repeats};
use crate::delivery::{consumer::Message, settlement::Settlement};

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

/// What was logged of late.
pub(super) static REPEATS: Repeats = Repeats::new();

/// One line per settlement, at the level of what it means; at that of details, if many others said the same.
pub(super) fn log(settlement: &Settlement) {
    let name = settlement.as_str();
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
