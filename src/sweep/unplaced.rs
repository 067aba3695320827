//! Threads of which nobody says on which host they are: a volume counts as absent only if every host says so.
//!
//! Where such a volume is on a host, that host's own sweep finds it there and removes it. Here, pages of rows are read,
//! and *then* every host's list, as in any sweep; what is on none of them is marked. A host that can't be asked, or is
//! none of this process's, may have the volume: then nothing is marked. One reaper per host means that there are
//! others, also before they have come.

use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    PAGE_ROWS, Schedule,
    absent::{mark_absent, proves_absence},
    classify::{Classified, Row, classify},
    logged::{begin_log, end_log, observe, observe_backlog},
    pages::pages,
    planned::{PlannedList, Would},
    report::SweepReport,
    stopping::Stopping,
    tally::{Fate, Tally},
    unnameable::Unnameable,
};
use crate::{
    cleanup::{
        Candidate, Cause, Database, Details, Inventory, Scope, Swept, Volumes,
        fleet::{Fleet, HostWorker},
    },
    failure::{Dependency, Failure, Verdict},
    health::Health,
};

/// Sweeps up what is on no host of a fleet.
pub struct Unplaced<V, T> {
    fleet: Arc<Fleet<V, T>>,
    health: Arc<Health>,
    /// This process has one of several hosts, and others have the others.
    has_one_of_several: bool,
    unnameable: Unnameable,
    /// Why the latest sweep could not be done to its end.
    skipped: Mutex<Option<String>>,
    cause: Cause,
    /// What a dry run writes its list to.
    planned: Option<PlannedList>,
}

impl<V: Volumes, T: Database> Unplaced<V, T> {
    /// The sweep of what is nowhere in `fleet`; with `has_one_of_several`, that is not known to this process.
    pub fn new(fleet: Arc<Fleet<V, T>>, health: Arc<Health>, has_one_of_several: bool) -> Self {
        let (unnameable, skipped, cause) = (Unnameable::default(), Mutex::default(), Cause::Schedule);
        Self { fleet, health, has_one_of_several, unnameable, skipped, cause, planned: None }
    }

    /// This sweep, where a person asks for it.
    #[must_use]
    pub fn for_a_person(self) -> Self {
        Self { cause: Cause::Person, ..self }
    }

    /// This sweep, whose dry runs write a list.
    #[must_use]
    pub fn listing(self, planned: Option<PlannedList>) -> Self {
        Self { planned, ..self }
    }

