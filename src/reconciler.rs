//! The safety net: sweeps up the closed threads that no event took care of.
//!
//! A sweep reads the closed and unmarked rows by pages, and for each page *then* asks the daemon what it has. The
//! order is the proof: only a row that was read as closed before the list was asked for may be marked because the list
//! lacks its volume. Absent volumes are marked a page at a time; those that are there and unreferenced go through the
//! coordinator like any other; referenced ones cost nothing.
//!
//! Threads that are held or not due yet stay candidates for days. They cost no list of their own: the one that the next
//! step takes shows which of their volumes are gone by themselves, and those are marked like others, since nothing is
//! removed by that and it is true. The same goes for absent volumes while removal is paused.
//! A volume whose clean-up failed before is left alone until its next try ([`crate::failed_cleanup`]). Those whose time
//! has come are tried after all others and for a limited time, so that rows that always fail, however slowly, never
//! delay the ones between.
//!
//! Then the other way round: volumes whose thread is marked are looked at afresh, and if they are still there, the mark
//! is withdrawn and the thread cleaned like any other. Volumes without a thread are counted and never touched. Where only
//! events tell of threads, both may be workspaces in use: the former are only told of, the latter are not even counted.
#![warn(clippy::wildcard_enum_match_arm, reason = "a new outcome must not compile until it is decided")]

mod deferred;
mod progress;
mod report;
mod retries;
mod unplaced;

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{SubsecRound, Utc};
use futures_util::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{deferred::Deferred, progress::Progress, retries::Retries};
pub use self::{report::Report, unplaced::Unplaced};
use crate::{
    coordinator::{
        Candidate, Coordinator, Inventory, Origin, Outcome, Receipt, Scope, Thread, Threads, UnknownThreads, Volumes,
    },
    failure::{Dependency, Failure, Verdict},
    health::Health,
    metrics,
    reconnect::jittered,
    volume_name::ThreadId,
};

/// What a sweep needs.
const NEEDED: [Dependency; 2] = [Dependency::Database, Dependency::Docker];
/// Rows a page: few round trips, and a statement that is over in a moment.
const PAGE_ROWS: usize = 2000;
/// Removals asked for at once. More wait their turn in the coordinator; it needs only a few to choose from.
const CLEANUPS_IN_FLIGHT: usize = 16;

/// How long one sweep begins to try those again that failed before. What is left is the next sweep's.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// Volumes that are remembered to be referenced although no container shows it. More are asked for again next time.
const MAX_COOLING: usize = 10_000;

/// What the rows of the volumes that are there say.
#[derive(Default)]
struct Found {
    /// Closed and marked.
    marked: Vec<ThreadId>,
    /// Closed and unmarked, and no host is named.
    unplaced: Vec<Candidate>,
}

/// Sweeps one daemon.
pub struct Reconciler<V, T> {
    coordinator: Arc<Coordinator<V, T>>,
    health: Arc<Health>,
    cooldown: Duration,
    progress: Progress,
    /// Until when a volume is left alone that the daemon called referenced although its lists showed no container: a
    /// mount without one. No failure, so it is in no table.
    cooling: Mutex<HashMap<ThreadId, Instant>>,
    /// How many closed threads the latest sweep found whose id can't name a volume.
    unnameable: AtomicU64,
}

impl<V: Volumes, T: Threads> Reconciler<V, T> {
    /// A reconciler that leaves a volume alone for `cooldown` after it could not be removed for the first time.
    pub fn new(coordinator: Arc<Coordinator<V, T>>, health: Arc<Health>, cooldown: Duration) -> Self {
        let progress = Progress::default();
        Self { coordinator, health, cooldown, progress, cooling: Mutex::default(), unnameable: AtomicU64::new(0) }
    }

