//! Exchange and queues: declared at start, or only checked where the operator owns the broker's definitions.
//!
//! All queues are quorum queues. Expiry from a delay queue and rejection from the work queue are dead-lettering,
//! which is at-most-once unless a quorum queue asks for `at-least-once`, and that needs overflow `reject-publish`
//! (RabbitMQ, "Quorum queues, dead lettering"; from 3.10 on).

use std::{convert::Infallible, time::Duration};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use tracing::{debug, warn};

use super::{
    Declared, Queues,
    connection::{Link, NotDone, REQUEST_TIMEOUT, Refusal, bounded},
};
use crate::{
    failure::{Dependency, Failure},
    reconnect::jittered,
};

/// After so many returns by the broker a message goes to the dead-letter queue. Set explicitly, since the default
/// differs by version (none, then 20). What we hand back is published anew and does not count; each end of our
/// connection or our process does, for all that was unacknowledged.
pub(super) const DELIVERY_LIMIT: i64 = 20;
/// The limit that earlier versions declared. A queue that has it still works, and is taken as it is.
const EARLIER_DELIVERY_LIMIT: i64 = 1000;
/// Whoever looks at the dead-letter queue takes its messages and gives them back, and each time counts. There is
/// nowhere to go from there, so at the limit the broker drops the message. Without this argument the limit is 20 from
/// RabbitMQ 4.0 on ("Quorum queues, poison message handling"). There, -1 means none; to 3.10 it means that the first
/// return is one too many (measured on 3.10.8). A billion is none to both.
const LOOKS_LIMIT: i64 = 1_000_000_000;

/// Declares what is missing, or checks that nothing is.
pub(super) async fn ensure(link: &mut Link, queues: &Queues, name: &str) -> Result<(), Failure> {
    match queues.declared {
        Declared::ByUs => declare(link, queues, name).await,
        Declared::ByOthers => check(&link.channel, queues).await,
        Declared::AsCopies => declare_copies(&link.channel, queues).await,
    }
}

async fn declare(link: &mut Link, queues: &Queues, name: &str) -> Result<(), Failure> {
    declare_exchange(&link.channel, queues).await?;
    for definition in definitions(queues) {
        let queue = definition.name.clone();
        let Err(refused) = declare_queue(&link.channel, queues, definition).await else { continue };
        if !is_of_earlier_version(&refused) {
            return Err(explain(
                refused,
                &format!(
                    "choose other names (VOLUME_REAPER_QUEUE_PREFIX is {:?}), or use it as it is with \
                     VOLUME_REAPER_TOPOLOGY=check",
                    queues.prefix
                ),
            ));
        }
        warn!(
            queue,
            "the queue is there with the arguments of an earlier version, and is used as it is; `volume-reaper doctor` \
             says how to have it declared anew"
        );
        // A refusal closes the channel, and the library fails if one is opened in that moment.
        std::mem::replace(link, Link::connect(queues, name).await?).close().await;
    }
    bind(&link.channel, queues).await
}

async fn declare_exchange(channel: &Channel, queues: &Queues) -> Result<(), Failure> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let exchange = queues.exchange.as_str();
    let declare = channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default());
    let declared = bounded(&queues.url, REQUEST_TIMEOUT, &format!("declare exchange {exchange:?}"), declare).await;
    declared.map_err(|refused| {
        explain(refused, "name another in VOLUME_REAPER_EXCHANGE, or use it as it is with VOLUME_REAPER_TOPOLOGY=check")
    })
}

/// Looks at exchange and bindings again, time after time.
pub(super) async fn keep_bound(queues: &Queues) -> Infallible {
    loop {
        tokio::time::sleep(jittered(queues.look_again)).await;
        let exchange = &queues.exchange;
        match bind_again(queues).await {
            Ok(true) => warn!(exchange, "the exchange was gone: it is declared and bound again"),
            Ok(false) => debug!(exchange, "the exchange is there, and the queue bound to it"),
            Err(failure) => warn!(exchange, error = %failure, "exchange and bindings are not as they should be"),
        }
    }
}