    /// Sweeps by the schedule, and at once when the last host that was down is back.
    pub async fn run(&self, schedule: Schedule) {
        let ready = || async {
            self.health.until_all_hosts_known().await;
            self.health.until_up(&[Dependency::Database, Dependency::Docker]).await;
        };
        let were_all_up = std::sync::atomic::AtomicBool::new(true);
        let sweep = async |stop: CancellationToken| {
            were_all_up.store(self.health.are_all_hosts_up(), std::sync::atomic::Ordering::Relaxed);
            self.sweep(false, &stop).await;
            observe_backlog(self.fleet.context()).await;
        };
        let due = || async {
            if were_all_up.load(std::sync::atomic::Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            self.health.until_all_hosts_up().await;
        };
        schedule.run(ready, sweep, due).await;
    }

    /// One sweep. With `dry_run`, only says what it would do.
    pub async fn sweep(&self, dry_run: bool, stop: &CancellationToken) -> SweepReport {
        let began = Instant::now();
        let logged = if dry_run { None } else { begin_log(self.fleet.threads(), None, self.cause).await };
        let mut tally = Tally::new(dry_run);
        let mut skipped_reason = None;
        let stopping = Stopping::within(stop);
        let swept = tokio::select! {
            biased;
            swept = self.sweep_pages(&mut tally, &stopping.stop) => swept,
            never = stopping.watch(self.fleet.threads(), logged.as_deref()) => match never {},
        };
        if let Err(failure) = swept {
            if let Verdict::Unavailable(dependency @ (Dependency::Database | Dependency::Broker)) = failure.verdict {
                self.health.down(dependency, &failure.message);
            }
            skipped_reason = Some(failure.message);
        }
        skipped_reason = skipped_reason.or_else(|| tally.doubt.clone());
        let stopped = stopping.why();
        // One that was stopped has not found out whether the reason is still there.
        if skipped_reason.is_some() || stopped.is_none() {
            self.log_skipped(skipped_reason.as_ref());
        }
        skipped_reason = skipped_reason.or(stopped);
        let report = tally.report(skipped_reason, began.elapsed(), Swept::default());
        observe(None, &report, self.fleet.context().clock.now());
        report.log();
        end_log(self.fleet.threads(), logged, &report).await;
        report
    }

    /// Logs why threads stay unmarked when that changes, and not in every sweep.
    fn log_skipped(&self, reason: Option<&String>) {
        let mut logged = self.skipped.lock();
        if logged.as_ref() == reason {
            return;
        }
        *logged = reason.cloned();
        if let Some(reason) = reason {
            warn!(reason, "closed threads that may be on any host are not marked for now");
        } else {
            info!("closed threads that may be on any host are marked again");
        }
    }

    async fn sweep_pages(&self, tally: &mut Tally, stop: &CancellationToken) -> Result<(), Failure> {
        let mut rows = pages(self.fleet.threads(), Scope::Unplaced);
        let mut read = Vec::new();
        loop {
            let mut page = rows.next().await?.unwrap_or_default();
            if stop.is_cancelled() {
                return Ok(());
            }
            let is_last = page.is_empty();
            read.append(&mut page);
            if read.is_empty() {
                break;
            }
            if is_last || read.len() >= PAGE_ROWS {
                self.sweep_rows(std::mem::take(&mut read), tally).await?;
            }
        }
        self.unnameable.log(tally.of(Fate::Unnameable));
        Ok(())
    }

    /// Sweeps rows that have been read. The lists come after them, never before.
    async fn sweep_rows(&self, rows: Vec<Candidate>, tally: &mut Tally) -> Result<(), Failure> {
        let dry_run = tally.dry_run;
        let lists = join_all(self.fleet.workers().iter().map(|worker| list(worker, dry_run))).await;
        let inventory = lists.into_iter().try_fold(Inventory::default(), |all, one| one.map(|one| both(all, one)))?;
        let Classified { absent, unnameable, .. } = classify(rows, &self.fleet.context().names, &inventory);
        // What is on a host is a candidate of that host's sweep.
        tally.candidates += (absent.len() + unnameable) as u64;
        tally.add(Fate::Unnameable, unnameable);
        self.mark_if_proven(absent, &inventory, tally).await
    }

    async fn mark_if_proven(&self, absent: Vec<Row>, inventory: &Inventory, tally: &mut Tally) -> Result<(), Failure> {
        if absent.is_empty() {
            return Ok(());
        }
        if !proves_absence(inventory, absent.len(), tally) {
            return Ok(());
        }
        self.refuse_if_elsewhere().await?;
        if tally.dry_run {
            tally.add(Fate::NotFound, absent.len());
            if let Some(planned) = &self.planned {
                for row in &absent {
                    planned.add(None, &row.thread, &row.volumes, Would::Mark);
                }
            }
            return Ok(());
        }
        let unmarked = mark_absent(self.fleet.context(), &Details::default(), absent, tally).await?;
        tally.add(Fate::Failed, unmarked.len());
        Ok(())
    }

    /// Fails if volumes that are not here may be on a host that this process does not ask.
    async fn refuse_if_elsewhere(&self) -> Result<(), Failure> {
        let unserved = self.fleet.threads().unserved_host().await?;
        let (whose, otherwise) = match unserved {
            Some(host) => (
                format!("host {host:?}, which is none of this process's,"),
                format!("; or, if that host is gone for good, run `volume-reaper hosts retire {host}`"),
            ),
            None if self.has_one_of_several => ("another host".to_owned(), String::new()),
            None => return Ok(()),
        };
        Err(Failure::unavailable(
            Dependency::Docker,
            format!(
                "closed threads name no host, and their volumes are not here: {whose} may have them. Map the column \
                 that names a thread's host (VOLUME_REAPER_THREADS_HOST_COLUMN){otherwise}"
            ),
        ))
    }
}

/// What two hosts have together.
fn both(mut one: Inventory, other: Inventory) -> Inventory {
    one.present.extend(other.present);
    one.referenced.extend(other.referenced);
    one.exited.extend(other.exited);
    one.warnings.extend(other.warnings);
    one.doubt = one.doubt.or(other.doubt);
    one
}

/// What a host has; at once, if it is known to be down.
async fn list<V: Volumes, T: Database>(worker: &HostWorker<V, T>, dry_run: bool) -> Result<Inventory, Failure> {
    let host = worker.cleaner.host.key();
    let down = |reason: &str| {
        let what = format!("host {host:?} is down, and a volume that is on no other may be there: {reason}");
        Failure::unavailable(Dependency::Docker, what)
    };
    if let Some((_, status)) = worker.health.first_down(&[Dependency::Docker]) {
        return Err(down(&status.reason.unwrap_or_default()));
    }
    let listed = worker.cleaner.inventory(dry_run).await;
    listed.map_err(|failure| match failure.verdict {
        Verdict::Unavailable(dependency) => {
            worker.health.down(dependency, &failure.message);
            down(&failure.message)
        }
        Verdict::Transient | Verdict::Permanent => failure,
    })
}