    /// Sweeps every `interval`, and at once when a dependency is back or events of Docker may have been missed, while `is_leader` says so and until `stop` is
    /// cancelled. One sweep ends before the next begins; it ends early when somebody else becomes the leader.
    pub async fn run(&self, interval: Duration, mut is_leader: watch::Receiver<bool>, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                _ = is_leader.wait_for(|is_leader| *is_leader) => {}
                () = stop.cancelled() => return,
            }
            if let Some((dependency, status)) = self.health.first_down(&NEEDED) {
                let reason = status.reason.unwrap_or_default();
                info!(%dependency, reason, "no sweeps while it is down");
                tokio::select! {
                    () = self.health.until_up(&NEEDED) => {}
                    () = stop.cancelled() => return,
                }
            }
            let sweep_stop = stop.child_token();
            tokio::select! {
                _ = self.sweep(false, &sweep_stop) => {}
                () = cancel_when_lost(is_leader.clone(), &sweep_stop) => {}
            }
            if self.coordinator.is_only() {
                observe_backlog(&*self.coordinator.threads).await;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(interval)) => {}
                () = self.coordinator.waiting.sweep_is_due() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// How many candidates of the running sweep are done with.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.watch()
    }

    /// One sweep. With `dry_run`, only says what it would do.
    pub async fn sweep(&self, dry_run: bool, stop: &CancellationToken) -> Report {
        let began = Instant::now();
        self.progress.begin();
        let mut report = Report { dry_run, ..Report::default() };
        if let Err(failure) = self.sweep_pages(&mut report, stop).await {
            if let Verdict::Unavailable(dependency) = failure.verdict {
                self.health.down(dependency, &failure.message);
            }
            warn!(error = %failure, "the sweep ended early");
            report.skipped_reason = Some(failure.message);
        }
        if report.paused > 0 {
            let why = self.coordinator.pause_reason().unwrap_or_default();
            report.skipped_reason.get_or_insert_with(|| format!("removal is paused: {why}"));
        }
        report.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        metrics::sweep(began.elapsed());
        report.log();
        report
    }

    async fn sweep_pages(&self, report: &mut Report, stop: &CancellationToken) -> Result<(), Failure> {
        self.cooling().retain(|_, until| *until > Instant::now());
        self.coordinator.look_for_pause().await?;
        let mut deferred = Deferred::default();
        let mut retries = Retries::default();
        let mut due = Vec::new();
        let mut after: Option<String> = None;
        let scope = if self.coordinator.is_only() { Scope::All } else { Scope::Host(self.coordinator.host.clone()) };
        while !stop.is_cancelled() {
            let page = self.coordinator.threads.candidates(&scope, after.as_deref(), PAGE_ROWS as u64).await?;
            let is_last = page.len() < PAGE_ROWS;
            after = page.last().map(|last| last.id.clone()).or(after);
            let is_empty = page.is_empty();
            report.candidates += page.len() as u64;
            let (found, already_due) = (page.len(), due.len());
            due.append(&mut deferred.take_from(page, self.coordinator.policy(), report));
            self.progress.advance(found + already_due - due.len());
            if !due.is_empty() && (is_last || due.len() >= PAGE_ROWS) {
                // After the pages were read, never before: see the module's description.
                let inventory = self.inventory().await?;
                self.sweep_page(std::mem::take(&mut due), &inventory, &mut retries, report, stop).await?;
            }
            if is_empty {
                break;
            }
        }
        let inventory = self.inventory().await?;
        let found = self.look_up(&inventory, report).await?;
        let mut unplaced = found.unplaced;
        report.candidates += unplaced.len() as u64;
        unplaced = Deferred::default().take_from(unplaced, self.coordinator.policy(), report);
        self.sweep_page(unplaced, &inventory, &mut retries, report, stop).await?;
        self.retry(retries, report, stop).await?;
        if stop.is_cancelled() {
            return Ok(());
        }
        self.tell_unnameable(report.unnameable);
        self.sweep_deferred(deferred, &inventory, report).await?;
        self.sweep_drift(found.marked, report, stop).await?;
        if !report.dry_run
            && let Err(error) = self.coordinator.threads.forget_failures().await
        {
            // The sweep is done all the same; what is kept too long only takes space until the next one.
            debug!(%error, "can't forget the failures of what was cleaned");
        }
        Ok(())
    }

    async fn inventory(&self) -> Result<Inventory, Failure> {
        self.coordinator.volumes.inventory(&self.coordinator.prefix).await
    }

    /// Looks up the threads of all volumes that are there.
    async fn look_up(&self, inventory: &Inventory, report: &mut Report) -> Result<Found, Failure> {
        let present: Vec<_> = inventory.present.iter().cloned().collect();
        let mut found = Found::default();
        for threads in present.chunks(PAGE_ROWS) {
            let known = self.coordinator.threads.known(threads).await?;
            // Of threads in use, nobody tells who only tells of closed ones.
            if self.coordinator.policy().unknown_threads == UnknownThreads::Reject {
                report.orphans += (threads.len() - known.len()) as u64;
            }
            for (thread, row) in known {
                let Thread { closed_at, held, .. } = row;
                match row.host {
                    Some(host) if host != self.coordinator.host => report.misplaced += 1,
                    _ if !row.closed => {}
                    _ if row.marked => found.marked.push(thread),
                    // Rows that name this host, or have only this one, were read by their pages.
                    None if !self.coordinator.is_only() => {
                        found.unplaced.push(Candidate { id: thread.to_string(), closed_at, held });
                    }
                    None | Some(_) => {}
                }
            }
        }
        metrics::orphans(&self.coordinator.host, report.orphans);
        Ok(found)
    }

    /// Withdraws the marks of threads whose volume is there.
    async fn sweep_drift(
        &self,
        mut marked: Vec<ThreadId>,
        report: &mut Report,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        if marked.is_empty() {
            return Ok(());
        }
        // The consumer may have removed and marked these between the list and the rows: what counts is a later list.
        let still = self.inventory().await?;
        self.coordinator.volumes.prove_identity().await?;
        marked.retain(|thread| still.present.contains(thread));
        report.drift += marked.len() as u64;
        if report.dry_run || marked.is_empty() {
            return Ok(());
        }
        match self.coordinator.policy().unknown_threads {
            UnknownThreads::Reject => {}
            UnknownThreads::Record => {
                info!(
                    threads = marked.len(),
                    "volumes are there although they were removed: their threads may have been reopened, of which an \
                     event is still to tell"
                );
                return Ok(());
            }
        }
        for thread in &marked {
            warn!(thread.id = %thread, "the thread is marked, but its volume is there; the mark is withdrawn");
            self.coordinator.threads.unmark(thread).await?;
        }
        marked.retain(|thread| !still.referenced.contains_key(thread));
        self.remove(marked, report, stop).await.map(drop)
    }

    /// Marks the deferred threads whose volume is gone by itself.
    async fn sweep_deferred(
        &self,
        deferred: Deferred,
        inventory: &Inventory,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let mut deferred = deferred.threads;
        deferred
            .retain(|(thread, _)| !inventory.present.contains(thread) && !inventory.referenced.contains_key(thread));
        // They are no failures: as long as they wait, nobody needs to know whether their volume is there.
        if !inventory.warnings.is_empty() {
            return Ok(());
        }
        let held = deferred.iter().filter(|(_, candidate)| candidate.held).count();
        report.held -= held as u64;
        report.not_due -= (deferred.len() - held) as u64;
        if report.dry_run {
            report.not_found += deferred.len() as u64;
            return Ok(());
        }
        let unmarked = self.mark_absent(&deferred, inventory, report).await?;
        report.failed += unmarked.len() as u64;
        Ok(())
    }

    async fn sweep_page(
        &self,
        page: Vec<Candidate>,
        inventory: &Inventory,
        retries: &mut Retries,
        report: &mut Report,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let (candidates, already_later) = (page.len(), retries.len());
        let mut absent = Vec::new();
        let mut removable = Vec::new();
        for candidate in page {
            match ThreadId::parse(&candidate.id) {
                Err(error) => {
                    debug!(thread.id = candidate.id, %error, "a closed thread whose id can't name a volume");
                    report.failed += 1;
                    report.unnameable += 1;
                }
                Ok(thread) if let Some(holders) = inventory.referenced.get(&thread) => {
                    report.referenced += 1;
                    self.coordinator.waiting.hold(&thread, holders);
                }
                Ok(thread) if !inventory.present.contains(&thread) => absent.push((thread, candidate)),
                Ok(thread) if self.cooling().contains_key(&thread) => report.cooling_down += 1,
                Ok(thread) => removable.push(thread),
            }
        }
        self.set_failed_aside(&mut removable, retries, report).await?;
        if report.dry_run {
            report.not_found += absent.len() as u64;
            if self.coordinator.pause_reason().is_some() {
                report.paused += removable.len() as u64;
            } else {
                report.removed += removable.len() as u64;
            }
            return Ok(());
        }
        let mut unmarked = self.mark_absent(&absent, inventory, report).await?;
        self.set_failed_aside(&mut unmarked, retries, report).await?;
        removable.extend(unmarked);
        let later = retries.len().saturating_sub(already_later);
        self.progress.advance(candidates.saturating_sub(removable.len() + later));
        self.remove(removable, report, stop).await.map(drop)
    }

    /// Takes out of `removable` what failed before: for now, or until the end of this sweep.
    async fn set_failed_aside(
        &self,
        removable: &mut Vec<ThreadId>,
        retries: &mut Retries,
        report: &mut Report,
    ) -> Result<(), Failure> {
        if removable.is_empty() {
            return Ok(());
        }
        let failed = self.coordinator.threads.failed(removable).await?;
        removable.retain(|thread| !failed.contains_key(thread));
        let now = Utc::now();
        let next_try = failed.into_iter().map(|(thread, failed)| (failed.next_try_at(self.cooldown), thread));
        let (cooling, due): (Vec<_>, Vec<_>) = next_try.partition(|(next_try_at, _)| *next_try_at > now);
        report.cooling_down += cooling.len() as u64 + retries.add(due);
        Ok(())
    }

    /// Tries those again whose time has come, as long as this sweep has time for them.
    async fn retry(&self, retries: Retries, report: &mut Report, stop: &CancellationToken) -> Result<(), Failure> {
        let threads = retries.threads();
        if report.dry_run {
            report.removed += threads.len() as u64;
            return Ok(());
        }
        let enough = stop.child_token();
        let timer = tokio::spawn({
            let enough = enough.clone();
            async move {
                tokio::time::sleep(RETRY_BUDGET).await;
                enough.cancel();
            }
        });
        let left = self.remove(threads, report, &enough).await;
        timer.abort();
        report.cooling_down += left? as u64;
        Ok(())
    }

    /// Says how many closed threads can't be cleaned for their id, when that changes and not in every sweep.
    fn tell_unnameable(&self, threads: u64) {
        if self.unnameable.swap(threads, Ordering::Relaxed) != threads && threads > 0 {
            warn!(threads, "closed threads have ids that can't name a volume; `debug` names them at every sweep");
        }
    }

    /// Marks the threads of absent volumes, all at once. If that fails, because of one of them perhaps, returns all: each
    /// is then cleaned by itself, so that one never keeps others from their mark.
    async fn mark_absent(
        &self,
        absent: &[(ThreadId, Candidate)],
        inventory: &Inventory,
        report: &mut Report,
    ) -> Result<Vec<ThreadId>, Failure> {
        if absent.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(warning) = inventory.warnings.first() {
            warn!(warning, threads = absent.len(), "Docker's list may lack volumes, so none is taken for absent");
            report.failed += absent.len() as u64;
            return Ok(Vec::new());
        }
        // After the list, so that it was this daemon that made it.
        self.coordinator.volumes.prove_identity().await?;
        mark_all_absent(&self.coordinator, absent, report).await
    }

    /// Cleans up after these threads, as far as the sweep's budget goes and until `enough`. Returns how many were left.
    async fn remove(
        &self,
        mut threads: Vec<ThreadId>,
        report: &mut Report,
        enough: &CancellationToken,
    ) -> Result<usize, Failure> {
        let mut untried = 0;
        while !threads.is_empty() && !enough.is_cancelled() {
            let budget = self.coordinator.policy().budgets.per_sweep.unwrap_or(u64::MAX);
            let left = usize::try_from(budget.saturating_sub(report.removed)).unwrap_or(usize::MAX);
            if left == 0 && self.coordinator.pause_reason().is_none() {
                self.coordinator.pause(&format!("the budget of {budget} removals per sweep is used up")).await?;
            }
            if self.coordinator.pause_reason().is_some() {
                report.paused += threads.len() as u64;
                return Ok(untried);
            }
            // Some of these may turn out to be no removals; then there is a next round.
            let later = threads.split_off(left.min(threads.len()));
            untried += self.remove_at_once(threads, report, enough).await?;
            threads = later;
        }
        Ok(untried + threads.len())
    }

    /// The same without the budget.
    async fn remove_at_once(
        &self,
        threads: Vec<ThreadId>,
        report: &mut Report,
        enough: &CancellationToken,
    ) -> Result<usize, Failure> {
        let clean = async |thread| {
            let result = self.coordinator.clean(&thread, Origin::Sweep).await;
            (thread, result)
        };
        let mut left = threads.len();
        let mut is_paused = false;
        // What has begun is finished, nothing new is begun.
        let no_more = enough.child_token();
        let threads = stream::iter(threads).take_until(no_more.cancelled());
        let mut cleaned = pin!(threads.map(clean).buffer_unordered(CLEANUPS_IN_FLIGHT));
        while let Some((thread, result)) = cleaned.next().await {
            self.progress.advance(1);
            left -= usize::from(result != Ok(Outcome::Paused));
            match result {
                Ok(Outcome::Removed) => report.removed += 1,
                Ok(Outcome::NotFound) => report.not_found += 1,
                Ok(Outcome::Referenced { .. }) => {
                    report.referenced += 1;
                    self.cool(thread);
                }
                Ok(Outcome::Removing) => report.removing += 1,
                Ok(Outcome::NotDue { .. }) => report.not_due += 1,
                Ok(Outcome::Held) => report.held += 1,
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
                    | Outcome::Deferred,
                ) => {}
                Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => return Err(failure),
                Err(failure) => {
                    warn!(thread.id = %thread, error = %failure, "can't clean up now");
                    report.failed += 1;
                }
            }
        }
        if is_paused {
            report.paused += left as u64;
            left = 0;
        }
        Ok(left)
    }

    fn cool(&self, thread: ThreadId) {
        let mut cooling = self.cooling();
        if cooling.len() < MAX_COOLING {
            cooling.insert(thread, Instant::now() + self.cooldown);
        }
    }

    fn cooling(&self) -> MutexGuard<'_, HashMap<ThreadId, Instant>> {
        self.cooling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks threads whose volumes are proven absent. Returns those that could not be marked with others.
