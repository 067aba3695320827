//! The way of a process to the database: the ports of the clean-up, over [`crate::database`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use volume_reaper::{
    cleanup::{
        Backlog, Candidate, ContainerReceipt, Failures, Gone, Locked, Mark, Outcome, Pause, Pauses, Receipt, Receipts,
        Rows, Scope, Seen, Sighting, Sightings, SweepLog, Thread, Threads, failing::FailedCleanup,
    },
    failure::{Dependency, Failure},
    host::Host,
    volume_name::{ThreadId, VolumeName},
};

use crate::{
    database::{Transaction, Written},
    mutants::Mutant,
    plan::Fault,
    world::{Process, State, World, failure, now, take},
};

/// How long a write waits for the lock of a file.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);
/// How much later than it would be given up a lock of a frozen process is taken from it.
pub(crate) const FROZEN_MARGIN: Duration = Duration::from_secs(10);

/// A connection of a process.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) world: Arc<World>,
    pub(crate) process: Process,
}

/// A transaction that has locked rows.
pub(crate) struct Lock {
    world: Arc<World>,
    id: u64,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "transaction {}", self.id)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.world.state().rows.transactions.remove(&self.id);
        self.world.freed.notify_waiters();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Read,
    Write,
    /// Ends a transaction: it has its lock already.
    Commit,
}

fn unavailable(what: &str) -> Failure {
    Failure::unavailable(Dependency::Database, what)
}

