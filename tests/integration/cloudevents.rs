//! CloudEvents and trace contexts: the examples in `schemas/`, and events through a real broker.

use std::path::PathBuf;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde::Deserialize;
use serde_json::Value;
use volume_reaper::delivery::{
    envelope::{self, Opened},
    event::{InvalidEvent, ThreadEvent},
};

use crate::{
    event::validator,
    world::{On, eventually, header, world},
};

const STRUCTURED: &str = "application/cloudevents+json";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A message among the examples, and what is to become of it: `expected` or `refused`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    #[serde(skip)]
    name: String,
    content_type: Option<String>,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    /// The body, if it is JSON.
    body: Option<Value>,
    /// The body, if it is not, or is to be sent to the letter.
    text: Option<String>,
    expected: Option<Expected>,
    /// The end of the refusal, or its beginning.
    refused: Option<String>,
}

#[derive(Deserialize, PartialEq, Debug)]
struct Expected {
    thread_id: String,
    id: String,
}

impl Example {
    fn all(kind: &str) -> Vec<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemas/examples/cloudevents").join(kind);
        let files = folder.read_dir().expect("a folder of examples").map(|file| file.expect("a file").path());
        let examples: Vec<_> = files
            .map(|path| {
                let text = std::fs::read(&path).expect("readable");
                let example =
                    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                Self { name: path.file_stem().expect("a name").display().to_string(), ..example }
            })
            .collect();
        assert!(examples.len() >= 10, "{kind} has its examples");
        examples
    }

    fn bytes(&self) -> Vec<u8> {
        match (&self.body, &self.text) {
            (Some(json), None) => json.to_string().into_bytes(),
            (None, Some(text)) => text.clone().into_bytes(),
            _ => panic!("{}: one of body and text", self.name),
        }
    }

    fn open(&self) -> Result<Opened, InvalidEvent> {
        let headers = self.headers.iter().map(|(key, value)| (key.as_str(), value.as_str().expect("text")));
        envelope::open(&self.bytes(), self.content_type.as_deref(), &headers.collect::<Vec<_>>())
    }

    fn check(&self) {
        let read = self.open().and_then(|opened| Ok((ThreadEvent::read(&opened.data)?, opened.id)));
        let read = read.map_err(|invalid| invalid.to_string());
        match (read, &self.expected, &self.refused) {
            (Ok((event, id)), Some(expected), None) => {
                let found = Expected { thread_id: event.thread_id.to_string(), id: id.unwrap_or_default() };
                assert_eq!(found, *expected, "{}", self.name);
            }
            (Err(error), None, Some(refused)) => {
                assert!(error.ends_with(refused) || error.starts_with(refused), "{}: {error}", self.name);
            }
            (read, ..) => panic!("{}: {read:?}", self.name),
        }
    }

    fn properties(&self) -> BasicProperties {
        let headers: Vec<_> =
            self.headers.iter().map(|(key, value)| (key.as_str(), value.as_str().expect("text"))).collect();
        let properties = properties(&headers);
        match &self.content_type {
            Some(content_type) => properties.with_content_type(content_type.as_str().into()),
            None => properties,
        }
    }
}

