//! The way of spans to the collector: as many as may wait, in batches, over HTTP. Others are counted.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use hyper_util::rt::TokioIo;
use opentelemetry::{Context, trace::SpanKind};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::DELIVERY;
use crate::{
    metrics,
    tls::{ServerName, TlsFiles},
};

/// Spans that wait for the collector, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise: the specification's default.
const MOST_WAITING: usize = 2048;
/// An answer says little more than that it was taken.
const MOST_ANSWERED: usize = 64 * 1024;

/// Hands over as many spans as may wait, and counts the others.
pub(super) struct Counted {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl Counted {
    pub(super) fn new(exporter: OtlpExporter) -> Self {
        let most = std::env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok().and_then(|size| size.parse().ok());
        let (waiting, most) = (Arc::new(AtomicUsize::new(0)), most.unwrap_or(MOST_WAITING));
        let exporter = Counting { inner: exporter, waiting: Arc::clone(&waiting) };
        let inner =
            BatchSpanProcessor::builder(exporter).with_batch_config(BatchConfigBuilder::default().build()).build();
        Self { inner, waiting, most }
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").field("most", &self.most).finish_non_exhaustive()
    }
}

impl SpanProcessor for Counted {
    fn on_start(&self, _span: &mut opentelemetry_sdk::trace::Span, _context: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return metrics::trace_spans_dropped(1);
        }
        name_by_conventions(&mut span);
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// A delivery's span has the name that log lines show it by until here.
fn name_by_conventions(span: &mut SpanData) {
    if span.name != DELIVERY {
        return;
    }
    let destination = span.attributes.iter().find(|it| it.key.as_str() == "messaging.destination.name");
    let destination = destination.map(|it| it.value.to_string()).unwrap_or_default();
    span.name = format!("process {destination}").into();
    span.span_kind = SpanKind::Consumer;
}

/// Sends spans, and counts those that could not be sent.
#[derive(Debug)]
struct Counting {
    inner: OtlpExporter,
    waiting: Arc<AtomicUsize>,
}

impl SpanExporter for Counting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.inner.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        if sent.is_err() {
            metrics::trace_spans_dropped(spans as u64);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The collector. It is asked from a thread without a runtime, so this one's is used.
#[derive(Clone, Debug)]
pub(super) struct Collector(Handle);

impl Collector {
    pub(super) fn new(runtime: Handle) -> Self {
        Self(runtime)
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        Ok(self.0.spawn(send(request)).await??)
    }
}

/// Sends a request over a connection of its own: there is one in some seconds.
async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    let is_https = head.uri.scheme_str() == Some("https");
    let authority = head.uri.authority().cloned().ok_or("the collector's address has no host")?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let connection = TcpStream::connect((host.as_str(), port)).await?;
    let connection: Box<dyn Connection> = if is_https {
        let tls = TlsConnector::from(Arc::new(TlsFiles::default().client_config().map_err(io::Error::other)?));
        Box::new(tls.connect(ServerName::try_from(host)?, connection).await?)
    } else {
        Box::new(connection)
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    head.headers.insert("host", authority.as_str().parse()?);
    head.uri = head.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    let (head, body) = sender.send_request(Request::from_parts(head, Body::from(body))).await?.into_parts();
    Ok(Response::from_parts(head, to_bytes(Body::new(body), MOST_ANSWERED).await?))
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}