async fn mark_all_absent<V: Volumes, T: Threads>(
    coordinator: &Coordinator<V, T>,
    absent: &[(ThreadId, Candidate)],
    report: &mut Report,
) -> Result<Vec<ThreadId>, Failure> {
    let at = Utc::now().trunc_subsecs(3);
    let receipt = |thread: &ThreadId| Receipt {
        thread_id: thread.clone(),
        volume: coordinator.prefix.volume_of(thread),
        outcome: Outcome::NotFound.as_str(),
        origin: Origin::Sweep,
        at,
    };
    let receipts: Vec<_> = absent.iter().map(|(thread, _)| receipt(thread)).collect();
    let mut marked = HashSet::new();
    let mut unmarked = Vec::new();
    for page in receipts.chunks(PAGE_ROWS) {
        match coordinator.threads.mark_all(page).await {
            Ok(threads) => marked.extend(threads),
            Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => return Err(failure),
            Err(error) => {
                debug!(%error, threads = page.len(), "can't mark them at once; one by one");
                unmarked.extend(page.iter().map(|receipt| receipt.thread_id.clone()));
            }
        }
    }
    report.not_found += marked.len() as u64;
    metrics::cleanups(Origin::Sweep.as_str(), Outcome::NotFound.as_str(), marked.len() as u64);
    for (_, candidate) in absent.iter().filter(|(thread, _)| marked.contains(thread)) {
        metrics::close_to_mark(candidate.closed_at, at);
    }
    Ok(unmarked)
}

async fn observe_backlog(threads: &impl Threads) {
    match threads.backlog().await {
        Ok(backlog) => metrics::backlog(&backlog),
        Err(error) => debug!(%error, "can't count what is left to do"),
    }
}

/// Cancels `sweep_stop` when the lead is lost; the sweep then stops by itself between two removals.
async fn cancel_when_lost(mut is_leader: watch::Receiver<bool>, sweep_stop: &CancellationToken) {
    let _ = is_leader.wait_for(|is_leader| !*is_leader).await;
    sweep_stop.cancel();
    std::future::pending::<()>().await;
}
