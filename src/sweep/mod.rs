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
//! A volume whose clean-up failed before is left alone until its next try ([`crate::cleanup::failing`]). Those whose time
//! has come are tried after all others and for a limited time, so that rows that always fail, however slowly, never
//! delay the ones between.
//!
//! Then the other way round: volumes whose thread is marked are looked at afresh, and if they are still there, the mark
//! is withdrawn and the thread cleaned like any other. Volumes without a thread are counted and never touched. Where only
//! events tell of threads, both may be workspaces in use: the former are only told of, the latter are not even counted.
//!
//! Each of several hosts has a sweep of its own, of the rows that name it, and of those that name none as far as it has their
//! volumes. That a volume is nowhere is found out for all hosts at once ([`Unplaced`]).

mod deferred;
mod marking;
mod position;
mod removing;
mod report;
mod retries;
mod unplaced;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{deferred::Deferred, position::Progress, retries::Retries};
pub use self::{report::Report, unplaced::Unplaced};
use crate::{
    cleanup::{Candidate, Coordinator, Inventory, Scope, Thread, Threads, UnknownThreads, Volumes},
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
    unnameable: Unnameable,
}

/// How many closed threads have ids that can't name a volume.
#[derive(Default)]
struct Unnameable(AtomicU64);

impl Unnameable {
    /// Says so when that changes, and not in every sweep.
    fn tell(&self, threads: u64) {
        if self.0.swap(threads, Ordering::Relaxed) != threads && threads > 0 {
            warn!(threads, "closed threads have ids that can't name a volume; `debug` names them at every sweep");
        }
    }
}

impl<V: Volumes, T: Threads> Reconciler<V, T> {
    /// A reconciler that leaves a volume alone for `cooldown` after it could not be removed for the first time.
    pub fn new(coordinator: Arc<Coordinator<V, T>>, health: Arc<Health>, cooldown: Duration) -> Self {
        let progress = Progress::default();
        Self { coordinator, health, cooldown, progress, cooling: Mutex::default(), unnameable: Unnameable::default() }
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
        self.unnameable.tell(report.unnameable);
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