impl Store {
    /// One round trip.
    async fn call<R>(&self, does: Does, act: impl FnOnce(&mut State) -> Result<R, Failure>) -> Result<R, Failure> {
        let world = &self.world;
        world.runs(self.process).await;
        world.on_its_way().await;
        if does == Does::Write && world.setup.locks_file {
            self.until_file_is_free().await?;
        }
        let (answer, is_lost) = {
            let mut state = world.state();
            if state.is_alive(self.process) {
                let (answer, is_lost) = answer(&mut state, does, act);
                (Some(answer), is_lost)
            } else {
                (None, false)
            }
        };
        world.on_its_way().await;
        world.runs(self.process).await;
        match answer {
            Some(answer) if is_lost => {
                // What it locked is released by that.
                drop(answer);
                Err(failure(&mut world.state().rng, Dependency::Database))
            }
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn until_file_is_free(&self) -> Result<(), Failure> {
        let is_free = self.world.until(|state| state.rows.open().next().is_none().then_some(()));
        tokio::time::timeout(FILE_TIMEOUT, is_free).await.map_err(|_| Failure::transient("database is locked"))
    }

    pub(crate) async fn ping(&self) -> Result<(), Failure> {
        self.call(Does::Write, |_| Ok(())).await
    }

    /// Keeps a lease, or takes it if it is free; whether this process has it then.
    pub(crate) async fn lease(&self, name: &str, ttl: Duration) -> Result<bool, Failure> {
        let process = self.process;
        self.call(Does::Write, |state| Ok(lease(state, process, name, ttl))).await
    }
}

fn answer<R>(
    state: &mut State,
    does: Does,
    act: impl FnOnce(&mut State) -> Result<R, Failure>,
) -> (Result<R, Failure>, bool) {
    if state.rows.is_down() {
        return (Err(unavailable("connection refused")), false);
    }
    let is_refused = state.rows.is_standby() && does != Does::Read && !state.is(Mutant::StandbyBelieved);
    if is_refused {
        return (Err(unavailable("the server is read-only")), false);
    }
    if does != Does::Commit && take(&mut state.rows.faults, Fault::Before) {
        return (Err(failure(&mut state.rng, Dependency::Database)), false);
    }
    let answer = act(state);
    (answer, take(&mut state.rows.faults, Fault::After))
}

fn lease(state: &mut State, process: Process, name: &str, ttl: Duration) -> bool {
    let at = Instant::now();
    if state.is(Mutant::LeaseIgnored) {
        return true;
    }
    let rows = &mut state.rows;
    let epoch = match rows.leases.get(name) {
        Some(row) if row.holder != process && row.expires > at => return false,
        Some(row) if row.holder == process => row.epoch,
        Some(row) => row.epoch + 1,
        None => 1,
    };
    let row = crate::database::LeaseRow { holder: process, epoch, expires: at + ttl };
    rows.leases.insert(name.to_owned(), row);
    true
}

/// Rows as a statement reads them.
fn read(state: &State, wanted: &[ThreadId], host: Option<&str>) -> Rows {
    let first_host = state.rows.threads.values().find_map(|row| row.host);
    let thread = |wanted: &ThreadId| {
        let row = state.rows.shown().get(wanted.as_str())?;
        let named =
            row.host.map(|host| if state.is(Mutant::HostOfRowIgnored) { first_host.unwrap_or(host) } else { host });
        let read = Thread {
            closed: row.closed,
            marked: row.mark.is_some() && !state.is(Mutant::MarkedIgnored),
            close: row.close(),
            held: state.rows.holds.contains_key(wanted.as_str()) && !state.is(Mutant::HoldIgnored),
            host: named.map(str::to_owned),
            volumes: None,
        };
        Some((wanted.clone(), read))
    };
    let threads: HashMap<_, _> = wanted.iter().filter_map(thread).collect();
    let unserved = state.rows.unserved.filter(|_| !state.is(Mutant::UnservedHostIgnored));
    let pause = state.rows.pause(host).filter(|_| !state.is(Mutant::PauseIgnored));
    let is_known = !threads.is_empty();
    Rows {
        unserved_host: unserved.filter(|_| is_known).map(str::to_owned),
        pause: pause.filter(|_| is_known).map(|pause| pause.reason.clone()),
        threads,
        foreign: HashSet::new(),
        said_at: None,
    }
}

fn written(receipt: &Receipt, by: Process) -> Written {
    Written {
        thread: receipt.thread_id.to_string(),
        close: receipt.close.clone(),
        gone: receipt.gone,
        host: receipt.details.host.clone(),
        at: receipt.at,
        by,
    }
}

impl State {
    fn write_receipt(&mut self, receipt: &Receipt, by: Process) {
        if !receipt.is_written {
            self.rows.receipts.push(written(receipt, by));
            self.check_receipt(&receipt.thread_id, by);
        }
    }

    fn set_mark(&mut self, receipt: &Receipt, by: Process) {
        self.check_mark(receipt, by);
        self.rows.threads.get_mut(receipt.thread_id.as_str()).expect("a row").mark = Some(receipt.at);
    }

    /// The guarded mark of one row.
    fn mark_one(&mut self, receipt: &Receipt, by: Process) -> Mark {
        let thread = receipt.thread_id.as_str();
        let Some(row) = self.rows.threads.get(thread) else { return Mark::NoRow };
        if !row.closed && !self.is(Mutant::MarkWithoutStatus) {
            return Mark::Reopened;
        }
        if row.mark.is_some() && !self.is(Mutant::MarkTwice) {
            return Mark::AlreadySet;
        }
        let is_other = row.close() != receipt.close && !self.is(Mutant::MarkWithoutClosedAt);
        // The mutant without the status knows no closed_at of an open row either.
        if is_other && (row.closed || !self.is(Mutant::MarkWithoutStatus)) {
            return Mark::Reopened;
        }
        if self.rows.is_locked(thread) {
            return Mark::Busy;
        }
        self.set_mark(receipt, by);
        self.write_receipt(receipt, by);
        Mark::Set
    }
}

impl Threads for Store {
    type Lock = Lock;

    async fn read(&self, threads: &[ThreadId], host: Option<&str>) -> Result<Rows, Failure> {
        self.call(Does::Read, |state| Ok(read(state, threads, host))).await
    }

    async fn lock(&self, threads: &[ThreadId], host: Option<&str>, limit: Duration) -> Result<Locked<Lock>, Failure> {
        let (world, owner) = (Arc::clone(&self.world), self.process);
        let locked = self.call(Does::Write, |state| {
            let rows = read(state, threads, host);
            let (mut busy, mut own) = (HashSet::new(), std::collections::BTreeSet::new());
            for thread in threads {
                let is_candidate = rows.threads.get(thread).is_some_and(|row| row.closed && !row.marked);
                if !is_candidate || state.is(Mutant::NoRowLock) {
                    continue;
                }
                if state.rows.is_locked(thread.as_str()) {
                    busy.insert(thread.clone());
                } else {
                    own.insert(thread.to_string());
                }
            }
            if state.rows.is_standby() {
                own.clear();
            }
            state.rows.next += 1;
            let id = state.rows.next;
            let frozen_until = state.replicas[owner.replica].frozen_until.filter(|until| *until > Instant::now());
            let over_at = frozen_until.map(|_| Instant::now() + limit + FROZEN_MARGIN);
            let transaction = Transaction { owner, rows: own, began: Instant::now(), over_at };
            state.rows.transactions.insert(id, transaction);
            Ok(Locked { rows, busy, lock: Lock { world, id } })
        });
        locked.await
    }

    async fn mark_locked(&self, lock: Lock, receipts: &[Receipt]) -> Result<HashSet<ThreadId>, Failure> {
        let (id, by) = (lock.id, self.process);
        let marked = self.call(Does::Commit, |state| {
            let is_open =
                state.rows.transactions.remove(&id).is_some_and(|it| it.over_at.is_none_or(|at| at > Instant::now()));
            if !is_open {
                return Err(unavailable("the connection was closed"));
            }
            if receipts.is_empty() {
                return Ok(HashSet::new());
            }
            let is_failing = take(&mut state.rows.faults, Fault::Before);
            let is_held_back = is_failing || state.is(Mutant::AnswerBeforeCommit);
            let mut marked = HashSet::new();
            for receipt in receipts {
                let row = state.rows.threads.get(receipt.thread_id.as_str());
                let is_candidate = receipt.completes && row.is_some_and(|row| row.closed && row.mark.is_none());
                if is_candidate && (!is_held_back || state.is(Mutant::MarkOutsideTransaction)) {
                    state.set_mark(receipt, by);
                }
                if !is_held_back || state.is(Mutant::ReceiptOutsideTransaction) {
                    state.write_receipt(receipt, by);
                }
                if is_candidate {
                    marked.insert(receipt.thread_id.clone());
                }
            }
            if is_failing { Err(failure(&mut state.rng, Dependency::Database)) } else { Ok(marked) }
        });
        let marked = marked.await;
        drop(lock);
        marked
    }

    async fn mark(&self, receipts: &[Receipt]) -> Result<HashMap<ThreadId, Mark>, Failure> {
        let by = self.process;
        self.call(Does::Write, |state| {
            let (complete, incomplete): (Vec<_>, Vec<_>) = receipts.iter().partition(|receipt| receipt.completes);
            for receipt in incomplete {
                state.write_receipt(receipt, by);
            }
            Ok(complete.into_iter().map(|it| (it.thread_id.clone(), state.mark_one(it, by))).collect())
        })
        .await
    }

    async fn candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        self.call(Does::Read, |state| {
            let is_in_scope = |host: Option<&str>| match scope {
                Scope::All => true,
                Scope::Host(wanted) => host == Some(wanted),
                Scope::Unplaced => host.is_none(),
            };
            let rows = state.rows.shown().iter();
            let mut found: Vec<_> =
                rows.filter(|(_, row)| row.closed && row.mark.is_none() && is_in_scope(row.host)).collect();
            if state.is(Mutant::CandidatesNewest) {
                found.sort_by_key(|(_, row)| std::cmp::Reverse(row.closed_at));
                found.truncate(2);
                found.sort_by_key(|(id, _)| *id);
            }
            let found = found.into_iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
            let candidate = |(id, row): (&String, &crate::database::Row)| Candidate {
                id: id.clone(),
                close: row.close(),
                held: state.rows.holds.contains_key(id) && !state.is(Mutant::HoldIgnored),
                volumes: None,
            };
            Ok(found.map(candidate).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
        })
        .await
    }

    async fn unmark(&self, thread: &ThreadId, _volume: &VolumeName) -> Result<bool, Failure> {
        self.call(Does::Write, |state| {
            let is_ignored = state.is(Mutant::DriftIgnored);
            state.note(|| format!("the mark of {thread} is withdrawn"));
            let Some(row) = state.rows.threads.get_mut(thread.as_str()).filter(|row| row.closed) else {
                return Ok(false);
            };
            if is_ignored {
                return Ok(true);
            }
            row.withdrawn += usize::from(row.mark.is_some());
            Ok(row.mark.take().is_some())
        })
        .await
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        Ok(Backlog { unmarked: 0, oldest_closed_at: None })
    }

    async fn unserved_host(&self) -> Result<Option<String>, Failure> {
        self.call(Does::Read, |state| {
            Ok(state.rows.unserved.filter(|_| !state.is(Mutant::UnservedHostIgnored)).map(str::to_owned))
        })
        .await
    }
}

impl Failures for Store {
    async fn note_failure(&self, thread: &ThreadId, error: &str) -> Result<(), Failure> {
        self.call(Does::Write, |state| {
            let at = now();
            let first = FailedCleanup {
                attempts: 0,
                first_failed_at: at,
                failed_at: at,
                error: String::new(),
                replica: String::new(),
            };
            let failed = state.rows.failures.entry(thread.to_string()).or_insert(first);
            (failed.attempts, failed.failed_at, failed.error) = (failed.attempts + 1, at, error.to_owned());
            Ok(())
        })
        .await
    }

    async fn failed(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, FailedCleanup>, Failure> {
        self.call(Does::Read, |state| {
            let failures = &state.rows.failures;
            Ok(threads.iter().filter_map(|it| Some((it.clone(), failures.get(it.as_str())?.clone()))).collect())
        })
        .await
    }

    async fn forget_failures(&self) -> Result<(), Failure> {
        self.call(Does::Write, |state| {
            let rows = &state.rows.threads;
            let is_candidate = |id: &str| rows.get(id).is_some_and(|row| row.closed && row.mark.is_none());
            let kept: Vec<_> = state.rows.failures.keys().filter(|id| is_candidate(id)).cloned().collect();
            state.rows.failures.retain(|id, _| kept.contains(id));
            Ok(())
        })
        .await
    }
}

impl Pauses for Store {
    async fn pause(&self, host: Option<&str>) -> Result<Option<Pause>, Failure> {
        self.call(Does::Read, |state| {
            let pause = state.rows.pause(host).filter(|_| !state.is(Mutant::PauseIgnored));
            let told = |it: &crate::database::Pausing| Pause {
                paused_at: it.at,
                reason: it.reason.clone(),
                paused_by: String::new(),
            };
            Ok(pause.map(told))
        })
        .await
    }

    async fn pause_removal(&self, host: Option<&str>, reason: &str) -> Result<bool, Failure> {
        self.call(Does::Write, |state| {
            let name = host.map_or_else(|| "everything".to_owned(), |host| format!("host/{host}"));
            state.note(|| format!("{name} is paused: {reason}"));
            Ok(state.rows.pause_row(name, reason))
        })
        .await
    }
}

impl Sightings for Store {
    async fn seen(&self, host: &Host) -> Result<Seen, Failure> {
        self.call(Does::Read, |state| {
            let latest =
                state.rows.sightings.get(host.key()).map(|(volumes, at)| Sighting { volumes: *volumes, at: *at });
            let doubt = state.rows.pauses.get(&format!("doubt/{}", host.key())).map(|pause| pause.reason.clone());
            Ok(Seen { latest, doubt })
        })
        .await
    }

    async fn saw(&self, host: &Host, sighting: &Sighting) -> Result<(), Failure> {
        self.call(Does::Write, |state| {
            state.rows.sightings.insert(host.key().to_owned(), (sighting.volumes, sighting.at));
            Ok(())
        })
        .await
    }

    async fn doubt(&self, host: &Host, reason: &str) -> Result<bool, Failure> {
        self.call(Does::Write, |state| {
            state.note(|| format!("{host} is doubted: {reason}"));
            Ok(state.rows.pause_row(format!("doubt/{}", host.key()), reason))
        })
        .await
    }

    async fn removed_since(&self, host: &Host, since: DateTime<Utc>) -> Result<u64, Failure> {
        self.call(Does::Read, |state| {
            let from_here = |it: &Written| host.is_only() || it.host.as_deref().is_none_or(|from| from == host.key());
            let counts = |it: &&Written| it.gone == Gone::Removed && it.at > since && from_here(it);
            Ok(state.rows.receipts.iter().filter(counts).count() as u64)
        })
        .await
    }
}

impl SweepLog for Store {}

impl Receipts for Store {
    fn event_handled(&self, thread: &ThreadId, result: &Result<Outcome, Failure>, settlement: &'static str) {
        let mut state = self.world.state();
        if state.is_alive(self.process) {
            state.check_outcome(self.process, thread, result, settlement);
        }
    }

    async fn record(&self, receipt: &Receipt) -> Result<(), Failure> {
        unreachable!("{receipt:?}: only people ask for that")
    }

    async fn record_containers(&self, receipts: &[ContainerReceipt]) -> Result<(), Failure> {
        unreachable!("{receipts:?}: no rule lets containers be removed")
    }

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        let process = self.process;
        self.call(Does::Read, |state| {
            let by = state.is(Mutant::BudgetOwnOnly).then_some(process);
            let removed = state.rows.removed_last_hour(by);
            Ok(if state.is(Mutant::BudgetOffByOne) { removed.saturating_sub(1) } else { removed })
        })
        .await
    }
}