/// Binds the work queue again: whoever deletes the exchange and makes it anew, or takes a binding away, does not tell
/// us, and AMQP can't list bindings. Returns whether the exchange was gone.
async fn bind_again(queues: &Queues) -> Result<bool, Failure> {
    // On a connection of its own: an error of one channel reaches the whole connection.
    let name = "volume-reaper bindings";
    let mut link = Link::connect(queues, name).await?;
    let there = check_exchange(&link.channel, queues).await;
    let was_gone = there.is_err();
    let bound = match queues.declared {
        // Copies can be bound by their own connection alone, which is gone sooner than anybody looks for its events.
        Declared::ByOthers | Declared::AsCopies => there,
        Declared::ByUs => {
            if was_gone {
                std::mem::replace(&mut link, Link::connect(queues, name).await?).close().await;
                declare_exchange(&link.channel, queues).await?;
            }
            bind(&link.channel, queues).await
        }
    };
    link.close().await;
    bound.map(|()| was_gone)
}

async fn bind(channel: &Channel, queues: &Queues) -> Result<(), Failure> {
    let exchange = queues.exchange.as_str();
    for routing_key in queues.bound_by() {
        let bind = channel.queue_bind(
            queues.work().into(),
            exchange.into(),
            routing_key.as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        let bound = bounded(&queues.url, REQUEST_TIMEOUT, &format!("bind queue {:?}", queues.work()), bind).await;
        // Both were there a moment ago: whoever deleted one since does not keep us from starting.
        bound.map_err(|NotDone { refusal, failure }| match refusal {
            Some(Refusal::NotThere) => Failure::unavailable(Dependency::Broker, failure.message),
            Some(Refusal::Differs) | None => failure,
        })?;
    }
    Ok(())
}

/// Queues that are this connection's alone and gone with it, for work, delays and what is parked. The exchange has to
/// be there already.
async fn declare_copies(channel: &Channel, queues: &Queues) -> Result<(), Failure> {
    check_exchange(channel, queues).await?;
    let work = queues.work();
    let delay = |delay: &Duration| {
        let ttl_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ttl_ms));
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(work.as_str().into()));
        (queues.retry(*delay), arguments)
    };
    // Of what is parked, nothing is kept.
    let mut nothing = FieldTable::default();
    nothing.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
    let others = [(queues.dead_letter(), nothing), (work.clone(), FieldTable::default())];
    for (name, arguments) in queues.retry_delays.iter().map(delay).chain(others) {
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(name.as_str().into(), exclusive, arguments);
        bounded(&queues.url, REQUEST_TIMEOUT, &format!("declare queue {name:?}"), declare).await?;
    }
    bind(channel, queues).await
}

/// A queue of ours.
pub(super) struct Definition {
    pub(super) name: String,
    pub(super) arguments: FieldTable,
}

/// All of our queues; the work queue last, so that nothing is delivered before the others are there.
pub(super) fn definitions(queues: &Queues) -> Vec<Definition> {
    let retries = queues.retry_delays.iter().map(|&delay| {
        let ttl_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let ttl = ("x-message-ttl", AMQPValue::LongLongInt(ttl_ms));
        let [key, strategy, overflow, exchange] = dead_lettering_to(&queues.work());
        define(queues.retry(delay), [ttl, key, strategy, overflow, exchange])
    });
    let limit = ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT));
    let [key, strategy, overflow, exchange] = dead_lettering_to(&queues.dead_letter());
    let work = define(queues.work(), [limit, key, strategy, overflow, exchange]);
    let looks = ("x-delivery-limit", AMQPValue::LongLongInt(LOOKS_LIMIT));
    // A policy's max-length would delete the oldest letters; so the newest are refused, and stay where they are.
    let overflow = ("x-overflow", AMQPValue::LongString("reject-publish".into()));
    std::iter::once(define(queues.dead_letter(), [looks, overflow])).chain(retries).chain([work]).collect()
}

