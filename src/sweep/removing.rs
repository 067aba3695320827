//! What a sweep removes: within the budget, and what failed before after all others.

use std::{convert::Infallible, pin::pin, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Sweeper,
    retries::Retries,
    tally::{Fate, Tally},
};
use crate::{
    cleanup::{Database, Origin, Outcome, Volumes},
    failure::{Failure, Verdict},
    volume_name::ThreadId,
};

/// Clean-ups asked for at once: as many as two batches take.
const CLEANUPS_IN_FLIGHT: usize = 64;

/// How long one sweep begins to try those again that failed before. What is left is the next sweep's.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// Volumes that are remembered to be referenced although no container shows it. More are asked for again next time.
const MAX_COOLING: usize = 10_000;

impl<V: Volumes, T: Database> Sweeper<V, T> {
    /// Takes out of `removable` what failed before: for now, or until the end of this sweep.
    pub(super) async fn set_failed_aside(
        &self,
        removable: &mut Vec<ThreadId>,
        retries: &mut Retries,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        if removable.is_empty() {
            return Ok(());
        }
        let failed = self.cleaner.threads().failed(removable).await?;
        removable.retain(|thread| !failed.contains_key(thread));
        let now = self.cleaner.context.clock.now();
        let next_try = failed.into_iter().map(|(thread, failed)| (failed.next_try_at(self.cooldown, now), thread));
        let (cooling, due): (Vec<_>, Vec<_>) = next_try.partition(|(next_try_at, _)| *next_try_at > now);
        tally.add(Fate::CoolingDown, cooling.len() + retries.add(due));
        Ok(())
    }

    /// What would become, if this were no dry run, of what a sweep begins to remove.
    pub(super) fn would_be(&self) -> Fate {
        if self.cleaner.pause_reason().is_some() { Fate::Paused } else { Fate::Removed }
    }

    /// Tries those again whose time has come, as long as this sweep has time for them.
    pub(super) async fn retry(
        &self,
        retries: Retries,
        tally: &mut Tally,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let threads = retries.threads();
        if tally.dry_run {
            tally.add(self.would_be(), threads.len());
            return Ok(());
        }
        let enough = stop.child_token();
        let time_is_up = async {
            tokio::time::sleep(RETRY_BUDGET).await;
            enough.cancel();
            std::future::pending::<Infallible>().await
        };
        let left = tokio::select! {
            biased;
            left = self.remove(threads, tally, &enough) => left,
            never = time_is_up => match never {},
        };
        tally.add(Fate::CoolingDown, left?);
        Ok(())
    }

    /// Cleans up after these threads, as far as the sweep's budget goes and until `enough`. Returns how many were left.
    pub(super) async fn remove(
        &self,
        mut threads: Vec<ThreadId>,
        tally: &mut Tally,
        enough: &CancellationToken,
    ) -> Result<usize, Failure> {
        let mut untried = 0;
        while !threads.is_empty() && !enough.is_cancelled() {
            // Threads are taken whole.
            let left = self.budget_left(tally) / self.per_thread(tally) as u64;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            if left == 0 {
                self.use_up_budget().await?;
            }
            if self.cleaner.pause_reason().is_some() {
                tally.add(Fate::Paused, threads.len());
                return Ok(untried);
            }
            // Some of these may turn out to be no removals; then there is a next round.
            let later = threads.split_off(left.min(threads.len()));
            untried += self.remove_at_once(threads, tally, enough).await?;
            threads = later;
        }
        Ok(untried + threads.len())
    }

    /// How many volumes a thread of this sweep has at most.
    pub(super) fn per_thread(&self, tally: &Tally) -> usize {
        tally.most_volumes.max(self.cleaner.context.names.per_thread())
    }

