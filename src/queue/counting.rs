//! Counting what is in our queues, for `status`. Changes nothing on the broker.

use std::{str::FromStr, time::Duration};

use futures_util::future::join_all;
use lapin::uri::AMQPUri;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Queues,
    broker_answers::{Answer, LoginRefused},
    broker_facts::{log_in, look_at},
    connection,
};
use crate::failure::{Dependency, Failure};

/// For all queues together, which are asked for at once.
const COUNT_TIMEOUT: Duration = Duration::from_secs(6);
/// For a goodbye at which nothing can be lost.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is in one of our queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct QueueCount {
    /// Its name.
    pub name: String,
    /// Messages that are ready for a consumer; those that one has already do not count.
    pub messages: Option<u32>,
    /// Consumers.
    pub consumers: Option<u32>,
    /// Why neither is known.
    pub error: Option<String>,
}

/// Counts messages and consumers: work queue, delay queues, dead letters. Takes some twelve seconds at most.
pub async fn count(queues: &Queues) -> Result<Vec<QueueCount>, Failure> {
    let down = |what: String| Failure::unavailable(Dependency::Broker, format!("broker at {}: {what}", queues.url));
    let uri = AMQPUri::from_str(queues.url.expose()).map_err(down)?;
    let tls = connection::tls_connector(queues, &uri)?;
    let connection = log_in(uri, tls, "volume-reaper status").await.map_err(|refused| match refused {
        LoginRefused::Credentials(text) | LoginRefused::VirtualHost(text) | LoginRefused::Other(text) => down(text),
    })?;
    let delays = queues.retry_delays.iter().map(|&delay| queues.retry(delay));
    let names = std::iter::once(queues.work()).chain(delays).chain([queues.dead_letter()]);
    let counts = join_all(names.map(async |name| {
        let channel = connection.create_channel().await;
        let answer = match &channel {
            Ok(channel) => look_at(channel, &name).await,
            Err(error) => Answer::Unknown(error.to_string()),
        };
        // The channel is left to the end of its connection: the library logs an error when one that has just closed is
        // closed once more with it.
        (queue_count(name, answer), channel)
    }));
    let counts = tokio::time::timeout(COUNT_TIMEOUT, counts).await;
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())).await;
    let counts = counts.map_err(|_| down(format!("no answer within {}", humantime::format_duration(COUNT_TIMEOUT))))?;
    Ok(counts.into_iter().map(|(count, _channel)| count).collect())
}

fn queue_count(name: String, answer: Answer<super::Counts>) -> QueueCount {
    match answer {
        Answer::Yes(counts) => {
            QueueCount { name, messages: Some(counts.messages), consumers: Some(counts.consumers), error: None }
        }
        Answer::Missing(text) | Answer::Forbidden(text) | Answer::Differs(text) | Answer::Unknown(text) => {
            QueueCount { name, messages: None, consumers: None, error: Some(text) }
        }
    }
}
