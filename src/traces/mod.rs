//! Spans for a collector of traces: OpenTelemetry's OTLP over http/protobuf, off unless its standard variables name an
//! endpoint.
//!
//! A delivery is one span, named by the messaging conventions and linked to the publisher's; what it asks of Docker and
//! the database is below it, and a batch that has more than one is linked to all of them. A sweep is a span too.
//! Deliveries are in the log lines as well; all other spans are made here, and only the collector sees them.
//!
//! A collector that is away or slow costs nothing but spans, which are counted
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

mod sending;

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, Status, TraceContextExt, TraceState, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::{Span, Subscriber, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use self::sending::{Collector, Counted};

/// The span of a delivery, in log lines and in traces.
pub const DELIVERY: &str = "delivery";
/// Where the other spans are made; log lines do not have them.
pub const TARGET: &str = module_path!();
/// How long the end of the process waits for the last spans to be sent.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// How the span of a delivery relates to that of its publisher, in traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It begins a trace of its own, with a link to the publisher's.
    Link,
    /// It is part of the publisher's trace.
    Parent,
}

static TRACES: OnceLock<(SdkTracerProvider, Relation)> = OnceLock::new();

/// What sends spans to the collector, if there is one.
pub fn layer<S>(replica: &str, relation: Relation) -> Option<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let has_endpoint = is_set("OTEL_EXPORTER_OTLP_ENDPOINT") || is_set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let is_disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    if !has_endpoint || is_disabled {
        return None;
    }
    let exporter = SpanExporter::builder().with_http().with_http_client(Collector::new(Handle::current())).build();
    let exporter = match exporter {
        Ok(exporter) => exporter,
        Err(error) => {
            // The log is not there yet.
            eprintln!("volume-reaper: no traces: {error}; see the OTEL_EXPORTER_OTLP_... variables");
            return None;
        }
    };
    let mut resource = Resource::builder();
    if !is_set("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name("volume-reaper");
    }
    let resource = resource.with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", replica.to_owned()),
    ]);
    let provider = SdkTracerProvider::builder()
        .with_span_processor(Counted::new(exporter))
        .with_resource(resource.build())
        .build();
    let tracer = provider.tracer("volume-reaper");
    let _ = TRACES.set((provider, relation));
    let is_ours = filter_fn(|it| it.is_span() && (it.target() == TARGET || it.name() == DELIVERY));
    Some(
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_filter(is_ours),
    )
}

/// Sends what is left, for a moment.
pub async fn finish() {
    if let Some((provider, _)) = TRACES.get() {
        // It waits on a thread of its own for a request that this runtime makes.
        let _ = tokio::task::spawn_blocking(|| provider.shutdown_with_timeout(LAST_SPANS)).await;
    }
}

/// What a delivery's span is about.
pub struct Delivered<'a> {
    /// The exchange, routing key and queue that it came by.
    pub exchange: &'a str,
    /// See above.
    pub routing_key: &'a str,
    /// See above.
    pub queue: &'a str,
    /// Its number on its channel.
    pub delivery_tag: u64,
    /// Its id, if the publisher gave it one.
    pub message_id: Option<&'a str>,
}

/// Says in its span what a delivery is, before the span is entered.
pub fn describe_delivery(span: &Span, delivered: &Delivered<'_>) {
    if TRACES.get().is_none() {
        return;
    }
    let Delivered { exchange, routing_key, queue, delivery_tag, message_id } = *delivered;
    span.set_attribute("messaging.system", "rabbitmq");
    span.set_attribute("messaging.operation.name", "process");
    span.set_attribute("messaging.operation.type", "process");
    span.set_attribute("messaging.destination.name", format!("{exchange}:{routing_key}:{queue}"));
    span.set_attribute("messaging.rabbitmq.destination.routing_key", routing_key.to_owned());
    span.set_attribute("messaging.rabbitmq.message.delivery_tag", i64::try_from(delivery_tag).unwrap_or(i64::MAX));
    if let Some(message_id) = message_id {
        span.set_attribute("messaging.message.id", message_id.to_owned());
    }
}

