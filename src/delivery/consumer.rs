//! One message: read it, clean up, decide what becomes of it. Nothing here knows the broker.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tracing::debug;

use crate::{
    cleanup::{Database, Origin, Outcome, Volumes, fleet::Fleet},
    delivery::{
        envelope::{self, Headers, Opened},
        event::ThreadEvent,
        settlement::{self, Settlement},
        trace_context::TraceContext,
    },
    failure::{Failure, Verdict},
    health::Health,
    metrics,
};

/// The longest id that goes into a receipt, in bytes: as long as AMQP's own message id can be.
const MAX_ID_BYTES: usize = 255;

/// A message as the queue hands it over.
#[derive(Debug)]
pub struct Message<'a> {
    /// What it says.
    pub body: &'a [u8],
    /// What its body is, if it says so.
    pub content_type: Option<&'a str>,
    /// Its headers with text.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The publisher's id of it, for the receipt.
    pub id: Option<&'a str>,
    /// Whether it was published as the event of a thread that was reopened.
    pub came_as_reopened: bool,
    /// The host that its routing key names.
    pub host: Option<&'a str>,
    /// How often it was tried before.
    pub failed_attempts: usize,
}

/// Handles messages, one at a time or many at once.
pub struct Consumer<V, T> {
    /// Cleans up.
    pub fleet: Arc<Fleet<V, T>>,
    /// Notified when a dependency turns out to be down.
    pub health: Arc<Health>,
    /// The waits before the second, third, ... attempt.
    pub retry_delays: Vec<Duration>,
}

impl<V: Volumes, T: Database> Consumer<V, T> {
    /// Handles one message and returns what is to be done with its delivery.
    pub async fn handle(&self, message: &Message<'_>) -> Settlement {
        let opened = envelope::open(message.body, message.content_type, &message.headers);
        record_trace(&message.headers, opened.as_ref().ok());
        let (event, cloud_event_id) = match opened.and_then(|it| Ok((ThreadEvent::read(&it.data)?, it.id))) {
            Ok(read) => read,
            Err(invalid) => return settlement::refuse(&invalid),
        };
        tracing::Span::current().record("thread.id", event.thread_id.as_str());
        if !event.volumes.is_empty() {
            let volumes = event.volumes.join(" ");
            debug!(thread.id = %event.thread_id, volumes, "the event names volumes: a hint, and nothing is done by it");
        }
        let id = message.id.or(cloud_event_id.as_deref()).map(receipt_id);
        let act = self.act(&event, message, Origin::Event(id));
        // A bug that shows with one thread must not take the others with it: that delivery is tried again.
        let result = AssertUnwindSafe(act).catch_unwind().await.unwrap_or_else(|_| {
            metrics::panic();
            Err(Failure::transient("the handler panicked; standard error has the details"))
        });
        if let Err(Failure { verdict: Verdict::Unavailable(dependency), message }) = &result {
            self.health.down(*dependency, message);
        }
        let settlement = settlement::decide(&result, message.failed_attempts, &self.retry_delays);
        self.fleet.threads().event_handled(&event.thread_id, &result, settlement.as_str());
        settlement
    }

    async fn act(&self, event: &ThreadEvent, message: &Message<'_>, origin: Origin) -> Result<Outcome, Failure> {
        let claimed_status = event.claimed_status(message.came_as_reopened);
        if let Some(outcome) = self.fleet.threads().take_note(&event.thread_id, &claimed_status).await? {
            return Ok(outcome);
        }
        let claimed_host = event.host.as_deref().or(message.host);
        self.fleet.clean(&event.thread_id, claimed_host, origin).await
    }
}

/// Names the message's trace in the log lines of its delivery.
fn record_trace(headers: &Headers<'_>, opened: Option<&Opened>) {
    if let Some(trace) = trace(headers, opened) {
        let span = tracing::Span::current();
        span.record("trace_id", trace.trace_id).record("parent_span_id", trace.parent_span_id);
    }
}

/// The trace that a message belongs to: of its headers, or else of the CloudEvent in its body.
pub(crate) fn trace<'a>(headers: &'a Headers<'a>, opened: Option<&'a Opened>) -> Option<TraceContext<'a>> {
    let of_the_body = opened.and_then(|opened| opened.traceparent.as_deref());
    envelope::traceparents(headers).chain(of_the_body).find_map(TraceContext::parse)
}

/// An id as a database can store it: PostgreSQL has no text with a NUL in it.
fn receipt_id(id: &str) -> String {
    let id: String = id.chars().filter(|character| !character.is_control()).collect();
    id[..id.floor_char_boundary(MAX_ID_BYTES)].to_owned()
}