type Argument = (&'static str, AMQPValue);

fn define<const N: usize>(name: String, extra: [Argument; N]) -> Definition {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (key, value) in extra {
        arguments.insert(key.into(), value);
    }
    Definition { name, arguments }
}

/// Through the default exchange, which routes to the queue of that name and can't be deleted.
fn dead_lettering_to(queue: &str) -> [Argument; 4] {
    let text = |text: &str| AMQPValue::LongString(text.into());
    [
        ("x-dead-letter-routing-key", text(queue)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-dead-letter-exchange", text("")),
    ]
}

async fn declare_queue(
    channel: &Channel,
    queues: &Queues,
    Definition { name, arguments }: Definition,
) -> Result<(), NotDone> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declare = channel.queue_declare(name.as_str().into(), durable, arguments);
    bounded(&queues.url, REQUEST_TIMEOUT, &format!("declare queue {name:?}"), declare).await.map(drop)
}

async fn check(channel: &Channel, queues: &Queues) -> Result<(), Failure> {
    check_exchange(channel, queues).await?;
    let retries = queues.retry_delays.iter().map(|&delay| queues.retry(delay));
    for name in retries.chain([queues.work(), queues.dead_letter()]) {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(name.as_str().into(), passive, FieldTable::default());
        let there = bounded(&queues.url, REQUEST_TIMEOUT, &format!("check queue {name:?}"), declare).await;
        there.map_err(|NotDone { refusal, failure }| match refusal {
            Some(Refusal::NotThere) => {
                let remedy = "start `volume-reaper serve`, which declares it, or correct VOLUME_REAPER_QUEUE_PREFIX";
                Failure { message: format!("{}: {remedy}", failure.message), ..failure }
            }
            Some(Refusal::Differs) | None => failure,
        })?;
    }
    Ok(())
}

async fn check_exchange(channel: &Channel, queues: &Queues) -> Result<(), Failure> {
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let exchange = queues.exchange.as_str();
    let declare = channel.exchange_declare(exchange.into(), ExchangeKind::Topic, passive, FieldTable::default());
    Ok(bounded(&queues.url, REQUEST_TIMEOUT, &format!("check exchange {exchange:?}"), declare).await?)
}

/// What differs from ours is refused by the broker with what differs; what to do about it is added here.
fn explain(NotDone { refusal, failure }: NotDone, otherwise: &str) -> Failure {
    match refusal {
        Some(Refusal::Differs) => Failure::permanent(format!(
            "{}. It is there with other arguments than ours: delete it once it is empty and start again, {otherwise}",
            failure.message
        )),
        Some(Refusal::NotThere) | None => failure,
    }
}

/// Whether a queue was refused only for what earlier versions declared differently: the work queue's delivery limit,
/// and the dead-letter queue's overflow.
fn is_of_earlier_version(NotDone { failure: refused, .. }: &NotDone) -> bool {
    let is_about = |argument: &str| refused.message.contains(&format!("inequivalent arg '{argument}'"));
    // Two numbers are compared without their types, since 3.10 at least.
    let is_now =
        |values: &[String]| values.iter().any(|value| refused.message.contains(&format!("but current is {value}")));
    let limit = EARLIER_DELIVERY_LIMIT;
    (is_about("x-delivery-limit") && is_now(&[format!("'{limit}'"), format!("the value '{limit}'")]))
        || (is_about("x-overflow") && is_now(&["none".to_owned()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_earlier_versions_are_told_from_others() {
        let is_earlier = |argument: &str, current: &str| {
            let text = format!(
                "inequivalent arg '{argument}' for queue 'q' in vhost '/': received x but current is {current}"
            );
            let failure = Failure::permanent(format!("broker at x: PRECONDITION_FAILED - {text}"));
            is_of_earlier_version(&NotDone { refusal: Some(Refusal::Differs), failure })
        };
        assert!(is_earlier("x-delivery-limit", "the value '1000' of type 'long'"));
        assert!(is_earlier("x-delivery-limit", "'1000'"));
        assert!(is_earlier("x-overflow", "none"));
        assert!(!is_earlier("x-delivery-limit", "the value '7' of type 'long'"));
        assert!(!is_earlier("x-delivery-limit", "none"));
        assert!(!is_earlier("x-overflow", "the value 'drop-head' of type 'longstr'"));
        assert!(!is_earlier("x-queue-type", "none"));
    }
}
