//! The sweep of one host.

use std::{collections::HashMap, future::ready, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use super::{
    Schedule,
    classify::{Classified, classify},
    deferred::Deferred,
    due_pages::{DuePage, DuePages},
    logged::{begin_log, end_log, observe, observe_backlog},
    pages::pages,
    planned::{PlannedList, Would},
    position::Progress,
    report::SweepReport,
    retries::Retries,
    stopping::Stopping,
    tally::{Fate, Tally},
    unnameable::Unnameable,
};
use crate::{
    cleanup::{Candidate, Cause, Cleaner, Database, Inventory, Scope, Volumes},
    failure::{Dependency, Failure, Verdict},
    health::Health,
    traces,
    volume_name::ThreadId,
};

/// What a sweep needs.
const NEEDED: [Dependency; 2] = [Dependency::Database, Dependency::Docker];

/// Sweeps one host.
pub struct Sweeper<V, T> {
    pub(super) cleaner: Arc<Cleaner<V, T>>,
    health: Arc<Health>,
    pub(super) cooldown: Duration,
    pub(super) progress: Progress,
    /// Until when a volume is left alone that the daemon called referenced although its lists showed no container: a
    /// mount without one. No failure, so it is in no table.
    pub(super) cooling: Mutex<HashMap<ThreadId, Instant>>,
    /// Until when a volume's containers that have exited need not be looked at again, since they stay.
    pub(super) staying: Mutex<HashMap<ThreadId, Instant>>,
    unnameable: Unnameable,
    cause: Cause,
    /// What a dry run writes its list to.
    pub(super) planned: Option<PlannedList>,
}

impl<V: Volumes, T: Database> Sweeper<V, T> {
    /// A sweeper that leaves a volume alone for `cooldown` after it could not be removed for the first time.
    pub fn new(cleaner: Arc<Cleaner<V, T>>, health: Arc<Health>, cooldown: Duration) -> Self {
        let (progress, unnameable) = (Progress::default(), Unnameable::default());
        let (cooling, staying, cause) = (Mutex::default(), Mutex::default(), Cause::Schedule);
        Self { cleaner, health, cooldown, progress, cooling, staying, unnameable, cause, planned: None }
    }

    /// A sweeper that a person asks to sweep.
    #[must_use]
    pub fn for_a_person(self) -> Self {
        Self { cause: Cause::Person, ..self }
    }

    /// A sweeper whose dry runs write a list.
    #[must_use]
    pub fn listing(self, planned: Option<PlannedList>) -> Self {
        Self { planned, ..self }
    }

    /// Sweeps by the schedule, and at once when a dependency is back or events of Docker may have been missed.
    pub async fn run(&self, schedule: Schedule) {
        let sweep = async |stop: CancellationToken| {
            self.sweep(false, &stop).await;
            if self.cleaner.host.is_only() {
                observe_backlog(&self.cleaner.context).await;
            }
        };
        schedule.run(|| self.until_ready(), sweep, || self.cleaner.users.sweep_is_due()).await;
    }

    async fn until_ready(&self) {
        if let Some((dependency, status)) = self.health.first_down(&NEEDED) {
            let reason = status.reason.unwrap_or_default();
            info!(%dependency, reason, "no sweeps while it is down");
            self.health.until_up(&NEEDED).await;
        }
    }

    /// How many candidates of the running sweep are done with.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.watch()
    }

    /// One sweep. With `dry_run`, only says what it would do.
    pub async fn sweep(&self, dry_run: bool, stop: &CancellationToken) -> SweepReport {
        let span = traces::sweep(self.cleaner.host.name());
        let report = Box::pin(self.sweep_once(dry_run, stop)).instrument(span.clone()).await;
        report.record_in(&span);
        report
    }

    async fn sweep_once(&self, dry_run: bool, stop: &CancellationToken) -> SweepReport {
        let began = Instant::now();
        let logged = if dry_run {
            None
        } else {
            begin_log(self.cleaner.threads(), Some(self.cleaner.host.key()), self.cause).await
        };
        self.progress.begin();
        let mut tally = Tally::new(dry_run);
        tally.swept_before = self.cleaner.swept();
        let mut skipped_reason = None;
        let stopping = Stopping::within(stop);
        let swept = tokio::select! {
            biased;
            swept = self.sweep_pages(&mut tally, &stopping.stop) => swept,
            never = stopping.watch(self.cleaner.threads(), logged.as_deref()) => match never {},
        };
        if let Err(failure) = swept {
            if let Verdict::Unavailable(dependency) = failure.verdict {
                self.health.down(dependency, &failure.message);
            }
            warn!(error = %failure, "the sweep ended early");
            skipped_reason = Some(failure.message);
        }
        skipped_reason = skipped_reason.or_else(|| stopping.why()).or_else(|| tally.doubt.clone());
        if tally.of(Fate::Paused) > 0 {
            let why = self.cleaner.pause_reason().unwrap_or_default();
            skipped_reason.get_or_insert_with(|| format!("removal is paused: {why}"));
        }
        let report = tally.report(skipped_reason, began.elapsed(), self.cleaner.swept());
        observe(self.cleaner.host.name(), &report, self.cleaner.context.clock.now());
        report.log();
        end_log(self.cleaner.threads(), logged, &report).await;
        report
    }

    async fn sweep_pages(&self, tally: &mut Tally, stop: &CancellationToken) -> Result<(), Failure> {
        self.cooling.lock().retain(|_, until| *until > Instant::now());
        self.cleaner.look_for_pause().await?;
        self.cleaner.settle_containers().await;
        let mut retries = Retries::default();
        let scope = self.cleaner.host.name().map_or(Scope::All, |name| Scope::Host(name.to_owned()));
        let mut pages = DuePages::new(self, pages(self.cleaner.threads(), scope), tally.dry_run);
        let swept = self.sweep_due(&mut pages, &mut retries, tally, stop).await;
        tally.candidates += pages.read;
        swept?;
        let deferred = pages.deferred;
        let (retention, clock) = (self.cleaner.policy().retention, self.cleaner.context.clock);
        let asked_at = self.cleaner.context.clock.now();
        let inventory = self.cleaner.inventory(tally.dry_run).await?;
        let found = self.look_up(&inventory, tally).await?;
        tally.candidates += found.unplaced.len() as u64;
        let mut unplaced = Deferred::default();
        let due = unplaced.take_from(found.unplaced, retention, clock.now());
        // Their volumes were found in the list.
        unplaced.wait(tally);
        self.sweep_rows(due, &inventory, ready(()), &mut retries, tally, stop).await?;
        self.retry(retries, tally, stop).await?;
        if stop.is_cancelled() {
            deferred.wait(tally);
            return Ok(());
        }
        self.unnameable.log(tally.of(Fate::Unnameable));
        self.sweep_deferred(deferred, &inventory, tally).await?;
        self.sweep_drift(found.marked, tally, stop).await?;
        if tally.dry_run {
            return Ok(());
        }
        self.cleaner.remember_volumes(&inventory, asked_at).await;
        if let Err(error) = self.cleaner.threads().forget_failures().await {
            // The sweep is done all the same; what is kept too long only takes space until the next one.
            debug!(%error, "can't forget the failures of what was cleaned");
        }
        Ok(())
    }

    /// Sweeps the pages of what is due.
    async fn sweep_due(
        &self,
        pages: &mut DuePages<'_, V, T>,
        retries: &mut Retries,
        tally: &mut Tally,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut next = pages.next().await?;
        while let Some(page) = next.take().filter(|_| !stop.is_cancelled()) {
            let DuePage { rows, inventory, .. } = pages.listed_anew_if_old(page).await?;
            next = match self.sweep_rows(rows, &inventory, pages.next(), retries, tally, stop).await?? {
                Some(page) => Some(page),
                // What was closed meanwhile.
                None => pages.next().await?,
            };
        }
        Ok(())
    }

    /// Sweeps rows that were read before the list was asked for. What comes next is read `ahead`, while these are
    /// marked: a list that is asked for while volumes are removed may lack some whose receipts are not written yet.
    async fn sweep_rows<A>(
        &self,
        rows: Vec<Candidate>,
        inventory: &Inventory,
        ahead: impl Future<Output = A>,
        retries: &mut Retries,
        tally: &mut Tally,
        stop: &CancellationToken,
    ) -> Result<A, Failure> {
        let classified = classify(rows, &self.cleaner.context.names, inventory);
        let Classified { absent, referenced, mut present, users, unnameable } = classified;
        let already_later = retries.len();
        let due = absent.iter().chain(&referenced).chain(&present);
        tally.most_volumes = due.map(|row| row.volumes.len()).fold(tally.most_volumes, usize::max);
        let rows = absent.len() + referenced.len() + present.len() + unnameable;
        let listed = referenced.iter().chain(&present).filter(|_| self.planned.is_some());
        let named: HashMap<_, _> = listed.map(|row| (row.thread.clone(), row.volumes.clone())).collect();
        tally.add(Fate::Unnameable, unnameable);
        let (unmarked, ahead) = tokio::join!(self.mark_if_proven(absent, inventory, tally), ahead);
        let unmarked = unmarked?;
        let exited = self.exited_users(&users, inventory).await?;
        tally.add(Fate::Referenced, referenced.iter().filter(|row| !exited.contains_key(&row.thread)).count());
        present.retain(|row| !exited.contains_key(&row.thread));
        let exited = self.without_failed(exited, tally).await?;
        let (cooling, present): (Vec<_>, Vec<_>) = {
            let mut cooling = self.cooling.lock();
            // The list shows who uses it, and will show when that has ended.
            for (thread, ..) in &users {
                cooling.remove(thread);
            }
            present.into_iter().partition(|row| cooling.contains_key(&row.thread))
        };
        tally.add(Fate::CoolingDown, cooling.len());
        let mut removable: Vec<_> = present.into_iter().chain(unmarked).map(|row| row.thread).collect();
        self.set_failed_aside(&mut removable, retries, tally).await?;
        if tally.dry_run {
            let would_be = self.would_be();
            tally.add(would_be, removable.len());
            if would_be == Fate::Removed {
                let threads = removable.iter().chain(exited.iter().map(|users| &users.thread)).chain(retries.iter());
                let of_page = threads.filter_map(|thread| Some((thread, named.get(thread)?)));
                of_page.for_each(|(thread, volumes)| self.plan(thread, volumes, Would::Remove));
            }
            Self::would_remove(&exited, would_be, tally);
            return Ok(ahead);
        }
        let later = retries.len().saturating_sub(already_later);
        self.progress.advance(rows.saturating_sub(removable.len() + exited.len() + later));
        self.remove(removable, tally, stop).await?;
        self.remove_exited(exited, tally, stop).await?;
        Ok(ahead)
    }
}
