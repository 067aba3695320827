//! The end of a batch: what its removals mean, the marks and receipts in one transaction, and the answers.

use std::{pin::pin, sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound, Utc};
use tracing::{debug, error, info, warn};

use super::{
    Database, Details, Gone, Mark, Origin, Outcome, Receipt, Removal, Volumes,
    batch::{Job, Removed},
    cleaner::Cleaner,
};
use crate::{
    failure::{Failure, Verdict},
    metrics,
    volume_name::ThreadId,
};

/// What a removal came to, as far as this host goes.
enum Found {
    Gone(Gone),
    Other(Result<Outcome, Failure>),
}

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// What an ended removal means.
    fn judge(&self, job: &Job, removed: Removed) -> Found {
        match removed {
            Ok(Removal::Removed) => Found::Gone(Gone::Removed),
            Ok(Removal::NotFound) if self.remembered(&job.request.thread, &job.close).is_some() => {
                Found::Gone(Gone::Removed)
            }
            Ok(Removal::NotFound) if job.proves_absence => Found::Gone(Gone::NotFound),
            Ok(Removal::NotFound) => Found::Other(Ok(Outcome::NotHere)),
            Ok(Removal::NotSent) => Found::Other(Ok(Outcome::Deferred)),
            Ok(Removal::Referenced { containers }) => {
                let (thread, volume) = (&job.request.thread, self.context.prefix.volume_of(&job.request.thread));
                debug!(thread.id = %thread, volume.name = %volume, ?containers, "the volume is referenced");
                self.users.use_volume(thread, &containers);
                Found::Other(Ok(Outcome::Referenced { containers }))
            }
            Err(failure) => Found::Other(Err(failure)),
        }
    }

    /// Marks what is gone, commits, and answers.
    pub(super) async fn mark_finished(&self, finished: Vec<(Job, Removed)>, lock: Option<T::Lock>) {
        // One time for all of them: the mark's is the receipt's.
        let at = Utc::now().trunc_subsecs(3);
        let (mut gone, mut others) = (Vec::new(), Vec::new());
        for (job, removed) in finished {
            match self.judge(&job, removed) {
                Found::Gone(how) => {
                    let receipt = self.receipt(&job, how, at);
                    gone.push((job, receipt));
                }
                Found::Other(result) => others.push((job, result)),
            }
        }
        let receipts: Vec<_> = gone.iter().map(|(_, receipt)| receipt.clone()).collect();
        let marked =
            match lock {
                Some(lock) => self.threads().mark_locked(lock, &receipts).await.map(|marked| {
                    let mark = |receipt: &Receipt| marked.contains(&receipt.thread_id).then_some(Mark::Set);
                    receipts.iter().map(mark).collect()
                }),
                None if receipts.is_empty() => Ok(Vec::new()),
                None => self.threads().mark(&receipts).await.map(|marks| {
                    receipts.iter().map(|receipt| marks.get(&receipt.thread_id).copied()).collect::<Vec<_>>()
                }),
            };
        // Before anybody is answered: a command that has all its answers ends.
        self.settle_containers().await;
        for (job, result) in others {
            job.request.answer(result);
        }
        match marked {
            Ok(marks) => {
                for ((job, receipt), mark) in gone.into_iter().zip(marks) {
                    let result = self.concluded(&job, &receipt, mark);
                    job.conclude(&receipt, result);
                }
            }
            Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => {
                for (job, receipt) in gone {
                    self.remember_if_removed(&receipt);
                    job.conclude(&receipt, Err(failure.clone()));
                }
            }
            // One of them perhaps, which must not keep the others from their mark.
            Err(failure) => {
                let is_the_only_one = gone.len() == 1;
                for (job, receipt) in gone {
                    let result =
                        if is_the_only_one { Err(failure.clone()) } else { self.mark_alone(&job, &receipt).await };
                    if result.is_err() {
                        self.remember_if_removed(&receipt);
                    }
                    job.conclude(&receipt, result);
                }
            }
        }
    }

    /// Finishes a removal that its batch did not wait for.
    pub(super) async fn finish_detached(self: Arc<Self>, mut job: Job, removal: impl Future<Output = Removed>) {
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
        if removed == Ok(Removal::NotSent) {
            // Its row is unlocked, so it begins anew.
            let (claimed_host, origin) = (job.request.claimed_host.clone(), job.request.origin.clone());
            let result = self.clean_unobserved(&thread, claimed_host.as_deref(), origin).await;
            if !is_waited_for {
                self.observe(&thread, source, &result).await;
            }
            return job.request.answer(result);
        }
        let (found, at) = (self.judge(&job, removed), Utc::now().trunc_subsecs(3));
        let result = match found {
            Found::Other(result) => {
                job.request.answer(result.clone());
                result
            }
            Found::Gone(how) => {
                let receipt = self.receipt(&job, how, at);
                let result = self.mark_alone(&job, &receipt).await;
                if result.is_err() {
                    self.remember_if_removed(&receipt);
                }
                job.conclude(&receipt, result.clone());
                result
            }
        };
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
    async fn mark_alone(&self, job: &Job, receipt: &Receipt) -> Result<Outcome, Failure> {
        let marks = self.threads().mark(std::slice::from_ref(receipt)).await?;
        self.concluded(job, receipt, marks.get(&receipt.thread_id).copied())
    }

    fn remember_if_removed(&self, receipt: &Receipt) {
        match receipt.gone {
            Gone::Removed => self.remember(receipt, receipt.is_written),
            Gone::NotFound => {}
        }
    }

    fn receipt(&self, job: &Job, gone: Gone, at: DateTime<Utc>) -> Receipt {
        let thread = &job.request.thread;
        Receipt {
            thread_id: thread.clone(),
            close: job.close.clone(),
            volume: self.context.prefix.volume_of(thread),
            gone,
            origin: job.request.origin.clone(),
            at,
            is_written: self.remembered(thread, &job.close).is_some_and(|removal| removal.has_receipt),
            details: self.details(job, gone),
        }
    }

    /// What the audit trail says of this host.
    fn details(&self, job: &Job, gone: Gone) -> Details {
        let here = self.here();
        match gone {
            Gone::Removed => Details {
                bytes: self.volumes.take_size(&self.context.prefix.volume_of(&job.request.thread)),
                duration: Some(job.took.unwrap_or_else(|| job.began.elapsed())),
                ..here
            },
            Gone::NotFound => here,
        }
    }

    /// The outcome of a clean-up whose volume is gone, by what its mark came to; none if the row did not change
    /// although it was locked.
    fn concluded(&self, job: &Job, receipt: &Receipt, mark: Option<Mark>) -> Result<Outcome, Failure> {
        let thread = &receipt.thread_id;
        match mark {
            Some(Mark::Set) => {
                self.unmarked.lock().remove(thread);
                if receipt.gone == Gone::Removed {
                    metrics::reclaimed(self.host.name(), receipt.details.bytes);
                }
                job.request.span.in_scope(|| observe_mark(receipt, job));
                Ok(receipt.gone.into())
            }
            Some(Mark::AlreadySet) => {
                self.unmarked.lock().remove(thread);
                Ok(Outcome::AlreadyClean)
            }
            Some(Mark::Reopened) => {
                self.unmarked.lock().remove(thread);
                metrics::reopened_while_removing();
                warn!(
                    thread.id = %thread, volume.name = %receipt.volume, removal = receipt.gone.as_str(),
                    "the thread was reopened while its volume was removed; it is not marked"
                );
                Ok(Outcome::Reopened)
            }
            Some(Mark::NoRow) => {
                self.unmarked.lock().remove(thread);
                Ok(Outcome::UnknownThread)
            }
            Some(Mark::Busy) => {
                self.remember_if_removed(receipt);
                Ok(Outcome::Busy)
            }
            None => {
                if receipt.gone == Gone::Removed {
                    self.remember(receipt, true);
                }
                Err(Failure::transient(format!(
                    "the mark of thread {thread} was not set although its row is locked by us and still closed: a \
                     policy of \
                     row-level security, or a trigger of somebody else's, undoes our update. Let our user update the \
                     mark's column; `volume-reaper doctor` looks for what is in the way"
                )))
            }
        }
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

impl Job {
    /// Answers who asked. What was removed counts in the hour's budget, marked or not: it is gone.
    fn conclude(self, receipt: &Receipt, result: Result<Outcome, Failure>) {
        if receipt.gone == Gone::Removed && !receipt.is_written {
            self.reservation.removed();
        }
        self.request.answer(result);
    }
}

fn observe_mark(receipt: &Receipt, job: &Job) {
    metrics::close_to_mark(receipt.close.at, receipt.at);
    let (thread, volume, source) = (&receipt.thread_id, &receipt.volume, receipt.origin.as_str());
    match receipt.gone {
        Gone::Removed => {
            let took_ms = u64::try_from(job.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(thread.id = %thread, volume.name = %volume, source, took_ms, "removed the volume");
        }
        Gone::NotFound => debug!(thread.id = %thread, volume.name = %volume, source, "the volume is absent; marked"),
    }
}
