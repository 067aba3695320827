//! Docker and database in memory, for what real servers can't do on command: fail between two calls, or change their
//! mind in the middle of one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, Utc};
use volume_reaper::{
    coordinator::{
        Backlog, Candidate, Coordinator, Inventory, Mark, Outcome, Receipt, Removal, Thread, Threads, Volumes,
    },
    failure::Failure,
    volume_name::{ThreadId, VolumeName, VolumePrefix},
};

/// What happens when a call is made, before it does its own work.
type Hook = Box<dyn Fn(&Rows) -> Result<(), Failure> + Send + Sync>;
type Rows = Arc<Mutex<HashMap<String, Row>>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) closed: bool,
    pub(crate) mark: Option<DateTime<Utc>>,
    pub(crate) receipts: Vec<&'static str>,
}

pub(crate) struct FakeVolumes {
    pub(crate) answer: Mutex<Result<Removal, Failure>>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) identity: Mutex<Result<(), Failure>>,
    pub(crate) on_inventory: Hook,
    pub(crate) inventory: Mutex<Inventory>,
    /// The volumes are in the first list and in no later one.
    pub(crate) vanishing: AtomicBool,
    rows: Rows,
}

impl Volumes for FakeVolumes {
    async fn remove(&self, volume: &VolumeName) -> Result<Removal, Failure> {
        self.calls.lock().expect("lock").push(format!("remove {volume}"));
        self.answer.lock().expect("lock").clone()
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
}

impl Threads for FakeThreads {
    async fn find(&self, thread: &ThreadId) -> Result<Option<Thread>, Failure> {
        let rows = self.rows.lock().expect("lock");
        Ok(rows.get(thread.as_str()).map(|row| Thread {
            closed: row.closed,
            marked: row.mark.is_some(),
            closed_at: None,
        }))
    }

    async fn mark(&self, receipt: &Receipt) -> Result<Mark, Failure> {
        (self.on_mark)(&self.rows)?;
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
        let mut marked = Vec::new();
        for receipt in receipts {
            if self.mark(receipt).await? == Mark::Set {
                marked.push(receipt.thread_id.clone());
            }
        }
        Ok(marked)
    }

    async fn candidates(&self, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        let rows = self.rows.lock().expect("lock");
        let mut ids: Vec<_> = rows
            .iter()
            .filter(|(id, row)| row.closed && row.mark.is_none() && after.is_none_or(|after| id.as_str() > after))
            .map(|(id, _)| Candidate { id: id.clone(), closed_at: None })
            .collect();
        ids.sort_by(|a, b| a.id.cmp(&b.id));
        ids.truncate(usize::try_from(limit).expect("small"));
        Ok(ids)
    }

    async fn known(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, bool>, Failure> {
        let rows = self.rows.lock().expect("lock");
        let known = threads.iter().filter_map(|thread| Some((thread.clone(), rows.get(thread.as_str())?)));
        Ok(known.map(|(thread, row)| (thread, row.closed && row.mark.is_some())).collect())
    }

    async fn unmark(&self, thread: &ThreadId) -> Result<bool, Failure> {
        let mut rows = self.rows.lock().expect("lock");
        Ok(rows.get_mut(thread.as_str()).is_some_and(|row| row.mark.take().is_some()))
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        let unmarked = self.candidates(None, 1000).await?.len() as u64;
        Ok(Backlog { unmarked, oldest_closed_at: None })
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
        identity: Mutex::new(Ok(())),
        on_inventory: Box::new(on_inventory),
        inventory: Mutex::default(),
        vanishing: AtomicBool::new(false),
        rows: Arc::clone(&rows),
    };
    let threads = FakeThreads { rows, on_mark: Box::new(on_mark) };
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

pub(crate) fn calls(coordinator: &FakeCoordinator) -> Vec<String> {
    coordinator.volumes.calls.lock().expect("lock").clone()
}

pub(crate) fn referenced() -> Outcome {
    Outcome::Referenced { holders: vec![] }
}
