//! How a connection to the broker was lost.

use futures_util::{Stream, StreamExt};
use lapin::Event;
use tracing::{info, warn};

use super::connection::{failure, is_unreadable};
use crate::{config::SecretUrl, failure::Failure};

/// How a connection was lost.
pub(super) struct Lost {
    pub(super) failure: Failure,
    /// Over a message that the library can't read, which would come again at once.
    pub(super) is_unreadable: bool,
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self { failure, is_unreadable: false }
    }
}

impl Lost {
    /// By what the library says.
    pub(super) fn of(url: &SecretUrl, what: &str, error: &lapin::Error) -> Self {
        Self { failure: failure(url, what, error), is_unreadable: is_unreadable(error) }
    }
}

/// Returns when the connection is lost. Logs what else the broker says of it.
pub(super) async fn connection_lost(url: &SecretUrl, events: &mut (impl Stream<Item = Event> + Unpin)) -> Lost {
    loop {
        match events.next().await {
            Some(Event::Error(error)) => return Lost::of(url, "connection", &error),
            Some(Event::ConnectionBlocked(reason)) => warn!(reason, "the broker blocks publishing"),
            Some(Event::ConnectionUnblocked) => info!("the broker takes messages again"),
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}
