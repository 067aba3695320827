//! The database: the ports of the clean-up for threads, failures, pauses and receipts, and the pinned daemons.
//!
//! The threads table is the platform's and is addressed by configured names; our own tables by entities. PostgreSQL,
//! SQLite and MySQL (which is MariaDB too) are served by the same statements; what differs lies in a folder for each,
//! see `engine`.

mod actions;
mod backlog;
mod chains;
mod daemons;
mod engine;
mod entities;
mod errors;
mod failures;
mod history_entities;
mod holds;
mod leases;
mod listings;
mod look_alikes;
mod look_up;
mod marking;
mod marking_untouched;
mod mysql;
mod outbox;
mod pauses;
mod pool;
mod postgres;
mod receipt_list;
mod receipt_retention;
mod receipt_rows;
mod recording;
mod removal_counts;
mod rests;
mod rights;
mod rows;
mod schema;
mod schema_facts;
mod seen_volumes;
mod sqlite;
mod stats;
mod stats_since;
mod sweeps;
mod threads;
mod verification;
mod volume_hosts;
mod volume_rows;

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use migrations::{Mapping, ThreadsTable};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, sea_query::Query};
use tokio::sync::OnceCell;
use tracing::Span;

pub use actions::{Act, LoggedAct};
pub use holds::Hold;
pub use leases::Lease;
pub use listings::{ListedHold, Notes, WaitingRow};
pub use look_alikes::LookAlike;
pub use look_up::{PinnedDaemon, Sweeper, ThreadRow, WrittenReceipt};
pub use outbox::Announcement;
pub use receipt_list::{ListedReceipt, ReceiptFilter, ReceiptPlace};
pub use removal_counts::{Reclaimed, Removals};
pub use schema::MigrationStatus;
pub use schema_facts::{Inspection, Part, Schema, Unreachable};
pub use stats::{Resolution, Stat};
pub use stats_since::{Stats, UNCOUNTED_RECEIPTS_READ};
pub use sweeps::LoggedSweep;
pub use verification::{Flaw, Verification};
pub use volume_rows::NamedVolume;

use chains::Chains;
use engine::{Access, Engine, engine_of};
use errors::failure;
use pool::Pool;

use crate::{
    cleanup::policy::Locking,
    config::SecretUrl,
    failure::{Dependency, Failure},
    host::Host,
    traces,
};

/// For a statement about one row. The database answers such in milliseconds, or not at all.
const ROW_TIMEOUT: Duration = Duration::from_secs(10);
/// For a statement about a page of rows, or the count of a large backlog.
const PAGE_TIMEOUT: Duration = Duration::from_mins(2);
/// For what is noted at the end of a process.
const LAST_NOTES: Duration = Duration::from_secs(2);
/// For a connection, new or from the pool; below [`ROW_TIMEOUT`], so that its error is the one that is reported.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How the database at `url` locks rows, with this limit if there is one.
#[must_use]
pub fn locking(url: &SecretUrl, limit: Option<Duration>) -> Locking {
    engine_of(url).locking(limit)
}

/// The database.
pub struct Store {
    db: Pool,
    /// What the database has of its own.
    engine: &'static dyn Engine,
    url: SecretUrl,
    threads: ThreadsTable,
    /// The Docker hosts that this process asks.
    hosts: Vec<Host>,
    /// Looked up once, with the first statement about threads.
    mapping: OnceCell<Mapping>,
    replica: String,
    /// Who types the command: in receipts of what only a person asks for.
    actor: Option<String>,
    /// Whether each mark is told to others.
    announces: bool,
    /// Of the receipts that this replica writes.
    chains: Chains,
    /// Nothing of ours is there, and is not needed: nothing is marked, held or paused.
    is_bare: AtomicBool,
}

impl Store {
    /// A store at `url`, not contacted yet. `replica` is written into the receipts; at most `connections` are opened.
    pub async fn new(
        url: &SecretUrl,
        threads: ThreadsTable,
        replica: String,
        connections: u32,
    ) -> Result<Self, Failure> {
        let engine = engine_of(url);
        let pool = Pool::open(engine, url, Access::Work, connections).await;
        let db = pool.map_err(|error| failure(engine, url, &error))?;
        Ok(Self {
            db,
            engine,
            url: url.clone(),
            threads,
            hosts: vec![Host::Only],
            mapping: OnceCell::new(),
            replica,
            actor: None,
            announces: false,
            chains: Chains::default(),
            is_bare: AtomicBool::new(false),
        })
    }

