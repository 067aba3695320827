//! A database whose threads are known from events alone (`VOLUME_REAPER_UNKNOWN_THREADS=record`): no platform writes
//! its rows.
//!
//! Each event is written into its thread's row first, and the row decides as usual. Threads that are in use may have no
//! row, or still be closed in it: neither a volume without a row nor one whose thread is marked is known to be unused.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Backlog, Candidate, Cause, ClaimedStatus, ContainerReceipt, Database, Failures, Locked, Mark, Outcome, Pause,
    Pauses, Receipt, Receipts, Rows, Scope, Seen, Sighting, Sightings, StatusChange, StatusChanges, SweepEnd, SweepLog,
    Threads, failing::FailedCleanup,
};
use crate::{
    failure::Failure,
    host::Host,
    volume_name::{ThreadId, VolumeName},
};

/// A close later than this after our own time is a wrong clock: believed, it would outlive every reopening until then.
const MAX_AHEAD: TimeDelta = TimeDelta::minutes(5);

/// A database that writes what events say of its threads.
pub struct Recording<T> {
    inner: T,
}

impl<T: Database + StatusChanges> Recording<T> {
    /// Writes into `inner`, whose threads table has to be ours.
    pub fn new(inner: T) -> Self {
        Self { inner }
    }
}

impl<T> AsRef<T> for Recording<T> {
    fn as_ref(&self) -> &T {
        &self.inner
    }
}

impl ClaimedStatus {
    /// The change that is claimed, for a database that knows nothing else of the thread.
    ///
    /// It is a reopening if the event came as one, or if it says when the thread was reopened and of no later close. In
    /// doubt that is the safe side. `now` stands for a reopening's time that it does not say. Fails permanently for a
    /// close in the future, and for a time that can't be read.
    pub(crate) fn change(&self, now: DateTime<Utc>) -> Result<StatusChange, Failure> {
        if let Some(name) = self.unreadable {
            return Err(Failure::permanent(format!(
                "{name} is not a time that we can read: write it as RFC 3339, such as 2026-01-02T03:04:05Z"
            )));
        }
        let reopened_last = self.reopened_at.is_some_and(|reopened| self.closed_at.is_none_or(|at| reopened >= at));
        if self.came_as_reopened || reopened_last {
            return Ok(StatusChange::Reopened { at: self.reopened_at.unwrap_or(now) });
        }
        match self.closed_at {
            Some(at) if at > now + MAX_AHEAD => Err(Failure::permanent(format!(
                "closed_at is {at}, and here it is {now}: check the clocks, then replay the event"
            ))),
            at => Ok(StatusChange::Closed { at }),
        }
    }
}

impl<T: Database + StatusChanges> Threads for Recording<T> {
    type Lock = T::Lock;

    async fn take_note(&self, thread: &ThreadId, claimed: &ClaimedStatus) -> Result<Option<Outcome>, Failure> {
        let change = claimed.change(Utc::now())?;
        self.inner.record_change(thread, &change).await?;
        Ok(match change {
            StatusChange::Closed { .. } => None,
            StatusChange::Reopened { .. } => Some(Outcome::Reopened),
        })
    }

    fn knows_threads_in_use(&self) -> bool {
        false
    }

    fn marks_at_once(&self) -> usize {
        self.inner.marks_at_once()
    }

    async fn read(&self, threads: &[ThreadId], host: Option<&str>) -> Result<Rows, Failure> {
        self.inner.read(threads, host).await
    }

    async fn lock(
        &self,
        threads: &[ThreadId],
        host: Option<&str>,
        limit: Duration,
    ) -> Result<Locked<T::Lock>, Failure> {
        self.inner.lock(threads, host, limit).await
    }

    async fn mark_locked(&self, lock: T::Lock, receipts: &[Receipt]) -> Result<HashSet<ThreadId>, Failure> {
        self.inner.mark_locked(lock, receipts).await
    }

    async fn mark(&self, receipts: &[Receipt]) -> Result<HashMap<ThreadId, Mark>, Failure> {
        self.inner.mark(receipts).await
    }

