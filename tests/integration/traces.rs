//! Traces, at a collector that the test opens: what it is sent, and that one which is away costs nothing but spans.

use std::{io::Write, sync::Arc};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use prost::Message;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::world::{On, PrivateBroker, World, eventually, world};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A collector, and what it was sent.
struct Collector {
    endpoint: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::default());
        let of_listener = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(answer(connection, Arc::clone(&of_listener)));
            }
        });
        Self { endpoint, requests }
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock();
        let scopes = requests.iter().flat_map(|it| &it.resource_spans).flat_map(|it| &it.scope_spans);
        scopes.flat_map(|it| it.spans.clone()).collect()
    }

    async fn until(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        eventually(what, async || self.spans().into_iter().find(|span| is_it(span))).await
    }
}

/// Takes requests of OTLP over HTTP until the connection ends.
async fn answer(mut connection: TcpStream, requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>) {
    let mut read = Vec::new();
    loop {
        let mut some = [0; 4096];
        match connection.read(&mut some).await {
            Ok(0) | Err(_) => return,
            Ok(count) => read.extend_from_slice(&some[..count]),
        }
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let body = end + 4..end + 4 + length.parse::<usize>().expect("a number");
        if read.len() < body.end {
            continue;
        }
        assert!(head.starts_with("post /v1/traces ") && head.contains("\r\nx-team: platform"), "{head}");
        let request = ExportTraceServiceRequest::decode(&read[body.clone()]).expect("a request of OTLP");
        requests.lock().push(request);
        read.drain(..body.end);
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("answered");
    }
}

async fn traced(on: On, endpoint: &str) -> World {
    let mut world = world(on).await;
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    world.set("OTEL_EXPORTER_OTLP_HEADERS", "x-team=platform");
    world.set("OTEL_BSP_SCHEDULE_DELAY", "100");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
    world
}

fn by_publisher() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(format!("00-{TRACE}-{SPAN}-01").into()));
    BasicProperties::default().with_headers(headers).with_message_id("m-1".into())
}

/// As the header has it.
fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    let value = found.value.as_ref()?.value.as_ref()?;
    let text = if let Value::StringValue(text) = value { Some(text.clone()) } else { None };
    text.or(if let Value::IntValue(number) = value { Some(number.to_string()) } else { None })
}

