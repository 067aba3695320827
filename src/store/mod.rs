//! The database: the threads port of the coordinator, the receipts and the pinned daemons.
//!
//! The threads table is the platform's and is addressed by configured names; our own tables by entities. PostgreSQL,
//! SQLite and MySQL (which is MariaDB too) are served by the same statements, but for those that MySQL lacks.

mod daemons;
mod entities;
mod failures;
mod holds;
mod inspection;
mod leases;
mod look_up;
mod marking;
mod migrate;
mod pauses;
mod pool;
mod recording;
mod threads;

use std::{
    fmt,
    ops::Not,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use migrations::{Mapping, ThreadsTable};
use sea_orm::{ConnectOptions, ConnectionTrait, DbBackend, DbErr, RuntimeErr, sqlx};
use tokio::sync::OnceCell;

pub use holds::Hold;
pub use inspection::{Inspection, Part, Schema, Unreachable};
pub use look_up::{PinnedDaemon, Removals, Sweeper, ThreadRow, WrittenReceipt};
pub use migrate::MigrationStatus;
use pool::Pool;

use crate::{
    config::SecretUrl,
    failure::{Dependency, Failure},
    host::Host,
    tls::Problem,
};

/// For a statement about one row. The database answers such in milliseconds, or not at all.
const ROW_TIMEOUT: Duration = Duration::from_secs(10);
/// For a statement about a page of rows, or the count of a large backlog.
const PAGE_TIMEOUT: Duration = Duration::from_mins(2);
/// For a connection, new or from the pool; below [`ROW_TIMEOUT`], so that its error is the one that is told.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The database.
pub struct Store {
    db: Pool,
    url: SecretUrl,
    threads: ThreadsTable,
    /// The Docker hosts that this process asks.
    hosts: Vec<Host>,
    /// Looked up once, with the first statement about threads.
    mapping: OnceCell<Mapping>,
    replica: String,
    only_reads: bool,
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
        let pool = Pool::open(url, connections, |sqlite| {
            // Then readers and a writer do not block each other. A file that is there already stays as somebody made it.
            let is_new = sqlite.get_filename().metadata().is_ok_and(|file| file.len() > 0).not();
            if is_new { sqlite.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal) } else { sqlite }
        });
        let db = pool.await.map_err(|error| failure(url, &error))?;
        Ok(Self {
            db,
            url: url.clone(),
            threads,
            hosts: vec![Host::Only],
            mapping: OnceCell::new(),
            replica,
            only_reads: false,
            is_bare: AtomicBool::new(false),
        })
    }

    /// The same for who only reads: the database itself refuses to be written to, unless a pooler stands before it, whose
    /// connections are others' too.
    pub async fn read_only(url: &SecretUrl, threads: ThreadsTable, connections: u32) -> Result<Self, Failure> {
        let pool = Pool::open_read_only(url, connections).await;
        Ok(Self::looking(pool.map_err(|error| failure(url, &error))?, url, threads))
    }

    fn looking(db: Pool, url: &SecretUrl, threads: ThreadsTable) -> Self {
        Self {
            db,
            url: url.clone(),
            threads,
            hosts: vec![Host::Only],
            mapping: OnceCell::new(),
            replica: String::new(),
            only_reads: true,
            is_bare: AtomicBool::new(false),
        }
    }

    /// The same for a process that asks these Docker hosts.
    #[must_use]
    pub fn with_hosts(self, hosts: Vec<Host>) -> Self {
        Self { hosts, ..self }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), Failure> {
        self.bounded(ROW_TIMEOUT, self.db.ping()).await
    }

    /// Whether there is a threads table as the configuration describes it; says what there is if not.
    pub async fn check_threads(&self) -> Result<(), Failure> {
        self.bounded(ROW_TIMEOUT, self.mapping()).await.map(drop)
    }

    /// From now on nothing of ours is expected in the database. Only for a store that only reads.
    pub fn expect_nothing_of_ours(&self) {
        self.is_bare.store(self.only_reads, Ordering::Relaxed);
    }

    fn is_bare(&self) -> bool {
        self.is_bare.load(Ordering::Relaxed)
    }

    /// How to address the threads table.
    async fn mapping(&self) -> Result<&Mapping, DbErr> {
        self.mapping.get_or_try_init(|| Mapping::detect(&self.db, &self.threads, !self.is_bare())).await
    }

    /// Closes the connections.
    pub async fn close(&self) -> Result<(), Failure> {
        self.bounded(CONNECT_TIMEOUT, self.db.close()).await
    }

    fn backend(&self) -> DbBackend {
        self.db.get_database_backend()
    }

    /// Waits for `work`, but not for ever: a database that was frozen does not say so.
    async fn bounded<R>(&self, limit: Duration, work: impl Future<Output = Result<R, DbErr>>) -> Result<R, Failure> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.map_err(|error| failure(&self.url, &error)),
            Err(_) => Err(Failure::unavailable(
                Dependency::Database,
                format!("database at {}: no answer within {}", self.url, humantime::format_duration(limit)),
            )),
        }
    }
}

fn is_sqlite(url: &SecretUrl) -> bool {
    url.scheme() == "sqlite"
}

fn is_mysql(url: &SecretUrl) -> bool {
    matches!(url.scheme(), "mysql" | "mariadb")
}

