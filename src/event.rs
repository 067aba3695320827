//! The thread-closed event: from the bytes of a message to a [`ThreadClosed`].
//!
//! It is JSON, `{"thread_id": "<id>", "closed_at": "<RFC 3339>"}`, as `schemas/thread-closed.schema.json` describes it,
//! by itself or as the data of a [CloudEvent](crate::cloud_event). Unknown fields are ignored, so that the platform may
//! add its own. The event only says which thread to look at; what is done to it is decided by the database, so
//! `closed_at` is checked and used for nothing else.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    cloud_event,
    volume_name::{InvalidThreadId, ThreadId},
};

/// The largest body that is read, in bytes. An event has some hundred; more is somebody else's message.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// A thread was closed: its volume may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadClosed {
    /// The thread that was closed.
    pub thread_id: ThreadId,
    /// When, by the platform's clock, if the event says so.
    pub closed_at: Option<DateTime<Utc>>,
}

/// Why a body is no event. None of these gets better by trying again.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEvent {
    /// The body's length in bytes is over [`MAX_BODY_BYTES`].
    #[error("the body has {0} bytes, the most that an event may have is {MAX_BODY_BYTES}")]
    TooLarge(usize),
    /// The message is not JSON of the right form; what is wrong, without repeating any of it.
    #[error("the message is not a thread-closed event: {0}")]
    Undecodable(String),
    /// The body is well formed, but its thread id can't be part of a volume name.
    #[error(transparent)]
    InvalidThreadId(#[from] InvalidThreadId),
}

impl ThreadClosed {
    /// Reads the body of a message that has neither a content type nor headers.
    pub fn decode(body: &[u8]) -> Result<Self, InvalidEvent> {
        Self::read(&cloud_event::open(body, None, &[])?.data)
    }

    /// Reads what a message says.
    pub fn read(data: &Value) -> Result<Self, InvalidEvent> {
        let undecodable = |what: &str| InvalidEvent::Undecodable(what.to_owned());
        let fields = data.as_object().ok_or_else(|| undecodable("it is not a JSON object"))?;
        let thread_id = match fields.get("thread_id") {
            Some(Value::String(id)) => ThreadId::parse(id)?,
            Some(_) => return Err(undecodable("thread_id is not a string")),
            None => return Err(undecodable("it has no thread_id")),
        };
        let closed_at = match fields.get("closed_at") {
            None | Some(Value::Null) => None,
            Some(Value::String(time)) => Some(
                DateTime::parse_from_rfc3339(time)
                    .map_err(|_| undecodable("closed_at is not an RFC 3339 time"))?
                    .to_utc(),
            ),
            Some(_) => return Err(undecodable("closed_at is not a string")),
        };
        Ok(Self { thread_id, closed_at })
    }

    /// Writes the body of a message; what [`ThreadClosed::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = serde_json::json!({ "thread_id": self.thread_id });
        if let Some(closed_at) = self.closed_at {
            body["closed_at"] = closed_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into();
        }
        body.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let event = ThreadClosed {
            thread_id: ThreadId::parse("t-1").expect("valid"),
            closed_at: Some("2026-01-02T03:04:05.678Z".parse().expect("valid")),
        };
        assert_eq!(ThreadClosed::decode(&event.encode()).expect("decodes"), event);
    }

    #[test]
    fn a_body_over_the_limit_is_refused_before_it_is_parsed() {
        let padding = " ".repeat(MAX_BODY_BYTES);
        let body = format!(r#"{{"thread_id":"t-1"}}{padding}"#);
        assert!(matches!(ThreadClosed::decode(body.as_bytes()), Err(InvalidEvent::TooLarge(_))));
    }

    #[test]
    fn an_error_does_not_repeat_the_body() {
        let error = ThreadClosed::decode(br#""s3cret""#).expect_err("refused");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