#[tokio::test]
async fn a_delivery_is_a_span_with_what_it_asked_of_docker_and_the_database_below_it() {
    for (on, system) in [(On::Postgres, "postgresql"), (On::Sqlite, "sqlite")] {
        let collector = Collector::open().await;
        let world = traced(on, &collector.endpoint).await;
        let serving = world.serve_idle().await;
        world.closed_with_volume("t1").await;
        world.publish_with(by_publisher(), br#"{"thread_id": "t1"}"#).await;
        world.until_marked("t1").await;

        let is_delivery = |span: &Span| span.name.starts_with("process ");
        let delivery = collector.until("the delivery's span", is_delivery).await;
        let queue = world.work_queue();
        assert_eq!(delivery.name, format!("process :{queue}:{queue}"));
        assert_eq!(delivery.kind(), SpanKind::Consumer);
        let [system_name, id, settlement, thread] =
            ["messaging.system", "messaging.message.id", "volume_reaper.settlement", "thread.id"]
                .map(|key| attribute(&delivery, key).expect(key));
        assert_eq!([&*system_name, &*id, &*settlement, &*thread], ["rabbitmq", "m-1", "ack", "t1"]);
        let [link] = &delivery.links[..] else { panic!("one link: {delivery:?}") };
        assert_eq!((&link.trace_id, &link.span_id), (&bytes(TRACE), &bytes(SPAN)));
        assert_ne!(delivery.trace_id, bytes(TRACE));

        let removal = collector.until("the removal's span", |span| span.name == "remove_volume").await;
        assert_eq!((&removal.trace_id, &removal.parent_span_id), (&delivery.trace_id, &delivery.span_id));
        assert_eq!(removal.kind(), SpanKind::Client);
        assert_eq!(attribute(&removal, "error.type"), None);
        let batch = collector.until("the batch's span", |span| span.name == "batch").await;
        assert_eq!((&batch.trace_id, &batch.parent_span_id), (&delivery.trace_id, &delivery.span_id));
        for step in ["lock", "mark"] {
            let is_step = |span: &Span| span.name == step && span.parent_span_id == batch.span_id;
            let step = collector.until(step, is_step).await;
            assert_eq!(attribute(&step, "db.system.name").as_deref(), Some(system));
        }
        let ack = collector.until("the acknowledgement's span", |span| span.name == format!("ack {queue}")).await;
        assert_eq!((&ack.trace_id, &ack.parent_span_id), (&delivery.trace_id, &delivery.span_id));
        assert_eq!((ack.kind(), attribute(&ack, "error.type")), (SpanKind::Client, None));
        let operation = ["messaging.operation.name", "messaging.operation.type"].map(|key| attribute(&ack, key));
        assert_eq!(operation, [Some("ack".to_owned()), Some("settle".to_owned())]);
        let sweep = collector.until("the sweep's span", |span| span.name == "sweep").await;
        assert_eq!(attribute(&sweep, "candidates").as_deref(), Some("0"));

        let lines = serving.lines();
        assert!(lines.iter().all(|line| !line.to_string().contains("otel.")), "only the collector sees these");
        assert_eq!(serving.stop().await, Some(0));
        let resource = collector.requests.lock()[0].resource_spans[0].resource.clone().expect("a resource");
        let name = resource.attributes.iter().find(|it| it.key == "service.name").expect("a name");
        assert!(format!("{name:?}").contains("\"volume-reaper\""), "{name:?}");
    }
}

#[tokio::test]
async fn with_a_setting_a_delivery_is_part_of_its_publishers_trace_and_an_error_is_said() {
    let collector = Collector::open().await;
    let mut world = traced(On::Sqlite, &collector.endpoint).await;
    world.set("VOLUME_REAPER_TRACE_RELATION", "parent");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let serving = world.serve_idle().await;
    world.publish_with(by_publisher(), br#"{"thread_id": "nobody"}"#).await;
    let parked = world.dead_letter().await;
    let context = crate::world::header(&parked, "traceparent");
    assert_eq!(context, Some(format!("00-{TRACE}-{SPAN}-01")), "as its publisher wrote it, through a delay queue");
    // Through a delay queue, and the same trace.
    for settlement in ["retry", "dead_letter"] {
        let is_it = |span: &Span| attribute(span, "volume_reaper.settlement").as_deref() == Some(settlement);
        let delivery = collector.until(settlement, is_it).await;
        assert_eq!((&delivery.trace_id, &delivery.parent_span_id), (&bytes(TRACE), &bytes(SPAN)));
        assert_eq!(delivery.status.as_ref().expect("a status").code(), StatusCode::Error, "{delivery:?}");
        let kind = if settlement == "retry" { "retry" } else { "unknown_thread" };
        assert_eq!(attribute(&delivery, "error.type").as_deref(), Some(kind));
        let queue =
            if settlement == "retry" { format!("{}.retry.100ms", world.name) } else { world.dead_letter_queue() };
        let is_sent = |span: &Span| span.name == format!("send {queue}") && span.parent_span_id == delivery.span_id;
        let send = collector.until("what was sent on", is_sent).await;
        assert_eq!((&send.trace_id, send.kind()), (&delivery.trace_id, SpanKind::Producer));
        assert_eq!(attribute(&send, "messaging.destination.name"), Some(queue));
    }
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn what_the_broker_is_told_instead_of_an_acknowledgement_is_a_span_too() {
    let collector = Collector::open().await;
    // It takes what is too large to be published again.
    let mut config = NamedTempFile::new().expect("a file");
    config.write_all(b"max_message_size = 2097152\n").expect("written");
    let broker = PrivateBroker::start_with(config.path().to_owned()).await;
    let mut world = traced(On::Sqlite, &collector.endpoint).await;
    world.use_broker(&broker);
    world.set("VOLUME_REAPER_TRACE_RELATION", "parent");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1h");
    let serving = world.serve_idle().await;
    let queue = world.work_queue();
    let told = |span: &Span| ["messaging.operation.name", "messaging.operation.type"].map(|key| attribute(span, key));
    let settles = |name: &str| [name.to_owned(), "settle".to_owned()].map(Some);

    world.publish_with(by_publisher(), &vec![b' '; 1024 * 1024 + 1]).await;
    let reject = collector.until("the rejection", |span| span.name == format!("reject {queue}")).await;
    assert_eq!((told(&reject), reject.kind()), (settles("reject"), SpanKind::Client));
    assert_eq!((&reject.trace_id, attribute(&reject, "error.type")), (&bytes(TRACE), None));

    // What can be put neither into its delay queue nor back into its own is returned as it is. A queue goes over its
    // limit by some before it refuses.
    let delay_queue = format!("{}.retry.1h", world.name);
    let allow_one = async |queue: &str| {
        broker.rabbitmqctl(&["set_policy", queue, &format!("^{queue}$"), r#"{"max-length": 1}"#]).await;
    };
    allow_one(&delay_queue).await;
    let publish = async |times| {
        for _ in 0..times {
            world.publish_with(by_publisher(), br#"{"thread_id": "nobody"}"#).await;
        }
    };
    publish(20).await;
    serving.until_line(|line| line.to_string().contains("can't move the delivery on")).await;
    // From now on it takes none.
    publish(40).await;
    allow_one(&queue).await;
    assert_eq!(serving.stop().await, Some(0));
    let failed = |to: &str, error: &str| {
        let (name, error) = (format!("send {to}"), Some(error.to_owned()));
        move |span: &Span| span.name == name && attribute(span, "error.type") == error
    };
    let send = collector.until("what could not be sent on", failed(&delay_queue, "broker")).await;
    assert_eq!(send.trace_id, bytes(TRACE));
    collector.until("what was not taken back", failed(&queue, "not_taken")).await;
    let nack = collector.until("the return", |span| span.name == format!("nack {queue}")).await;
    assert_eq!((told(&nack), nack.kind()), (settles("nack"), SpanKind::Client));
    assert_eq!(attribute(&nack, "error.type"), None, "the broker was told");
    let kept = async || (world.messages(&queue).await + world.messages(&delay_queue).await >= 60).then_some(());
    eventually("all are there", kept).await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_which_are_counted_and_no_event() {
    let away = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", away.local_addr().expect("an address"));
    drop(away);
    spans_are_dropped_and_events_are_not(&endpoint).await;
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_no_more_than_one_that_is_away() {
    // The kernel takes its connections, and nobody reads them.
    let slow = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    spans_are_dropped_and_events_are_not(&format!("http://{}", slow.local_addr().expect("an address"))).await;
}

async fn spans_are_dropped_and_events_are_not(endpoint: &str) {
    let mut world = traced(On::Sqlite, endpoint).await;
    world.set("OTEL_BSP_MAX_QUEUE_SIZE", "4");
    let serving = world.serve_idle().await;
    for number in 0..20 {
        let id = format!("t{number}");
        world.closed_with_volume(&id).await;
        world.publish_closed(&id).await;
    }
    for number in 0..20 {
        world.until_marked(&format!("t{number}")).await;
    }
    let dropped = async || serving.metric("volume_reaper_trace_spans_dropped_total").await;
    eventually("spans are dropped", async || (dropped().await > 20).then_some(())).await;
    let about_it = serving.lines().iter().filter(|line| line.to_string().contains("pentelemetry")).count();
    assert!(about_it <= 1, "no line for each");
    assert_eq!(serving.stop().await, Some(0));
}
