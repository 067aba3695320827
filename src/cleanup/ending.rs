//! The end of a batch: what its removals mean, the marks and receipts in one transaction, and the answers.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use chrono::SubsecRound;
use tracing::{debug, error, info, warn};

use super::{
    Database, Gone, Mark, Origin, Outcome, Receipt, Removal, Volumes,
    batch::{Job, Removed},
    cleaner::Cleaner,
    judging::{Judged, is_to_come_again},
};
use crate::{
    failure::{Failure, Verdict},
    metrics,
    volume_name::ThreadId,
};

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// Marks what is gone, commits, and answers.
    pub(super) async fn mark_finished(&self, finished: Vec<(Job, Vec<Removed>)>, lock: Option<T::Lock>) {
        // One time for all of them: the mark's is the receipt's.
        let at = self.context.clock.now().trunc_subsecs(3);
        let mut judged: Vec<_> = finished
            .into_iter()
            .map(|(job, removed)| {
                let judged = self.judge(&job, removed, at);
                (job, judged)
            })
            .collect();
        let receipts: Vec<_> = judged.iter().flat_map(|(_, judged)| judged.receipts.iter().cloned()).collect();
        let marked = match lock {
            Some(lock) => self
                .threads()
                .mark_locked(lock, &receipts)
                .await
                .map(|marked| marked.into_iter().map(|thread| (thread, Mark::Set)).collect()),
            None if receipts.is_empty() => Ok(HashMap::new()),
            None => self.threads().mark(&receipts).await,
        };
        // Before anybody is answered: a command that has all its answers ends.
        self.settle_containers().await;
        // Those who wait for no mark.
        let others = judged.extract_if(.., |(_, judged)| judged.receipts.is_empty());
        for (job, Judged { result, .. }) in others {
            job.request.answer(result.unwrap_or(Ok(Outcome::Deferred)));
        }
        match marked {
            Ok(marks) => {
                for (job, judged) in judged {
                    let mark = marks.get(&job.request.thread).copied();
                    let result = self.concluded(&job, &judged, mark);
                    self.conclude(job, &judged.receipts, result);
                }
            }
            Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => {
                for (job, judged) in judged {
                    self.remember_all(&judged.receipts);
                    self.conclude(job, &judged.receipts, Err(failure.clone()));
                }
            }
            // One of them perhaps, which must not keep the others from their mark.
            Err(failure) => {
                let is_the_only_one = judged.len() == 1;
                for (job, judged) in judged {
                    let result =
                        if is_the_only_one { Err(failure.clone()) } else { self.mark_alone(&job, &judged).await };
                    if result.is_err() {
                        self.remember_all(&judged.receipts);
                    }
                    self.conclude(job, &judged.receipts, result);
                }
            }
        }
    }

    /// Finishes removals that their batch did not wait for.
    pub(super) async fn finish_detached(self: Arc<Self>, mut job: Job, removal: impl Future<Output = Vec<Removed>>) {
        let (thread, source) = (job.request.thread.clone(), job.request.origin.as_str());
        let detached = Detached { cleaner: &self, thread: &thread };
        let mut removal = pin!(removal);
        let wait = match job.request.origin {
            // A delivery is not kept: others wait behind it.
            Origin::Event(_) => Duration::ZERO,
            Origin::Sweep | Origin::Docker | Origin::Orphan | Origin::Retired => {
                self.context.limits.timeout.saturating_sub(job.began.elapsed())
            }
        };
        let (removed, is_waited_for) = if let Ok(removed) = tokio::time::timeout(wait, &mut removal).await {
            (removed, true)
        } else {
            // A daemon that answers nothing is not slow but down, and a delivery is not settled by that.
            job.request.hand_over().answer(self.volumes.probe().await.map(|()| Outcome::Removing));
            (removal.await, false)
        };
        drop(detached);
        self.settle_containers().await;
        if is_to_come_again(&removed) {
            // Its row is unlocked, so it begins anew.
            self.remember_removed(&job, &removed);
            let (claimed_host, origin) = (job.request.claimed_host.clone(), job.request.origin.clone());
            let result = self.clean_unobserved(&thread, claimed_host.as_deref(), origin).await;
            if !is_waited_for {
                self.observe(&thread, source, &result).await;
            }
            return job.request.answer(result);
        }
        let judged = self.judge(&job, removed, self.context.clock.now().trunc_subsecs(3));
        let result = if judged.receipts.is_empty() {
            judged.result.unwrap_or(Ok(Outcome::Deferred))
        } else {
            let result = self.mark_alone(&job, &judged).await;
            if result.is_err() {
                self.remember_all(&judged.receipts);
            }
            result
        };
        self.conclude(job, &judged.receipts, result.clone());
        if is_waited_for {
            // Whoever waits counts it.
            return;
        }
        self.observe(&thread, source, &result).await;
        if let Err(error) = &result {
            warn!(thread.id = %thread, %error, "a removal that took long has failed; left to the sweep");
        }
    }

    /// Marks one thread whose row is not locked any more, if it is still as it was read.
    async fn mark_alone(&self, job: &Job, judged: &Judged) -> Result<Outcome, Failure> {
        let marks = self.threads().mark(&judged.receipts).await?;
        self.concluded(job, judged, marks.get(&job.request.thread).copied())
    }

    /// Remembers what of a thread's volumes was removed, when the others come again.
    pub(super) fn remember_removed(&self, job: &Job, removed: &[Removed]) {
        for (volume, _) in job.volumes.iter().zip(removed).filter(|(_, removed)| **removed == Ok(Removal::Removed)) {
            let receipt = self.receipt(job, volume, Gone::Removed, self.context.clock.now(), false);
            self.remember(&receipt, false);
        }
    }

    fn remember_all(&self, receipts: &[Receipt]) {
        for receipt in receipts {
            match receipt.gone {
                Gone::Removed => self.remember(receipt, receipt.is_written),
                Gone::NotFound => {}
            }
        }
    }

    fn forget_all(&self, receipts: &[Receipt]) {
        let mut unmarked = self.unmarked.lock();
        for receipt in receipts {
            unmarked.remove(&receipt.volume);
        }
    }

    /// The result of a clean-up whose receipts are written, by what its mark came to; none if the row did not change
    /// although it was locked.
    fn concluded(&self, job: &Job, judged: &Judged, mark: Option<Mark>) -> Result<Outcome, Failure> {
        let (thread, receipts) = (&job.request.thread, &judged.receipts);
        if let Some(result) = &judged.result {
            // Their receipts are written, and the thread comes again for the others.
            match mark {
                None => receipts.iter().for_each(|receipt| self.remember(receipt, true)),
                // They have marks of their own.
                Some(Mark::Busy) => self.remember_all(receipts),
                Some(Mark::Set | Mark::AlreadySet | Mark::Reopened | Mark::NoRow) => self.forget_all(receipts),
            }
            self.observe_receipts(receipts, job);
            return result.clone();
        }
        match mark {
            Some(Mark::Set) => {
                self.forget_all(receipts);
                if let Some(receipt) = receipts.first() {
                    metrics::close_to_mark(receipt.close.at, receipt.at);
                }
                self.observe_receipts(receipts, job);
                let was_removed = receipts.iter().any(|receipt| receipt.gone == Gone::Removed);
                Ok(if was_removed { Gone::Removed } else { Gone::NotFound }.into())
            }
            Some(Mark::AlreadySet) => {
                self.forget_all(receipts);
                Ok(Outcome::AlreadyClean)
            }
            Some(Mark::Reopened) => {
                self.forget_all(receipts);
                metrics::reopened_while_removing();
                for receipt in receipts {
                    warn!(
                        thread.id = %thread, volume.name = %receipt.volume, removal = receipt.gone.as_str(),
                        "the thread was reopened while its volume was removed; it is not marked"
                    );
                }
                Ok(Outcome::Reopened)
            }
            Some(Mark::NoRow) => {
                self.forget_all(receipts);
                Ok(Outcome::UnknownThread)
            }
            Some(Mark::Busy) => {
                self.remember_all(receipts);
                Ok(Outcome::Busy)
            }
            None => {
                for receipt in receipts.iter().filter(|receipt| receipt.gone == Gone::Removed) {
                    self.remember(receipt, true);
                }
                self.observe_receipts(receipts, job);
                Err(Failure::transient(format!(
                    "the mark of thread {thread} was not set although its row is locked by us and still closed: a \
                     policy of \
                     row-level security, or a trigger of somebody else's, undoes our update. Let our user update the \
                     mark's column; `volume-reaper doctor` looks for what is in the way"
                )))
            }
        }
    }

    /// Says what was removed, once: with the receipt of it.
    fn observe_receipts(&self, receipts: &[Receipt], job: &Job) {
        let _in_span = job.request.span.enter();
        for receipt in receipts.iter().filter(|receipt| !receipt.is_written) {
            let (thread, volume, source) = (&receipt.thread_id, &receipt.volume, receipt.origin.as_str());
            match receipt.gone {
                Gone::Removed => {
                    metrics::reclaimed(self.host.name(), receipt.details.bytes);
                    if job.request.origin == Origin::Sweep {
                        self.swept.written(receipt.details.bytes);
                    }
                    let took = receipt.details.duration.unwrap_or_else(|| job.began.elapsed());
                    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                    info!(thread.id = %thread, volume.name = %volume, source, took_ms, "removed the volume");
                }
                Gone::NotFound => {
                    debug!(thread.id = %thread, volume.name = %volume, source, "the volume is absent");
                }
            }
        }
    }

    /// Answers who asked. What was removed counts in the budgets, marked or not: it is gone.
    fn conclude(&self, job: Job, receipts: &[Receipt], result: Result<Outcome, Failure>) {
        let news = receipts.iter().filter(|receipt| receipt.gone == Gone::Removed && !receipt.is_written);
        let is_sweeps = job.request.origin == Origin::Sweep;
        for (_, reservation) in news.zip(job.reservations) {
            reservation.removed();
            if is_sweeps {
                self.swept.removed();
            }
        }
        job.request.answer(result);
    }
}

/// A thread whose removal goes on without a batch, until this is dropped.
struct Detached<'a, V, T> {
    cleaner: &'a Cleaner<V, T>,
    thread: &'a ThreadId,
}

impl<V, T> Drop for Detached<'_, V, T> {
    fn drop(&mut self) {
        self.cleaner.detached.lock().remove(self.thread);
        if std::thread::panicking() {
            error!(thread.id = %self.thread, "a removal that took long panicked; left to the sweep");
        }
    }
}
