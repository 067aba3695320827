//! What a message says, taken out of its envelope: a thread-closed event is published as it is, or as a CloudEvent.
//!
//! Of [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) both modes are read:
//!
//! - *structured*: the body is the CloudEvent, in its JSON format. The content type `application/cloudevents+json` says
//!   so; under any other, or none, an object with `specversion` and without `thread_id` is taken for one, since not
//!   every publisher sets that content type. Batches and other formats are refused.
//! - *binary*: the body is the data and the attributes are headers. Their prefix is `ce-` as in Knative's binding for
//!   RabbitMQ, or `cloudEvents:` or `cloudEvents_` as in the binding for AMQP 1.0. Two of the required attributes under
//!   such a prefix make a message a CloudEvent, and then all of them have to be there; one alone is somebody's habit.
//!   Knative's broker writes them without a prefix; such words can mean anything, so there only all of them together
//!   count.
//!
//! The data has to be JSON. `type` and `source` may be anything: the queue's binding has selected the message, and a
//! thread-closed event is known by its data.

use base64::{Engine, engine::general_purpose};
use serde_json::{Map, Value};

use super::{
    body,
    event::{InvalidEvent, MAX_BODY_BYTES},
    foreign_envelope,
};

/// The headers of a message whose values are text. Their names are compared without regard to case, as Knative does.
pub type Headers<'a> = [(&'a str, &'a str)];

/// What an attribute's header may begin with. The colon is AMQP 1.0's, the underscore is for those who can't have it.
const PREFIXES: [&str; 3] = ["ce-", "cloudEvents:", "cloudEvents_"];
/// The attributes that no CloudEvent may lack.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// The only version that says 1.0, 1.0.1 and 1.0.2.
const SPECVERSION: &str = "1.0";

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// What should be a thread-closed event.
    pub data: Value,
    /// The CloudEvent's id, if it is one.
    pub id: Option<String>,
    /// The CloudEvent's `traceparent`, unread, if its body has one; see [`traceparents`] for those of the headers.
    pub traceparent: Option<String>,
}

/// Reads a message's body as its content type and its headers ask for. Errors repeat nothing of them.
pub fn open(body: &[u8], content_type: Option<&str>, headers: &Headers<'_>) -> Result<Opened, InvalidEvent> {
    if body.len() > MAX_BODY_BYTES {
        return Err(InvalidEvent::TooLarge(body.len()));
    }
    if let Some(what) = foreign_envelope::of_bytes(body) {
        return Err(undecodable(what));
    }
    let is_named_structured = content_type.map(names_structured).transpose()?.unwrap_or(false);
    let prefix = prefix(headers);
    if let (Some(prefix), false) = (prefix, is_named_structured) {
        return binary(body, content_type, headers, prefix);
    }
    match (json(body)?, prefix) {
        // The example of binary mode in Knative's binding has the content type of structured mode.
        (Value::Object(fields), Some(prefix)) if !fields.contains_key("specversion") => {
            let id = required_headers(headers, prefix)?;
            Ok(Opened { data: Value::Object(fields), id: Some(id), traceparent: None })
        }
        (Value::Object(fields), _) if is_named_structured || looks_structured(&fields) => structured(fields),
        (_, _) if is_named_structured => Err(undecodable("the CloudEvent is not a JSON object")),
        (data, _) => match foreign(&data, headers) {
            Some(what) => Err(undecodable(what)),
            None => Ok(Opened { data, id: None, traceparent: None }),
        },
    }
}

