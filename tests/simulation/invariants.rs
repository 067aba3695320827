//! The six invariants, checked in the moment in which something could break one, and after every step.

use std::time::Duration;

use tokio::time::Instant;
use volume_reaper::{
    cleanup::{Gone, Outcome, Receipt},
    failure::Failure,
    volume_name::ThreadId,
};

use crate::{
    names::{names, volume_of},
    world::{Process, State},
};

#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) violation: Option<String>,
    /// Sweeps in a row that a replica began without its lease.
    pub(crate) unleased: usize,
}

impl State {
    /// Safety, when a daemon begins to remove a volume.
    pub(crate) fn check_removal(&mut self, volume: &str, host: &str) {
        self.note(|| format!("{host} begins to remove {volume}"));
        let thread = names().thread_of(volume);
        let row = thread.as_ref().and_then(|thread| self.rows.threads.get(thread.as_str()));
        let Some(row) = row else {
            return self.violated(format!("safety: {volume} is of no thread, and is removed"));
        };
        let is_closed = row.closed;
        if !is_closed {
            self.violated(format!("safety: {volume} is removed, whose thread is open"));
        }
        let users = self.daemons.at(host).volumes.get(volume).map_or(0, std::collections::BTreeSet::len);
        if users > 0 {
            self.violated(format!("safety: {volume} is removed, which a container uses"));
        }
    }

    /// Quiet, and what a person decided, when a process sends a removal.
    pub(crate) fn check_sending(&mut self, process: Process, thread: &str, host: &str) {
        self.daemons.calls += 1;
        self.note(|| format!("replica {} sends {host} a removal for {thread}", process.replica));
        let Some(row) = self.rows.threads.get(thread) else {
            return self.violated(format!("safety: a removal for {thread}, which is no thread"));
        };
        let is_marked = row.mark.is_some();
        // A lock that the server lost is not known to be lost.
        let Some(since) = self.rows.locked_since(process, thread) else { return };
        if is_marked {
            self.violated(format!("quiet: Docker is asked about {thread}, which is marked"));
        }
        if self.rows.holds.get(thread).is_some_and(|held| *held < since) {
            self.violated(format!("safety: a removal for {thread}, which is on hold"));
        }
        let host = name_of(host).map(str::to_owned);
        if self.rows.pause(host.as_deref()).is_some_and(|pause| pause.since < since) {
            self.violated(format!("safety: a removal for {thread}, while removal is paused"));
        }
    }

    /// Truth, when a row is marked.
    pub(crate) fn check_mark(&mut self, receipt: &Receipt, by: Process) {
        let thread = receipt.thread_id.as_str();
        self.note(|| format!("replica {} marks {thread}: {}", by.replica, receipt.gone.as_str()));
        let row = &self.rows.threads[thread];
        let (is_closed, reappeared) = (row.closed, row.reappeared);
        if !is_closed {
            self.violated(format!("truth: {thread} is marked, and it is open"));
        }
        if self.daemons.have(thread) && !reappeared {
            self.violated(format!("truth: {thread} is marked, and its volume is there"));
        }
    }

    /// Once, when a receipt is written.
    pub(crate) fn check_receipt(&mut self, thread: &ThreadId, by: Process) {
        let Some(row) = self.rows.threads.get(thread.as_str()) else { return };
        let withdrawn = row.withdrawn;
        let of_thread = || self.rows.receipts.iter().filter(|it| it.thread == thread.as_str());
        let last = of_thread().next_back().expect("it was written just now").close.clone();
        let of_close = of_thread().filter(|it| it.close == last).count();
        let said = of_thread().filter(|it| it.gone == Gone::Removed).count();
        let removed = self.daemons.removed.get(&volume_of(thread.as_str())).copied().unwrap_or_default();
        if of_close > 1 + withdrawn {
            self.violated(format!("once: one close of {thread} has {of_close} receipts"));
        }
        if said > removed {
            self.violated(format!(
                "once: {said} receipts say that {thread}'s volume was removed; it was {removed} times"
            ));
        }
        if let Some(budget) = self.checks_budget() {
            let removed = self.rows.removed_last_hour(None);
            if removed > budget {
                self.violated(format!("budget: {removed} removals, the last by replica {}", by.replica));
            }
        }
    }