    /// A store for who only reads: the database itself refuses to be written to, unless a pooler stands before it,
    /// whose connections are others' too.
    pub async fn read_only(url: &SecretUrl, threads: ThreadsTable, connections: u32) -> Result<Self, Failure> {
        let engine = engine_of(url);
        let pool = Pool::open(engine, url, Access::Read, connections).await;
        Ok(Self::looking(pool.map_err(|error| failure(engine, url, &error))?, url, threads))
    }

    fn looking(db: Pool, url: &SecretUrl, threads: ThreadsTable) -> Self {
        Self {
            db,
            engine: engine_of(url),
            url: url.clone(),
            threads,
            hosts: vec![Host::Only],
            mapping: OnceCell::new(),
            replica: String::new(),
            actor: None,
            announces: false,
            chains: Chains::default(),
            is_bare: AtomicBool::new(false),
        }
    }

    /// This store for a process that asks these Docker hosts.
    #[must_use]
    pub fn with_hosts(self, hosts: Vec<Host>) -> Self {
        Self { hosts, ..self }
    }

    /// This store for what a person asks for.
    #[must_use]
    pub fn acting_for(self, person: String) -> Self {
        Self { actor: Some(person), ..self }
    }

    /// Whether the database answers, and may be written to unless this store only reads.
    pub async fn ping(&self) -> Result<(), Failure> {
        self.bounded(ROW_TIMEOUT, self.db.ping()).await?;
        if self.db.only_reads() {
            return Ok(());
        }
        let question = Query::select().expr_as(self.engine.dialect().may_write(), "may_write").to_owned();
        let answer = self.bounded(ROW_TIMEOUT, self.db.query_one(&question)).await?;
        match answer.and_then(|row| row.try_get("", "may_write").ok()) {
            Some(false) => Err(self.not_writable()),
            Some(true) | None => Ok(()),
        }
    }

    /// Whether there is a threads table as the configuration describes it; says what there is if not.
    pub async fn check_threads(&self) -> Result<(), Failure> {
        self.bounded(ROW_TIMEOUT, self.mapping()).await.map(drop)
    }

    /// From now on nothing of ours is expected in the database. Only for a store that only reads.
    pub fn expect_nothing_of_ours(&self) {
        self.is_bare.store(self.db.only_reads(), Ordering::Relaxed);
    }

    fn is_bare(&self) -> bool {
        self.is_bare.load(Ordering::Relaxed)
    }

    /// How to address the threads table.
    async fn mapping(&self) -> Result<&Mapping, DbErr> {
        self.mapping.get_or_try_init(|| self.detect()).await
    }

    async fn detect(&self) -> Result<Mapping, DbErr> {
        Mapping::detect(&self.db, self.engine.dialect(), &self.threads, !self.is_bare()).await
    }

    /// Closes the chains of its receipts, and the connections.
    pub async fn close(&self) -> Result<(), Failure> {
        // Without that, they are as whole as they were. A database that is away is not waited for.
        let _ = tokio::time::timeout(LAST_NOTES, self.note_chains(true)).await;
        self.bounded(CONNECT_TIMEOUT, self.db.close()).await
    }

    /// A span for a step of this database.
    fn traced(&self, operation: &'static str) -> Span {
        traces::database(self.engine.name_in_traces(), operation)
    }

    fn backend(&self) -> DbBackend {
        self.db.get_database_backend()
    }

    /// Waits for `work`, but not for ever: a database that was frozen does not say so.
    async fn bounded<R>(&self, limit: Duration, work: impl Future<Output = Result<R, DbErr>>) -> Result<R, Failure> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.map_err(|error| failure(self.engine, &self.url, &error)),
            Err(_) => Err(Failure::unavailable(
                Dependency::Database,
                format!("database at {}: no answer within {}", self.url, humantime::format_duration(limit)),
            )),
        }
    }
}

impl AsRef<Self> for Store {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.url)
    }
}
