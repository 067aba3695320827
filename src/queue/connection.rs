//! Connecting to the broker, with a limit on every wait.

use std::{str::FromStr, time::Duration};

use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind,
    tcp::{AMQPUriTcpExt, RustlsConnector},
    uri::{AMQPScheme, AMQPUri},
};

use super::{Queues, topology};
use crate::{
    config::SecretUrl,
    failure::{Dependency, Failure},
    tls::Problem,
};

/// For one request to the broker. A link that swallows everything does not say so.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For the whole way from a name to an open connection, TLS included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// For a polite goodbye, at which nothing can be lost any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A dead link is noticed after two of these. lapin's default is the broker's 60 s.
const HEARTBEAT_SECS: u16 = 20;

/// A connection and a channel.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
}

impl Link {
    /// Connects as `name`, which the broker's management shows, and declares or checks the topology.
    pub(super) async fn open(queues: &Queues, name: &str) -> Result<Self, Failure> {
        let mut link = Self::connect(queues, name).await?;
        topology::ensure(&mut link, queues, name).await?;
        Ok(link)
    }

    /// Connects, and leaves the topology alone.
    pub(super) async fn connect(queues: &Queues, name: &str) -> Result<Self, Failure> {
        let mut uri = AMQPUri::from_str(queues.url.expose())
            .map_err(|error| Failure::permanent(format!("broker at {}: {error}", queues.url)))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECS);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let tls = tls_connector(queues, &uri)?;
        let connect = connect(uri, tls, properties);
        let connection = bounded(&queues.url, CONNECT_TIMEOUT, "connect", connect).await?;
        let channel = bounded(&queues.url, REQUEST_TIMEOUT, "open a channel", connection.create_channel()).await?;
        Ok(Self { connection, channel })
    }

    /// The largest frame that may be sent, in bytes, as agreed with the broker.
    pub(super) fn frame_max(&self) -> u32 {
        match self.connection.configuration().frame_max() {
            0 => u32::MAX,
            limited => limited,
        }
    }

    /// Says goodbye. What was not acknowledged goes back to its queue, whether the broker answers or not.
    pub(super) async fn close(&self) {
        // The channel is left to the end of its connection: the library logs an error when one that has just closed is
        // closed once more with it.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.connection.close(200, "done".into())).await;
    }
}

/// For TLS, if the URL asks for it. The files were readable at the start: if they are not now, they are being replaced.
pub(super) fn tls_connector(queues: &Queues, uri: &AMQPUri) -> Result<Option<RustlsConnector>, Failure> {
    match uri.scheme {
        AMQPScheme::AMQP => Ok(None),
        AMQPScheme::AMQPS => match queues.tls.client_config() {
            Ok(config) => Ok(Some(config.into())),
            Err(what) => Err(Failure::unavailable(Dependency::Broker, format!("broker at {}: {what}", queues.url))),
        },
    }
}

/// lapin's own way to TLS would trust the system's authorities besides ours, and fail where there are none.
pub(super) async fn connect(
    uri: AMQPUri,
    tls: Option<RustlsConnector>,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let open = async move |uri: AMQPUri, runtime| {
        let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri };
        let stream = plain.connect_async(&runtime).await?;
        Ok(match &tls {
            Some(connector) => stream.into_rustls(connector, &plain.authority.host).await?,
            None => stream,
        })
    };
    Connection::connector(uri, lapin::runtime::default_runtime()?, open, properties).await
}

/// Whether the library lost its connection over a message that it can't read: one that can't be parsed, or in a frame
/// larger than agreed (501, which it says itself).
pub(super) fn is_unreadable(error: &lapin::Error) -> bool {
    let is_in_too_large_a_frame = matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == 501);
    is_in_too_large_a_frame || matches!(error.kind(), ErrorKind::ParsingError(_))
}

/// A request that the broker did not do.
#[derive(Debug)]
pub(super) struct NotDone {
    pub(super) refusal: Option<Refusal>,
    pub(super) failure: Failure,
}

