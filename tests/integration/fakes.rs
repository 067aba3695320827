//! Docker and database in memory, for what real servers can't do on command: fail between two calls, or change their
//! mind in the middle of one.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use volume_reaper::{
    cleanup::{
        Backlog, Candidate, Cleaner, Close, Container, ContainerId, ContainerReceipt, ContainerRemoval, Containers,
        Context, Failures, Inventory, Locked, Mark, Outcome, Pause, Pauses, Policy, Receipt, Receipts, Removal, Rows,
        Scope, Seen, Sighting, Sightings, SweepLog, Thread, Threads, Volumes,
        failing::FailedCleanup,
        policy::{Limits, Locking},
    },
    failure::Failure,
    host::Host,
    volume_name::{ThreadId, VolumeName, VolumeNames},
};

/// What happens when a call is made, before it does its own work.
type Hook = Box<dyn Fn(&Table) -> Result<(), Failure> + Send + Sync>;
type Unmarkable = Box<dyn Fn(&Receipt) -> bool + Send + Sync>;
type Table = Arc<Mutex<HashMap<String, Row>>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) closed: bool,
    pub(crate) closed_at: Option<DateTime<Utc>>,
    pub(crate) held: bool,
    pub(crate) host: Option<String>,
    pub(crate) mark: Option<DateTime<Utc>>,
    pub(crate) receipts: Vec<&'static str>,
}

pub(crate) struct FakeVolumes {
    pub(crate) answer: Mutex<Result<Removal, Failure>>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) identity: Mutex<Result<(), Failure>>,
    pub(crate) on_inventory: Hook,
    pub(crate) inventory: Mutex<Inventory>,
    /// Removals of volumes whose names end so fail.
    pub(crate) refused: Mutex<Vec<String>>,
    /// Removals of volumes whose names end so never end.
    pub(crate) stuck: Mutex<Vec<String>>,
    /// How long a removal takes.
    pub(crate) takes: Mutex<Duration>,
    /// The volumes are in the first list and in no later one.
    pub(crate) vanishing: AtomicBool,
    /// Whoever has it keeps the daemon from saying who it is.
    pub(crate) proving: tokio::sync::Mutex<()>,
    rows: Table,
}

/// Nothing of theirs is ever asked for.
impl Containers for FakeVolumes {
    async fn look_at(&self, container: &ContainerId) -> Result<Option<Container>, Failure> {
        unreachable!("{container}: no rule lets containers be removed")
    }

    async fn remove_container_by(&self, container: &ContainerId, _: Instant) -> Result<ContainerRemoval, Failure> {
        unreachable!("{container}: no rule lets containers be removed")
    }
}

impl Volumes for FakeVolumes {
    async fn remove_by(&self, volume: &VolumeName, _latest: Option<Instant>) -> Result<Removal, Failure> {
        self.calls.lock().expect("lock").push(format!("remove {volume}"));
        if self.refused.lock().expect("lock").iter().any(|end| volume.as_str().ends_with(end)) {
            return Err(Failure::transient("disk full"));
        }
        let is_stuck = self.stuck.lock().expect("lock").iter().any(|end| volume.as_str().ends_with(end));
        if is_stuck {
            std::future::pending::<()>().await;
        }
        let takes = *self.takes.lock().expect("lock");
        tokio::time::sleep(takes).await;
        let answer = self.answer.lock().expect("lock").clone();
        if answer == Ok(Removal::NotFound) {
            self.identity.lock().expect("lock").clone()?;
        }
        if answer == Ok(Removal::Removed) {
            self.inventory.lock().expect("lock").present.remove(volume);
        }
        answer
    }

