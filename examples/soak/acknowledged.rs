//! What is acknowledged, as it passes on the wire. The log of a replica does not say all: a thread of its own writes
//! it, and one that is killed has not written its last lines.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

/// Messages, by their ids.
#[derive(Default)]
struct Messages {
    /// Published since they were last delivered: what is acknowledged then waits in another queue.
    handed_on: HashSet<String>,
    acknowledged: HashSet<String>,
}

/// What passed through a proxy.
#[derive(Default)]
pub(crate) struct Acknowledged(Mutex<Messages>);

impl Acknowledged {
    /// Whether a consumer has acknowledged this message, and not only handed it on.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.lock().acknowledged.contains(id)
    }

    fn saw(&self, message: Message) {
        let Messages { handed_on, acknowledged } = &mut *self.0.lock();
        match message {
            Message::Delivered(id) => drop(handed_on.remove(&id)),
            Message::Published(id) => drop(handed_on.insert(id)),
            Message::Acknowledged(id) if handed_on.contains(&id) => {}
            Message::Acknowledged(id) => drop(acknowledged.insert(id)),
        }
    }
}

enum Message {
    Delivered(String),
    Published(String),
    Acknowledged(String),
}

/// One connection, of which both directions are read.
pub(crate) struct Watched {
    all: Arc<Acknowledged>,
    from_client: Frames,
    from_broker: Frames,
    /// By channel and delivery tag.
    unacknowledged: BTreeMap<(u16, u64), String>,
}

impl Watched {
    pub(crate) fn new(all: Arc<Acknowledged>) -> Self {
        let (from_client, from_broker) = (Frames::default(), Frames::default());
        Self { all, from_client, from_broker, unacknowledged: BTreeMap::new() }
    }

    pub(crate) fn client_sent(&mut self, bytes: &[u8]) {
        for (channel, seen) in self.from_client.read(bytes) {
            self.saw(channel, seen);
        }
    }

    pub(crate) fn broker_sent(&mut self, bytes: &[u8]) {
        for (channel, seen) in self.from_broker.read(bytes) {
            self.saw(channel, seen);
        }
    }

    fn saw(&mut self, channel: u16, seen: Seen) {
        match seen {
            Seen::Opened => self.unacknowledged.retain(|(of, _), _| *of != channel),
            Seen::Publication { id } => self.all.saw(Message::Published(id)),
            Seen::Delivery { tag, id } => {
                self.all.saw(Message::Delivered(id.clone()));
                self.unacknowledged.insert((channel, tag), id);
            }
            Seen::Acknowledgement { tag, multiple } => {
                // Tag 0 with others means all of them.
                let first = if multiple { 0 } else { tag };
                let last = if multiple && tag == 0 { u64::MAX } else { tag };
                let range = (channel, first)..=(channel, last);
                let tags: Vec<_> = self.unacknowledged.range(range).map(|(key, _)| *key).collect();
                for key in tags {
                    self.unacknowledged.remove(&key).into_iter().for_each(|id| self.all.saw(Message::Acknowledged(id)));
                }
            }
        }
    }
}

/// What is seen of a channel. Messages without an id are not.
enum Seen {
    Opened,
    Publication { id: String },
    Delivery { tag: u64, id: String },
    Acknowledgement { tag: u64, multiple: bool },
}

/// A method that a header follows.
#[derive(Clone, Copy)]
enum Begun {
    Publication,
    Delivery { tag: u64 },
}

/// The frames of one direction (AMQP 0-9-1, 2.3.5 and 4.2).
#[derive(Default)]
struct Frames {
    /// What has come of a frame so far.
    bytes: Vec<u8>,
    /// By channel.
    begun: HashMap<u16, Begun>,
}

impl Frames {
    fn read(&mut self, bytes: &[u8]) -> Vec<(u16, Seen)> {
        self.bytes.extend_from_slice(bytes);
        let mut all = Vec::new();
        let mut rest = Bytes(&self.bytes);
        if rest.0.starts_with(b"AMQP") {
            let _ = rest.take(8);
        }
        let mut read = 0;
        let begun = &mut self.begun;
        while let Some((kind, channel, payload)) = rest.frame() {
            let seen = match kind {
                1 => method(channel, Bytes(payload), begun),
                2 => begun.remove(&channel).and_then(|method| message(method, Bytes(payload))),
                _ => None,
            };
            all.extend(seen.map(|seen| (channel, seen)));
            read = self.bytes.len() - rest.0.len();
        }
        self.bytes.drain(..read);
        all
    }
}

fn method(channel: u16, mut payload: Bytes<'_>, begun: &mut HashMap<u16, Begun>) -> Option<Seen> {
    match (payload.number(2)?, payload.number(2)?) {
        // channel.open
        (20, 10) => Some(Seen::Opened),
        // basic.publish
        (60, 40) => {
            begun.insert(channel, Begun::Publication);
            None
        }
        // basic.deliver
        (60, 60) => {
            payload.short_text()?;
            begun.insert(channel, Begun::Delivery { tag: payload.number(8)? });
            None
        }
        // basic.get-ok
        (60, 71) => {
            begun.insert(channel, Begun::Delivery { tag: payload.number(8)? });
            None
        }
        // basic.ack
        (60, 80) => Some(Seen::Acknowledgement { tag: payload.number(8)?, multiple: payload.number(1)? & 1 == 1 }),
        _ => None,
    }
}

fn message(method: Begun, header: Bytes<'_>) -> Option<Seen> {
    let id = message_id(header)?;
    Some(match method {
        Begun::Publication => Seen::Publication { id },
        Begun::Delivery { tag } => Seen::Delivery { tag, id },
    })
}

fn message_id(mut header: Bytes<'_>) -> Option<String> {
    // Class, weight, size of the body.
    header.take(12)?;
    let flags = header.number(2)?;
    let has = |bit: u32| flags & (1 << bit) != 0;
    // In this order: content type, encoding, headers, delivery mode, priority, correlation id, reply to, expiration.
    for bit in (8..=15).rev().filter(|bit| has(*bit)) {
        match bit {
            13 => {
                let length = header.number(4)?;
                header.take(usize::try_from(length).ok()?)?;
            }
            11 | 12 => drop(header.take(1)?),
            _ => drop(header.short_text()?),
        }
    }
    has(7).then(|| header.short_text()).flatten().and_then(|id| String::from_utf8(id.to_vec()).ok())
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, length: usize) -> Option<u64> {
        Some(self.take(length)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn short_text(&mut self) -> Option<&'a [u8]> {
        let length = self.number(1)?;
        self.take(usize::try_from(length).ok()?)
    }

    /// A whole frame: its kind, channel and payload.
    fn frame(&mut self) -> Option<(u64, u16, &'a [u8])> {
        let mut ahead = Bytes(self.0);
        let (kind, channel, length) = (ahead.number(1)?, ahead.number(2)?, ahead.number(4)?);
        let payload = ahead.take(usize::try_from(length).ok()?)?;
        ahead.take(1)?;
        self.0 = ahead.0;
        Some((kind, u16::try_from(channel).ok()?, payload))
    }
}