/// What a message is that has no thread id, if its fields or its headers say so.
fn foreign(data: &Value, headers: &Headers<'_>) -> Option<&'static str> {
    match data.as_object() {
        Some(fields) if fields.contains_key("thread_id") => None,
        Some(fields) => foreign_envelope::of_fields(fields).or_else(|| foreign_envelope::of_headers(headers)),
        None => foreign_envelope::of_headers(headers),
    }
}

/// The `traceparent` headers of a message, unread: the last hop's own, then the CloudEvent's, which is its first hop's.
pub fn traceparents<'a>(headers: &'a Headers<'a>) -> impl Iterator<Item = &'a str> {
    [""].into_iter().chain(PREFIXES).filter_map(|prefix| header(headers, prefix, "traceparent"))
}

/// Whether a content type says that the body is a CloudEvent. Refuses those whose format we can't read.
fn names_structured(content_type: &str) -> Result<bool, InvalidEvent> {
    match media_type(content_type).as_str() {
        "application/cloudevents+json" => Ok(true),
        "application/cloudevents-batch+json" => {
            Err(undecodable("it is a batch of CloudEvents; each has to be a message of its own"))
        }
        other if other.starts_with("application/cloudevents") => {
            Err(undecodable("it is a CloudEvent in another format than JSON"))
        }
        _ => Ok(false),
    }
}

fn looks_structured(fields: &Map<String, Value>) -> bool {
    fields.contains_key("specversion") && !fields.contains_key("thread_id")
}

fn structured(mut fields: Map<String, Value>) -> Result<Opened, InvalidEvent> {
    for name in REQUIRED {
        required(name, text(&fields, name)?)?;
    }
    if text(&fields, "datacontenttype")?.is_some_and(|data| !is_json(data)) {
        return Err(data_is_not_json());
    }
    let id = text(&fields, "id")?.map(str::to_owned);
    // It is an extension: a CloudEvent with a senseless one is still a CloudEvent.
    let traceparent = fields.get("traceparent").and_then(Value::as_str).map(str::to_owned);
    let mut take = |name| fields.remove(name).filter(|value| !value.is_null());
    let data = match (take("data"), take("data_base64")) {
        (Some(data), None) => data,
        (None, Some(Value::String(encoded))) => {
            let decoded = general_purpose::STANDARD.decode(encoded);
            json(&decoded.map_err(|_| undecodable("the CloudEvent's data_base64 is not Base64"))?)?
        }
        (None, Some(_)) => return Err(undecodable("the CloudEvent's data_base64 is not a string")),
        (Some(_), Some(_)) => return Err(undecodable("the CloudEvent has both data and data_base64")),
        (None, None) => return Err(undecodable("the CloudEvent has no data")),
    };
    Ok(Opened { data, id, traceparent })
}

fn binary(
    body: &[u8],
    content_type: Option<&str>,
    headers: &Headers<'_>,
    prefix: &str,
) -> Result<Opened, InvalidEvent> {
    let id = required_headers(headers, prefix)?;
    if content_type.is_some_and(|data| !is_json(data)) {
        return Err(data_is_not_json());
    }
    Ok(Opened { data: json(body)?, id: Some(id), traceparent: None })
}

/// The prefix under which a message has the attributes of a CloudEvent; `None` if it has not.
fn prefix(headers: &Headers<'_>) -> Option<&'static str> {
    let has = |prefix: &str, name: &&str| header(headers, prefix, name).is_some();
    let prefixed = PREFIXES.into_iter().find(|prefix| REQUIRED.iter().filter(|name| has(prefix, name)).count() > 1);
    prefixed.or_else(|| REQUIRED.iter().all(|name| has("", name)).then_some(""))
}

/// Checks the required attributes. Returns the id.
fn required_headers(headers: &Headers<'_>, prefix: &str) -> Result<String, InvalidEvent> {
    for name in REQUIRED {
        required(name, header(headers, prefix, name))?;
    }
    Ok(header(headers, prefix, "id").unwrap_or_default().to_owned())
}

fn required(name: &str, value: Option<&str>) -> Result<(), InvalidEvent> {
    match value {
        None | Some("") => Err(undecodable(&format!("the CloudEvent has no {name}"))),
        Some(version) if name == "specversion" && version != SPECVERSION => {
            Err(undecodable("the CloudEvent's specversion is not 1.0"))
        }
        Some(_) => Ok(()),
    }
}

fn header<'a>(headers: &Headers<'a>, prefix: &str, name: &str) -> Option<&'a str> {
    let wanted = |key: &str| {
        let (start, rest) = key.split_at_checked(prefix.len()).unwrap_or((key, ""));
        start.eq_ignore_ascii_case(prefix) && rest.eq_ignore_ascii_case(name)
    };
    headers.iter().find(|(key, _)| wanted(key)).map(|(_, value)| *value)
}

/// A text attribute of a structured CloudEvent; null is as good as not there.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, InvalidEvent> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(undecodable(&format!("the CloudEvent's {name} is not a string"))),
    }
}

