//! A channel of our own making, which hands over what the library can't read.
//!
//! RabbitMQ stores what a publisher sends without a look into it. A message whose id, content type or header name is no
//! UTF-8, or whose frame is too large, ends the library's connection at every delivery. Here, a message's properties
//! are read apart from the rest, and one that can't be read is a value and not an end. It does only what our own
//! queues need, on one channel, without heartbeats, and with a limit on every wait.

use std::{collections::VecDeque, io, pin::Pin, str::FromStr, time::Duration};

use futures_util::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, io::BufReader};
use lapin::{
    protocol::{AMQPClass, basic, channel, connection, gen_class, parse_class, queue},
    types::{AMQPValue, FieldTable},
    uri::{AMQPUri, SASLMechanism},
};
use tokio::time::timeout;

pub(super) use super::raw_parts::RawMessage;
use super::{
    Queues,
    connection::{CONNECT_TIMEOUT, REQUEST_TIMEOUT, tls_connector},
    properties::read_properties,
    raw_parts::{Delivered, Method, Stream, delivered, down, open_stream, refused},
};
use crate::{config::SecretUrl, failure::Failure};

/// The only channel.
const CHANNEL: u16 = 1;
/// No frame is larger: the broker's limit is 128 KiB by default, and what it adds itself may exceed it.
const MOST_FRAME_BYTES: usize = 16 * 1024 * 1024;
/// What each frame ends with.
const FRAME_END: u8 = 0xce;
/// The kinds of frames.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// A connection with one channel.
pub(super) struct RawChannel {
    stream: BufReader<Pin<Box<dyn Stream>>>,
    url: SecretUrl,
    /// Larger bodies are read and thrown away.
    most_body_bytes: usize,
    /// Came while an answer was awaited.
    waiting: VecDeque<RawMessage>,
}

enum Received {
    Message(Box<RawMessage>),
    Answer(AMQPClass),
}

impl RawChannel {
    /// Connects as `name`, which the broker's management shows.
    pub(super) async fn open(queues: &Queues, name: &str, most_body_bytes: usize) -> Result<Self, Failure> {
        let url = &queues.url;
        let uri =
            AMQPUri::from_str(url.expose()).map_err(|error| Failure::permanent(format!("broker at {url}: {error}")))?;
        let tls = tls_connector(queues, &uri)?;
        let open = async {
            let stream = open_stream(uri.clone(), tls.as_ref()).await.map_err(|error| down(url, &error))?;
            let mut raw =
                Self { stream: BufReader::new(stream), url: url.clone(), most_body_bytes, waiting: VecDeque::new() };
            raw.log_in(uri, name).await?;
            Ok(raw)
        };
        timeout(CONNECT_TIMEOUT, open).await.unwrap_or_else(|_| Err(down(url, &"no answer")))
    }

    async fn log_in(&mut self, uri: AMQPUri, name: &str) -> Result<(), Failure> {
        self.write(b"AMQP\x00\x00\x09\x01").await?;
        self.answer().await?;
        let (mechanism, response) = match uri.query.auth_mechanism {
            Some(SASLMechanism::External) => ("EXTERNAL", String::new()),
            _ => ("PLAIN", format!("\0{}\0{}", uri.authority.userinfo.username, uri.authority.userinfo.password)),
        };
        let mut client_properties = FieldTable::default();
        client_properties.insert("connection_name".into(), AMQPValue::LongString(name.into()));
        let start = connection::StartOk {
            client_properties,
            mechanism: mechanism.into(),
            response: response.into(),
            locale: "en_US".into(),
        };
        self.send(0, connection::AMQPMethod::StartOk(start)).await?;
        let AMQPClass::Connection(connection::AMQPMethod::Tune(tune)) = self.answer().await? else {
            return Err(down(&self.url, &"it does not log us in"));
        };
        let tuned = connection::TuneOk { channel_max: 1, frame_max: tune.frame_max, heartbeat: 0 };
        self.send(0, connection::AMQPMethod::TuneOk(tuned)).await?;
        let open = connection::Open { virtual_host: uri.vhost.into() };
        self.call(0, connection::AMQPMethod::Open(open)).await?;
        self.call(CHANNEL, channel::AMQPMethod::Open(channel::Open {})).await.map(drop)
    }

