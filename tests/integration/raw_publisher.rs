//! A publisher that writes its frames by hand, since no client library would send what some publishers do, and what
//! they send.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// RabbitMQ's default, in bytes.
pub(crate) const FRAME_MAX: usize = 131_072;
/// What a header table may have at most: the frame's head and end, class, weight, size, flags and the table's length.
pub(crate) const MOST_TABLE_BYTES: usize = FRAME_MAX - 7 - 1 - 14 - 4;
const FRAME_END: u8 = 0xce;

pub(crate) struct RawPublisher {
    stream: TcpStream,
}

impl RawPublisher {
    pub(crate) async fn connect(url: &str) -> io::Result<Self> {
        let url = url::Url::parse(url).map_err(io::Error::other)?;
        let address = (url.host_str().unwrap_or("localhost"), url.port().unwrap_or(5672));
        let mut publisher = Self { stream: TcpStream::connect(address).await? };
        publisher.stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        publisher.until(10, 10).await?;
        let response = format!("\0{}\0{}", url.username(), url.password().unwrap_or("guest"));
        let start_ok = [&table(&[])[..], &short(b"PLAIN"), &long(response.as_bytes()), &short(b"en_US")].concat();
        publisher.method(0, 10, 11, &start_ok).await?;
        publisher.until(10, 30).await?;
        let most = u32::try_from(FRAME_MAX).map_err(io::Error::other)?;
        publisher.method(0, 10, 31, &[&[0, 1][..], &most.to_be_bytes(), &[0, 0]].concat()).await?;
        publisher.method(0, 10, 40, &[&short(b"/")[..], &[0, 0]].concat()).await?;
        publisher.until(10, 41).await?;
        publisher.method(1, 20, 10, &[0]).await?;
        publisher.until(20, 11).await?;
        publisher.method(1, 85, 10, &[0]).await?;
        publisher.until(85, 11).await?;
        Ok(publisher)
    }

    /// Publishes to a queue with properties as they stand in the frame, and waits for the confirm. Fails if there is no
    /// such queue.
    pub(crate) async fn publish(&mut self, queue: &str, properties: &[u8], body: &[u8]) -> io::Result<()> {
        let mandatory = 1;
        let publish = [&[0, 0][..], &short(b""), &short(queue.as_bytes()), &[mandatory]].concat();
        self.method(1, 60, 40, &publish).await?;
        let header = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes(), properties].concat();
        self.frame(2, 1, &header).await?;
        for piece in body.chunks(FRAME_MAX - 8) {
            self.frame(3, 1, piece).await?;
        }
        self.until(60, 80).await
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> io::Result<()> {
        self.frame(1, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat()).await
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let head = [&[kind][..], &channel.to_be_bytes(), &length.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload, &[FRAME_END]].concat()).await
    }

    /// Reads until this method comes.
    async fn until(&mut self, class: u16, method: u16) -> io::Result<()> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; length + 1];
            self.stream.read_exact(&mut payload).await?;
            if head[0] != 1 {
                continue;
            }
            let is =
                |class: u16, method: u16| payload.starts_with(&[class.to_be_bytes(), method.to_be_bytes()].concat());
            if is(20, 40) || is(10, 50) {
                return Err(io::Error::other(format!("closed: {}", String::from_utf8_lossy(&payload))));
            }
            if is(60, 50) {
                return Err(io::Error::other("returned: no queue takes it"));
            }
            if is(class, method) {
                return Ok(());
            }
        }
    }
}

// --- What some publishers send

/// Properties that cut the client library's connection at every delivery, by their names.
pub(crate) fn unreadable() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("message id", message_id(b"\xff\xfe\xfa")),
        ("header key", headers(&[(b"\xff\xfe\xfa", b"V".to_vec())])),
        ("content type", content_type(b"\xff\xfe\xfa")),
    ]
}

/// Properties that are odd, but leave an event an event.
pub(crate) fn odd() -> Vec<(&'static str, Vec<u8>)> {
    let largest = text_value(&vec![b'x'; MOST_TABLE_BYTES - 7]);
    vec![
        ("nested tables", headers(&[(b"x", nested_tables(1000))])),
        ("nested arrays", headers(&[(b"x", nested_arrays(5000))])),
        ("a value that is no UTF-8", headers(&[(b"abc", text_value(b"\xff\xfe\xfa"))])),
        ("a frame at its limit", headers(&[(b"x", largest)])),
        ("a large header of ours", headers(&[(b"volume-reaper-junk", text_value(&vec![b'x'; 130_850]))])),
    ]
}

// --- Values

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")][..], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("32 bits").to_be_bytes()[..], bytes].concat()
}

/// A table of keys and values, with their type before them.
fn table(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    long(&entries.iter().flat_map(|(key, value)| [short(key), value.clone()].concat()).collect::<Vec<_>>())
}

pub(crate) fn text_value(bytes: &[u8]) -> Vec<u8> {
    [&b"S"[..], &long(bytes)].concat()
}

/// Tables in each other, void at the bottom. Written from the inside, since each has its length before it.
pub(crate) fn nested_tables(levels: usize) -> Vec<u8> {
    nested(levels, b"\x01kF", b"\x01kV", b'F')
}

pub(crate) fn nested_arrays(levels: usize) -> Vec<u8> {
    nested(levels, b"A", b"V", b'A')
}

fn nested(levels: usize, head: &[u8], bottom: &[u8], kind: u8) -> Vec<u8> {
    let mut heads = Vec::new();
    let mut length = bottom.len();
    for _ in 1..levels {
        heads.push(length);
        length += head.len() + 4;
    }
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(length).expect("32 bits").to_be_bytes());
    for length in heads.into_iter().rev() {
        bytes.extend(head);
        bytes.extend(u32::try_from(length).expect("32 bits").to_be_bytes());
    }
    bytes.extend(bottom);
    bytes
}

/// Properties with headers only.
pub(crate) fn headers(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    [&[0x20, 0][..], &table(entries)].concat()
}

/// Properties with a message id only.
pub(crate) fn message_id(id: &[u8]) -> Vec<u8> {
    [&[0, 0x80][..], &short(id)].concat()
}

/// Properties with a content type only.
pub(crate) fn content_type(content_type: &[u8]) -> Vec<u8> {
    [&[0x80, 0][..], &short(content_type)].concat()
}

#[test]
fn nested_headers_are_written_as_in_the_cases_they_stand_for() {
    let tables = headers(&[(b"x", nested_tables(1000))]);
    assert_eq!((&tables[6..20], tables.len() - 6), (&b"\x01xF\0\0\x1b\x54\x01kF\0\0\x1b\x4d"[..], 7003));
    let arrays = headers(&[(b"x", nested_arrays(5000))]);
    assert_eq!((&arrays[6..18], arrays.len() - 6), (&b"\x01xA\0\0\x61\xa4A\0\0\x61\x9f"[..], 25_003));
}