    async fn probe(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn has(&self, volume: &VolumeName) -> Result<bool, Failure> {
        self.calls.lock().expect("lock").push(format!("has {volume}"));
        Ok(self.inventory.lock().expect("lock").present.contains(volume))
    }

    async fn have(&self, volumes: &[VolumeName]) -> Vec<Result<bool, Failure>> {
        self.calls.lock().expect("lock").push(format!("have {}", volumes.len()));
        let _proving = self.proving.lock().await;
        let identity = self.identity.lock().expect("lock").clone();
        let is_there = |volume| self.inventory.lock().expect("lock").present.contains(volume);
        volumes.iter().map(|volume| identity.clone().map(|()| is_there(volume))).collect()
    }

    async fn inventory(&self, _prefix: &VolumeNames) -> Result<Inventory, Failure> {
        self.calls.lock().expect("lock").push("inventory".to_owned());
        (self.on_inventory)(&self.rows)?;
        let inventory = self.inventory.lock().expect("lock").clone();
        if self.vanishing.load(Ordering::Relaxed) {
            *self.inventory.lock().expect("lock") = Inventory::default();
        }
        self.identity.lock().expect("lock").clone()?;
        Ok(inventory)
    }
}

pub(crate) struct FakeThreads {
    pub(crate) rows: Table,
    pub(crate) on_mark: Hook,
    pub(crate) pause: Mutex<Option<Pause>>,
    /// What time it is by its own clock.
    pub(crate) said_at: Mutex<Option<DateTime<Utc>>>,
    /// What the sweep before found.
    pub(crate) seen: Mutex<Option<Sighting>>,
    /// What the receipts of other replicas come to.
    pub(crate) removed_by_others: AtomicU64,
    /// How often removals were counted.
    pub(crate) counts: AtomicU64,
    /// Marks that can't be set; one of them fails all that were to be set with it.
    pub(crate) unmarkable: Mutex<Option<Unmarkable>>,
    pub(crate) failures: Mutex<HashMap<ThreadId, FailedCleanup>>,
    /// How long the next locks take.
    pub(crate) slow_locks: Mutex<Vec<Duration>>,
    /// It panics to take note that an event about this thread was handled.
    pub(crate) is_not_noted: Mutex<Option<ThreadId>>,
}

impl FakeThreads {
    fn is_unmarkable(&self, receipt: &Receipt) -> bool {
        self.unmarkable.lock().expect("lock").as_ref().is_some_and(|is_unmarkable| is_unmarkable(receipt))
    }
}

impl FakeThreads {
    fn read_now(&self, threads: &[ThreadId]) -> Rows {
        let rows = self.rows.lock().expect("lock");
        let read = |thread: &ThreadId| {
            let row = rows.get(thread.as_str())?;
            let found = Thread {
                closed: row.closed,
                marked: row.mark.is_some(),
                close: row.close(),
                held: row.held,
                host: row.host.clone(),
                volumes: None,
            };
            Some((thread.clone(), found))
        };
        let pause = self.pause.lock().expect("lock").as_ref().map(|pause| pause.reason.clone());
        let said_at = *self.said_at.lock().expect("lock");
        Rows { threads: threads.iter().filter_map(read).collect(), pause, said_at, ..Rows::default() }
    }

    fn mark_now(&self, receipt: &Receipt) -> Mark {
        let mut rows = self.rows.lock().expect("lock");
        match rows.get_mut(receipt.thread_id.as_str()) {
            None => Mark::NoRow,
            Some(row) if !row.closed => Mark::Reopened,
            Some(row) if row.mark.is_some() => Mark::AlreadySet,
            Some(row) if row.close() != receipt.close => Mark::Reopened,
            Some(row) => {
                row.mark = Some(receipt.at);
                row.receipts.push(receipt.gone.as_str());
                Mark::Set
            }
        }
    }
}

impl Row {
    fn close(&self) -> Close {
        Close { at: self.closed_at, written: self.closed_at.map(|at| at.to_rfc3339()) }
    }
}

impl Threads for FakeThreads {
    /// Nobody else changes these rows, but for who sets out to: nothing is really locked.
    type Lock = ();

    fn marks_at_once(&self) -> usize {
        3
    }

    async fn read(&self, threads: &[ThreadId], _host: Option<&str>) -> Result<Rows, Failure> {
        Ok(self.read_now(threads))
    }

    async fn lock(&self, threads: &[ThreadId], _host: Option<&str>, _limit: Duration) -> Result<Locked<()>, Failure> {
        let slow = self.slow_locks.lock().expect("lock").pop();
        if let Some(takes) = slow {
            tokio::time::sleep(takes).await;
        }
        Ok(Locked { rows: self.read_now(threads), busy: HashSet::new(), lock: () })
    }

    async fn mark_locked(&self, (): (), receipts: &[Receipt]) -> Result<HashSet<ThreadId>, Failure> {
        let marks = self.mark(receipts).await?;
        Ok(marks.into_iter().filter(|(_, mark)| *mark == Mark::Set).map(|(thread, _)| thread).collect())
    }

    async fn mark(&self, receipts: &[Receipt]) -> Result<HashMap<ThreadId, Mark>, Failure> {
        if receipts.is_empty() {
            return Ok(HashMap::new());
        }
        (self.on_mark)(&self.rows)?;
        if receipts.iter().any(|receipt| self.is_unmarkable(receipt)) {
            return Err(Failure::transient("a constraint of the platform's"));
        }
        Ok(receipts.iter().map(|receipt| (receipt.thread_id.clone(), self.mark_now(receipt))).collect())
    }

