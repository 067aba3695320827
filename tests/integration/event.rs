//! The examples in `schemas/` are what the schema and the code both say of an event.

use std::path::PathBuf;

use serde_json::Value;
use volume_reaper::delivery::event::{InvalidEvent, MAX_BODY_BYTES, ThreadEvent};

pub(crate) fn schemas() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn examples(kind: &str) -> Vec<(String, Vec<u8>)> {
    let folder = schemas().join("examples").join(kind);
    let files = folder.read_dir().expect("a folder of examples").map(|file| file.expect("a file").path());
    let examples: Vec<_> =
        files.map(|path| (path.display().to_string(), std::fs::read(&path).expect("readable"))).collect();
    assert!(examples.len() >= 5, "{kind} has its examples");
    examples
}

/// A schema in `schemas/`, such as `file.yaml#/a/part`. Schemas there may refer to each other.
pub(crate) fn validator(reference: &str) -> jsonschema::Validator {
    let mut registry = jsonschema::Registry::new();
    for file in ["asyncapi.yaml", "thread-closed.schema.json", "thread-closed.cloudevent.schema.json"] {
        let text = std::fs::read_to_string(schemas().join(file)).expect("readable");
        // Every JSON text is YAML too.
        let document: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let document = jsonschema::Draft::Draft202012.create_resource(document);
        registry = registry.add(format!("schemas:/{file}"), document).expect("a document");
    }
    jsonschema::options()
        .should_validate_formats(true)
        .with_registry(&registry.prepare().expect("documents"))
        .build(&serde_json::json!({ "$ref": format!("schemas:/{reference}") }))
        .expect("a valid schema")
}

#[test]
fn every_valid_example_is_an_event_to_the_schema_and_to_the_code() {
    let schema = validator("thread-closed.schema.json");
    for (name, body) in examples("valid") {
        let json: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(schema.is_valid(&json), "{name}");
        let event = ThreadEvent::decode(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Some(event.thread_id.as_str()), json["thread_id"].as_str(), "{name}");
    }
}

#[test]
fn every_invalid_example_is_refused_by_the_schema_and_by_the_code() {
    let schema = validator("thread-closed.schema.json");
    for (name, body) in examples("invalid") {
        let json: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(!schema.is_valid(&json), "{name}");
        assert!(ThreadEvent::decode(&body).is_err(), "{name}");
    }
}

#[test]
fn what_decides_nothing_makes_no_example_undecodable() {
    for (name, body) in examples("tolerated") {
        let event = ThreadEvent::decode(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(event.thread_id.as_str(), "t-1", "{name}");
    }
}

#[test]
fn the_refusal_names_what_is_wrong_and_what_to_change() {
    for (body, what) in [
        (&b""[..], "the body is empty: publish"),
        (br#""{\"thread_id\":\"t-1\"}""#, "JSON in a JSON string: the publisher encodes it twice"),
        (br#"{"messageType":["a"],"message":{"thread_id":"t-1"}}"#, "MassTransit envelope: publish the message itself"),
        (br#"{"threadId":"t-1"}"#, "a field of a similar name: call it thread_id"),
        (br#"[{"thread_id":"t-1"}]"#, "a list: each event has to be a message of its own"),
        (b"\x1f\x8b\x08", "compressed with gzip: publish it uncompressed"),
    ] {
        let error = ThreadEvent::decode(body).expect_err("refused").to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn what_is_no_json_or_too_large_is_refused() {
    for body in [&b""[..], b"{", b"not json", b"\xff\xfe", br#"{"thread_id": "t-1"} trailing"#] {
        assert!(matches!(ThreadEvent::decode(body), Err(InvalidEvent::Undecodable(_))), "{body:?}");
    }
    let nested = [b'['; 10_000];
    assert!(matches!(ThreadEvent::decode(&nested), Err(InvalidEvent::Undecodable(_))));
    let large = vec![b' '; MAX_BODY_BYTES + 1];
    assert!(matches!(ThreadEvent::decode(&large), Err(InvalidEvent::TooLarge(_))));
}
