//! The thread events: from the bytes of a message to a [`ThreadEvent`].
//!
//! It is JSON, `{"thread_id": "<id>", "closed_at": "<RFC 3339>"}`, as `schemas/thread-closed.schema.json` describes it,
//! by itself or as the data of a [CloudEvent](crate::delivery::envelope). Unknown fields are ignored, so that the
//! platform may add its own. The event only says which thread to look at; what is done to it is decided by the
//! database, so its times may be of any form, unless the events are all that the database has: see
//! [`crate::cleanup::record`].

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    cleanup::ClaimedStatus,
    delivery::{envelope, event_time, foreign_envelope},
    volume_name::{InvalidThreadId, ThreadId, VolumeName},
};

/// The largest body that is read, in bytes. An event has some hundred; more is somebody else's message.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// A thread was closed: its volume may go. Or it was reopened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadEvent {
    /// The thread.
    pub thread_id: ThreadId,
    /// When it was closed, by the platform's clock, if the event says so.
    pub closed_at: Option<DateTime<Utc>>,
    /// When it was reopened, likewise.
    pub reopened_at: Option<DateTime<Utc>>,
    /// The time that is there and that we can't read, by its field's name.
    pub unreadable: Option<&'static str>,
    /// The Docker host that its volume is on, if the event says so.
    pub host: Option<String>,
    /// What its volumes are called by the event, as far as these are names: a hint for the log. The database says which
    /// they are.
    pub volumes: Vec<String>,
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

impl ThreadEvent {
    /// Reads the body of a message that has neither a content type nor headers.
    pub fn decode(body: &[u8]) -> Result<Self, InvalidEvent> {
        Self::read(&envelope::open(body, None, &[])?.data)
    }

    /// Reads what a message says.
    pub fn read(data: &Value) -> Result<Self, InvalidEvent> {
        let undecodable = |what: &str| InvalidEvent::Undecodable(what.to_owned());
        let fields = data.as_object().ok_or_else(|| undecodable(foreign_envelope::of_value(data)))?;
        let thread_id = match fields.get("thread_id") {
            Some(Value::String(id)) => ThreadId::parse(id)?,
            Some(_) => return Err(undecodable("thread_id is not a string")),
            None => return Err(undecodable("it has no thread_id")),
        };
        let mut unreadable = None;
        let mut time = |name: &'static str| {
            let value = fields.get(name).filter(|value| !value.is_null())?;
            let time = event_time::read(value);
            if time.is_none() {
                unreadable.get_or_insert(name);
            }
            time
        };
        let (closed_at, reopened_at) = (time("closed_at"), time("reopened_at"));
        // Of another form it is a field of the platform's own, like any that we don't know.
        let host = fields.get("host").and_then(Value::as_str).filter(|host| !host.is_empty()).map(str::to_owned);
        let volumes = fields.get("volumes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let volumes = volumes.filter(|name| VolumeName::is_legal(name)).map(str::to_owned).collect();
        Ok(Self { thread_id, closed_at, reopened_at, unreadable, host, volumes })
    }

    /// The status that the event claims its thread to have.
    #[must_use]
    pub fn claimed_status(&self, came_as_reopened: bool) -> ClaimedStatus {
        let Self { closed_at, reopened_at, unreadable, .. } = *self;
        ClaimedStatus { closed_at, reopened_at, unreadable, came_as_reopened }
    }

    /// Writes the body of a message; what [`ThreadEvent::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = serde_json::json!({ "thread_id": self.thread_id });
        for (name, time) in [("closed_at", self.closed_at), ("reopened_at", self.reopened_at)] {
            if let Some(time) = time {
                body[name] = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into();
            }
        }
        if let Some(host) = &self.host {
            body["host"] = host.as_str().into();
        }
        if !self.volumes.is_empty() {
            body["volumes"] = self.volumes.as_slice().into();
        }
        body.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let event = ThreadEvent {
            thread_id: ThreadId::parse("t-1").expect("valid"),
            closed_at: Some("2026-01-02T03:04:05.678Z".parse().expect("valid")),
            reopened_at: Some("2026-01-01T03:04:05.678Z".parse().expect("valid")),
            unreadable: None,
            host: Some("docker-1".to_owned()),
            volumes: vec!["ha_ws_t-1".to_owned(), "ha_cache_t-1".to_owned()],
        };
        assert_eq!(ThreadEvent::decode(&event.encode()).expect("decodes"), event);
    }

    #[test]
    fn a_time_that_cannot_be_read_is_refused_where_it_is_needed_and_only_there() {
        for body in [&br#"{"thread_id":"t-1","closed_at":""}"#[..], br#"{"thread_id":"t-1","reopened_at":"infinity"}"#]
        {
            let event = ThreadEvent::decode(body).expect("an event all the same");
            let refused = event.claimed_status(false).change(Utc::now()).expect_err("refused");
            assert!(refused.message.contains("_at is not a time that we can read"), "{}", refused.message);
        }
    }

    #[test]
    fn of_hinted_volumes_what_is_a_name_is_kept_and_nothing_else_of_them_matters() {
        for (hint, expected) in [
            (r#"["ha_ws_1","../x","",7,null,"a b","x.y-z_0"]"#, &["ha_ws_1", "x.y-z_0"][..]),
            (r#""ha_ws_1""#, &[]),
            ("null", &[]),
            (r#"[["ha_ws_1"],{"volumes":["ha_ws_1"]}]"#, &[]),
        ] {
            let body = format!(r#"{{"thread_id":"t-1","volumes":{hint}}}"#);
            assert_eq!(ThreadEvent::decode(body.as_bytes()).expect("an event").volumes, expected, "{hint}");
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused_before_it_is_parsed() {
        let body = |bytes: usize| format!(r#"{{"thread_id":"t-1"{}}}"#, " ".repeat(bytes - 19));
        assert!(ThreadEvent::decode(body(65_536).as_bytes()).is_ok());
        let refused = ThreadEvent::decode(body(65_537).as_bytes());
        assert!(matches!(refused, Err(InvalidEvent::TooLarge(65_537))), "{refused:?}");
    }

    #[test]
    fn an_error_does_not_repeat_the_body() {
        let error = ThreadEvent::decode(br#""s3cret""#).expect_err("refused");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    proptest! {
        /// Whatever the bytes and headers are: they are read or refused, and what is read has an id that is one.
        #[test]
        fn no_message_breaks_the_decoder(
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                r#"\{"(thread_id|specversion|data|host)": ?("[a-z./0-9-]{0,12}"|[0-9e.+-]{1,6}|\{\}|null)[,}]"#
                    .prop_map(String::into_bytes),
                r#"[\[{"\\u:,\]}a-f0-9]{0,80}"#.prop_map(String::into_bytes),
            ],
            content_type in prop::option::of("[a-z/+;= -]{0,30}|application/cloudevents\\+json"),
            headers in prop::collection::vec(("(ce-|cloudEvents[:_])?(id|type|source|specversion)", ".{0,12}"), 0..6),
        ) {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let opened = envelope::open(&body, content_type.as_deref(), &headers);
            if let Ok(event) = opened.and_then(|opened| ThreadEvent::read(&opened.data)) {
                prop_assert!(ThreadId::parse(event.thread_id.as_str()).is_ok());
                prop_assert_eq!(&ThreadEvent::decode(&event.encode()).expect("reads").thread_id, &event.thread_id);
            }
        }
    }
}
