//! One batch of clean-ups on one host, in one transaction.
//!
//! 1. Lock and read the rows: an event wakes us, the database decides. Holds and the pause are read in the same
//!    statement, and a database that can't be written to fails here, before anything was removed.
//! 2. Remove the volumes side by side, never with force; before one, the containers that may go ([`super::freeing`]).
//! 3. That a volume is not there is proven by this host's daemon alone only if the thread can be on no other.
//! 4. Mark those that were removed or proven absent, write their receipts, and commit.
//! 5. Answer who asked, and only now: what is not committed has failed.
//!
//! While its row is locked a thread can't be reopened. A removal is sent in the first half of that time or not at all,
//! so that the daemon has it before the lock is gone. One that takes longer than the lock limit leaves the batch: the
//! others are committed, and it continues by itself. When it is done, its row is marked if it is still as it was read.

use std::{
    collections::{HashSet, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::{
    Close, Database, Locked, NamedVolumes, Outcome, Removal, Rows, Volumes,
    breaker::{Reservation, Reserved},
    cleaner::{Cleaner, actionable},
    freeing::Removals,
    judging::is_to_come_again,
    limiter::Permit,
    requests::Request,
    runner::Turn,
    share::Share,
    under_way::UnderWay,
};
use crate::{
    failure::Failure,
    volume_name::{ThreadId, VolumeName},
};

/// How long a batch that locks nothing waits for its slowest removal.
const UNLOCKED_LIMIT: Duration = Duration::from_secs(2);

/// A lock whose answer took longer is not relied on: this process stood still meanwhile, and the server may have given
/// the rows to somebody else by now. The server keeps them for longer than a lock's time and this together.
const LOCK_ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Until when a batch may do what.
#[derive(Clone, Copy)]
struct Deadlines {
    /// Removals are sent.
    send: Instant,
    /// Rows are locked.
    lock: Instant,
}

impl Deadlines {
    /// For rows that were locked just now, for so long.
    fn within(limit: Duration) -> Self {
        let now = Instant::now();
        Self { send: now + limit / 2, lock: now + limit }
    }
}

/// The removal of a thread's volumes, which is allowed.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) close: Close,
    /// The volumes to remove; never none.
    pub(super) volumes: Vec<VolumeName>,
    /// Why others of the thread can't be, if there are any.
    pub(super) refused: Option<String>,
    /// Of these, those for which it is not enough that this daemon does not have them.
    pub(super) unplaced: HashSet<VolumeName>,
    /// One for each volume.
    pub(super) reservations: Vec<Reservation>,
    pub(super) began: Instant,
    /// From then to the daemon's answer, once that is there.
    pub(super) took: Option<Duration>,
}

pub(super) type Removed = Result<Removal, Failure>;

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// Cleans up after the threads of these requests, the first of which has a permit for its removal, in this batch's
    /// turn.
    pub(super) async fn run_batch(self: &Arc<Self>, requests: Vec<Request>, turn: Turn) {
        let context = &self.context;
        // Before anything is locked: it may have to ask the database too.
        let reservations = match context.hour.reserve(self.threads(), requests.len() * context.names.per_thread()).await
        {
            Ok(reservations) => reservations,
            Err(failure) => return answer_all(requests, &failure),
        };
        let threads: Vec<_> = requests.iter().map(|request| request.thread.clone()).collect();
        let (asked_at, limit) = (Instant::now(), context.limits.locking.limit);
        if limit.is_zero() {
            match self.threads().read(&threads, self.host.name()).await {
                Ok(rows) => {
                    let locked = Locked { rows, busy: HashSet::new(), lock: None };
                    let deadlines = Deadlines::within(UNLOCKED_LIMIT);
                    self.clean_rows(requests, reservations, locked, asked_at, deadlines, turn).await;
                }
                Err(failure) => answer_all(requests, &failure),
            }
            return;
        }
        match self.threads().lock(&threads, self.host.name(), limit).await {
            Ok(locked) if asked_at.elapsed() > LOCK_ANSWER_LIMIT => {
                drop(locked);
                for request in requests {
                    request.answer(Ok(Outcome::Busy));
                }
            }
            Ok(Locked { rows, busy, lock }) => {
                let locked = Locked { rows, busy, lock: Some(lock) };
                self.clean_rows(requests, reservations, locked, asked_at, Deadlines::within(limit), turn).await;
            }
            Err(failure) => answer_all(requests, &failure),
        }
    }

    async fn clean_rows(
        self: &Arc<Self>,
        requests: Vec<Request>,
        reservations: Vec<Reservation>,
        locked: Locked<Option<T::Lock>>,
        asked_at: Instant,
        deadlines: Deadlines,
        turn: Turn,
    ) {
        let Locked { rows, busy, lock } = locked;
        if !rows.threads.is_empty() {
            self.breaker.notice(rows.pause.as_deref(), asked_at);
        }
        let mut reservations = reservations.into_iter();
        let (mut jobs, mut over_budget, mut later) = (VecDeque::new(), Vec::new(), Vec::new());
        for request in requests {
            match self.decide(&request, &rows, &busy) {
                Err(result) => request.answer(result),
                Ok(Allowed { close, volumes, refused, unplaced }) => {
                    let mut reservations: Vec<_> = reservations.by_ref().take(volumes.len()).collect();
                    // Only its rows say how many volumes a thread has.
                    match self.context.hour.reserve_at_once(volumes.len() - reservations.len()) {
                        Reserved::Enough(more) => reservations.extend(more),
                        Reserved::CountIsOld => {
                            later.push(request);
                            continue;
                        }
                        Reserved::UsedUp => {
                            over_budget.push(request);
                            continue;
                        }
                    }
                    let began = Instant::now();
                    jobs.push_back(Job { request, close, volumes, refused, unplaced, reservations, began, took: None });
                }
            }
        }
        drop(reservations);
        self.requests.put_back(later);
        let finished = self.remove_all(jobs, deadlines, turn).await;
        self.mark_finished(finished, lock).await;
        if !over_budget.is_empty() {
            let tripped = self.breaker.trip_hour(self.threads(), &self.context.hour).await;
            for request in over_budget {
                request.answer(tripped.clone().map(|()| Outcome::Paused));
            }
        }
    }

    /// Whether the volume of this request's thread may be removed, by its row; the result of the clean-up if not.
    fn decide(
        &self,
        request: &Request,
        rows: &Rows,
        busy: &HashSet<ThreadId>,
    ) -> Result<Allowed, Result<Outcome, Failure>> {
        let row = actionable(rows.threads.get(&request.thread)).map_err(Ok)?;
        if busy.contains(&request.thread) {
            return Err(Ok(Outcome::Busy));
        }
        let (names, claimed_host) = (&self.context.names, request.claimed_host.as_deref());
        let Share { named, unplaced } = Share::of(&self.host, names, &request.thread, row, claimed_host)
            .map_err(|host| Ok(Outcome::Elsewhere { host }))?;
        if let Some(outcome) = self.hindrance(row, rows) {
            return Err(Ok(outcome));
        }
        let NamedVolumes { volumes, refused } = named;
        match refused {
            Some(refused) if volumes.is_empty() => Err(Err(Failure::permanent(refused))),
            // Its rows were marked in this moment.
            None if volumes.is_empty() => Err(Ok(Outcome::AlreadyClean)),
            refused => Ok(Allowed { close: row.close.clone(), volumes, refused, unplaced }),
        }
    }

    /// Removes the volumes of these jobs side by side, as many at once as the limiter allows. What was not sent in time
    /// is put back; what is still under way when the locks are given up is detached.
    async fn remove_all(
        self: &Arc<Self>,
        mut jobs: VecDeque<Job>,
        deadlines: Deadlines,
        turn: Turn,
    ) -> Vec<(Job, Vec<Removed>)> {
        let mut under_way = FuturesUnordered::new();
        let (mut finished, mut not_sent) = (Vec::new(), Vec::new());
        let Turn { permit, sending } = turn;
        let mut sending = Some(sending);
        if let Some(job) = jobs.pop_front() {
            under_way.push(self.begin(job, deadlines.send, permit));
        }
        {
            let mut next_permit = pin!(self.limiter.permit());
            let mut last_sent = pin!(sleep_until(deadlines.send));
            let mut unlocked = pin!(sleep_until(deadlines.lock));
            while !under_way.is_empty() || !jobs.is_empty() {
                if jobs.is_empty() {
                    sending.take();
                }
                tokio::select! {
                    biased;
                    Some((job, removed)) = under_way.next() => {
                        if is_to_come_again(&removed) {
                            self.remember_removed(&job, &removed);
                            not_sent.push(job);
                        } else {
                            finished.push((job, removed));
                        }
                    }
                    () = &mut last_sent, if !jobs.is_empty() => not_sent.extend(jobs.drain(..)),
                    permit = &mut next_permit, if !jobs.is_empty() => {
                        next_permit.set(self.limiter.permit());
                        if let Some(job) = jobs.pop_front() {
                            under_way.push(self.begin(job, deadlines.send, permit));
                        }
                    }
                    () = &mut unlocked => break,
                }
            }
        }
        self.requests.put_back(not_sent.into_iter().map(|job| job.request).collect());
        for slow in std::mem::take(&mut under_way) {
            slow.detach(self);
        }
        finished
    }

    /// Sends the removals of a thread. A task of its own: it continues when its batch no longer waits for it.
    fn begin(self: &Arc<Self>, job: Job, latest: Instant, permit: Permit) -> UnderWay {
        let cleaner = Arc::clone(self);
        let removals = Removals {
            thread: job.request.thread.clone(),
            origin: job.request.origin.clone(),
            volumes: job.volumes.clone(),
            latest,
        };
        let removal = async move { cleaner.remove_each(removals, permit).await }.instrument(job.request.span.clone());
        let removal = self.context.tasks.spawn(removal);
        UnderWay::new(job, removal)
    }
}

/// What a row allows.
struct Allowed {
    close: Close,
    volumes: Vec<VolumeName>,
    refused: Option<String>,
    unplaced: HashSet<VolumeName>,
}

fn answer_all(requests: Vec<Request>, failure: &Failure) {
    for request in requests {
        request.answer(Err(failure.clone()));
    }
}
