//! Threads of which nobody says on which host they are: that a volume is nowhere needs the word of every host.
//!
//! Where such a volume is on a host, that host's own sweep finds it there and removes it. Here, pages of rows are read,
//! and *then* every host's list, as in any sweep; what is on none of them is marked. A host that can't be asked, or is
//! none of this process's, may have the volume: then nothing is marked. One reaper per host means that there are others,
//! also before they have come.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{join_all, try_join_all};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Report, Unnameable, cancel_when_lost, marking::mark_all_absent, observe_backlog};
use crate::{
    cleanup::{
        Candidate, Inventory, Scope, Threads, Volumes,
        fleet::{Fleet, Lane},
    },
    failure::{Dependency, Failure, Verdict},
    health::Health,
    metrics,
    reconnect::jittered,
    volume_name::ThreadId,
};

/// Rows that are looked for in one list of each host.
const ROWS_A_LIST: usize = 20_000;
/// Rows a page.
const PAGE_ROWS: u64 = 2000;

/// Sweeps up what is on no host of a fleet.
pub struct Unplaced<V, T> {
    fleet: Arc<Fleet<V, T>>,
    health: Arc<Health>,
    /// This process has one of several hosts, and others have the others.
    has_one_of_several: bool,
    unnameable: Unnameable,
    /// Why the latest sweep could not be done to its end.
    skipped: Mutex<Option<String>>,
}

impl<V: Volumes, T: Threads> Unplaced<V, T> {
    /// The sweep of what is nowhere in `fleet`; with `has_one_of_several`, that is not known to this process.
    pub fn new(fleet: Arc<Fleet<V, T>>, health: Arc<Health>, has_one_of_several: bool) -> Self {
        Self { fleet, health, has_one_of_several, unnameable: Unnameable::default(), skipped: Mutex::default() }
    }

