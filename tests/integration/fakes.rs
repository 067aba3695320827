//! Docker and database in memory, for what real servers can't do on command: fail between two calls, or change their
//! mind in the middle of one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use chrono::{DateTime, Utc};
use volume_reaper::{
    cleanup::{
        Backlog, Candidate, Coordinator, Inventory, Mark, Outcome, Receipt, Removal, Report, Scope, Thread, Threads,
        Volumes, breaker::Pause, failing::FailedCleanup,
    },
    failure::Failure,
    volume_name::{ThreadId, VolumeName, VolumePrefix},
};

/// What happens when a call is made, before it does its own work.
type Hook = Box<dyn Fn(&Rows) -> Result<(), Failure> + Send + Sync>;
type Unmarkable = Box<dyn Fn(&Receipt) -> bool + Send + Sync>;
type Rows = Arc<Mutex<HashMap<String, Row>>>;

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
    /// The volumes are in the first list and in no later one.
    pub(crate) vanishing: AtomicBool,
    rows: Rows,
}

impl Volumes for FakeVolumes {
    async fn remove(&self, volume: &VolumeName) -> Result<Removal, Failure> {
        self.calls.lock().expect("lock").push(format!("remove {volume}"));
        if self.refused.lock().expect("lock").iter().any(|end| volume.as_str().ends_with(end)) {
            return Err(Failure::transient("disk full"));
        }
        let is_stuck = self.stuck.lock().expect("lock").iter().any(|end| volume.as_str().ends_with(end));
        if is_stuck {
            std::future::pending::<()>().await;
        }
        let answer = self.answer.lock().expect("lock").clone();
        if answer == Ok(Removal::Removed) {
            let thread = VolumePrefix::parse("ha_ws_").expect("valid").thread_of(volume.as_str()).expect("ours");
            self.inventory.lock().expect("lock").present.remove(&thread);
        }
        answer
    }

    async fn probe(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn has(&self, volume: &VolumeName) -> Result<bool, Failure> {
        self.calls.lock().expect("lock").push(format!("has {volume}"));
        let thread = VolumePrefix::parse("ha_ws_").expect("valid").thread_of(volume.as_str()).expect("ours");
        Ok(self.inventory.lock().expect("lock").present.contains(&thread))
    }

    async fn inventory(&self, _prefix: &VolumePrefix) -> Result<Inventory, Failure> {
        self.calls.lock().expect("lock").push("inventory".to_owned());
        (self.on_inventory)(&self.rows)?;
        let inventory = self.inventory.lock().expect("lock").clone();
        if self.vanishing.load(Ordering::Relaxed) {
            *self.inventory.lock().expect("lock") = Inventory::default();
        }
        Ok(inventory)
    }

    async fn prove_identity(&self) -> Result<(), Failure> {
        self.calls.lock().expect("lock").push("identity".to_owned());
        self.identity.lock().expect("lock").clone()
    }
}

pub(crate) struct FakeThreads {
    pub(crate) rows: Rows,
    pub(crate) on_mark: Hook,
    pub(crate) pause: Mutex<Option<Pause>>,
    /// What the receipts of other replicas come to.
    pub(crate) removed_by_others: AtomicU64,
    /// How often removals were counted.
    pub(crate) counts: AtomicU64,
    /// Marks that can't be set; one of them fails all that were to be set with it.
    pub(crate) unmarkable: Mutex<Option<Unmarkable>>,
    pub(crate) failures: Mutex<HashMap<ThreadId, FailedCleanup>>,
}

impl FakeThreads {
    fn is_unmarkable(&self, receipt: &Receipt) -> bool {
        self.unmarkable.lock().expect("lock").as_ref().is_some_and(|is_unmarkable| is_unmarkable(receipt))
    }
}

impl Threads for FakeThreads {
    async fn find(&self, thread: &ThreadId, _host: Option<&str>) -> Result<Option<Thread>, Failure> {
        let rows = self.rows.lock().expect("lock");
        Ok(rows.get(thread.as_str()).map(|row| Thread {
            closed: row.closed,
            marked: row.mark.is_some(),
            closed_at: row.closed_at,
            held: row.held,
            host: row.host.clone(),
            stranger: None,
            pause: self.pause.lock().expect("lock").as_ref().map(|pause| pause.reason.clone()),
        }))
    }

