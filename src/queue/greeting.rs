//! The broker's greeting, read on a connection of our own, since the library keeps its name and version to itself.

use std::io;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::{
    protocol::{AMQPClass, connection::AMQPMethod, parse_class},
    tcp::{AsyncTcpStream, RustlsConnector},
    types::AMQPValue,
    uri::AMQPUri,
};

use super::{Hello, Unreachable};
use crate::tls::Problem;

/// A greeting has some 500 bytes; what announces more than this is no broker.
const GREETING_MAX_BYTES: usize = 64 * 1024;

pub(super) async fn greet(uri: &AMQPUri, tls: Option<&RustlsConnector>) -> Result<Hello, Unreachable> {
    let text = |error: io::Error| error.to_string();
    let (host, port) = (uri.authority.host.as_str(), uri.authority.port);
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| Unreachable::Name(text(error)))?;
    let runtime = lapin::runtime::default_runtime().map_err(|error| Unreachable::Connect(error.to_string()))?;
    let stream = AsyncTcpStream::connect(&runtime, addresses.collect::<Vec<_>>()).await;
    let mut stream = stream.map_err(|error| Unreachable::Connect(text(error)))?;
    // A server that wants a certificate of ours says so after the handshake.
    let or = |error: io::Error, other: fn(String) -> Unreachable| match Problem::of(&error) {
        Some(problem) => Unreachable::Tls(problem.to_string()),
        None => other(error.to_string()),
    };
    if let Some(connector) = tls {
        let encrypted = stream.into_rustls(connector, host).await;
        stream = encrypted.map_err(|error| or(error, Unreachable::Connect))?;
    }
    let greeting = async {
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stream.flush().await?;
        let mut head = [0; 7];
        stream.read_exact(&mut head).await?;
        let length = greeting_length(head)?;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        read_greeting(&payload)
    };
    greeting.await.map_err(|error| or(error, Unreachable::NotAmqp))
}

/// The payload's length in bytes, from a frame's head: type (1 is a method), channel, length.
pub(super) fn greeting_length([kind, _, _, length @ ..]: [u8; 7]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if kind == 1 && length <= GREETING_MAX_BYTES {
        Ok(length)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is no method frame"))
    }
}

/// The product and version in a greeting (`connection.start`).
pub(super) fn read_greeting(payload: &[u8]) -> io::Result<Hello> {
    let Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) = parse_class(payload) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its first method is not connection.start"));
    };
    let property = |key: &str| match start.server_properties.inner().get(key) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => "unknown".to_owned(),
    };
    Ok(Hello { product: property("product"), version: property("version") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_greeting_is_refused() {
        assert!(greeting_length(*b"HTTP/1.").is_err());
        // TLS: an alert record.
        assert!(greeting_length([0x15, 3, 3, 0, 2, 2, 0x46]).is_err());
        assert!(greeting_length([1, 0, 0, 0xff, 0, 0, 0]).is_err());
        assert_eq!(greeting_length([1, 0, 0, 0, 0, 2, 0]).expect("a length"), 512);
        assert!(read_greeting(b"").is_err());
        assert!(read_greeting(&[0; 100]).is_err());
    }
}
