//! What the facts about the messages on the broker mean: how many, how large, and what policies do to them.

use super::findings::Check;
use crate::queue::{Answer, Contents, Queues};

/// From so many waiting messages on the work queue is worth a look: hours of work for one daemon with large volumes.
const LARGE_BACKLOG: u32 = 100_000;

/// A policy can empty a queue of ours: it deletes the oldest, or what has waited for long.
pub(super) fn policies(contents: &Contents) -> Check {
    let name = "broker.policies";
    match &contents.policies {
        None => Check::ok(
            name,
            "not seen, since AMQP does not show policies; `rabbitmqctl list_queues name effective_policy_definition` \
             does, and so do we where VOLUME_REAPER_MANAGEMENT_URL says where the management API is",
        ),
        Some(Err(error)) => Check::warn(
            name,
            format!("policies could not be asked for: {error}"),
            "correct VOLUME_REAPER_MANAGEMENT_URL, and give its user the tag monitoring",
        ),
        Some(Ok(harms)) if harms.is_empty() => Check::ok(name, "none that loses messages is on our queues"),
        Some(Ok(harms)) => {
            let named: Vec<_> = harms
                .iter()
                .map(|harm| format!("policy {} sets {} on {}", harm.policy, harm.sets, harm.queue))
                .collect();
            Check::fail(
                name,
                format!("messages can be lost: {}", named.join("; ")),
                "take our queues out of its pattern, or give them a policy of a higher priority without it: \
                 rabbitmqctl list_policies, list_operator_policies",
            )
        }
    }
}

/// In a cluster before 4.2, what a delay queue hands on can wait for ever for an answer that was lost on its way.
pub(super) fn standing_still(contents: &Contents) -> Option<Check> {
    let name = "broker.delays";
    let standing = contents.standing_still.as_ref()?;
    if standing.is_empty() {
        return Some(Check::ok(name, "no message stands still in a delay queue"));
    }
    let named: Vec<_> = standing.iter().map(|it| format!("{} in {:?}", it.messages, it.queue)).collect();
    Some(Check::warn(
        name,
        format!(
            "messages stand still, neither ready nor unacknowledged: {}; sweeps do meanwhile what they were about",
            named.join(", ")
        ),
        "if it stays so, restart the broker's nodes, one after the other; RabbitMQ 4.2 and later do not stop so when a \
         cluster is parted",
    ))
}

/// What a publisher sends is in our memory as a whole, once for each delivery that is not acknowledged.
pub(super) fn message_size(contents: &Contents) -> Check {
    let name = "broker.message-size";
    match &contents.takes_large {
        Answer::Differs(_) => Check::ok(name, "a message of 2 MiB is refused, so that none can fill our memory"),
        Answer::Yes(()) => Check::warn(
            name,
            "the broker takes messages of more than 2 MiB (its own limit is 128 MiB, from 4.0 on 16 MiB); an event has \
             64 KiB at most, and a few large ones fill our memory",
            "set max_message_size = 1048576 in rabbitmq.conf",
        ),
        Answer::Forbidden(error) | Answer::Missing(error) | Answer::Unknown(error) => Check::warn(
            name,
            format!("whether the broker limits a message's size could not be found out: {error}"),
            "set max_message_size = 1048576 in rabbitmq.conf",
        ),
    }
}

pub(super) fn backlog(queues: &Queues, contents: &Contents) -> Option<Check> {
    let (name, work) = ("broker.backlog", queues.work());
    let facts = contents.queues.iter().find(|queue| queue.name == work)?;
    let Answer::Yes(counts) = &facts.there else { return None };
    let why = format!("{} messages wait in {work:?}, {} consumers", counts.messages, counts.consumers);
    Some(if counts.consumers == 0 && counts.messages > 0 {
        Check::warn(
            name,
            why,
            "start `volume-reaper serve`; if it runs, look at its /readyz: it takes nothing while something is down",
        )
    } else if counts.messages >= LARGE_BACKLOG {
        Check::warn(
            name,
            why,
            "look at the daemon's load and at volume_reaper_cleanups_total; more VOLUME_REAPER_CONCURRENCY helps \
             little",
        )
    } else {
        Check::ok(name, why)
    })
}

pub(super) fn dead_letters(queues: &Queues, contents: &Contents) -> Option<Check> {
    let name = queues.dead_letter();
    let facts = contents.queues.iter().find(|queue| queue.name == name)?;
    let Answer::Yes(counts) = &facts.there else { return None };
    Some(if counts.messages == 0 {
        Check::ok("broker.dead-letters", format!("none in {name:?}"))
    } else {
        Check::warn(
            "broker.dead-letters",
            format!("{} in {name:?}", counts.messages),
            "see why with `volume-reaper dead-letters list`, fix the cause, and replay or purge them",
        )
    })
}