    async fn stranger(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    async fn record_report(&self, thread: &ThreadId, report: &Report) -> Result<(), Failure> {
        unreachable!("{thread}, {report:?}: these tests know their threads")
    }

    async fn mark(&self, receipt: &Receipt) -> Result<Mark, Failure> {
        (self.on_mark)(&self.rows)?;
        if self.is_unmarkable(receipt) {
            return Err(Failure::transient("a constraint of the platform's"));
        }
        let mut rows = self.rows.lock().expect("lock");
        Ok(match rows.get_mut(receipt.thread_id.as_str()) {
            None => Mark::NoRow,
            Some(row) if !row.closed => Mark::Reopened,
            Some(row) if row.mark.is_some() => Mark::AlreadySet,
            Some(row) => {
                row.mark = Some(receipt.at);
                row.receipts.push(receipt.outcome);
                Mark::Set
            }
        })
    }

    async fn mark_all(&self, receipts: &[Receipt]) -> Result<Vec<ThreadId>, Failure> {
        if receipts.iter().any(|receipt| self.is_unmarkable(receipt)) {
            return Err(Failure::transient("a constraint of the platform's"));
        }
        let mut marked = Vec::new();
        for receipt in receipts {
            if self.mark(receipt).await? == Mark::Set {
                marked.push(receipt.thread_id.clone());
            }
        }
        Ok(marked)
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
            .map(|(id, row)| Candidate { id: id.clone(), closed_at: row.closed_at, held: row.held })
            .collect();
        ids.sort_by(|a, b| a.id.cmp(&b.id));
        ids.truncate(usize::try_from(limit).expect("small"));
        Ok(ids)
    }

    async fn known(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, Thread>, Failure> {
        let mut known = HashMap::new();
        for thread in threads {
            known.extend(self.find(thread, None).await?.map(|row| (thread.clone(), row)));
        }
        Ok(known)
    }

    async fn unmark(&self, thread: &ThreadId) -> Result<bool, Failure> {
        let mut rows = self.rows.lock().expect("lock");
        Ok(rows.get_mut(thread.as_str()).is_some_and(|row| row.mark.take().is_some()))
    }

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

    async fn backlog(&self) -> Result<Backlog, Failure> {
        let unmarked = self.candidates(&Scope::All, None, 1000).await?.len() as u64;
        Ok(Backlog { unmarked, oldest_closed_at: None })
    }

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

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        self.counts.fetch_add(1, Ordering::Relaxed);
        let rows = self.rows.lock().expect("lock");
        let own = rows.values().flat_map(|row| &row.receipts).filter(|outcome| **outcome == "removed").count() as u64;
        Ok(own + self.removed_by_others.load(Ordering::Relaxed))
    }
}

pub(crate) type FakeCoordinator = Coordinator<FakeVolumes, FakeThreads>;

/// A coordinator over one closed thread, `t1`, and a daemon that answers `answer` to a removal.
pub(crate) fn coordinator(answer: Result<Removal, Failure>) -> FakeCoordinator {
    coordinator_with(answer, |_| Ok(()), |_| Ok(()))
}

pub(crate) fn coordinator_with(
    answer: Result<Removal, Failure>,
    on_mark: impl Fn(&Rows) -> Result<(), Failure> + Send + Sync + 'static,
    on_inventory: impl Fn(&Rows) -> Result<(), Failure> + Send + Sync + 'static,
) -> FakeCoordinator {
    let closed = Row { closed: true, ..Row::default() };
    let rows: Rows = Arc::new(Mutex::new(HashMap::from([("t1".to_owned(), closed)])));
    let volumes = FakeVolumes {
        answer: Mutex::new(answer),
        calls: Mutex::default(),
        refused: Mutex::default(),
        stuck: Mutex::default(),
        identity: Mutex::new(Ok(())),
        on_inventory: Box::new(on_inventory),
        inventory: Mutex::default(),
        vanishing: AtomicBool::new(false),
        rows: Arc::clone(&rows),
    };
    let threads = FakeThreads {
        rows,
        on_mark: Box::new(on_mark),
        pause: Mutex::default(),
        removed_by_others: AtomicU64::new(0),
        counts: AtomicU64::new(0),
        unmarkable: Mutex::default(),
        failures: Mutex::default(),
    };
    Coordinator::new(volumes, threads, VolumePrefix::parse("ha_ws_").expect("valid"), 4)
}

pub(crate) fn thread(id: &str) -> ThreadId {
    ThreadId::parse(id).expect("valid")
}

pub(crate) fn row(coordinator: &FakeCoordinator, id: &str) -> Row {
    coordinator.threads.rows.lock().expect("lock").get(id).cloned().unwrap_or_default()
}

pub(crate) fn set_row(rows: &Rows, id: &str, row: Row) {
    rows.lock().expect("lock").insert(id.to_owned(), row);
}

/// As if `thread`'s failures had been so much earlier.
pub(crate) fn age_failure(coordinator: &FakeCoordinator, id: &str, by: std::time::Duration) {
    let mut failures = coordinator.threads.failures.lock().expect("lock");
    let failed = failures.get_mut(&thread(id)).expect("it failed");
    failed.first_failed_at -= by;
    failed.failed_at -= by;
}

pub(crate) fn calls(coordinator: &FakeCoordinator) -> Vec<String> {
    coordinator.volumes.calls.lock().expect("lock").clone()
}

pub(crate) fn referenced() -> Outcome {
    Outcome::Referenced { holders: vec![] }
}