    /// Sweeps every `interval`, and at once when the last host that was down is back, while `is_leader` says so and until
    /// `stop` is cancelled.
    pub async fn run(&self, interval: Duration, mut is_leader: watch::Receiver<bool>, stop: &CancellationToken) {
        tokio::select! {
            () = self.health.until_all_hosts_known() => {}
            () = stop.cancelled() => return,
        }
        while !stop.is_cancelled() {
            tokio::select! {
                _ = is_leader.wait_for(|is_leader| *is_leader) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = self.health.until_up(&[Dependency::Database, Dependency::Docker]) => {}
                () = stop.cancelled() => return,
            }
            let sweep_stop = stop.child_token();
            let are_all_up = self.health.are_all_hosts_up();
            tokio::select! {
                _ = self.sweep(false, &sweep_stop) => {}
                () = cancel_when_lost(is_leader.clone(), &sweep_stop) => {}
            }
            observe_backlog(&*self.fleet.shared().threads).await;
            tokio::select! {
                () = tokio::time::sleep(jittered(interval)) => {}
                () = self.health.until_all_hosts_up(), if !are_all_up => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One sweep. With `dry_run`, only says what it would do.
    pub async fn sweep(&self, dry_run: bool, stop: &CancellationToken) -> Report {
        let began = Instant::now();
        let mut report = Report { dry_run, ..Report::default() };
        if let Err(failure) = self.sweep_pages(&mut report, stop).await {
            if let Verdict::Unavailable(dependency @ (Dependency::Database | Dependency::Broker)) = failure.verdict {
                self.health.down(dependency, &failure.message);
            }
            report.skipped_reason = Some(failure.message);
        }
        self.tell_skipped(report.skipped_reason.as_ref());
        report.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        metrics::sweep(began.elapsed());
        report.log();
        report
    }

    /// Says why threads stay unmarked when that changes, and not in every sweep.
    fn tell_skipped(&self, reason: Option<&String>) {
        let mut told = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() == reason {
            return;
        }
        *told = reason.cloned();
        if let Some(reason) = reason {
            warn!(reason, "closed threads that may be on any host are not marked for now");
        } else {
            info!("closed threads that may be on any host are marked again");
        }
    }

    async fn sweep_pages(&self, report: &mut Report, stop: &CancellationToken) -> Result<(), Failure> {
        let threads = &self.fleet.shared().threads;
        let mut after: Option<String> = None;
        let mut rows = Vec::new();
        while !stop.is_cancelled() {
            let page = threads.candidates(&Scope::Unplaced, after.as_deref(), PAGE_ROWS).await?;
            let is_last = (page.len() as u64) < PAGE_ROWS;
            after = page.last().map(|last| last.id.clone()).or(after);
            for candidate in page {
                match ThreadId::parse(&candidate.id) {
                    Ok(thread) => rows.push((thread, candidate)),
                    Err(error) => {
                        debug!(thread.id = candidate.id, %error, "a closed thread whose id can't name a volume");
                        report.candidates += 1;
                        report.failed += 1;
                        report.unnameable += 1;
                    }
                }
            }
            if !rows.is_empty() && (is_last || rows.len() >= ROWS_A_LIST) {
                self.mark_absent(std::mem::take(&mut rows), report).await?;
            }
            if is_last {
                self.unnameable.tell(report.unnameable);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn mark_absent(&self, mut rows: Vec<(ThreadId, Candidate)>, report: &mut Report) -> Result<(), Failure> {
        let shared = self.fleet.shared();
        // After the rows were read, never before.
        let lists = join_all(self.fleet.lanes().iter().map(list)).await;
        for inventory in lists {
            let Inventory { present, referenced, warnings } = inventory?;
            if let Some(warning) = warnings.first() {
                warn!(warning, threads = rows.len(), "Docker's list may lack volumes, so none is taken for absent");
                report.candidates += rows.len() as u64;
                report.failed += rows.len() as u64;
                return Ok(());
            }
            rows.retain(|(thread, _)| !present.contains(thread) && !referenced.contains_key(thread));
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.refuse_if_elsewhere().await?;
        report.candidates += rows.len() as u64;
        if report.dry_run {
            report.not_found += rows.len() as u64;
            return Ok(());
        }
        // After the lists, so that it was these daemons that made them.
        try_join_all(self.fleet.lanes().iter().map(|lane| lane.coordinator.volumes.prove_identity())).await?;
        let unmarked = mark_all_absent(shared, &rows, report).await?;
        report.failed += unmarked.len() as u64;
        Ok(())
    }

    /// Fails if volumes that are not here may be on a host that this process does not ask.
    async fn refuse_if_elsewhere(&self) -> Result<(), Failure> {
        let stranger = self.fleet.shared().threads.stranger().await?;
        let (whose, otherwise) = match stranger {
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
                "closed threads name no host, and their volumes are not here: {whose} may have them. Map the column that \
                 names a thread's host (VOLUME_REAPER_THREADS_HOST_COLUMN){otherwise}"
            ),
        ))
    }
}

/// What a host has; at once, if it is known to be down.
async fn list<V: Volumes, T: Threads>(lane: &Lane<V, T>) -> Result<Inventory, Failure> {
    let host = &lane.coordinator.host;
    let down = |reason: &str| {
        let what = format!("host {host:?} is down, and a volume that is on no other may be there: {reason}");
        Failure::unavailable(Dependency::Docker, what)
    };
    if let Some((_, status)) = lane.health.first_down(&[Dependency::Docker]) {
        return Err(down(&status.reason.unwrap_or_default()));
    }
    let listed = lane.coordinator.volumes.inventory(&lane.coordinator.prefix).await;
    listed.map_err(|failure| match failure.verdict {
        Verdict::Unavailable(dependency) => {
            lane.health.down(dependency, &failure.message);
            down(&failure.message)
        }
        Verdict::Transient | Verdict::Permanent => failure,
    })
}