fn connect_options(url: &SecretUrl, connections: u32) -> ConnectOptions {
    // The client knows MariaDB by the name of MySQL only.
    let address = url.for_driver();
    let address = address.strip_prefix("mariadb:").map_or_else(|| address.clone(), |rest| format!("mysql:{rest}"));
    let mut options = ConnectOptions::new(address);
    options
        // Moments are in UTC there by agreement, whatever the server's zone, and whatever the URL says.
        .map_sqlx_mysql_opts(|mysql| mysql.timezone(Some("+00:00".to_owned())))
        // SQLite has one writer at a time. With one connection they queue up in the pool, fairly, instead of polling
        // the file's lock.
        .max_connections(if is_sqlite(url) { 1 } else { connections })
        .connect_timeout(CONNECT_TIMEOUT)
        .acquire_timeout(CONNECT_TIMEOUT)
        // A connection that was just used is good; asking each time would double the round trips.
        .test_before_acquire_if_idle_for(CONNECT_TIMEOUT)
        .connect_lazy(true)
        // Statements of healthy work are nobody's business; what fails is logged where it is handled.
        .sqlx_logging(false);
    options
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

/// The verdict on a database error: is the database down, or was it this statement?
fn failure(url: &SecretUrl, error: &DbErr) -> Failure {
    let message = format!("database at {url}: {}", describe(url, error));
    let down = match error {
        DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            match error.as_ref() {
                sqlx::Error::Database(error) => {
                    mysql_number(error.as_ref()).is_some_and(mysql_means_down)
                        || error.code().is_some_and(|code| means_down(&code))
                }
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => true,
                _ => false,
            }
        }
        _ => false,
    };
    if down { Failure::unavailable(Dependency::Database, message) } else { Failure::transient(message) }
}

/// Codes that speak of the server and not of the statement.
///
/// PostgreSQL's and MySQL's are SQLSTATEs of five characters (PostgreSQL's manual, appendix A): class 08 connection,
/// 53 out of resources, 57P shutdown, 58 system error, 25006 a replica that takes no writes. SQLite's are numbers, the primary code in the
/// lowest byte (sqlite.org/rescode.html): 8 read-only, 10 I/O error, 11 corrupt, 13 full, 14 can't open, 26 not a
/// database.
fn means_down(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "53", "57P", "58", "25006"].iter().any(|class| code.starts_with(class));
    }
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 8 | 10 | 11 | 13 | 14 | 26))
}

/// MySQL's number of an error, which says more than its SQLSTATE.
fn mysql_number(error: &dyn sqlx::error::DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(sqlx::mysql::MySqlDatabaseError::number)
}

/// As [`means_down`], for those that MySQL has under a SQLSTATE that says nothing or something else (its manual, "Server
/// Error Message Reference"; MariaDB's, "Error Codes"): 1021 disk full, 1037 and 1041 out of memory, 1114 table full,
/// 1203 and 1226 too many connections of this user, 1290 and 1836 read-only, 1317 interrupted (also by a shutdown), 1792
/// a read-only transaction, 1927 and 3169 connection killed. A deadlock (1213) and a lock that was not given in time
/// (1205) are about the statement.
fn mysql_means_down(number: u16) -> bool {
    matches!(number, 1021 | 1037 | 1041 | 1114 | 1203 | 1226 | 1290 | 1317 | 1792 | 1836 | 1927 | 3169)
}

/// The error without the wrappings that name only themselves.
fn describe(url: &SecretUrl, error: &DbErr) -> String {
    if let Some(problem) = tls_problem(error) {
        let (authority, certificate, key) =
            if is_mysql(url) { ("ssl-ca", "ssl-cert", "ssl-key") } else { ("sslrootcert", "sslcert", "sslkey") };
        let remedy = match &problem {
            Problem::UnknownAuthority => {
                format!("; name the file with its authority's certificate as {authority} in DATABASE_URL")
            }
            Problem::NoClientCertificate => {
                format!("; name one as {certificate}, and its key as {key}, in DATABASE_URL")
            }
            Problem::Other(_) => String::new(),
        };
        return format!("{problem}{remedy}");
    }
    match error {
        DbErr::ConnectionAcquire(_) => {
            format!("no connection within {}", humantime::format_duration(CONNECT_TIMEOUT))
        }
        DbErr::Exec(RuntimeErr::SqlxError(error)) if matches!(error.as_ref(), sqlx::Error::Database(error) if mysql_number(error.as_ref()) == Some(1419)) =>
        {
            // `ER_BINLOG_CREATE_ROUTINE_NEED_SUPER`: the server's own words name no way out for a trigger.
            format!("{error}. Our trigger needs SET GLOBAL log_bin_trust_function_creators = 1, see docs/mysql.md")
        }
        DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error) => error.to_string(),
        DbErr::Migration(error) => error.clone(),
        other => other.to_string(),
    }
}

/// Why TLS to the database failed, if that is why there is no connection.
///
/// Unlike the broker's, it is not permanent: that would dead-letter the deliveries that are being worked on when a
/// certificate expires. They are handed back, as always while the database can't be used.
fn tls_problem(error: &DbErr) -> Option<Problem> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error)) => match error.as_ref() {
            sqlx::Error::Io(error) => Problem::of(error),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_shuts_down_is_told_from_a_statement_that_fails() {
        for code in ["08006", "57P01", "57P03", "53300", "25006", "14", "10", "266", "13"] {
            assert!(means_down(code), "{code}");
        }
        for code in ["40001", "40P01", "23505", "42501", "5", "6", "2067"] {
            assert!(!means_down(code), "{code}");
        }
        for number in [1114, 1226, 1290] {
            assert!(mysql_means_down(number), "{number}");
        }
        for number in [1062, 1142, 1205, 1213] {
            assert!(!mysql_means_down(number), "{number}");
        }
    }
}
