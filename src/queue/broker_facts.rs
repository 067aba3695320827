//! Looking at the broker without changing anything on it: the facts that `doctor` judges.
//!
//! AMQP shows little, so some questions are put in a roundabout way:
//!
//! - The library keeps the broker's name and version to itself, so a first connection of our own reads the broker's
//!   greeting and hangs up.
//! - A queue's arguments can't be read. What is there is declared again with ours, which the broker either takes for
//!   the same (nothing happens) or refuses with what differs. What is not there is never declared (unless it is
//!   deleted in the milliseconds between).
//! - The right to bind: a binding that can't be there, with an argument of its own, is taken away, which asks for the
//!   same rights as making one and does nothing.
//! - The right to consume: with an argument that the broker refuses, after it has looked at the rights.
//! - The right to publish, and a limit on a message's size: a mandatory message to a queue that can't be there, which
//!   comes back or is refused.

use std::{future::Future, str::FromStr, time::Duration};

use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
    },
    tcp::RustlsConnector,
    types::{AMQPValue, FieldTable},
    uri::AMQPUri,
};
use uuid::Uuid;

use super::{
    Queues,
    broker_answers::{Answer, Contents, Counts, Hello, Inspection, LoginRefused, QueueFacts, Unreachable},
    connection,
    difference::Difference,
    greeting::greet,
    management,
    topology::{self, Definition},
};

/// For name, connection, TLS and greeting together.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For logging in, which opens a second connection.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// For all questions together, which are put at once.
const QUESTIONS_TIMEOUT: Duration = Duration::from_secs(6);
/// For a goodbye at which nothing can be lost.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A message that is larger than any of ours by far.
const LARGE_BYTES: usize = 2 * 1024 * 1024;
/// More arguments than a queue can have.
const MAX_DIFFERENCES: usize = 32;

/// Looks at the broker and at what is ours on it. Takes some twenty seconds at most, and changes nothing.
pub async fn inspect(queues: &Queues) -> Result<Inspection, Unreachable> {
    let uri = AMQPUri::from_str(queues.url.expose()).map_err(Unreachable::Url)?;
    let tls = connection::tls_connector(queues, &uri).map_err(|failure| Unreachable::Tls(failure.message))?;
    let hello = tokio::time::timeout(HELLO_TIMEOUT, greet(&uri, tls.as_ref())).await;
    let hello = hello.unwrap_or_else(|_| Err(Unreachable::Connect(no_answer(HELLO_TIMEOUT))));
    let hello = hello.map_err(|unreachable| match unreachable {
        // Its alert may be lost with the connection that it resets.
        Unreachable::NotAmqp(error) if tls.is_some() && queues.tls.identity.is_none() => {
            Unreachable::Tls(format!("{error}, as from a server that wants a client certificate and got none"))
        }
        other @ (Unreachable::Url(_)
        | Unreachable::Name(_)
        | Unreachable::Connect(_)
        | Unreachable::Tls(_)
        | Unreachable::NotAmqp(_)) => other,
    })?;
    let login = match log_in(uri, tls, "volume-reaper doctor").await {
        Err(refused) => Err(refused),
        Ok(connection) => {
            let contents = tokio::time::timeout(QUESTIONS_TIMEOUT, contents(&connection, queues, &hello));
            let (contents, standing_still) = tokio::join!(contents, management::standing_still(queues));
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())).await;
            let contents = contents.map(|contents| Contents { standing_still, ..contents });
            Ok(contents.map_err(|_| no_answer(QUESTIONS_TIMEOUT)))
        }
    };
    Ok(Inspection { hello, login })
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(limit))
}

/// Connects as `name`, which the broker's management shows.
pub(super) async fn log_in(uri: AMQPUri, tls: Option<RustlsConnector>, name: &str) -> Result<Connection, LoginRefused> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    match tokio::time::timeout(LOGIN_TIMEOUT, connection::connect(uri, tls, properties)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(match code_and_text(&error) {
            (Some(403), text) => LoginRefused::Credentials(text),
            (Some(530), text) => LoginRefused::VirtualHost(text),
            (_, text) => LoginRefused::Other(text),
        }),
        Err(_) => Err(LoginRefused::Other(no_answer(LOGIN_TIMEOUT))),
    }
}

// --- Questions ------------------------------------------------------------------------------------------------------

async fn contents(connection: &Connection, queues: &Queues, hello: &Hello) -> Contents {
    let definitions = topology::definitions(queues);
    let all = join_all(definitions.into_iter().map(|definition| queue_facts(connection, definition)));
    let large = vec![b' '; LARGE_BYTES];
    let ((exchange, exchange_as_ours), queue_facts, may_publish, takes_large, policies) = tokio::join!(
        exchange_facts(connection, &queues.exchange),
        all,
        may_publish(connection, queues, b""),
        may_publish(connection, queues, &large),
        async {
            match &queues.management {
                Some(api) => Some(management::harms(queues, api).await),
                None => None,
            }
        }
    );
    let work = queues.work();
    let work_is_there = queue_facts.iter().any(|queue| queue.name == work && matches!(queue.there, Answer::Yes(_)));
    let may_bind = async {
        if work_is_there && matches!(exchange, Answer::Yes(())) {
            Some(may_bind(connection, queues).await)
        } else {
            None
        }
    };
    let may_consume = async {
        // Another broker may not refuse the argument, and then deliver messages.
        if work_is_there && hello.product == "RabbitMQ" { Some(may_consume(connection, &work).await) } else { None }
    };
    let (may_bind, may_consume) = tokio::join!(may_bind, may_consume);
    Contents {
        exchange,
        exchange_as_ours,
        queues: queue_facts,
        may_bind,
        may_consume,
        may_publish,
        takes_large,
        policies,
        standing_still: None,
    }
}

