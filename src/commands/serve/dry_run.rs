//! `serve --dry-run`: the database as the clean-up sees it, and a journal in place of every write.
//!
//! What would have been written is remembered as long as the process lives, so that each thread is decided on once and a
//! budget that would be used up pauses what comes after it. Everything else is as it is: rows are read when they would be.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    cleanup::{
        Backlog, Candidate, Mark, Origin, Outcome, Receipt, Report, Scope, Thread, Threads, breaker::Pause,
        failing::FailedCleanup,
    },
    delivery::{event::ThreadEvent, settlement::Settlement},
    failure::Failure,
    store::Store,
    volume_name::ThreadId,
};

/// What would have been done, one JSON object a line.
pub struct Journal(Mutex<Box<dyn Write + Send>>);

impl Journal {
    /// A journal that is written to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(out)))
    }

    /// What an event came to.
    pub fn event(&self, event: &ThreadEvent, result: &Result<Outcome, Failure>, settlement: &Settlement) {
        let (outcome, error) = match result {
            Ok(outcome) => (Some(outcome.as_str()), None),
            Err(failure) => (None, Some(&failure.message)),
        };
        self.write(json!({
            "thread_id": event.thread_id, "source": "event", "outcome": outcome, "error": error,
            "settlement": settlement.as_str(),
        }));
    }

    fn write(&self, mut entry: Value) {
        entry["at"] = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true).into();
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(out, "{entry}").and_then(|()| out.flush()) {
            warn!(%error, %entry, "the journal can't be written");
        }
    }
}

/// The threads of a store, to which nothing is written.
pub struct DryRun {
    store: Store,
    journal: Arc<Journal>,
    would_be: Mutex<WouldBe>,
}

/// What would be otherwise if this were no dry run.
#[derive(Default)]
struct WouldBe {
    /// Whether a thread is marked.
    marked: HashMap<ThreadId, bool>,
    /// When volumes were removed; the last hour's.
    removals: Vec<DateTime<Utc>>,
    /// By host; `None` is everything.
    pauses: HashMap<Option<String>, Pause>,
}

impl WouldBe {
    fn pause(&self, host: Option<&str>) -> Option<&Pause> {
        self.pauses.get(&None).or_else(|| self.pauses.get(&host.map(str::to_owned)))
    }
}

impl DryRun {
    /// Reads from `store` and writes to `journal`.
    pub fn new(store: Store, journal: Arc<Journal>) -> Self {
        Self { store, journal, would_be: Mutex::default() }
    }

    fn would_be(&self) -> MutexGuard<'_, WouldBe> {
        self.would_be.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this mark would be news.
    fn mark_news(&self, receipt: &Receipt) -> bool {
        let is_news = {
            let mut would_be = self.would_be();
            if receipt.outcome == Outcome::Removed.as_str() {
                would_be.removals.push(receipt.at);
            }
            would_be.marked.insert(receipt.thread_id.clone(), true) != Some(true)
        };
        // What an event came to is in the journal with all else about it.
        if is_news && !matches!(receipt.origin, Origin::Event(_)) {
            self.journal.write(json!({
                "thread_id": receipt.thread_id, "source": receipt.origin.as_str(), "outcome": receipt.outcome,
            }));
        }
        is_news
    }
}

impl AsRef<Store> for DryRun {
    fn as_ref(&self) -> &Store {
        &self.store
    }
}

impl Threads for DryRun {
    async fn find(&self, thread: &ThreadId, host: Option<&str>) -> Result<Option<Thread>, Failure> {
        let row = self.store.find(thread, host).await?;
        let mut would_be = self.would_be();
        if row.as_ref().is_some_and(|row| !row.closed) {
            // Reopened: its next close is another one.
            would_be.marked.remove(thread);
        }
        Ok(row.map(|row| Thread {
            marked: would_be.marked.get(thread).copied().unwrap_or(row.marked),
            pause: row.pause.or_else(|| would_be.pause(host).map(|pause| pause.reason.clone())),
            ..row
        }))
    }

    async fn record_report(&self, _thread: &ThreadId, _report: &Report) -> Result<(), Failure> {
        Err(Failure::permanent("a dry run records no threads"))
    }

    async fn mark(&self, receipt: &Receipt) -> Result<Mark, Failure> {
        Ok(if self.mark_news(receipt) { Mark::Set } else { Mark::AlreadySet })
    }

    async fn mark_all(&self, receipts: &[Receipt]) -> Result<Vec<ThreadId>, Failure> {
        let marked = receipts.iter().filter(|receipt| self.mark_news(receipt));
        Ok(marked.map(|receipt| receipt.thread_id.clone()).collect())
    }

    async fn candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        self.store.candidates(scope, after, limit).await
    }

    async fn known(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, Thread>, Failure> {
        let mut known = self.store.known(threads).await?;
        // The volume that a dry run has removed is still there, which is no drift, and not to be removed again.
        let would_be = self.would_be();
        for (thread, row) in &mut known {
            if would_be.marked.contains_key(thread) {
                (row.closed, row.marked) = (false, false);
            }
        }
        Ok(known)
    }

    async fn stranger(&self) -> Result<Option<String>, Failure> {
        self.store.stranger().await
    }

    async fn unmark(&self, thread: &ThreadId) -> Result<bool, Failure> {
        self.would_be().marked.insert(thread.clone(), false);
        self.journal.write(json!({ "thread_id": thread, "source": "sweep", "outcome": "mark_withdrawn" }));
        Ok(true)
    }

    async fn note_failure(&self, _thread: &ThreadId, _error: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn failed(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, FailedCleanup>, Failure> {
        self.store.failed(threads).await
    }

    async fn forget_failures(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        self.store.backlog().await
    }

    async fn pause(&self, host: Option<&str>) -> Result<Option<Pause>, Failure> {
        let pause = self.store.pause(host).await?;
        Ok(pause.or_else(|| self.would_be().pause(host).cloned()))
    }

    async fn pause_removal(&self, host: Option<&str>, reason: &str) -> Result<bool, Failure> {
        let mut would_be = self.would_be();
        let host = host.map(str::to_owned);
        let is_news = !would_be.pauses.contains_key(&host);
        if is_news {
            let (paused_at, reason, paused_by) = (Utc::now(), reason.to_owned(), "the dry run".to_owned());
            self.journal.write(json!({ "outcome": "removal_paused", "reason": reason, "host": host }));
            would_be.pauses.insert(host, Pause { paused_at, reason, paused_by });
        }
        Ok(is_news)
    }

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        let removed = self.store.removed_last_hour().await?;
        let an_hour_ago = Utc::now() - TimeDelta::hours(1);
        let mut would_be = self.would_be();
        would_be.removals.retain(|at| *at > an_hour_ago);
        Ok(removed.saturating_add(would_be.removals.len() as u64))
    }
}