/// Relates a delivery's span to that of its publisher, which `trace_id` and `span_id` name, as the setting says: a
/// parent only before the span is entered.
pub fn relate(span: &Span, trace_id: &str, span_id: &str, is_sampled: bool) {
    let Some((_, relation)) = TRACES.get() else { return };
    let (Ok(trace_id), Ok(span_id)) = (TraceId::from_hex(trace_id), SpanId::from_hex(span_id)) else { return };
    let flags = TraceFlags::default().with_sampled(is_sampled);
    let publishers = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
    let as_parent = || Context::new().with_remote_span_context(publishers.clone());
    match relation {
        Relation::Parent if span.set_parent(as_parent()).is_ok() => {}
        Relation::Parent | Relation::Link => span.add_link(publishers),
    }
}

/// Says in its span how a delivery was settled, and why if not well.
pub fn settled(settlement: &'static str, error: Option<(&'static str, &str)>) {
    if TRACES.get().is_none() {
        return;
    }
    let span = Span::current();
    span.set_attribute("volume_reaper.settlement", settlement);
    if let Some((kind, error)) = error {
        span.set_attribute("error.type", kind);
        span.set_status(Status::error(error.to_owned()));
    }
}

/// A message of a delivery's that is sent to another queue of ours. The message keeps its publisher's context, which is
/// whose it is: what becomes of it there is linked to that too.
pub fn send(queue: &str) -> Span {
    info_span!(
        "send",
        otel.name = format!("send {queue}"),
        otel.kind = "producer",
        messaging.system = "rabbitmq",
        messaging.operation.name = "send",
        messaging.operation.type = "send",
        messaging.destination.name = queue,
        error.type = Empty
    )
}

/// What the broker is told of a delivery from this queue: `ack`, `nack` or `reject`.
pub fn settle(operation: &'static str, queue: &str) -> Span {
    info_span!(
        "settle",
        otel.name = format!("{operation} {queue}"),
        otel.kind = "client",
        messaging.system = "rabbitmq",
        messaging.operation.name = operation,
        messaging.operation.type = "settle",
        messaging.destination.name = queue,
        error.type = Empty
    )
}

/// A batch of clean-ups: below the first of those that asked, and linked to the others.
pub fn batch<'a>(mut asked: impl Iterator<Item = &'a Span>) -> Span {
    if TRACES.get().is_none() {
        return Span::none();
    }
    let first = asked.next().cloned().unwrap_or_else(Span::none);
    let span = info_span!(parent: &first, "batch");
    for other in asked {
        span.add_link(other.context().span().span_context().clone());
    }
    span
}

/// A call to Docker.
pub fn docker(operation: &'static str) -> Span {
    info_span!(
        "docker",
        otel.name = operation,
        otel.kind = "client",
        error.type = Empty,
        http.response.status_code = Empty
    )
}

/// Says in its span how a call to Docker failed: by its status, or by what went wrong; `ok` is no failure.
pub fn answered(span: &Span, status: &str) {
    if status == "ok" {
        return;
    }
    span.record("error.type", status);
    if let Ok(code) = status.parse::<u64>() {
        span.record("http.response.status_code", code);
    }
}

/// A step in the database.
pub fn database(system: &'static str, operation: &'static str) -> Span {
    info_span!(
        "database",
        otel.name = operation,
        otel.kind = "client",
        db.system.name = system,
        db.operation.name = operation
    )
}

/// A sweep of a host; `None` is the only one.
pub fn sweep(host: Option<&str>) -> Span {
    info_span!(
        "sweep",
        host,
        candidates = Empty,
        removed = Empty,
        not_found = Empty,
        referenced = Empty,
        failed = Empty
    )
}
