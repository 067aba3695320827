//! Policies and messages that stand still, asked of the broker's management API: AMQP does not show them. Only
//! `doctor` asks, and only where the setting says where that API is.

use std::{io, time::Duration};

use base64::{Engine, engine::general_purpose};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use url::Url;

use super::Queues;
use crate::config::SecretUrl;

/// For one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at a queue that may stand still. Longer than the five seconds after which a broker counts anew.
const APART: Duration = Duration::from_secs(6);
/// For both.
const LOOKS_TIMEOUT: Duration = Duration::from_secs(9);
/// The description of a queue has some kilobytes.
const MOST_ANSWER_BYTES: u64 = 1024 * 1024;

/// What a policy does to one of our queues that it should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harm {
    /// The queue.
    pub queue: String,
    /// The policy, and the operator policy.
    pub policy: String,
    /// What it sets, such as `max-length = 10`.
    pub sets: String,
}

/// A delay queue with messages that are neither ready nor unacknowledged, and stay so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingStill {
    /// The queue.
    pub queue: String,
    /// How many of its messages, at least.
    pub messages: u64,
}

/// The delay queues in which messages stand still; none if that can't be asked. Takes seconds only if there seem to be
/// some: what is on its way back to the work queue at this moment looks the same.
pub(super) async fn standing_still(queues: &Queues) -> Option<Vec<StandingStill>> {
    let api = &Url::parse(queues.management.as_ref()?.expose()).ok()?;
    let look = async {
        let mut standing = Vec::new();
        for &delay in &queues.retry_delays {
            let queue = queues.retry(delay);
            standing.push(StandingStill { messages: in_between(&ask(queues, api, &queue).await?), queue });
        }
        standing.retain(|it| it.messages > 0);
        if !standing.is_empty() {
            tokio::time::sleep(APART).await;
        }
        for StandingStill { queue, messages } in &mut standing {
            *messages = in_between(&ask(queues, api, queue).await?).min(*messages);
        }
        standing.retain(|it| it.messages > 0);
        io::Result::Ok(standing)
    };
    timeout(LOOKS_TIMEOUT, look).await.ok()?.ok()
}

/// Messages of a queue that are neither ready nor unacknowledged.
fn in_between(facts: &Value) -> u64 {
    let count = |key: &str| facts[key].as_u64().unwrap_or_default();
    count("messages").saturating_sub(count("messages_ready")).saturating_sub(count("messages_unacknowledged"))
}

/// Asks for the policies of all our queues. The error is for people.
pub(super) async fn harms(queues: &Queues, api: &SecretUrl) -> Result<Vec<Harm>, String> {
    let api = &Url::parse(api.expose()).map_err(|error| error.to_string())?;
    let delays = queues.retry_delays.iter().map(|&delay| (queues.retry(delay), true));
    let mut harms = Vec::new();
    for (queue, is_delay) in delays.chain([(queues.work(), false), (queues.dead_letter(), false)]) {
        let asked = timeout(ANSWER_TIMEOUT, ask(queues, api, &queue)).await;
        let answer =
            asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| error.to_string())?;
        harms.extend(harms_of(&queue, is_delay, &answer));
    }
    Ok(harms)
}

