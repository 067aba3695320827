//! What a [channel of our own making](super::raw) is made of: the stream, the methods, and what an error means.

use std::pin::Pin;

use futures_util::{AsyncRead, AsyncWrite};
use lapin::{
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

/// The tag of `basic.deliver` and `basic.get-ok`, whose names may be no UTF-8.
pub(super) fn delivery_tag(method: &[u8]) -> Option<u64> {
    let (head, rest) = method.split_first_chunk::<4>()?;
    let tag = match head {
        [0, 60, 0, 60] => rest.get(1 + usize::from(*rest.first()?)..)?,
        [0, 60, 0, 71] => rest,
        _ => return None,
    };
    tag.first_chunk().copied().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_whatever_the_names_beside_it_are() {
        let tag = 7_u64.to_be_bytes();
        let deliver = [&[0, 60, 0, 60, 2, 0xff, 0xfe][..], &tag, &[0, 1, 0xff]].concat();
        let get_ok = [&[0, 60, 0, 71][..], &tag, &[0, 1, 0xff]].concat();
        assert_eq!((delivery_tag(&deliver), delivery_tag(&get_ok)), (Some(7), Some(7)));
        for other in [&[0, 60, 0, 72, 0][..], &[0, 60, 0, 60, 200, 1], &[0, 60, 0, 71, 1], &[]] {
            assert_eq!(delivery_tag(other), None);
        }
    }
}
