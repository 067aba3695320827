//! A dry run's database: the real one as the clean-up sees it, and a journal in place of every write.
//!
//! What would have been written is remembered, so that each thread is decided on once and a budget that would be used
//! up pauses what comes after it. Of many threads those are forgotten first that nothing was decided on or read of for
//! longest; what comes of them again is said again. Everything else is as it is: rows are read when they would be.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use hashlink::LruCache;
use parking_lot::Mutex;
use serde_json::json;

use super::{
    Backlog, Candidate, ContainerReceipt, Database, Failures, Gone, Locked, Mark, Origin, Outcome, Pause, Pauses,
    Receipt, Receipts, Rows, Scope, Seen, Sighting, Sightings, SweepLog, Thread, Threads, VolumeRow,
    failing::FailedCleanup,
};
use crate::{
    failure::Failure,
    host::Host,
    journal::Journal,
    volume_name::{ThreadId, VolumeName},
};

/// Threads that are remembered: some 30 MB of them.
const MOST_THREADS: usize = 100_000;

/// A database to which nothing is written.
pub struct DryRun<T> {
    inner: T,
    journal: Journal,
    would_be: Mutex<WouldBe>,
}

/// What would be otherwise if this were no dry run.
struct WouldBe {
    /// Of threads those volumes that would be marked (true), or whose marks would be withdrawn.
    marks: LruCache<ThreadId, HashMap<VolumeName, bool>>,
    /// When volumes and containers were removed; the last hour's.
    removals: VecDeque<DateTime<Utc>>,
    /// By host; `None` is everything.
    pauses: HashMap<Option<String>, Pause>,
}

impl WouldBe {
    /// As things are; at most so many threads are remembered.
    fn remembering(most_threads: usize) -> Self {
        Self { marks: LruCache::new(most_threads), removals: VecDeque::new(), pauses: HashMap::new() }
    }

    /// Sets or withdraws a volume's mark. Whether it was otherwise, as far as that is remembered.
    fn mark(&mut self, thread: &ThreadId, volume: &VolumeName, is_marked: bool) -> bool {
        if let Some(marks) = self.marks.get_mut(thread) {
            return marks.insert(volume.clone(), is_marked) != Some(is_marked);
        }
        self.marks.insert(thread.clone(), HashMap::from([(volume.clone(), is_marked)]));
        true
    }

    /// Takes note of removals at these times.
    fn remove(&mut self, at: impl IntoIterator<Item = DateTime<Utc>>) {
        self.removals.extend(at);
        self.removed_last_hour();
    }

    /// Counts the removals, and forgets those of before.
    fn removed_last_hour(&mut self) -> u64 {
        let an_hour_ago = Utc::now() - TimeDelta::hours(1);
        while self.removals.front().is_some_and(|at| *at <= an_hour_ago) {
            self.removals.pop_front();
        }
        self.removals.iter().filter(|at| **at > an_hour_ago).count() as u64
    }

    /// Makes of a row what it would be.
    fn change(&mut self, thread: &ThreadId, row: &mut Thread) {
        let Some(marks) = self.marks.get(thread) else { return };
        let Some(volumes) = &mut row.volumes else {
            row.marked = marks.values().all(|marked| *marked);
            return;
        };
        // Each has a mark of its own.
        volumes.retain(|volume| !marks.iter().any(|(name, marked)| *marked && name.as_str() == volume.name));
        for (name, _) in marks.iter().filter(|(_, marked)| !**marked) {
            if !volumes.iter().any(|volume| volume.name == name.as_str()) {
                volumes.push(VolumeRow { name: name.to_string(), id: String::new(), host: row.host.clone() });
            }
        }
        row.marked = volumes.is_empty();
    }

    fn pause(&self, host: Option<&str>) -> Option<&Pause> {
        self.pauses.get(&None).or_else(|| self.pauses.get(&host.map(str::to_owned)))
    }
}

impl<T: Database> DryRun<T> {
    /// Reads from `inner` and writes to `journal`.
    pub fn new(inner: T, journal: Journal) -> Self {
        Self { inner, journal, would_be: Mutex::new(WouldBe::remembering(MOST_THREADS)) }
    }

    /// The threads that these receipts would mark, each with whether that would be news.
    fn marked(&self, receipts: &[Receipt]) -> Vec<(ThreadId, bool)> {
        let of_threads = receipts.chunk_by(|one, other| one.thread_id == other.thread_id);
        of_threads.filter_map(|receipts| self.marked_by(receipts)).collect()
    }