    /// Subscribes with a prefetch. Returns the subscription's name.
    pub(super) async fn subscribe(&mut self, queue: &str, prefetch: u16) -> Result<String, Failure> {
        // What came for an earlier subscription was not asked for any more.
        self.waiting.clear();
        self.call(CHANNEL, basic::AMQPMethod::Qos(basic::Qos { prefetch_count: prefetch, global: false })).await?;
        let consume = basic::Consume {
            queue: queue.into(),
            consumer_tag: "".into(),
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let answer = self.call(CHANNEL, basic::AMQPMethod::Consume(consume)).await?;
        let AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)) = answer else {
            return Err(down(&self.url, &"it does not subscribe us"));
        };
        Ok(ok.consumer_tag.to_string())
    }

    /// Ends a subscription. What came and was not looked at stays unacknowledged: returns its tags.
    pub(super) async fn cancel(&mut self, subscription: &str) -> Result<Vec<u64>, Failure> {
        let cancel = basic::Cancel { consumer_tag: subscription.into(), nowait: false };
        self.send(CHANNEL, basic::AMQPMethod::Cancel(cancel)).await?;
        let mut tags: Vec<_> = self.waiting.drain(..).map(|message| message.tag).collect();
        // Not kept until the answer comes: they may be many, and large.
        while let Received::Message(message) = self.bounded_receive().await? {
            tags.push(message.tag);
        }
        Ok(tags)
    }

    /// The next message of the subscription; `None` if none comes for so long.
    pub(super) async fn next(&mut self, at_most: Duration) -> Result<Option<RawMessage>, Failure> {
        if let Some(message) = self.waiting.pop_front() {
            return Ok(Some(message));
        }
        // A frame that has begun is read to its end: what follows would not be one.
        match timeout(at_most, self.stream.fill_buf()).await {
            Ok(begun) => drop(begun.map_err(|error| down(&self.url, &error))?),
            Err(_) => return Ok(None),
        }
        match self.bounded_receive().await? {
            Received::Message(message) => Ok(Some(*message)),
            Received::Answer(_) => Err(down(&self.url, &"it cancelled the subscription")),
        }
    }

    /// The messages and the consumers of a queue, behind all that was sent before.
    pub(super) async fn count(&mut self, queue: &str) -> Result<(u32, u32), Failure> {
        let declare = queue::Declare {
            queue: queue.into(),
            passive: true,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let answer = self.call(CHANNEL, queue::AMQPMethod::Declare(declare)).await?;
        let AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) = answer else {
            return Err(down(&self.url, &"it does not count"));
        };
        Ok((ok.message_count, ok.consumer_count))
    }

    pub(super) async fn acknowledge(&mut self, tag: u64) -> Result<(), Failure> {
        self.send(CHANNEL, basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tag, multiple: false })).await
    }

    /// Has the broker dead-letter a message as it is.
    pub(super) async fn reject(&mut self, tag: u64) -> Result<(), Failure> {
        self.send(CHANNEL, basic::AMQPMethod::Reject(basic::Reject { delivery_tag: tag, requeue: false })).await
    }

    /// Gives all messages back that are not acknowledged.
    pub(super) async fn give_back(&mut self) -> Result<(), Failure> {
        self.waiting.clear();
        let all = basic::Nack { delivery_tag: 0, multiple: true, requeue: true };
        self.send(CHANNEL, basic::AMQPMethod::Nack(all)).await
    }

    /// Gives back the messages of these tags.
    pub(super) async fn give_these_back(&mut self, tags: &[u64]) -> Result<(), Failure> {
        for &delivery_tag in tags {
            let one = basic::Nack { delivery_tag, multiple: false, requeue: true };
            self.send(CHANNEL, basic::AMQPMethod::Nack(one)).await?;
        }
        Ok(())
    }

    /// Says goodbye, which makes sure that the broker has read what was sent before.
    pub(super) async fn close(mut self) {
        let close = channel::Close { reply_code: 200, reply_text: "done".into(), class_id: 0, method_id: 0 };
        let _ = self.call(CHANNEL, channel::AMQPMethod::Close(close)).await;
    }

    async fn call(&mut self, channel: u16, method: impl Into<Method>) -> Result<AMQPClass, Failure> {
        self.send(channel, method).await?;
        self.answer().await
    }

    async fn send(&mut self, channel: u16, method: impl Into<Method>) -> Result<(), Failure> {
        let Method(class) = method.into();
        let payload = gen_class(&class)(Vec::new().into()).map_err(|error| down(&self.url, &error))?.write;
        let length = u32::try_from(payload.len()).map_err(|error| down(&self.url, &error))?;
        let mut frame = vec![METHOD];
        frame.extend(channel.to_be_bytes());
        frame.extend(length.to_be_bytes());
        frame.extend(payload);
        frame.push(FRAME_END);
        self.write(&frame).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let written = timeout(REQUEST_TIMEOUT, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        written.map_err(|error| down(&self.url, &error))
    }

    async fn answer(&mut self) -> Result<AMQPClass, Failure> {
        loop {
            match self.bounded_receive().await? {
                Received::Message(message) => self.waiting.push_back(*message),
                Received::Answer(answer) => return Ok(answer),
            }
        }
    }

    async fn bounded_receive(&mut self) -> Result<Received, Failure> {
        let no_answer: Duration = REQUEST_TIMEOUT;
        match timeout(no_answer, self.receive()).await {
            Ok(received) => received,
            Err(_) => Err(down(&self.url, &"no answer")),
        }
    }

    async fn receive(&mut self) -> Result<Received, Failure> {
        let url = self.url.clone();
        let (kind, payload) = self.frame().await.map_err(|error| down(&url, &error))?;
        if kind != METHOD {
            return Err(down(&url, &"a frame out of order"));
        }
        if let Some(delivered) = delivered(&payload) {
            return Ok(Received::Message(Box::new(self.content(delivered).await.map_err(|error| down(&url, &error))?)));
        }
        match parse_class(&payload[..]) {
            Ok((_, AMQPClass::Channel(channel::AMQPMethod::Close(close)))) => {
                Err(refused(&url, close.reply_code, close.reply_text.as_str()))
            }
            Ok((_, AMQPClass::Connection(connection::AMQPMethod::Close(close)))) => {
                Err(refused(&url, close.reply_code, close.reply_text.as_str()))
            }
            Ok((_, class)) => Ok(Received::Answer(class)),
            Err(_) => Err(down(&url, &"a method that can't be read")),
        }
    }

    async fn content(&mut self, Delivered { tag, routing_key }: Delivered) -> io::Result<RawMessage> {
        let (HEADER, header) = self.frame().await? else { return Err(io::ErrorKind::InvalidData.into()) };
        // Class and weight, then the body's size, then the properties.
        let (size, properties) =
            header.get(4..).and_then(<[u8]>::split_first_chunk).ok_or(io::ErrorKind::InvalidData)?;
        let body_bytes = u64::from_be_bytes(*size);
        let keeps = usize::try_from(body_bytes).is_ok_and(|bytes| bytes <= self.most_body_bytes);
        let (mut body, mut read) = (Vec::new(), 0);
        while read < body_bytes {
            let (BODY, piece) = self.frame().await? else { return Err(io::ErrorKind::InvalidData.into()) };
            read += piece.len() as u64;
            if keeps {
                body.extend(piece);
            }
        }
        let body = keeps.then_some(body);
        Ok(RawMessage { tag, routing_key, properties: read_properties(properties), body, body_bytes })
    }

    /// The next frame that is no heartbeat: its kind and its payload.
    async fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).await?;
            let [kind, _, _, length @ ..] = head;
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if length > MOST_FRAME_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of more than 16 MiB"));
            }
            let mut payload = vec![0; length + 1];
            self.stream.read_exact(&mut payload).await?;
            if payload.pop() != Some(FRAME_END) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame without its end"));
            }
            if kind != HEARTBEAT {
                return Ok((kind, payload));
            }
        }
    }
}