/// Asks on a channel of its own, which an answer other than yes closes.
async fn ask<T, R: Future<Output = lapin::Result<T>>>(
    connection: &Connection,
    question: impl FnOnce(Channel) -> R,
) -> Answer<T> {
    let answer = async {
        let channel = connection.create_channel().await?;
        let answer = question(channel.clone()).await?;
        let _ = channel.close(200, "done".into()).await;
        Ok(answer)
    };
    answer_of(answer.await)
}

fn answer_of<T>(answer: lapin::Result<T>) -> Answer<T> {
    match answer {
        Ok(answer) => Answer::Yes(answer),
        Err(error) => match code_and_text(&error) {
            (Some(403), text) => Answer::Forbidden(text),
            (Some(404), text) => Answer::Missing(text),
            (Some(406), text) => Answer::Differs(text),
            (_, text) => Answer::Unknown(text),
        },
    }
}

/// The AMQP 0-9-1 code of an error, if the broker gave one, and what the broker says.
fn code_and_text(error: &lapin::Error) -> (Option<u16>, String) {
    if let ErrorKind::ProtocolError(error) = error.kind() {
        return (Some(error.get_id()), error.get_message().to_string());
    }
    (None, error.to_string())
}

async fn exchange_facts(connection: &Connection, name: &str) -> (Answer<()>, Option<Answer<()>>) {
    let declare = |options: ExchangeDeclareOptions| {
        ask(connection, async move |channel| {
            channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await
        })
    };
    let there = declare(ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() }).await;
    let as_ours = if matches!(there, Answer::Yes(())) {
        Some(declare(ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() }).await)
    } else {
        None
    };
    (there, as_ours)
}

async fn queue_facts(connection: &Connection, Definition { name, arguments }: Definition) -> QueueFacts {
    let there = ask(connection, async |channel| declare(&channel, &name, passive(), FieldTable::default()).await).await;
    let as_ours =
        if matches!(there, Answer::Yes(_)) { Some(as_ours(connection, &name, arguments).await) } else { None };
    QueueFacts { name, there, as_ours }
}

/// Messages and consumers of a queue, without a change to it. An answer other than yes closes the channel.
pub(super) async fn look_at(channel: &Channel, name: &str) -> Answer<Counts> {
    answer_of(declare(channel, name, passive(), FieldTable::default()).await)
}

fn passive() -> QueueDeclareOptions {
    QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() }
}

async fn declare(
    channel: &Channel,
    name: &str,
    options: QueueDeclareOptions,
    arguments: FieldTable,
) -> lapin::Result<Counts> {
    let queue = channel.queue_declare(name.into(), options, arguments).await?;
    Ok(Counts { messages: queue.message_count(), consumers: queue.consumer_count() })
}

/// The broker names only the first argument that differs. So the queue is declared again with what is there in that
/// one's place, until all differences are named.
async fn as_ours(connection: &Connection, name: &str, ours: FieldTable) -> Answer<()> {
    let mut arguments = ours.inner().clone();
    let mut differences = Vec::new();
    while differences.len() < MAX_DIFFERENCES {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let as_given = FieldTable::from(arguments.clone());
        match ask(connection, async move |channel| declare(&channel, name, durable, as_given).await).await {
            Answer::Yes(_) => break,
            Answer::Differs(text) => {
                let Some(difference) = Difference::read(&text) else {
                    differences.push(text);
                    break;
                };
                match &difference.current {
                    Some(value) => arguments.insert(difference.argument.as_str().into(), value.clone()),
                    None => arguments.remove(difference.argument.as_str()),
                };
                differences.push(difference.text);
            }
            other if differences.is_empty() => return other.map(drop),
            Answer::Missing(_) | Answer::Forbidden(_) | Answer::Unknown(_) => break,
        }
    }
    if differences.is_empty() { Answer::Yes(()) } else { Answer::Differs(differences.join("; ")) }
}

async fn may_bind(connection: &Connection, queues: &Queues) -> Answer<()> {
    let mut nobodys = FieldTable::default();
    nobodys.insert("volume-reaper-doctor".into(), AMQPValue::LongString(Uuid::new_v4().to_string().into()));
    ask(connection, async move |channel| {
        let (queue, exchange) = (queues.work(), queues.exchange.as_str());
        let key = queues.routing_key_for(false, queues.host.as_deref());
        channel.queue_unbind(queue.into(), exchange.into(), key.into(), nobodys).await
    })
    .await
}

async fn may_consume(connection: &Connection, queue: &str) -> Answer<()> {
    let mut refused = FieldTable::default();
    refused.insert("x-priority".into(), AMQPValue::LongString("not a number".into()));
    let answer = ask(connection, async move |channel| {
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), refused).await.map(drop)
    });
    match answer.await {
        // As it should be: the rights were looked at first.
        Answer::Differs(text) if text.contains("x-priority") => Answer::Yes(()),
        other @ (Answer::Yes(())
        | Answer::Missing(_)
        | Answer::Forbidden(_)
        | Answer::Differs(_)
        | Answer::Unknown(_)) => other,
    }
}

async fn may_publish(connection: &Connection, queues: &Queues, body: &[u8]) -> Answer<()> {
    ask(connection, async move |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let nowhere = format!("{}.doctor-{}", queues.prefix, Uuid::new_v4());
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = channel.basic_publish("".into(), nowhere.into(), mandatory, body, BasicProperties::default());
        sent.await?.await.map(drop)
    })
    .await
}
