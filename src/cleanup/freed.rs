//! Clean-ups of volumes that Docker's events say are free.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Cleaner, Database, Freed, FreedVolumes, Origin, Volumes};
use crate::{
    failure::{Dependency, Failure, Verdict},
    health::Health,
    metrics,
    reconnect::Delays,
    volume_name::ThreadId,
};

/// A stream of events that was silent for so long without an error is taken to be open.
const OPEN_AFTER: Duration = Duration::from_secs(1);

/// Cleans up after the threads whose volumes become free, until `stop` is cancelled; then finishes what it began.
pub async fn clean_freed<V: Volumes, T: Database>(
    cleaner: &Arc<Cleaner<V, T>>,
    health: &Health,
    stop: &CancellationToken,
) {
    let clean = async |thread: ThreadId| {
        let Err(failure) = cleaner.clean(&thread, Origin::Docker).await else { return };
        if let Verdict::Unavailable(dependency) = failure.verdict {
            health.down(dependency, &failure.message);
        }
        warn!(thread.id = %thread, error = %failure, "can't clean up now; left to the sweep");
    };
    let mut cleaning = FuturesUnordered::new();
    loop {
        tokio::select! {
            freed = cleaner.users.freed() => cleaning.extend(freed.into_iter().map(clean)),
            Some(()) = cleaning.next() => {}
            () = stop.cancelled() => break,
        }
    }
    while cleaning.next().await.is_some() {}
}

/// Follows Docker's events until `stop` is cancelled. A stream that breaks is opened again, and then a sweep looks for
/// what was missed.
pub async fn follow<V: Volumes + FreedVolumes, T: Database>(
    cleaner: &Cleaner<V, T>,
    health: &Health,
    stop: &CancellationToken,
) {
    let mut delays = Delays::new();
    let mut was_open = false;
    metrics::docker_events_connected(cleaner.host.name(), false);
    while !stop.is_cancelled() {
        tokio::select! {
            () = health.until_up(&[Dependency::Docker]) => {}
            () = stop.cancelled() => return,
        }
        let followed = follow_stream(cleaner, &mut was_open, &mut delays);
        tokio::select! {
            result = followed => debug!(error = ?result, "the stream of Docker's events broke"),
            // A daemon that hangs breaks no stream.
            () = health.until_down(&[Dependency::Docker]) => {}
            () = stop.cancelled() => return,
        }
        metrics::docker_events_connected(cleaner.host.name(), false);
        tokio::time::sleep(delays.next_delay()).await;
    }
}

async fn follow_stream<V: Volumes + FreedVolumes, T: Database>(
    cleaner: &Cleaner<V, T>,
    was_open: &mut bool,
    delays: &mut Delays,
) -> Option<Failure> {
    let users = &cleaner.users;
    let mut events = std::pin::pin!(cleaner.volumes.freed());
    // Not to be taken for the end: the stream says nothing until something happens.
    let mut first = match timeout(OPEN_AFTER, events.next()).await {
        Ok(Some(Err(failure))) => return Some(failure),
        Ok(None) => return None,
        Ok(first @ Some(Ok(_))) => first,
        Err(_) => None,
    };
    delays.reset();
    metrics::docker_events_connected(cleaner.host.name(), true);
    if std::mem::replace(was_open, true) {
        users.forget();
    }
    loop {
        let event = match first.take() {
            Some(event) => event,
            None => events.next().await?,
        };
        match event {
            Ok(Freed::Container(id)) => users.container_gone(id),
            Ok(Freed::Volume(volume)) => users.unmounted(&volume),
            Err(failure) => return Some(failure),
        }
    }
}
