//! Names what a message is that is no event: another framework's envelope, JSON in a JSON string, compressed, empty. It
//! is said with what to change at the publisher, and without a word of the message itself.

use serde_json::{Map, Value};

use crate::delivery::envelope::Headers;

/// A wrong body, by its first bytes; asked before it is parsed.
pub(crate) fn of_bytes(body: &[u8]) -> Option<&'static str> {
    match body {
        _ if body.iter().all(u8::is_ascii_whitespace) => {
            Some("the body is empty: publish {\"thread_id\": \"...\"} as the body")
        }
        [0x1f, 0x8b, ..] => Some("the body is compressed with gzip: publish it uncompressed"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("the body is compressed with zstd: publish it uncompressed"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("the body is in UTF-16: publish it in UTF-8"),
        [0xac, 0xed, 0, 5, ..] => {
            Some("the body is a serialized Java object: use a JSON message converter at the publisher")
        }
        [0x80, 2..=5, ..] => Some("the body is a Python pickle: serialize it as JSON"),
        _ => None,
    }
}

/// An object without a thread id.
pub(crate) fn of_fields(fields: &Map<String, Value>) -> Option<&'static str> {
    let has = |names: &[&str]| names.iter().all(|name| fields.contains_key(*name));
    if has(&["messageType", "message"]) {
        Some("it is a MassTransit envelope: publish the message itself (UseRawJsonSerializer)")
    } else if has(&["TopicArn", "Message"]) {
        Some("it is an Amazon SNS notification: turn on raw message delivery for the subscription")
    } else if has(&["detail-type", "detail"]) {
        Some("it is an EventBridge event: publish its detail alone (input path $.detail)")
    } else if has(&["task", "args"]) || has(&["task", "kwargs"]) {
        Some("it is a Celery task: publish the event itself, with Kombu's Producer, not as a task")
    } else if has(&["displayName", "job"]) {
        Some("it is a Laravel job: publish the event itself, not as a job")
    } else if has(&["pattern", DATA]) {
        Some("it is a NestJS envelope: publish its data alone")
    } else if has(&["payload"]) || has(&["envelope"]) || has(&["body"]) || has(&["message"]) {
        Some("it is an envelope with the event inside (payload, envelope, body or message): publish the event itself")
    } else if inside(fields) {
        Some(
            "it is an envelope with the event in its data, but without specversion it is no CloudEvent: publish the \
             data itself",
        )
    } else if ["threadId", "threadID", "ThreadId", "threadid", "thread"].iter().any(|name| has(&[name])) {
        Some("it has no thread_id, but a field of a similar name: call it thread_id")
    } else {
        None
    }
}

/// The field of an envelope that has the event.
const DATA: &str = "data";

fn inside(fields: &Map<String, Value>) -> bool {
    fields.get(DATA).and_then(Value::as_object).is_some_and(|data| data.contains_key("thread_id"))
}

/// What the headers say of a body that is no event.
pub(crate) fn of_headers(headers: &Headers<'_>) -> Option<&'static str> {
    let has = |start: &str| headers.iter().any(|(name, _)| name.starts_with(start));
    if has("NServiceBus.") {
        Some("it is an NServiceBus message: its body needs a property thread_id, in the JSON serializer's spelling")
    } else if has("rbs2-") {
        Some("it is a Rebus message: publish the event itself, as JSON")
    } else if has("MT-") {
        Some("it is a MassTransit message: publish the event itself (UseRawJsonSerializer), with a field thread_id")
    } else if has("task") && has("root_id") {
        Some("it is a Celery task: publish the event itself, with Kombu's Producer, not as a task")
    } else {
        None
    }
}

/// JSON that is no object.
pub(crate) fn of_value(value: &Value) -> &'static str {
    match value {
        Value::String(text) if text.trim_start().starts_with(['{', '[', '"']) => {
            "it is JSON in a JSON string: the publisher encodes it twice, once is enough"
        }
        Value::Array(_) => "it is a list: each event has to be a message of its own",
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            "it is not a JSON object"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_named() {
        for (body, name) in [
            (r#"{"messageId":"1","messageType":["urn:message:A"],"message":{"thread_id":"t"}}"#, "MassTransit"),
            (r#"{"Type":"Notification","TopicArn":"arn:aws:sns:a","Message":"{}"}"#, "SNS"),
            (r#"{"version":"0","detail-type":"Closed","source":"a","detail":{"thread_id":"t"}}"#, "EventBridge"),
            (r#"{"id":"1","task":"close","args":[],"kwargs":{}}"#, "Celery"),
            (r#"{"displayName":"Close","job":"Call","data":{}}"#, "Laravel"),
            (r#"{"pattern":"closed","data":{"thread_id":"t"}}"#, "NestJS"),
            (r#"{"data":{"thread_id":"t"}}"#, "CloudEvent"),
            (r#"{"schema":{},"payload":{"thread_id":"t"}}"#, "payload"),
            (r#"{"threadId":"t"}"#, "call it thread_id"),
        ] {
            let fields = crate::delivery::body::read(body.as_bytes()).expect("JSON");
            let named = of_fields(fields.as_object().expect("an object")).expect("it is known");
            assert!(named.contains(name), "{body}: {named}");
        }
        assert_eq!(of_fields(&Map::new()), None);
    }

    #[test]
    fn bytes_that_are_no_json_are_named() {
        for (bytes, name) in
            [(&b""[..], "empty"), (b" \n", "empty"), (&[0x1f, 0x8b, 8], "gzip"), (b"\xff\xfe{\0", "UTF-16")]
        {
            assert!(of_bytes(bytes).expect("known").contains(name), "{bytes:?}");
        }
        assert_eq!(of_bytes(b"{"), None);
    }
}
