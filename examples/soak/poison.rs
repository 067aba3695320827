//! Messages that nobody should send: what a client library chokes on, what is almost an event, and events in odd dress.

use crate::raw_publisher::{message_id, odd, unreadable};

/// What stands before the thread's id in a body that is no event.
pub(crate) const MARK: &str = "poison ";

/// A message as it is written into the socket.
pub(crate) struct Message {
    /// What is odd about it.
    pub(crate) kind: String,
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// A message that is no event, and the reason that the dead-letter queue is to give for it.
pub(crate) fn poison(number: usize, id: &str) -> (Message, &'static str) {
    let body = format!("{MARK}{id}").into_bytes();
    let named = |kind: &str, body: Vec<u8>| {
        let properties = message_id(format!("{id}/1").as_bytes());
        (Message { kind: kind.to_owned(), properties, body }, "undecodable")
    };
    let choking: Vec<_> = unreadable().into_iter().map(|(kind, properties)| (kind, properties, "unreadable")).collect();
    let choking = choking.into_iter().chain(odd().into_iter().map(|(kind, bytes)| (kind, bytes, "undecodable")));
    let kinds = unreadable().len() + odd().len();
    match number % (kinds + 3) {
        which if which == kinds => named("an empty body", Vec::new()),
        which if which == kinds + 1 => named("an event, encoded twice", twice(id)),
        which if which == kinds + 2 => named("half an event", b"{\"thread_id\": ".to_vec()),
        which => {
            let (kind, properties, reason) = choking.into_iter().nth(which).unwrap_or_default();
            (Message { kind: kind.to_owned(), properties, body }, reason)
        }
    }
}

fn twice(id: &str) -> Vec<u8> {
    serde_json::Value::from(format!(r#"{{"thread_id": "{id}"}}"#)).to_string().into_bytes()
}

/// An event, whatever else there is about it.
pub(crate) fn dressed(number: usize, id: &str) -> Message {
    let event = format!(r#"{{"thread_id": "{id}"}}"#);
    let with = |field: &str| format!(r#"{{"thread_id": "{id}", {field}}}"#);
    let deep = format!(r#""deep": {}{}"#, "[".repeat(200), "]".repeat(200));
    let mut all: Vec<_> = odd().into_iter().map(|(kind, properties)| (kind, properties, event.clone())).collect();
    for (kind, body) in [
        ("half a surrogate pair", with(r#""title": "\ud800""#)),
        ("1e400", with(r#""cost": 1e400"#)),
        ("200 levels", with(&deep)),
        ("a byte order mark", format!("\u{feff}{event}")),
        ("a time in no known form", with(r#""closed_at": "last Tuesday""#)),
        ("a field twice", with(r#""by": 1, "by": 2"#)),
    ] {
        all.push((kind, message_id(format!("{id}/1").as_bytes()), body));
    }
    let which = number % all.len();
    let (kind, properties, body) = all.swap_remove(which);
    Message { kind: kind.to_owned(), properties, body: body.into_bytes() }
}
