//! What a broker can be found to be, as values: the facts that `doctor` judges.

use super::{Harm, StandingStill};

/// Why the broker could not even be greeted; each with the error's text.
#[derive(Debug)]
pub enum Unreachable {
    /// The URL can't be read.
    Url(String),
    /// The host's name does not resolve.
    Name(String),
    /// Nobody takes the connection.
    Connect(String),
    /// The connection can't be encrypted.
    Tls(String),
    /// Who answers does not greet as an AMQP 0-9-1 broker.
    NotAmqp(String),
}

/// What the broker says of itself.
#[derive(Debug)]
pub struct Hello {
    /// Such as `RabbitMQ`.
    pub product: String,
    /// Such as `4.3.6`.
    pub version: String,
}

/// Why we may not come in; each with the broker's text.
#[derive(Debug)]
pub enum LoginRefused {
    /// User or password.
    Credentials(String),
    /// There is no such virtual host, or not for this user.
    VirtualHost(String),
    /// Anything else.
    Other(String),
}

/// What was found of a broker that answers.
#[derive(Debug)]
pub struct Inspection {
    /// What it says of itself.
    pub hello: Hello,
    /// What is on it; the inner error says why it could not be asked.
    pub login: Result<Result<Contents, String>, LoginRefused>,
}

/// How the broker answered a question.
#[derive(Debug)]
pub enum Answer<T> {
    /// Yes.
    Yes(T),
    /// There is no such thing (404).
    Missing(String),
    /// This user may not (403).
    Forbidden(String),
    /// It is there, and is different (406); the text says how.
    Differs(String),
    /// None of these, with the error's text.
    Unknown(String),
}

/// What is in a queue.
#[derive(Debug)]
pub struct Counts {
    /// Messages that are ready for a consumer.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// One of our queues.
#[derive(Debug)]
pub struct QueueFacts {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub there: Answer<Counts>,
    /// Whether it is as we would declare it; only asked if it is there.
    pub as_ours: Option<Answer<()>>,
}

/// What is on the broker.
#[derive(Debug)]
pub struct Contents {
    /// Whether the exchange is there.
    pub exchange: Answer<()>,
    /// Whether it is as we would declare it; only asked if it is there.
    pub exchange_as_ours: Option<Answer<()>>,
    /// Our queues.
    pub queues: Vec<QueueFacts>,
    /// Whether this user may bind the work queue; only asked if exchange and queue are there.
    pub may_bind: Option<Answer<()>>,
    /// Whether this user may consume the work queue; only asked if it is there.
    pub may_consume: Option<Answer<()>>,
    /// Whether this user may publish to queues.
    pub may_publish: Answer<()>,
    /// Whether the broker takes a message of 2 MiB; it differs if it has a limit below that.
    pub takes_large: Answer<()>,
    /// What policies do to our queues that they should not, or why that is not known; only asked where a setting says
    /// whom.
    pub policies: Option<Result<Vec<Harm>, String>>,
    /// The delay queues in which messages stand still; none where that can't be known.
    pub standing_still: Option<Vec<StandingStill>>,
}

impl<T> Answer<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Yes(value) => Answer::Yes(change(value)),
            Self::Missing(text) => Answer::Missing(text),
            Self::Forbidden(text) => Answer::Forbidden(text),
            Self::Differs(text) => Answer::Differs(text),
            Self::Unknown(text) => Answer::Unknown(text),
        }
    }
}
