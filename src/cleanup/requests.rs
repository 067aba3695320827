//! What waits for a host: requests for clean-ups, in the order in which they came, until a batch takes them.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use tracing::Span;

use super::{Origin, Outcome};
use crate::{failure::Failure, volume_name::ThreadId};

/// One clean-up that somebody waits for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) thread: ThreadId,
    /// The host that the event says the volume is on.
    pub(super) claimed_host: Option<String>,
    pub(super) origin: Origin,
    pub(super) asked_at: Instant,
    /// Where what is logged of it belongs.
    pub(super) span: Span,
    /// None if somebody else answers.
    answer: Option<oneshot::Sender<Result<Outcome, Failure>>>,
}

pub(super) type Answer = oneshot::Receiver<Result<Outcome, Failure>>;

impl Request {
    pub(super) fn new(thread: ThreadId, claimed_host: Option<String>, origin: Origin) -> (Self, Answer) {
        let (answer, receiver) = oneshot::channel();
        let (asked_at, span) = (Instant::now(), Span::current());
        (Self { thread, claimed_host, origin, asked_at, span, answer: Some(answer) }, receiver)
    }

    /// Answers who waits, if anybody still does.
    pub(super) fn answer(self, result: Result<Outcome, Failure>) {
        if let Some(answer) = self.answer {
            let _ = answer.send(result);
        }
    }

    /// Hands the right to answer over.
    pub(super) fn hand_over(&mut self) -> Self {
        Self {
            thread: self.thread.clone(),
            claimed_host: None,
            origin: self.origin.clone(),
            asked_at: self.asked_at,
            span: self.span.clone(),
            answer: self.answer.take(),
        }
    }
}

/// The requests of one host.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Request>,
    /// Threads of the batches that are under way: who asks for one of them again waits for its end.
    under_way: HashSet<ThreadId>,
    /// Batch runners that are running.
    runners: usize,
}

impl Requests {
    /// Adds a request. Whether one more runner is to be started for it, of which there are `most`.
    pub(super) fn push(&self, request: Request, most: usize) -> bool {
        let mut state = self.0.lock();
        state.waiting.push_back(request);
        let is_wanted = state.runners < most;
        state.runners += usize::from(is_wanted);
        is_wanted
    }

    /// Since when the first of them waits. `None` if there is nothing to do: then the runner that asks has ended.
    pub(super) fn first_or_end(&self) -> Option<Instant> {
        let mut state = self.0.lock();
        let first = state.waiting.iter().find(|request| !state.under_way.contains(&request.thread));
        let asked_at = first.map(|request| request.asked_at);
        if asked_at.is_none() {
            state.runners -= 1;
        }
        asked_at
    }

    /// Takes up to `most` requests, each of another thread, none of which is under way.
    pub(super) fn take(&self, most: usize) -> Vec<Request> {
        let mut state = self.0.lock();
        let State { waiting, under_way, .. } = &mut *state;
        let mut taken = Vec::new();
        let mut kept = VecDeque::new();
        while let Some(request) = waiting.pop_front() {
            if taken.len() == most {
                kept.push_back(request);
                break;
            }
            if under_way.insert(request.thread.clone()) { taken.push(request) } else { kept.push_back(request) }
        }
        kept.append(waiting);
        *waiting = kept;
        taken
    }

    /// Takes those that have waited since before `then`.
    pub(super) fn take_older_than(&self, then: Instant) -> Vec<Request> {
        let mut state = self.0.lock();
        let (old, young) = std::mem::take(&mut state.waiting).into_iter().partition(|it| it.asked_at <= then);
        state.waiting = young;
        Vec::from(old)
    }

    /// Puts requests back to where they came from: first in line, once their batch has ended.
    pub(super) fn put_back(&self, requests: Vec<Request>) {
        let mut state = self.0.lock();
        for request in requests.into_iter().rev() {
            state.waiting.push_front(request);
        }
    }

    /// These threads are no longer under way.
    pub(super) fn end<'a>(&self, threads: impl Iterator<Item = &'a ThreadId>) {
        let mut state = self.0.lock();
        for thread in threads {
            state.under_way.remove(thread);
        }
    }

    /// A runner ended otherwise than by [`Requests::first_or_end`]. Whether another one is to be started in its place.
    pub(super) fn runner_failed(&self) -> bool {
        let mut state = self.0.lock();
        let is_wanted = !state.waiting.is_empty();
        state.runners -= usize::from(!is_wanted);
        is_wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> Request {
        Request::new(ThreadId::parse(id).expect("valid"), None, Origin::Sweep).0
    }

    fn ids(requests: &[Request]) -> Vec<&str> {
        requests.iter().map(|request| request.thread.as_str()).collect()
    }

    #[test]
    fn a_thread_is_in_one_batch_at_a_time_and_others_go_before_it_meanwhile() {
        let requests = Requests::default();
        for id in ["a", "b", "a", "c"] {
            requests.push(request(id), 1);
        }
        let first = requests.take(2);
        assert_eq!(ids(&first), ["a", "b"]);
        assert_eq!(ids(&requests.take(8)), ["c"]);
        requests.end(first.iter().map(|request| &request.thread));
        assert_eq!(ids(&requests.take(8)), ["a"]);
    }

    #[test]
    fn what_is_put_back_is_first_in_line_again() {
        let requests = Requests::default();
        for id in ["a", "b", "c"] {
            requests.push(request(id), 1);
        }
        let taken = requests.take(2);
        let threads: Vec<_> = taken.iter().map(|request| request.thread.clone()).collect();
        requests.put_back(taken);
        assert_eq!(ids(&requests.take(8)), ["c"]);
        requests.end(threads.iter());
        assert_eq!(ids(&requests.take(8)), ["a", "b"]);
    }

    #[test]
    fn runners_are_started_up_to_the_most_and_end_when_nothing_waits() {
        let requests = Requests::default();
        let started: Vec<_> = ["a", "b", "c"].into_iter().map(|id| requests.push(request(id), 2)).collect();
        assert_eq!(started, [true, true, false]);
        assert!(requests.first_or_end().is_some());
        requests.take(8);
        assert_eq!((requests.first_or_end(), requests.first_or_end()), (None, None));
        assert!(requests.push(request("d"), 2));
    }
}
