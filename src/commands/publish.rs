//! `publish`: thread events by hand, or a list of them from another program.

use std::{io::IsTerminal, process::ExitCode};

use chrono::Utc;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::output::say;
use crate::{
    config::Config,
    delivery::event::ThreadEvent,
    failure::Failure,
    progress,
    queue::{Publisher, Queues},
    volume_name::ThreadId,
};

/// Events that may wait for the broker's confirmation at once.
const UNCONFIRMED: usize = 256;

pub(super) async fn run(config: &Config, thread_ids: Vec<String>, reopened: bool) -> Result<ExitCode, Failure> {
    let ids = if thread_ids.is_empty() {
        if std::io::stdin().is_terminal() {
            progress::quiet();
        }
        let lines = std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::permanent(format!("standard input: {error}")))?;
        lines.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    } else {
        thread_ids
    };
    // All are checked before the first is published.
    let threads = ids.iter().enumerate().map(|(index, id)| {
        ThreadId::parse(id).map_err(|error| Failure::permanent(format!("thread id {} ({id:?}): {error}", index + 1)))
    });
    let threads = threads.collect::<Result<Vec<_>, _>>()?;

    let now = Some(Utc::now());
    let (closed_at, reopened_at) = if reopened { (None, now) } else { (now, None) };
    let publisher = Publisher::new(Queues::as_they_are(config));
    let total = threads.len() as u64;
    let count = stream::iter(threads)
        .map(async |thread_id| {
            let host = config.host.clone();
            publisher
                .publish_event(&ThreadEvent {
                    thread_id,
                    closed_at,
                    reopened_at,
                    unreadable: None,
                    host,
                    volumes: Vec::new(),
                })
                .await
        })
        .buffer_unordered(UNCONFIRMED)
        .try_fold(0_u64, async |count, ()| {
            progress::at(count + 1, total);
            Ok(count + 1)
        })
        .await;
    publisher.close().await;
    let count = count?;
    say(format!("published {count} event{}", if count == 1 { "" } else { "s" }))?;
    Ok(ExitCode::SUCCESS)
}