/// Why the broker refused a request, where it is asked for what to do about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// What it is about is not there.
    NotThere,
    /// It is there, and not as the request has it.
    Differs,
}

impl Refusal {
    fn of(error: &lapin::Error) -> Option<Self> {
        let ErrorKind::ProtocolError(error) = error.kind() else { return None };
        match error.get_id() {
            404 => Some(Self::NotThere),
            406 => Some(Self::Differs),
            _ => None,
        }
    }
}

impl From<NotDone> for Failure {
    fn from(NotDone { failure, .. }: NotDone) -> Self {
        failure
    }
}

/// Makes a request with a limit on the wait.
pub(super) async fn bounded<R>(
    url: &SecretUrl,
    limit: Duration,
    what: &str,
    request: impl Future<Output = lapin::Result<R>>,
) -> Result<R, NotDone> {
    let Ok(result) = tokio::time::timeout(limit, request).await else {
        let what = format!("broker at {url}: {what}: no answer within {}", humantime::format_duration(limit));
        return Err(NotDone { refusal: None, failure: Failure::unavailable(Dependency::Broker, what) });
    };
    result.map_err(|error| NotDone { refusal: Refusal::of(&error), failure: failure(url, what, &error) })
}

/// The verdict on a broker's error: will it be better later, or has somebody to fix something?
///
/// The codes are AMQP 0-9-1's: 403 access refused, 404 not found, 406 precondition failed, 530 not allowed (such as
/// a virtual host that is not there). TLS that fails is as permanent as a wrong password: somebody has to fix a
/// certificate, here or there. A line that breaks during it is not.
pub(super) fn failure(url: &SecretUrl, what: &str, error: &lapin::Error) -> Failure {
    if let ErrorKind::IOError(error) = error.kind()
        && let Some(problem) = Problem::of(error)
    {
        return Failure::permanent(format!("broker at {url}: {what}: {problem}{}", remedy(&problem)));
    }
    let message = format!("broker at {url}: {what}: {error}");
    let permanent = if let ErrorKind::ProtocolError(error) = error.kind() {
        matches!(error.get_id(), 403 | 404 | 406 | 530)
    } else {
        matches!(error.kind(), ErrorKind::InvalidProtocolVersion(_) | ErrorKind::AuthProviderError(_))
    };
    if permanent { Failure::permanent(message) } else { Failure::unavailable(Dependency::Broker, message) }
}

fn remedy(problem: &Problem) -> &'static str {
    match problem {
        Problem::UnknownAuthority => "; name the file with its authority's certificate in VOLUME_REAPER_AMQP_CA_FILE",
        Problem::NoClientCertificate => {
            "; name one in VOLUME_REAPER_AMQP_CERT_FILE, and its key in VOLUME_REAPER_AMQP_KEY_FILE"
        }
        Problem::Other(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind};

    use super::*;
    use crate::failure::Verdict;

    #[tokio::test]
    async fn the_code_of_a_refusal_says_what_it_is_and_its_text_nothing() {
        let url = SecretUrl::parse("amqp://127.0.0.1", &["amqp"]).expect("valid");
        for (code, refusal, verdict) in [
            (404, Some(Refusal::NotThere), Verdict::Permanent),
            (406, Some(Refusal::Differs), Verdict::Permanent),
            (403, None, Verdict::Permanent),
            (541, None, Verdict::Unavailable(Dependency::Broker)),
        ] {
            let kind = AMQPErrorKind::from_id(code).expect("a code of AMQP");
            let error = AMQPError::new(kind, "NOT_FOUND, PRECONDITION_FAILED".into());
            let refused = async { lapin::Result::<()>::Err(ErrorKind::ProtocolError(error).into()) };
            let refused = bounded(&url, REQUEST_TIMEOUT, "look", refused).await.expect_err("refused");
            assert_eq!((refused.refusal, refused.failure.verdict), (refusal, verdict), "{code}");
        }
    }
}
