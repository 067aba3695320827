//! What a [channel of our own making](super::raw) is made of: the stream, the methods, and what an error means.

use std::pin::Pin;

use futures_util::{AsyncRead, AsyncWrite};
use lapin::{
    BasicProperties,
    protocol::{AMQPClass, basic, channel, connection, queue},
    tcp::{AMQPUriTcpExt, RustlsConnector},
    uri::{AMQPScheme, AMQPUri},
};

use crate::{
    config::SecretUrl,
    failure::{Dependency, Failure},
};

pub(super) trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

pub(super) async fn open_stream(uri: AMQPUri, tls: Option<&RustlsConnector>) -> lapin::Result<Pin<Box<dyn Stream>>> {
    let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri };
    let stream = plain.connect_async(&lapin::runtime::default_runtime()?).await?;
    Ok(match tls {
        Some(connector) => Box::pin(stream.into_rustls(connector, &plain.authority.host).await?),
        None => Box::pin(stream),
    })
}

pub(super) fn refused(url: &SecretUrl, code: u16, text: &str) -> Failure {
    let message = format!("broker at {url}: {text} ({code})");
    if matches!(code, 403 | 404 | 406 | 530) { Failure::permanent(message) } else { down(url, &text) }
}

pub(super) fn down(url: &SecretUrl, error: &dyn std::fmt::Display) -> Failure {
    Failure::unavailable(Dependency::Broker, format!("broker at {url}: {error}"))
}

/// A method of one of the classes that we speak.
pub(super) struct Method(pub(super) AMQPClass);

impl From<connection::AMQPMethod> for Method {
    fn from(method: connection::AMQPMethod) -> Self {
        Self(AMQPClass::Connection(method))
    }
}

impl From<channel::AMQPMethod> for Method {
    fn from(method: channel::AMQPMethod) -> Self {
        Self(AMQPClass::Channel(method))
    }
}

impl From<queue::AMQPMethod> for Method {
    fn from(method: queue::AMQPMethod) -> Self {
        Self(AMQPClass::Queue(method))
    }
}

impl From<basic::AMQPMethod> for Method {
    fn from(method: basic::AMQPMethod) -> Self {
        Self(AMQPClass::Basic(method))
    }
}

/// A message as the broker has it.
pub(super) struct RawMessage {
    pub(super) tag: u64,
    /// None if it is no text.
    pub(super) routing_key: Option<String>,
    /// Or why they can't be read.
    pub(super) properties: Result<BasicProperties, &'static str>,
    /// `None` if it is over the limit.
    pub(super) body: Option<Vec<u8>>,
    pub(super) body_bytes: u64,
}

/// What `basic.deliver` says of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) tag: u64,
    pub(super) routing_key: Option<String>,
}

/// Reads that method, whose names may be no UTF-8.
pub(super) fn delivered(method: &[u8]) -> Option<Delivered> {
    let (_consumer, rest) = short(method.strip_prefix(&[0, 60, 0, 60])?)?;
    let (tag, rest) = rest.split_first_chunk()?;
    // Behind whether it is delivered again, and the exchange.
    let routing_key = rest.get(1..).and_then(short).and_then(|(_, rest)| short(rest)).map(|(key, _)| key.to_vec());
    Some(Delivered {
        tag: u64::from_be_bytes(*tag),
        routing_key: routing_key.and_then(|key| String::from_utf8(key).ok()),
    })
}

/// A short string, and what is behind it.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_whatever_the_names_beside_it_are() {
        let tag = 7_u64.to_be_bytes();
        let names = |key: &[u8]| [&[0, 1, 0xff, u8::try_from(key.len()).expect("short")][..], key].concat();
        let deliver = |names: &[u8]| [&[0, 60, 0, 60, 2, 0xff, 0xfe][..], &tag, names].concat();
        let with_key = Some(Delivered { tag: 7, routing_key: Some("key".to_owned()) });
        assert_eq!(delivered(&deliver(&names(b"key"))), with_key);
        let without_key = Some(Delivered { tag: 7, routing_key: None });
        assert_eq!(delivered(&deliver(&names(b"\xff"))), without_key);
        assert_eq!(delivered(&deliver(b"")), without_key);
        for other in [&[0, 60, 0, 72, 0][..], &[0, 60, 0, 60, 200, 1], &[0, 60, 0, 60, 0, 1], &[]] {
            assert_eq!(delivered(other), None);
        }
    }
}