    async fn unserved_host(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    async fn candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        let rows = self.rows.lock().expect("lock");
        let is_in_scope = |row: &Row| match scope {
            Scope::All => true,
            Scope::Host(host) => row.host.as_ref() == Some(host),
            Scope::Unplaced => row.host.is_none(),
        };
        let mut ids: Vec<_> = rows
            .iter()
            .filter(|(_, row)| is_in_scope(row))
            .filter(|(id, row)| row.closed && row.mark.is_none() && after.is_none_or(|after| id.as_str() > after))
            .map(|(id, row)| Candidate { id: id.clone(), close: row.close(), held: row.held, volumes: None })
            .collect();
        ids.sort_by(|a, b| a.id.cmp(&b.id));
        ids.truncate(usize::try_from(limit).expect("small"));
        Ok(ids)
    }

    async fn unmark(&self, thread: &ThreadId, _volume: &VolumeName) -> Result<bool, Failure> {
        let mut rows = self.rows.lock().expect("lock");
        Ok(rows.get_mut(thread.as_str()).is_some_and(|row| row.mark.take().is_some()))
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        let unmarked = self.candidates(&Scope::All, None, 1000).await?.len() as u64;
        Ok(Backlog { unmarked, oldest_closed_at: None })
    }
}

impl Failures for FakeThreads {
    async fn note_failure(&self, thread: &ThreadId, error: &str) -> Result<(), Failure> {
        let mut failures = self.failures.lock().expect("lock");
        let now = Utc::now();
        let failed = failures.entry(thread.clone()).or_insert_with(|| FailedCleanup {
            attempts: 0,
            first_failed_at: now,
            failed_at: now,
            error: String::new(),
            replica: "replica-1".to_owned(),
        });
        failed.attempts += 1;
        (failed.failed_at, failed.error) = (now, error.to_owned());
        Ok(())
    }

    async fn failed(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, FailedCleanup>, Failure> {
        let failures = self.failures.lock().expect("lock");
        Ok(threads.iter().filter_map(|thread| Some((thread.clone(), failures.get(thread)?.clone()))).collect())
    }

    async fn forget_failures(&self) -> Result<(), Failure> {
        let rows = self.rows.lock().expect("lock");
        let is_candidate =
            |thread: &ThreadId| rows.get(thread.as_str()).is_some_and(|row| row.closed && row.mark.is_none());
        self.failures.lock().expect("lock").retain(|thread, _| is_candidate(thread));
        Ok(())
    }
}

impl Pauses for FakeThreads {
    async fn pause(&self, _host: Option<&str>) -> Result<Option<Pause>, Failure> {
        Ok(self.pause.lock().expect("lock").clone())
    }

    async fn pause_removal(&self, _host: Option<&str>, reason: &str) -> Result<bool, Failure> {
        let mut pause = self.pause.lock().expect("lock");
        let is_new = pause.is_none();
        pause.get_or_insert_with(|| Pause {
            paused_at: Utc::now(),
            reason: reason.to_owned(),
            paused_by: "replica-1".to_owned(),
        });
        Ok(is_new)
    }
}

impl Sightings for FakeThreads {
    async fn seen(&self, _host: &Host) -> Result<Seen, Failure> {
        Ok(Seen { latest: *self.seen.lock().expect("lock"), doubt: None })
    }

    async fn saw(&self, _host: &Host, _sighting: &Sighting) -> Result<(), Failure> {
        Ok(())
    }

    async fn doubt(&self, _host: &Host, reason: &str) -> Result<bool, Failure> {
        self.pause_removal(None, reason).await
    }

    async fn removed_since(&self, _host: &Host, _since: DateTime<Utc>) -> Result<u64, Failure> {
        // Nothing is committed before the second look.
        let looks = self.counts.fetch_add(1, Ordering::Relaxed);
        Ok(if looks == 0 { 0 } else { self.removed_by_others.load(Ordering::Relaxed) })
    }
}

impl SweepLog for FakeThreads {}

impl Receipts for FakeThreads {
    fn event_handled(&self, thread: &ThreadId, _: &Result<Outcome, Failure>, _settlement: &'static str) {
        let is_not_noted = self.is_not_noted.lock().expect("lock").clone();
        assert_ne!(is_not_noted.as_ref(), Some(thread), "a bug");
    }

    async fn record(&self, receipt: &Receipt) -> Result<(), Failure> {
        unreachable!("{receipt:?}: only people ask for that")
    }