fn properties(headers: &[(&str, &str)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (key, value) in headers {
        table.insert((*key).into(), AMQPValue::LongString((*value).into()));
    }
    BasicProperties::default().with_headers(table)
}

/// The attributes of binary mode, as Knative's binding has them, and a trace.
fn binary() -> BasicProperties {
    properties(&[
        ("ce-specversion", "1.0"),
        ("ce-id", "e-1"),
        ("ce-source", "/platform/threads"),
        ("ce-type", "com.example.thread.closed"),
        ("ce-traceparent", &format!("00-{TRACE}-{SPAN}-01")),
    ])
    .with_content_type("application/json".into())
}

/// A CloudEvent in structured mode about a thread, with a trace.
fn structured(thread: &str) -> String {
    let attributes = r#""specversion": "1.0", "id": "e-1", "source": "/platform/threads", "type": "thread.closed""#;
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    format!(r#"{{{attributes}, "traceparent": "{traceparent}", "data": {{"thread_id": "{thread}"}}}}"#)
}

#[test]
fn every_valid_example_is_an_event() {
    Example::all("valid").iter().for_each(Example::check);
}

#[test]
fn every_invalid_example_is_refused_for_its_reason() {
    Example::all("invalid").iter().for_each(Example::check);
}

#[test]
fn the_specifications_own_examples_are_read_to_their_data() {
    Example::all("specification").iter().for_each(Example::check);
}

#[test]
fn the_schema_says_the_same_of_the_examples_in_structured_mode() {
    let schema = validator("thread-closed.cloudevent.schema.json");
    for kind in ["valid", "invalid", "specification"] {
        for example in Example::all(kind) {
            // A schema does not look into Base64, and the binary examples' body is no CloudEvent.
            if example.name == "structured-base64-of-no-json" || !example.headers.is_empty() {
                continue;
            }
            let Some(body) = &example.body else { continue };
            assert_eq!(schema.is_valid(body), example.expected.is_some(), "{kind}/{}", example.name);
        }
    }
}

#[tokio::test]
async fn a_structured_cloud_event_removes_the_volume_and_its_id_is_in_the_receipt() {
    let world = world(On::Postgres).await;
    let _serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    let properties = BasicProperties::default().with_content_type(STRUCTURED.into());
    world.publish_with(properties, structured("t1").as_bytes()).await;
    world.until_marked("t1").await;
    assert!(!world.has_volume("t1").await);
    assert_eq!(world.receipts("t1").await, ["removed/event"]);
    assert_eq!(world.texts("SELECT event_id FROM volume_removals").await, ["e-1"]);
}

#[tokio::test]
async fn a_binary_cloud_event_removes_the_volume_and_its_id_is_in_the_receipt() {
    let world = world(On::Sqlite).await;
    let _serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    world.publish_with(binary(), br#"{"thread_id": "t1"}"#).await;
    world.until_marked("t1").await;
    assert!(!world.has_volume("t1").await);
    assert_eq!(world.receipts("t1").await, ["removed/event"]);
    assert_eq!(world.texts("SELECT event_id FROM volume_removals").await, ["e-1"]);
}

#[tokio::test]
async fn the_messages_own_id_comes_before_the_cloud_events() {
    let world = world(On::Sqlite).await;
    let _serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    world.publish_with(binary().with_message_id("m-1".into()), br#"{"thread_id": "t1"}"#).await;
    world.until_marked("t1").await;
    assert_eq!(world.texts("SELECT event_id FROM volume_removals").await, ["m-1"]);
}

#[tokio::test]
async fn an_id_that_no_database_takes_is_cut_to_what_it_takes_and_the_row_is_marked() {
    let world = world(On::Postgres).await;
    let _serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    let long = "é".repeat(200);
    let body = structured("t1").replace("e-1", &format!("a\\u0000b{long}"));
    world.publish(body.as_bytes()).await;
    world.until_marked("t1").await;
    // 2 bytes, and the characters of two bytes that fit into 255.
    assert_eq!(world.texts("SELECT event_id FROM volume_removals").await, [format!("ab{}", "é".repeat(126))]);
}

#[tokio::test]
async fn a_cloud_event_that_waits_or_is_parked_stays_one() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let _serving = world.serve().await;
    let json = BasicProperties::default().with_content_type(STRUCTURED.into());
    for (properties, body) in [(json, structured("nobody")), (binary(), r#"{"thread_id": "nobody"}"#.to_owned())] {
        world.publish_with(properties.clone(), body.as_bytes()).await;
        let message = world.dead_letter().await;
        // The second attempt read it like the first.
        assert_eq!(header(&message, "volume-reaper-reason").as_deref(), Some("unknown_thread"));
        assert_eq!(message.delivery.data, body.as_bytes());
        assert_eq!(message.delivery.properties.content_type(), properties.content_type());
        for (key, value) in properties.headers().iter().flat_map(FieldTable::inner) {
            assert_eq!(message.delivery.properties.headers().as_ref().and_then(|it| it.inner().get(key)), Some(value));
        }
    }
}

#[tokio::test]
async fn every_example_is_settled_by_the_running_service_as_by_the_code() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let _serving = world.serve().await;
    for kind in ["valid", "invalid", "specification"] {
        for example in Example::all(kind) {
            world.publish_with(example.properties(), &example.bytes()).await;
            let message = world.dead_letter().await;
            let reason = header(&message, "volume-reaper-reason").expect("a reason");
            let error = header(&message, "volume-reaper-error").expect("an error");
            match &example.refused {
                // The events are good, but there is no such thread.
                None => assert_eq!(reason, "unknown_thread", "{kind}/{}: {error}", example.name),
                Some(refused) if refused.starts_with("the thread id") => assert_eq!(reason, "invalid_thread_id"),
                Some(refused) => {
                    assert_eq!(reason, "undecodable", "{kind}/{}", example.name);
                    assert!(error.ends_with(refused), "{kind}/{}: {error}", example.name);
                }
            }
        }
    }
}

#[tokio::test]
async fn every_log_line_of_a_delivery_names_its_trace() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let serving = world.serve().await;
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let json = BasicProperties::default().with_content_type(STRUCTURED.into());
    let plain = properties(&[("traceparent", &traceparent), ("tracestate", "rojo=1")]);
    let thread = |id: &str| format!(r#"{{"thread_id": "{id}"}}"#);
    for (properties, body, what) in [
        (plain.clone(), thread("plain"), "plain"),
        (binary(), thread("binary"), "binary"),
        (json, structured("structured"), "structured"),
    ] {
        world.publish_with(properties, body.as_bytes()).await;
        world.dead_letter().await;
        let of_this = |line: &Value| line["span"]["thread.id"] == what;
        serving.until_line(|line| of_this(line) && line["settlement"] == "dead_letter").await;
        let lines: Vec<_> = serving.lines().into_iter().filter(of_this).collect();
        assert!(lines.len() >= 2, "{what}: a retry and a dead letter");
        for line in lines {
            assert_eq!(line["span"]["trace_id"], TRACE, "{line}");
            assert_eq!(line["span"]["parent_span_id"], SPAN, "{line}");
        }
    }
    // What is no event has its trace too.
    world.publish_with(plain, b"no event").await;
    let message = world.dead_letter().await;
    assert_eq!(header(&message, "traceparent"), Some(traceparent));
    assert_eq!(header(&message, "tracestate").as_deref(), Some("rojo=1"));
    let line = serving.until_line(|line| line["reason"] == "undecodable").await;
    assert_eq!(line["span"]["trace_id"], TRACE, "{line}");
}

#[tokio::test]
async fn a_traceparent_that_is_none_is_ignored_and_the_event_is_not() {
    let world = world(On::Sqlite).await;
    let serving = world.serve().await;
    world.closed_with_volume("t1").await;
    let traceparent = format!("00-{}-{SPAN}-01", "0".repeat(32));
    world.publish_with(properties(&[("traceparent", &traceparent)]), br#"{"thread_id": "t1"}"#).await;
    world.until_marked("t1").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 1).await;
    serving.until_line(|line| line["span"]["thread.id"] == "t1").await;
    assert!(serving.lines().iter().all(|line| line["span"]["trace_id"].is_null()));
}

#[tokio::test]
async fn lines_for_people_name_the_trace_whatever_is_filtered_out() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_LOG_FORMAT", "pretty");
    world.set("RUST_LOG", "error");
    let path = world.dir.path().join("pretty.log");
    let log = std::fs::File::create(&path).expect("a log file");
    let _serving = world.command(&["serve"]).stderr(log).spawn().expect("it starts");
    eventually("the queues are declared", async || world.has_queue(&world.work_queue()).await.then_some(())).await;
    world.publish_with(properties(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]), b"no event").await;
    world.dead_letter().await;
    let log = std::fs::read_to_string(path).expect("readable");
    assert!(log.contains(&format!("trace_id=\"{TRACE}\" parent_span_id=\"{SPAN}\"")), "{log}");
}