    /// The budget of an hour, if it is exact: with one replica nobody else removes anything meanwhile.
    fn checks_budget(&self) -> Option<u64> {
        self.rows.per_hour.filter(|_| self.replicas.len() == 1)
    }

    /// No loss, when a process knows what an event came to.
    pub(crate) fn check_outcome(
        &mut self,
        by: Process,
        thread: &ThreadId,
        result: &Result<Outcome, Failure>,
        settlement: &'static str,
    ) {
        let told = result.as_ref().map_or_else(|failure| failure.message.clone(), |it| it.as_str().to_owned());
        self.note(|| format!("replica {}: the event of {thread}: {told}, so {settlement}", by.replica));
        if !matches!(result, Ok(Outcome::Removed | Outcome::NotFound | Outcome::AlreadyClean)) {
            return;
        }
        if !self.rows.receipts.iter().any(|it| it.thread == thread.as_str()) {
            self.violated(format!("no loss: an event of {thread} is settled as {told}, and it was never marked"));
        }
    }

    /// The lease: who sweeps again and again without it. A replica that was frozen may do so once.
    pub(crate) fn check_sweep(&mut self, by: Process, lease: &str) {
        let holder = self.rows.leases.get(lease);
        let is_others = holder.is_none_or(|row| row.holder != by || row.expires < Instant::now());
        self.checks.unleased = if is_others { self.checks.unleased + 1 } else { 0 };
        if self.checks.unleased > 12 {
            self.violated(format!("lease: replica {} sweeps, and does not hold {lease:?}", by.replica));
        }
    }

    /// What has to be true at any time.
    pub(crate) fn check_all(&mut self) {
        let mut wrong = Vec::new();
        for (thread, row) in &self.rows.threads {
            let has = self.daemons.hosts[row.home].volumes.contains_key(&volume_of(thread));
            if !row.closed && row.mark.is_some() {
                wrong.push(format!("truth: {thread} is open, and marked"));
            }
            if !row.closed && !row.is_changing && !has {
                wrong.push(format!("safety: {thread} is open, and its volume is gone"));
            }
            if row.mark.is_some() && has && !row.reappeared {
                wrong.push(format!("truth: {thread} is marked, and its volume is there"));
            }
            let close = row.close();
            if row.mark.is_some() && !self.rows.receipts.iter().any(|it| it.thread == *thread && it.close == close) {
                wrong.push(format!("once: {thread} is marked, and has no receipt"));
            }
        }
        for daemon in self.daemons.hosts.values() {
            for name in crate::daemon::STRANGERS {
                if !daemon.volumes.contains_key(name) {
                    wrong.push(format!("safety: {name} is gone"));
                }
            }
        }
        for what in wrong {
            self.violated(what);
        }
    }

    /// Liveness, when faults have stopped for long enough.
    pub(crate) fn check_alive(&mut self, after: Duration, with_failed: bool) {
        for what in self.not_alive(with_failed) {
            self.violated(format!("{what} {after:?} after the last fault"));
        }
    }

    /// What is left to do; what has failed before only `with_failed`.
    pub(crate) fn not_alive(&self, with_failed: bool) -> Vec<String> {
        let mut left = Vec::new();
        for (thread, row) in &self.rows.threads {
            if !row.closed || row.is_changing {
                continue;
            }
            let volume = volume_of(thread);
            let users = self.daemons.hosts[row.home].volumes.get(&volume);
            let is_unprovable = self.rows.unserved.is_some_and(|unserved| row.home == unserved || row.host.is_none());
            let is_left_alone =
                self.rows.holds.contains_key(thread) || is_unprovable || users.is_some_and(|users| !users.is_empty());
            let is_cooling = !with_failed && self.rows.failures.contains_key(thread);
            if !is_left_alone && !is_cooling && (row.mark.is_none() || users.is_some()) {
                left.push(format!("liveness: {thread} is closed, and not cleaned"));
            }
        }
        if with_failed && !self.broker.is_at_rest() {
            left.push("no loss: deliveries are under way".to_owned());
        }
        left
    }
}

/// What a host is called, unless it is the only one.
fn name_of(host: &str) -> Option<&str> {
    (host != crate::database::ONLY).then_some(host)
}