    async fn record_containers(&self, receipts: &[ContainerReceipt]) -> Result<(), Failure> {
        unreachable!("{receipts:?}: no rule lets containers be removed")
    }

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        self.counts.fetch_add(1, Ordering::Relaxed);
        let rows = self.rows.lock().expect("lock");
        let own = rows.values().flat_map(|row| &row.receipts).filter(|outcome| **outcome == "removed").count() as u64;
        Ok(own + self.removed_by_others.load(Ordering::Relaxed))
    }
}

pub(crate) type FakeCleaner = Cleaner<FakeVolumes, FakeThreads>;

/// A cleaner over one closed thread, `t1`, and a daemon that answers `answer` to a removal.
pub(crate) fn cleaner(answer: Result<Removal, Failure>) -> FakeCleaner {
    cleaner_with(answer, |_| Ok(()), |_| Ok(()))
}

pub(crate) fn cleaner_with(
    answer: Result<Removal, Failure>,
    on_mark: impl Fn(&Table) -> Result<(), Failure> + Send + Sync + 'static,
    on_inventory: impl Fn(&Table) -> Result<(), Failure> + Send + Sync + 'static,
) -> FakeCleaner {
    let closed = Row { closed: true, ..Row::default() };
    let rows: Table = Arc::new(Mutex::new(HashMap::from([("t1".to_owned(), closed)])));
    let volumes = FakeVolumes {
        answer: Mutex::new(answer),
        calls: Mutex::default(),
        refused: Mutex::default(),
        stuck: Mutex::default(),
        takes: Mutex::default(),
        identity: Mutex::new(Ok(())),
        on_inventory: Box::new(on_inventory),
        inventory: Mutex::default(),
        vanishing: AtomicBool::new(false),
        proving: tokio::sync::Mutex::default(),
        rows: Arc::clone(&rows),
    };
    let threads = FakeThreads {
        rows,
        on_mark: Box::new(on_mark),
        pause: Mutex::default(),
        said_at: Mutex::default(),
        seen: Mutex::default(),
        removed_by_others: AtomicU64::new(0),
        counts: AtomicU64::new(0),
        unmarkable: Mutex::default(),
        failures: Mutex::default(),
        slow_locks: Mutex::default(),
        is_not_noted: Mutex::default(),
    };
    cleaner_of(volumes, threads, Policy::default(), LIMITS)
}

/// As far as the fakes go, nothing takes any time but what is stuck.
pub(crate) const LIMITS: Limits = Limits {
    locking: Locking { limit: Duration::from_secs(2), batch: 32, batches: 2 },
    timeout: Duration::from_mins(2),
};

fn cleaner_of(volumes: FakeVolumes, threads: FakeThreads, policy: Policy, limits: Limits) -> FakeCleaner {
    let context = Context::new(threads, VolumeNames::of_prefix("ha_ws_").expect("valid"), policy, limits);
    Cleaner::new(Host::Only, volumes, 4, Arc::new(context))
}

/// The cleaner with other rules; what is known of rows and volumes stays.
pub(crate) fn under(cleaner: FakeCleaner, policy: Policy, limits: Limits) -> FakeCleaner {
    let Cleaner { volumes, context, .. } = cleaner;
    let context = Arc::into_inner(context).expect("nobody else has it");
    let threads = Arc::into_inner(context.threads).expect("nobody else has them");
    cleaner_of(volumes, threads, policy, limits)
}

pub(crate) fn thread(id: &str) -> ThreadId {
    ThreadId::parse(id).expect("valid")
}

/// The volume of a thread.
pub(crate) fn volume(id: &str) -> VolumeName {
    VolumeNames::of_prefix("ha_ws_").expect("valid").volume_of(&thread(id))
}

pub(crate) fn row(cleaner: &FakeCleaner, id: &str) -> Row {
    cleaner.threads().rows.lock().expect("lock").get(id).cloned().unwrap_or_default()
}

pub(crate) fn set_row(rows: &Table, id: &str, row: Row) {
    rows.lock().expect("lock").insert(id.to_owned(), row);
}

/// As if `thread`'s failures had been so much earlier.
pub(crate) fn age_failure(cleaner: &FakeCleaner, id: &str, by: std::time::Duration) {
    let mut failures = cleaner.threads().failures.lock().expect("lock");
    let failed = failures.get_mut(&thread(id)).expect("it failed");
    failed.first_failed_at -= by;
    failed.failed_at -= by;
}

pub(crate) fn calls(cleaner: &FakeCleaner) -> Vec<String> {
    cleaner.volumes.calls.lock().expect("lock").clone()
}

pub(crate) fn referenced() -> Outcome {
    Outcome::Referenced { containers: vec![] }
}
