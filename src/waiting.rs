//! Threads whose volume a container holds: who waits for which container, so that the end of the container is the
//! beginning of their clean-up, and not the next sweep.
//!
//! This is memory only, and may forget: whatever is missed here, the next sweep finds.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    coordinator::{Coordinator, Origin, Threads, Volumes},
    failure::{Dependency, Failure, Verdict},
    health::Health,
    metrics,
    reconnect::Delays,
    volume_name::ThreadId,
};

/// Threads that may wait, some hundred bytes each. Those above wait for the sweep.
const MAX_WAITING: usize = 100_000;
/// Containers that are remembered after their end: more than end between an answer that names one and its entry here.
const MAX_GONE: usize = 1_000;
/// A stream of events that was silent for so long without an error is taken to be open.
const OPEN_AFTER: Duration = Duration::from_secs(1);

/// What ended at a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// A container was removed; its id.
    Container(String),
    /// A volume was unmounted, which a container that is only stopped still holds; its name.
    Volume(String),
}

/// Docker's events, as far as they free volumes.
pub trait Releases {
    /// Everything that ends from now on. Ends itself only with a failure.
    fn releases(&self) -> impl Stream<Item = Result<Release, Failure>> + Send;
}

/// The threads that wait.
#[derive(Debug, Default)]
pub struct Waiting {
    state: Mutex<State>,
    is_ready: Notify,
    sweep_is_due: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The containers that hold a thread's volume, as far as they are known.
    holders: HashMap<ThreadId, Vec<String>>,
    /// The latest containers that ended.
    gone: VecDeque<String>,
    /// Threads whose volume may be free now.
    ready: Vec<ThreadId>,
}

impl Waiting {
    /// The thread's volume is held by these containers.
    pub fn hold(&self, thread: &ThreadId, holders: &[String]) {
        let mut state = self.state();
        // The container may have ended between the daemon's answer and now. Once: if it is named again, the daemon has
        // not let go of it, and asking again and again would not help.
        if let Some(index) = state.gone.iter().position(|gone| holders.contains(gone)) {
            state.gone.remove(index);
            state.ready.push(thread.clone());
            self.is_ready.notify_one();
        } else if state.holders.len() < MAX_WAITING {
            state.holders.insert(thread.clone(), holders.to_vec());
        }
    }

    /// The container ended: whoever waited for it is ready.
    fn container_gone(&self, container: String) {
        let mut state = self.state();
        let State { holders, ready, gone } = &mut *state;
        let freed = holders.extract_if(|_, holders| holders.contains(&container)).map(|(thread, _)| thread);
        ready.extend(freed);
        if gone.len() == MAX_GONE {
            gone.pop_front();
        }
        gone.push_back(container);
        self.is_ready.notify_one();
    }

    /// The thread's volume was unmounted: if it waits, it is ready.
    fn unmounted(&self, thread: ThreadId) {
        let mut state = self.state();
        if state.holders.remove(&thread).is_some() {
            state.ready.push(thread);
            self.is_ready.notify_one();
        }
    }

    /// Nobody waits any more, since events may have been missed: a sweep is to look.
    fn forget(&self) {
        *self.state() = State::default();
        self.sweep_soon();
    }

    /// There is something that only a sweep takes care of.
    pub fn sweep_soon(&self) {
        self.sweep_is_due.notify_one();
    }

    /// Waits until there is something that only a sweep takes care of.
    pub async fn sweep_is_due(&self) {
        self.sweep_is_due.notified().await;
    }

