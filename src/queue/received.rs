//! One delivery: as the consumer reads it, and what is logged of its settlement.

use lapin::{BasicProperties, types::ShortString};
use tracing::{debug, error, info, warn};

use super::headers;
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

/// One line per settlement, at the level of what it means.
pub(super) fn log(settlement: &Settlement) {
    match settlement {
        Settlement::Ack => debug!(settlement = settlement.as_str()),
        Settlement::Stale => info!(settlement = settlement.as_str(), "the thread is not closed"),
        Settlement::Busy { delay } => debug!(settlement = settlement.as_str(), ?delay, "its row is locked"),
        Settlement::Retry { delay, error } => warn!(settlement = settlement.as_str(), ?delay, error),
        Settlement::DeadLetter { reason, error } => {
            error!(settlement = settlement.as_str(), reason = reason.as_str(), error);
        }
        Settlement::HandBack { dependency, .. } => debug!(settlement = settlement.as_str(), %dependency),
    }
}