    /// What the receipts of one thread would do.
    fn marked_by(&self, receipts: &[Receipt]) -> Option<(ThreadId, bool)> {
        let removed: Vec<_> = receipts.iter().filter(|receipt| receipt.gone == Gone::Removed).collect();
        let of_thread = removed.first().copied().or(receipts.first())?;
        let is_news = {
            let mut would_be = self.would_be.lock();
            would_be.remove(removed.iter().filter(|receipt| !receipt.is_written).map(|receipt| receipt.at));
            if !of_thread.completes {
                return None;
            }
            let complete = receipts.iter().filter(|receipt| receipt.completes);
            complete.filter(|receipt| would_be.mark(&of_thread.thread_id, &receipt.volume, true)).count() > 0
        };
        // What an event came to is in the journal with all else about it.
        if is_news && !matches!(of_thread.origin, Origin::Event(_)) {
            let (source, outcome) = (of_thread.origin.as_str(), of_thread.gone.as_str());
            self.journal.write(json!({ "thread_id": of_thread.thread_id, "source": source, "outcome": outcome }));
        }
        Some((of_thread.thread_id.clone(), is_news))
    }
}

impl<T> AsRef<T> for DryRun<T> {
    fn as_ref(&self) -> &T {
        &self.inner
    }
}

impl<T: Database> Threads for DryRun<T> {
    type Lock = ();

    async fn read(&self, threads: &[ThreadId], host: Option<&str>) -> Result<Rows, Failure> {
        let mut rows = self.inner.read(threads, host).await?;
        let mut would_be = self.would_be.lock();
        for (thread, row) in &mut rows.threads {
            if !row.closed {
                // Reopened: its next close is another one.
                would_be.marks.remove(thread);
            }
            would_be.change(thread, row);
        }
        rows.pause = rows.pause.or_else(|| would_be.pause(host).map(|pause| pause.reason.clone()));
        Ok(rows)
    }

    async fn lock(&self, threads: &[ThreadId], host: Option<&str>, _limit: Duration) -> Result<Locked<()>, Failure> {
        Ok(Locked { rows: self.read(threads, host).await?, busy: HashSet::new(), lock: () })
    }

    async fn mark_locked(&self, (): (), receipts: &[Receipt]) -> Result<HashSet<ThreadId>, Failure> {
        Ok(self.marked(receipts).into_iter().filter_map(|(thread, is_news)| is_news.then_some(thread)).collect())
    }

    async fn mark(&self, receipts: &[Receipt]) -> Result<HashMap<ThreadId, Mark>, Failure> {
        let mark = |(thread, is_news)| (thread, if is_news { Mark::Set } else { Mark::AlreadySet });
        Ok(self.marked(receipts).into_iter().map(mark).collect())
    }

    async fn candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        self.inner.candidates(scope, after, limit).await
    }

    async fn unmark(&self, thread: &ThreadId, volume: &VolumeName) -> Result<bool, Failure> {
        self.would_be.lock().mark(thread, volume, false);
        self.journal.write(json!({ "thread_id": thread, "source": "sweep", "outcome": "mark_withdrawn" }));
        Ok(true)
    }

    async fn owners(&self, volumes: &[VolumeName]) -> Result<HashMap<VolumeName, Option<(ThreadId, Thread)>>, Failure> {
        self.inner.owners(volumes).await
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        self.inner.backlog().await
    }

    async fn oldest_not_held(&self) -> Result<Option<DateTime<Utc>>, Failure> {
        self.inner.oldest_not_held().await
    }

    async fn unserved_host(&self) -> Result<Option<String>, Failure> {
        self.inner.unserved_host().await
    }
}