/// `*/json` or `*/*+json`, as the JSON format of CloudEvents defines it.
fn is_json(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    media_type.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

/// A content type without its parameters, in lower case.
fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn json(text: &[u8]) -> Result<Value, InvalidEvent> {
    body::read(text).map_err(InvalidEvent::Undecodable)
}

fn data_is_not_json() -> InvalidEvent {
    undecodable("the CloudEvent's data is not JSON, says its content type")
}

fn undecodable(what: &str) -> InvalidEvent {
    InvalidEvent::Undecodable(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [(&str, &str); 4] =
        [("ce-specversion", "1.0"), ("ce-id", "e-1"), ("ce-source", "/platform"), ("ce-type", "thread.closed")];

    fn refusal(body: &str, content_type: Option<&str>, headers: &Headers<'_>) -> String {
        open(body.as_bytes(), content_type, headers).expect_err("refused").to_string()
    }

    #[test]
    fn a_plain_body_is_its_own_data_whatever_its_content_type() {
        for content_type in [None, Some("application/json"), Some("text/plain"), Some("")] {
            let opened = open(br#"{"thread_id":"t-1","specversion":"7"}"#, content_type, &[]).expect("opens");
            assert_eq!((opened.data["thread_id"].as_str(), opened.id), (Some("t-1"), None), "{content_type:?}");
        }
    }

    #[test]
    fn names_of_headers_and_media_types_have_no_case() {
        let headers = COMPLETE.map(|(name, value)| (name.to_uppercase(), value));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let opened = open(b"{}", Some("Application/JSON; charset=UTF-8"), &headers).expect("opens");
        assert_eq!(opened.id.as_deref(), Some("e-1"));
        assert!(names_structured("APPLICATION/CloudEvents+JSON ; charset=utf-8").expect("readable"));
    }

    #[test]
    fn two_attributes_with_a_prefix_make_a_cloud_event_and_one_or_three_without_do_not() {
        assert!(refusal("{}", None, &COMPLETE[1..]).ends_with("the CloudEvent has no specversion"));
        for lone in COMPLETE {
            let opened = open(br#"{"thread_id":"t-1"}"#, None, &[lone]);
            assert!(opened.is_ok_and(|it| it.id.is_none()), "{lone:?}");
        }
        assert!(open(b"{}", None, &[("id", "e-1"), ("type", "x"), ("source", "y")]).is_ok_and(|it| it.id.is_none()));
        assert!(open(b"{}", None, &[("ce-traceparent", "x")]).is_ok_and(|it| it.id.is_none()));
    }

    #[test]
    fn a_message_of_another_framework_is_named_by_its_headers() {
        let refusal = refusal(r#"{"ThreadKey":"t-1"}"#, None, &[("NServiceBus.EnclosedMessageTypes", "A")]);
        assert!(refusal.contains("NServiceBus"), "{refusal}");
        let read = open(br#"{"thread_id":"t-1"}"#, None, &[("NServiceBus.EnclosedMessageTypes", "A")]);
        assert!(read.is_ok());
    }

    #[test]
    fn a_header_that_is_shorter_than_the_prefix_or_splits_a_character_is_somebody_elses() {
        for name in ["", "c", "ce", "c\u{e9}-id", "\u{1f980}"] {
            assert_eq!(prefix(&[(name, "x"), (name, "y")]), None, "{name}");
        }
    }

    #[test]
    fn the_size_is_looked_at_before_anything_else() {
        let body = " ".repeat(MAX_BODY_BYTES + 1);
        let opened = open(body.as_bytes(), Some("application/cloudevents-batch+json"), &COMPLETE);
        assert!(matches!(opened, Err(InvalidEvent::TooLarge(_))));
    }

    #[test]
    fn a_refusal_repeats_neither_the_body_nor_a_header() {
        for (body, content_type, headers) in [
            (r#"{"specversion":"s3cret"}"#, None, &[][..]),
            (r#"{"specversion":"1.0","id":{"s3cret":1}}"#, None, &[]),
            (r#"{"specversion":"1.0","id":"1","source":"1","type":"1","data_base64":"s3cret!"}"#, None, &[]),
            ("{}", Some("application/cloudevents+s3cret"), &[]),
            ("{}", Some("s3cret/xml"), &COMPLETE),
            ("{}", None, &[("ce-specversion", "s3cret"), ("ce-id", "s3cret")]),
        ] {
            let refusal = refusal(body, content_type, headers);
            assert!(!refusal.contains("s3cret"), "{refusal}");
        }
    }

    #[test]
    fn the_last_hops_trace_comes_before_the_first_ones() {
        let headers = [("ce-traceparent", "first"), ("Traceparent", "last")];
        assert_eq!(traceparents(&headers).collect::<Vec<_>>(), ["last", "first"]);
    }
}
