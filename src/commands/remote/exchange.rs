//! One request to the service's API, and its answer.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::Server,
    failure::Failure,
    terminal::Plain,
    tls::{ServerName, TlsFiles},
};

/// The service answers within `VOLUME_REAPER_HTTP_TIMEOUT`, which is seconds.
const LIMIT: Duration = Duration::from_mins(2);
/// A page of a thousand receipts is less than one megabyte.
const MOST_BYTES: usize = 64 << 20;
/// Of an answer that is none of ours.
const SHOWN: usize = 200;

impl Server {
    /// What is at a path of the API, with these conditions.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        let body = self.ask(Method::GET, path, query, "application/json", None).await?;
        self.read(&body)
    }

    /// What is at a path of the API, as it is sent to who accepts this: an object, or text for people.
    pub(super) async fn get_text(&self, path: &str, query: &[(&str, String)], accept: &str) -> Result<String, Failure> {
        let body = self.ask(Method::GET, path, query, accept, None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Has something done, and returns what came of it.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, asked: &Value) -> Result<T, Failure> {
        let body = self.ask(Method::POST, path, &[], "application/json", Some(asked)).await?;
        self.read(&body)
    }

    /// What was sent, read.
    pub(super) fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|error| self.failed(&format!("its answer is none of ours: {error}")))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        accept: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, Failure> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/api/v1/{path}", self.url.path().trim_end_matches('/')));
        url.set_query(None);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = Request::builder()
            .method(method)
            .uri(&url[url::Position::BeforePath..url::Position::AfterQuery])
            .header(header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
            .header(header::ACCEPT, accept);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).map_err(|error| self.failed(&error.to_string()))?;
        let (status, body) = match timeout(LIMIT, self.exchange(request)).await {
            Ok(exchanged) => exchanged.map_err(|error| self.failed(&error.to_string()))?,
            Err(_) => return Err(self.failed(&format!("no answer within {LIMIT:?}"))),
        };
        if status.is_success() {
            return Ok(body);
        }
        // Its problems are ours: they say what to do.
        let problem: Option<Value> = serde_json::from_slice(&body).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
        let text = String::from_utf8_lossy(&body).chars().take(SHOWN).collect::<String>();
        Err(self.failed(detail.unwrap_or(&format!("{status}: {text}"))))
    }

    async fn exchange(&self, request: Request<Body>) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
        let (host, port) = (self.url.host_str().unwrap_or_default(), self.url.port_or_known_default().unwrap_or(80));
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        if self.url.scheme() == "http" {
            return send(stream, request).await;
        }
        let tls = TlsFiles::default().client_config().map_err(io::Error::other)?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        send(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?, request).await
    }

    fn failed(&self, why: &str) -> Failure {
        let why: String = why.split_whitespace().collect::<Vec<_>>().join(" ");
        Failure::permanent(format!("the service at {}: {}", self.url, Plain(&why)))
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Body>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It reads and writes until the answer is there; how it ends then is nobody's affair.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    Ok((status, to_bytes(Body::new(answer.into_body()), MOST_BYTES).await?))
}
