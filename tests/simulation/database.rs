//! The database in memory: rows that are locked, transactions that fail before or after their commit, a restart that
//! loses all locks, and a standby whose rows are those of yesterday.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use volume_reaper::cleanup::{Close, Gone, failing::FailedCleanup};

use crate::{
    plan::{Fault, Setup},
    world::{Process, now},
};

/// The ids of threads: some begin like others.
pub(crate) const THREADS: [&str; 6] = ["t1", "t10", "t2", "t20", "t3", "t30"];
/// The host that no replica asks.
pub(crate) const UNSERVED: &str = "c";
/// What the only host is called.
pub(crate) const ONLY: &str = "default";

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) closed: bool,
    pub(crate) closed_at: Option<DateTime<Utc>>,
    pub(crate) mark: Option<DateTime<Utc>>,
    /// The host that the row names.
    pub(crate) host: Option<&'static str>,
    /// The host that the volume is on.
    pub(crate) home: &'static str,
    /// The platform is not done with it: its volume may not be there yet.
    pub(crate) is_changing: bool,
    /// How often the mark of this close was withdrawn.
    pub(crate) withdrawn: usize,
    /// Somebody made its volume after it was closed.
    pub(crate) reappeared: bool,
}

/// One that holds locks.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) owner: Process,
    pub(crate) rows: BTreeSet<String>,
    pub(crate) began: Instant,
    /// The server ends it then, since its owner is frozen.
    pub(crate) over_at: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) thread: String,
    pub(crate) close: Close,
    pub(crate) gone: Gone,
    pub(crate) at: DateTime<Utc>,
    /// The host's key; none if nobody says.
    pub(crate) host: Option<String>,
    pub(crate) by: Process,
}

#[derive(Clone, Debug)]
pub(crate) struct Pausing {
    pub(crate) reason: String,
    pub(crate) at: DateTime<Utc>,
    pub(crate) since: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct LeaseRow {
    pub(crate) holder: Process,
    pub(crate) epoch: u64,
    pub(crate) expires: Instant,
}

pub(crate) struct Rows {
    pub(crate) threads: BTreeMap<String, Row>,
    pub(crate) transactions: BTreeMap<u64, Transaction>,
    pub(crate) locks_file: bool,
    pub(crate) next: u64,
    pub(crate) receipts: Vec<Written>,
    pub(crate) failures: BTreeMap<String, FailedCleanup>,
    /// By row: `everything`, `host/...`, `doubt/...`.
    pub(crate) pauses: BTreeMap<String, Pausing>,
    pub(crate) resumed_at: Option<DateTime<Utc>>,
    pub(crate) holds: BTreeMap<String, Instant>,
    pub(crate) leases: BTreeMap<String, LeaseRow>,
    pub(crate) sightings: BTreeMap<String, (u64, DateTime<Utc>)>,
    pub(crate) unserved: Option<&'static str>,
    pub(crate) per_hour: Option<u64>,
    pub(crate) down_until: Option<Instant>,
    pub(crate) standby: Option<(Instant, BTreeMap<String, Row>)>,
    pub(crate) faults: Vec<Fault>,
}

impl Rows {
    pub(crate) fn new(setup: &Setup) -> Self {
        let row = |number: usize| {
            let (home, host) = match (setup.hosts.len(), number % 4) {
                (0, _) => (ONLY, None),
                (_, 3) if setup.has_unserved => (UNSERVED, (number > 3).then_some(UNSERVED)),
                (hosts, 2) => (setup.hosts[number % hosts], None),
                (hosts, _) => (setup.hosts[number % hosts], Some(setup.hosts[number % hosts])),
            };
            Row {
                closed: false,
                closed_at: None,
                mark: None,
                host,
                home,
                is_changing: false,
                withdrawn: 0,
                reappeared: false,
            }
        };
        Self {
            threads: (0..setup.threads).map(|number| (THREADS[number].to_owned(), row(number))).collect(),
            transactions: BTreeMap::new(),
            locks_file: setup.locks_file,
            next: 0,
            receipts: Vec::new(),
            failures: BTreeMap::new(),
            pauses: BTreeMap::new(),
            resumed_at: None,
            holds: BTreeMap::new(),
            leases: BTreeMap::new(),
            sightings: BTreeMap::new(),
            unserved: setup.has_unserved.then_some(UNSERVED),
            per_hour: setup.per_hour,
            down_until: None,
            standby: None,
            faults: Vec::new(),
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down_until.is_some_and(|until| until > Instant::now())
    }

    pub(crate) fn is_standby(&self) -> bool {
        self.standby.as_ref().is_some_and(|(until, _)| *until > Instant::now())
    }

    /// The rows that a reader is shown.
    pub(crate) fn shown(&self) -> &BTreeMap<String, Row> {
        match &self.standby {
            Some((until, rows)) if *until > Instant::now() => rows,
            _ => &self.threads,
        }
    }

    /// The transactions that are not over.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Transaction> {
        self.transactions.values().filter(|it| it.over_at.is_none_or(|over_at| over_at > Instant::now()))
    }

    /// Whether somebody has locked this row, or the whole file.
    pub(crate) fn is_locked(&self, thread: &str) -> bool {
        self.open().any(|it| self.locks_file || it.rows.contains(thread))
    }

    /// When this process locked the row, if it has it locked.
    pub(crate) fn locked_since(&self, process: Process, thread: &str) -> Option<Instant> {
        self.open().find(|it| it.owner == process && it.rows.contains(thread)).map(|it| it.began)
    }

    /// Why removal is paused on a host, or anywhere.
    pub(crate) fn pause(&self, host: Option<&str>) -> Option<&Pausing> {
        let doubt = host.map(|host| format!("doubt/{host}"));
        let of_host = host.map(|host| format!("host/{host}"));
        let is_about = |name: &str| match host {
            None => name == "everything" || name.starts_with("doubt/"),
            Some(_) => name == "everything" || Some(name) == doubt.as_deref() || Some(name) == of_host.as_deref(),
        };
        self.pauses.iter().find(|(name, _)| is_about(name)).map(|(_, pause)| pause)
    }

    /// Counts removals since an hour ago, or since removal was resumed.
    pub(crate) fn removed_last_hour(&self, by: Option<Process>) -> u64 {
        let an_hour_ago = now() - TimeDelta::hours(1);
        let since = self.resumed_at.map_or(an_hour_ago, |at| at.max(an_hour_ago));
        let counts =
            |it: &&Written| it.gone == Gone::Removed && it.at > since && by.is_none_or(|process| it.by == process);
        self.receipts.iter().filter(counts).count() as u64
    }

    pub(crate) fn pause_row(&mut self, name: String, reason: &str) -> bool {
        let is_new = !self.pauses.contains_key(&name);
        if is_new {
            self.pauses.insert(name, Pausing { reason: reason.to_owned(), at: now(), since: Instant::now() });
        }
        is_new
    }

    pub(crate) fn resume(&mut self) {
        self.pauses.clear();
        self.sightings.clear();
        self.resumed_at = Some(now());
    }
}

impl Row {
    pub(crate) fn close(&self) -> Close {
        Close { at: self.closed_at, written: self.closed_at.map(|at| at.to_rfc3339()) }
    }
}