/// What the policies of a queue do that loses messages. A time to live belongs to delay queues, and only there.
pub(super) fn harms_of(queue: &str, is_delay: bool, facts: &Value) -> Vec<Harm> {
    let name = |key: &str| facts[key].as_str().filter(|name| !name.is_empty());
    let policy: Vec<_> = ["policy", "operator_policy"].into_iter().filter_map(name).collect();
    let Some(definition) = facts["effective_policy_definition"].as_object() else { return Vec::new() };
    let is_harm = |key: &str, value: &Value| match key {
        "max-length" | "max-length-bytes" | "expires" => true,
        "message-ttl" => !is_delay,
        "overflow" => value != "reject-publish",
        _ => false,
    };
    let harms = definition.iter().filter(|(key, value)| is_harm(key, value));
    harms
        .map(|(key, value)| Harm {
            queue: queue.to_owned(),
            policy: policy.join(" and "),
            sets: format!("{key} = {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        })
        .collect()
}

/// `GET /api/queues/VHOST/QUEUE`, with the broker's own user unless the URL has one.
async fn ask(queues: &Queues, api: &Url, queue: &str) -> io::Result<Value> {
    let broker = Url::parse(queues.url.expose()).map_err(|error| invalid(&error.to_string()))?;
    let user = if api.username().is_empty() { &broker } else { api };
    let decoded = |text: &str| percent_decoded(text);
    let credentials = format!(
        "{}:{}",
        decoded(if user.username().is_empty() { "guest" } else { user.username() }),
        decoded(user.password().unwrap_or("guest"))
    );
    let vhost = broker.path().strip_prefix('/').filter(|vhost| !vhost.is_empty()).unwrap_or("%2f");
    let mut path = api.clone();
    path.path_segments_mut().map_err(|()| invalid("not a URL with a path"))?.pop_if_empty().extend(["api", "queues"]);
    let queue: String = url::form_urlencoded::byte_serialize(queue.as_bytes()).collect();
    let request = format!(
        "GET {}/{vhost}/{queue} HTTP/1.0\r\nHost: {}\r\nAuthorization: Basic {}\r\nAccept: application/json\r\n\r\n",
        path.path(),
        api.host_str().unwrap_or_default(),
        general_purpose::STANDARD.encode(credentials)
    );
    let address = (api.host_str().unwrap_or("localhost"), api.port_or_known_default().unwrap_or(15672));
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // HTTP/1.0: the answer ends with the connection, and comes in one piece.
    stream.take(MOST_ANSWER_BYTES).read_to_end(&mut answer).await?;
    answered(&String::from_utf8_lossy(&answer))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// What an answer of the management API says of a queue: null if there is none.
pub(super) fn answered(text: &str) -> io::Result<Value> {
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| invalid("it does not speak HTTP"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => serde_json::from_str(body).map_err(|_| invalid("its answer is not JSON")),
        // A queue that is not there is reported elsewhere, and has no policy.
        "404" => Ok(Value::Null),
        "401" | "403" => Err(invalid("this user may not ask it: give it the tag monitoring")),
        _ => Err(invalid(&format!("it answers with status {status:.3}"))),
    }
}

fn percent_decoded(text: &str) -> String {
    let pairs = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pairs.as_bytes()).next().map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_that_loses_messages_is_a_harm_and_ours_are_none() {
        let found = |is_delay: bool, definition: Value| {
            let facts = json!({ "policy": "p", "operator_policy": "o", "effective_policy_definition": definition });
            harms_of("q", is_delay, &facts).into_iter().map(|harm| harm.sets).collect::<Vec<_>>()
        };
        assert_eq!(found(false, json!({ "max-length": 10 })), ["max-length = 10"]);
        assert_eq!(found(false, json!({ "message-ttl": 1, "overflow": "drop-head" })).len(), 2);
        assert_eq!(found(true, json!({ "message-ttl": 1, "overflow": "reject-publish" })), [""; 0]);
        assert_eq!(found(false, json!({ "delivery-limit": 20, "dead-letter-exchange": "" })), [""; 0]);
        assert_eq!(harms_of("q", false, &json!({ "policy": null })), []);
        assert_eq!(harms_of("q", false, &json!({ "policy": null, "effective_policy_definition": [] })), []);
    }

    #[test]
    fn what_is_neither_ready_nor_unacknowledged_is_in_between() {
        fn queue(messages: u64, ready: u64, unacknowledged: u64) -> Value {
            json!({ "messages": messages, "messages_ready": ready, "messages_unacknowledged": unacknowledged })
        }
        assert_eq!(in_between(&queue(7, 3, 1)), 3);
        // Numbers of different moments.
        assert_eq!(in_between(&queue(3, 3, 1)), 0);
        // A queue that is not there, or of which nothing was counted yet.
        assert_eq!([Value::Null, json!({ "messages_ready": 1 })].map(|facts| in_between(&facts)), [0, 0]);
    }

    #[test]
    fn user_and_password_are_decoded() {
        assert_eq!(percent_decoded("a%2Fb+c%40"), "a/b+c@");
    }
}