impl<T: Database> Failures for DryRun<T> {
    async fn note_failure(&self, _thread: &ThreadId, _error: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn failed(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, FailedCleanup>, Failure> {
        self.inner.failed(threads).await
    }

    async fn forget_failures(&self) -> Result<(), Failure> {
        Ok(())
    }
}

impl<T: Database> Pauses for DryRun<T> {
    async fn pause(&self, host: Option<&str>) -> Result<Option<Pause>, Failure> {
        let pause = self.inner.pause(host).await?;
        Ok(pause.or_else(|| self.would_be.lock().pause(host).cloned()))
    }

    async fn pause_removal(&self, host: Option<&str>, reason: &str) -> Result<bool, Failure> {
        let mut would_be = self.would_be.lock();
        let host = host.map(str::to_owned);
        let is_news = !would_be.pauses.contains_key(&host);
        if is_news {
            let (paused_at, reason, paused_by) = (Utc::now(), reason.to_owned(), "the dry run".to_owned());
            self.journal.write(json!({ "outcome": "removal_paused", "reason": reason, "host": host }));
            would_be.pauses.insert(host, Pause { paused_at, reason, paused_by });
        }
        Ok(is_news)
    }
}

impl<T: Database> Sightings for DryRun<T> {
    async fn seen(&self, host: &Host) -> Result<Seen, Failure> {
        self.inner.seen(host).await
    }

    async fn saw(&self, _host: &Host, _sighting: &Sighting) -> Result<(), Failure> {
        Ok(())
    }

    async fn doubt(&self, host: &Host, reason: &str) -> Result<bool, Failure> {
        self.pause_removal(host.name(), reason).await
    }

    async fn removed_since(&self, host: &Host, since: DateTime<Utc>) -> Result<u64, Failure> {
        self.inner.removed_since(host, since).await
    }
}

impl<T: Database> SweepLog for DryRun<T> {}

impl<T: Database> Receipts for DryRun<T> {
    fn event_handled(&self, thread: &ThreadId, result: &Result<Outcome, Failure>, settlement: &'static str) {
        let (outcome, error) = match result {
            Ok(outcome) => (Some(outcome.as_str()), None),
            Err(failure) => (None, Some(&failure.message)),
        };
        self.journal.write(json!({
            "thread_id": thread, "source": "event", "outcome": outcome, "error": error, "settlement": settlement,
        }));
    }

    async fn record(&self, _receipt: &Receipt) -> Result<(), Failure> {
        Ok(())
    }

    async fn record_containers(&self, receipts: &[ContainerReceipt]) -> Result<(), Failure> {
        self.would_be.lock().remove(receipts.iter().map(|receipt| receipt.at));
        for receipt in receipts {
            self.journal.write(json!({
                "thread_id": receipt.thread_id, "source": receipt.origin.as_str(),
                "outcome": ContainerReceipt::OUTCOME, "container_id": receipt.container,
                "container_name": receipt.name,
            }));
        }
        Ok(())
    }

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        let removed = self.inner.removed_last_hour().await?;
        Ok(removed.saturating_add(self.would_be.lock().removed_last_hour()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cleanup::Close, volume_name::VolumeNames};

    #[test]
    fn of_more_threads_than_are_remembered_the_one_that_was_asked_for_longest_ago_is_forgotten() {
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let mut would_be = WouldBe::remembering(2);
        let thread = |id: &str| ThreadId::parse(id).expect("valid");
        let is_marked = |would_be: &mut WouldBe, id: &str| {
            let close = Close::default();
            let mut row = Thread { closed: true, marked: false, close, held: false, host: None, volumes: None };
            would_be.change(&thread(id), &mut row);
            row.marked
        };
        let mark = |would_be: &mut WouldBe, id: &str| would_be.mark(&thread(id), &names.volume_of(&thread(id)), true);
        assert!(mark(&mut would_be, "a") && mark(&mut would_be, "b"));
        // Asked for, and so remembered longer than the other.
        assert!(is_marked(&mut would_be, "a"));
        assert!(mark(&mut would_be, "c"));
        assert_eq!(["a", "b", "c"].map(|id| is_marked(&mut would_be, id)), [true, false, true]);
        // What is remembered is no news, and what is forgotten is.
        assert!(!mark(&mut would_be, "a") && mark(&mut would_be, "b"));
        for number in 0..100 {
            mark(&mut would_be, &format!("t{number}"));
        }
        assert_eq!(would_be.marks.len(), 2);
    }

    #[test]
    fn removals_are_forgotten_after_an_hour_though_nobody_counts_them() {
        let mut would_be = WouldBe::remembering(1);
        let ago = |minutes| Utc::now() - TimeDelta::minutes(minutes);
        would_be.remove([ago(90), ago(61)]);
        would_be.remove([ago(59), ago(1)]);
        assert_eq!(would_be.removals.len(), 2);
        assert_eq!(would_be.removed_last_hour(), 2);
    }
}