    /// How many volumes and containers this sweep may still remove.
    pub(super) fn budget_left(&self, tally: &Tally) -> u64 {
        let budget = self.cleaner.policy().budgets.per_sweep.unwrap_or(u64::MAX);
        let volumes = self.cleaner.swept().volumes - tally.swept_before.volumes;
        budget.saturating_sub(volumes).saturating_sub(tally.containers_removed)
    }

    /// Pauses removal, since the next one would exceed the budget of a sweep.
    pub(super) async fn use_up_budget(&self) -> Result<(), Failure> {
        let budget = self.cleaner.policy().budgets.per_sweep.unwrap_or(u64::MAX);
        if self.cleaner.pause_reason().is_some() {
            return Ok(());
        }
        self.cleaner.pause(&format!("the budget of {budget} removals per sweep is used up")).await
    }

    /// Cleans up after these threads, whatever the budget.
    pub(super) async fn remove_at_once(
        &self,
        threads: Vec<ThreadId>,
        tally: &mut Tally,
        enough: &CancellationToken,
    ) -> Result<usize, Failure> {
        let clean = async |thread| {
            let result = self.cleaner.clean(&thread, Origin::Sweep).await;
            (thread, result)
        };
        let containers_before = self.cleaner.containers_swept();
        let mut left = threads.len();
        let mut is_paused = false;
        let mut moved_at = Instant::now();
        // What has begun is finished, nothing new is begun.
        let no_more = enough.child_token();
        let threads = stream::iter(threads).take_until(no_more.cancelled());
        let mut cleaned = pin!(threads.map(clean).buffer_unordered(CLEANUPS_IN_FLIGHT));
        while let Some((thread, result)) = cleaned.next().await {
            self.progress.advance(1);
            left -= usize::from(result != Ok(Outcome::Paused));
            if !matches!(result, Ok(Outcome::Deferred | Outcome::Removing)) {
                moved_at = Instant::now();
            }
            match result {
                Ok(Outcome::Removed) => tally.add(Fate::Removed, 1),
                Ok(Outcome::NotFound) => tally.add(Fate::NotFound, 1),
                Ok(Outcome::Referenced { .. }) => {
                    tally.add(Fate::Referenced, 1);
                    self.cool(thread);
                }
                Ok(Outcome::Removing) => tally.add(Fate::Removing, 1),
                Ok(Outcome::Busy) => tally.add(Fate::CoolingDown, 1),
                Ok(Outcome::Deferred) => {
                    tally.add(Fate::CoolingDown, 1);
                    // There is no use in waiting for a daemon that is stuck with all others too. It may as well have
                    // been the database that took long, or a removal that has ended since.
                    if self.cleaner.is_held_up() && moved_at.elapsed() >= self.cleaner.context.limits.timeout {
                        no_more.cancel();
                    }
                }
                Ok(Outcome::NotDue { .. }) => tally.add(Fate::NotDue, 1),
                Ok(Outcome::Held) => tally.add(Fate::Held, 1),
                Ok(Outcome::Paused) => {
                    is_paused = true;
                    no_more.cancel();
                }
                // Somebody else was faster, or the platform changed its mind: nothing is left to do here.
                Ok(
                    Outcome::AlreadyClean
                    | Outcome::NotClosed
                    | Outcome::UnknownThread
                    | Outcome::Reopened
                    // That it is nowhere is found out for all hosts at once.
                    | Outcome::NotHere
                    | Outcome::Elsewhere { .. },
                ) => {}
                Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => return Err(failure),
                Err(failure) => {
                    warn!(thread.id = %thread, error = %failure, "can't clean up now");
                    tally.add(Fate::Failed, 1);
                }
            }
        }
        tally.containers_removed += self.cleaner.containers_swept() - containers_before;
        if is_paused {
            tally.add(Fate::Paused, left);
            left = 0;
        }
        Ok(left)
    }

    fn cool(&self, thread: ThreadId) {
        let mut cooling = self.cooling.lock();
        if cooling.len() < MAX_COOLING {
            cooling.insert(thread, Instant::now() + self.cooldown);
        }
    }
}