    async fn ready(&self) -> Vec<ThreadId> {
        loop {
            let ready = std::mem::take(&mut self.state().ready);
            if !ready.is_empty() {
                return ready;
            }
            self.is_ready.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cleans up after the threads that become ready, until `stop` is cancelled; then finishes what it began.
pub async fn clean_ready<V: Volumes, T: Threads>(
    coordinator: &Arc<Coordinator<V, T>>,
    health: &Health,
    stop: &CancellationToken,
) {
    let clean = async |thread: ThreadId| {
        let Err(failure) = coordinator.clean(&thread, Origin::Docker).await else { return };
        if let Verdict::Unavailable(dependency) = failure.verdict {
            health.down(dependency, &failure.message);
        }
        warn!(thread.id = %thread, error = %failure, "can't clean up now; left to the sweep");
    };
    let mut cleaning = FuturesUnordered::new();
    loop {
        tokio::select! {
            ready = coordinator.waiting.ready() => cleaning.extend(ready.into_iter().map(clean)),
            Some(()) = cleaning.next() => {}
            () = stop.cancelled() => break,
        }
    }
    while cleaning.next().await.is_some() {}
}

/// Follows Docker's events until `stop` is cancelled. A stream that breaks is opened again, and then a sweep looks for
/// what was missed.
pub async fn follow<V: Volumes + Releases, T: Threads>(
    coordinator: &Coordinator<V, T>,
    health: &Health,
    stop: &CancellationToken,
) {
    let mut delays = Delays::new();
    let mut was_open = false;
    metrics::docker_events_connected(&coordinator.host, false);
    while !stop.is_cancelled() {
        tokio::select! {
            () = health.until_up(&[Dependency::Docker]) => {}
            () = stop.cancelled() => return,
        }
        let followed = follow_stream(coordinator, &mut was_open, &mut delays);
        tokio::select! {
            result = followed => debug!(error = ?result, "the stream of Docker's events broke"),
            // A daemon that hangs breaks no stream.
            () = health.until_down(&[Dependency::Docker]) => {}
            () = stop.cancelled() => return,
        }
        metrics::docker_events_connected(&coordinator.host, false);
        tokio::time::sleep(delays.next_delay()).await;
    }
}

async fn follow_stream<V: Volumes + Releases, T: Threads>(
    coordinator: &Coordinator<V, T>,
    was_open: &mut bool,
    delays: &mut Delays,
) -> Option<Failure> {
    let waiting = &coordinator.waiting;
    let mut releases = std::pin::pin!(coordinator.volumes.releases());
    // Not to be taken for the end: the stream says nothing until something happens.
    let mut first = match timeout(OPEN_AFTER, releases.next()).await {
        Ok(Some(Err(failure))) => return Some(failure),
        Ok(None) => return None,
        Ok(first @ Some(Ok(_))) => first,
        Err(_) => None,
    };
    delays.reset();
    metrics::docker_events_connected(&coordinator.host, true);
    if std::mem::replace(was_open, true) {
        waiting.forget();
    }
    loop {
        let release = match first.take() {
            Some(release) => release,
            None => releases.next().await?,
        };
        match release {
            Ok(Release::Container(id)) => waiting.container_gone(id),
            Ok(Release::Volume(volume)) => {
                if let Some(thread) = coordinator.prefix.thread_of(&volume) {
                    waiting.unmounted(thread);
                }
            }
            Err(failure) => return Some(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(id: &str) -> ThreadId {
        ThreadId::parse(id).expect("valid")
    }

    fn held(waiting: &Waiting, id: &str, container: &str) {
        waiting.hold(&thread(id), &[container.to_owned()]);
    }

    #[tokio::test]
    async fn the_end_of_a_container_makes_those_ready_that_it_held() {
        let waiting = Waiting::default();
        held(&waiting, "t1", "a");
        held(&waiting, "t2", "b");
        waiting.container_gone("a".to_owned());
        assert_eq!(waiting.ready().await, [thread("t1")]);
        waiting.container_gone("b".to_owned());
        assert_eq!(waiting.ready().await, [thread("t2")]);
        assert!(waiting.state().holders.is_empty());
    }

    #[tokio::test]
    async fn an_end_that_overtakes_the_answer_is_made_up_for_once() {
        let waiting = Waiting::default();
        waiting.container_gone("a".to_owned());
        held(&waiting, "t1", "a");
        assert_eq!(waiting.ready().await, [thread("t1")]);
        // The daemon names it again: now it waits.
        held(&waiting, "t1", "a");
        let state = waiting.state();
        assert!(state.ready.is_empty() && state.holders.len() == 1);
    }

    #[tokio::test]
    async fn an_unmounted_volume_concerns_only_who_waits_for_it() {
        let waiting = Waiting::default();
        waiting.unmounted(thread("live"));
        held(&waiting, "t1", "a");
        waiting.unmounted(thread("t1"));
        assert_eq!(waiting.ready().await, [thread("t1")]);
    }

    #[test]
    fn memory_is_bounded() {
        let waiting = Waiting::default();
        for number in 0..MAX_WAITING + 10 {
            held(&waiting, &format!("t{number}"), "a");
        }
        assert_eq!(waiting.state().holders.len(), MAX_WAITING);
        // Of its own: each end looks through all that wait, which takes long in a test.
        let waiting = Waiting::default();
        for number in 0..MAX_GONE + 10 {
            waiting.container_gone(format!("c{number}"));
        }
        assert_eq!(waiting.state().gone.len(), MAX_GONE);
    }
}