    async fn candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        self.inner.candidates(scope, after, limit).await
    }

    async fn unmark(&self, thread: &ThreadId, volume: &VolumeName) -> Result<bool, Failure> {
        self.inner.unmark(thread, volume).await
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

impl<T: Database + StatusChanges> Failures for Recording<T> {
    async fn note_failure(&self, thread: &ThreadId, error: &str) -> Result<(), Failure> {
        self.inner.note_failure(thread, error).await
    }

    async fn failed(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, FailedCleanup>, Failure> {
        self.inner.failed(threads).await
    }

    async fn forget_failures(&self) -> Result<(), Failure> {
        self.inner.forget_failures().await
    }
}

impl<T: Database + StatusChanges> Sightings for Recording<T> {
    async fn seen(&self, host: &Host) -> Result<Seen, Failure> {
        self.inner.seen(host).await
    }

    async fn saw(&self, host: &Host, sighting: &Sighting) -> Result<(), Failure> {
        self.inner.saw(host, sighting).await
    }

    async fn doubt(&self, host: &Host, reason: &str) -> Result<bool, Failure> {
        self.inner.doubt(host, reason).await
    }

    async fn removed_since(&self, host: &Host, since: DateTime<Utc>) -> Result<u64, Failure> {
        self.inner.removed_since(host, since).await
    }
}

impl<T: Database + StatusChanges> Pauses for Recording<T> {
    async fn pause(&self, host: Option<&str>) -> Result<Option<Pause>, Failure> {
        self.inner.pause(host).await
    }

    async fn pause_removal(&self, host: Option<&str>, reason: &str) -> Result<bool, Failure> {
        self.inner.pause_removal(host, reason).await
    }
}

impl<T: Database + StatusChanges> Receipts for Recording<T> {
    async fn record(&self, receipt: &Receipt) -> Result<(), Failure> {
        self.inner.record(receipt).await
    }

    async fn record_containers(&self, receipts: &[ContainerReceipt]) -> Result<(), Failure> {
        self.inner.record_containers(receipts).await
    }

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        self.inner.removed_last_hour().await
    }
}

impl<T: Database + StatusChanges> SweepLog for Recording<T> {
    async fn sweep_began(&self, host: Option<&str>, cause: Cause) -> Result<Option<String>, Failure> {
        self.inner.sweep_began(host, cause).await
    }

    async fn sweep_ended(&self, id: &str, end: SweepEnd) -> Result<(), Failure> {
        self.inner.sweep_ended(id, end).await
    }

    async fn sweep_stopped(&self, id: &str) -> Result<Option<String>, Failure> {
        self.inner.sweep_stopped(id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Verdict;

    #[test]
    fn in_doubt_an_event_is_a_reopening() {
        let (earlier, later) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let at = |time: &str| time.parse::<DateTime<Utc>>().expect("valid");
        let closed = |time| StatusChange::Closed { at: Some(at(time)) };
        let reopened = |time| StatusChange::Reopened { at: at(time) };
        for (closed_at, reopened_at, came_as_reopened, expected) in [
            (None, None, false, StatusChange::Closed { at: None }),
            (Some(later), None, false, closed(later)),
            (Some(later), Some(earlier), false, closed(later)),
            (Some(later), Some(later), false, reopened(later)),
            (Some(earlier), Some(later), false, reopened(later)),
            (None, Some(earlier), false, reopened(earlier)),
            (Some(later), Some(earlier), true, reopened(earlier)),
            (Some(earlier), None, true, reopened(later)),
        ] {
            let (closed_at, reopened_at) = (closed_at.map(at), reopened_at.map(at));
            let claimed = ClaimedStatus { closed_at, reopened_at, unreadable: None, came_as_reopened };
            assert_eq!(claimed.change(at(later)).expect("a change"), expected, "{claimed:?}");
        }
    }

    #[test]
    fn a_close_in_the_future_is_refused() {
        let now = "2026-01-01T00:00:00Z".parse().expect("valid");
        let closed_at = Some("2026-01-02T00:00:00Z".parse().expect("valid"));
        let claimed = ClaimedStatus { closed_at, ..ClaimedStatus::default() };
        assert_eq!(claimed.change(now).expect_err("refused").verdict, Verdict::Permanent);
    }
}
