//! What differs by database, beyond its SQL: how one connects, what its errors mean, how replicas take turns to
//! migrate, and what `doctor` asks. A trait by subject, a folder by database, and a file in it by trait; which database
//! it is is chosen once, by the scheme of its URL.

use std::time::Duration;

use migrations::{Dialect, Mapping, MySql, Postgres, Sqlite, ThreadsTable};
use sea_orm::{
    ConnectOptions, DatabaseTransaction, DbErr, TransactionOptions,
    prelude::async_trait::async_trait,
    sqlx::{self, error::DatabaseError},
};

use super::{
    Pool,
    schema_facts::{LARGE_TABLE_ROWS, Part},
};
use crate::{cleanup::policy::Locking, config::SecretUrl};

/// How long rows are locked unless it is said otherwise: longer than an ordinary removal takes, and shorter than
/// anybody waits for a row.
const ROW_LOCK_LIMIT: Duration = Duration::from_secs(2);

/// A database, in all that is its own.
pub(super) trait Engine: Connecting + Errors + Migrating + SchemaFacts + Send + Sync {
    /// Its SQL.
    fn dialect(&self) -> &'static dyn Dialect;

    /// Its name in traces, by OpenTelemetry's conventions.
    fn name_in_traces(&self) -> &'static str;
}

impl Engine for Postgres {
    fn dialect(&self) -> &'static dyn Dialect {
        &Postgres
    }

    fn name_in_traces(&self) -> &'static str {
        "postgresql"
    }
}

impl Engine for Sqlite {
    fn dialect(&self) -> &'static dyn Dialect {
        &Sqlite
    }

    fn name_in_traces(&self) -> &'static str {
        "sqlite"
    }
}

impl Engine for MySql {
    fn dialect(&self) -> &'static dyn Dialect {
        &MySql
    }

    fn name_in_traces(&self) -> &'static str {
        "mysql"
    }
}

/// The database that a URL is of. The configuration has no others.
pub(super) fn engine_of(url: &SecretUrl) -> &'static dyn Engine {
    match url.scheme() {
        "sqlite" => &Sqlite,
        "mysql" | "mariadb" => &MySql,
        _ => &Postgres,
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To work: SQLite's file is made.
    Work,
    /// To look: no file is made, and its journal stays as it is.
    Look,
    /// To read: the database itself refuses to be written to.
    Read,
}

/// How one connects, and begins a transaction.
pub(super) trait Connecting {
    /// The address as the client library knows it.
    fn address(&self, url: &SecretUrl) -> String {
        url.for_driver()
    }

    /// The port that a server has if the URL names none.
    fn usual_port(&self) -> u16;

    /// How many connections there may be, where so many are asked for.
    fn most_connections(&self, asked: u32) -> u32 {
        asked
    }

    /// What is set on each connection.
    fn adapt(&self, options: &mut ConnectOptions, access: Access, url: &SecretUrl);

    /// What a transaction begins with behind a pooler.
    fn after_begin_behind_pooler(&self) -> Option<&'static str> {
        None
    }

    /// A transaction in which what a statement only looked at stays free for the platform.
    fn marking(&self) -> TransactionOptions {
        TransactionOptions::default()
    }

    /// Whether who marks keeps everybody else from writing.
    fn locks_for_everybody(&self) -> bool {
        false
    }

    /// How many transactions that mark gain by being under way at once: more than one where all can write.
    fn marks_at_once(&self) -> usize {
        1
    }

    /// What a transaction executes before an update that is not to wait for rows that others have locked, but to fail.
    fn before_impatient_update(&self) -> Option<&'static str> {
        None
    }

    /// What, when it is selected in a transaction, ends that if its process is frozen for so long.
    fn end_of_frozen_transaction(&self, _after: Duration) -> Option<String> {
        None
    }

    /// A transaction that writes.
    fn writing(&self) -> TransactionOptions {
        TransactionOptions::default()
    }

    /// How long, and how many, rows are locked, with this limit if there is one.
    fn locking(&self, limit: Option<Duration>) -> Locking {
        Locking::of_rows(limit.unwrap_or(ROW_LOCK_LIMIT))
    }

    /// What the URL's parameters for the authorities, our certificate and its key are called.
    fn tls_parameters(&self) -> [&'static str; 3] {
        ["sslrootcert", "sslcert", "sslkey"]
    }

    /// The URL's parameter with which a server has to prove who it is.
    fn verifying_parameter(&self) -> &'static str {
        "sslmode=verify-full"
    }
}

/// Why a server does not let one in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// User or password, or this host may not connect.
    Login,
    /// There is no such database.
    NoDatabase,
}

/// What its errors mean.
pub(super) trait Errors {
    /// Whether an error speaks of the server and not of the statement.
    fn means_down(&self, error: &dyn DatabaseError) -> bool;

    /// Whether a lock was not given in time.
    fn is_lock_timeout(&self, error: &dyn DatabaseError) -> bool;

    /// Whether, and why, the server did not let us in.
    fn refusal(&self, error: &dyn DatabaseError) -> Option<Refusal>;

    /// What helps, where the server's own words name no way out.
    fn remedy(&self, _error: &dyn DatabaseError) -> Option<&'static str> {
        None
    }

    /// What an error of the client library means, where its words are for who builds with it.
    fn plain_words(&self, _error: &sqlx::Error) -> Option<&'static str> {
        None
    }
}

/// How replicas take turns to migrate.
#[async_trait]
pub(super) trait Migrating {
    /// Takes the lock, and does not wait for it.
    async fn try_lock(&self, db: &Pool) -> Result<Option<DatabaseTransaction>, DbErr>;

    /// Gives back what the transaction's end does not.
    async fn unlock(&self, _lock: &DatabaseTransaction) {}

    /// Whether the schema is changed in the transaction that has the lock.
    fn changes_within_lock(&self) -> bool {
        true
    }

    /// Whether each migration is a transaction of its own, unless it says that it can't be.
    fn has_transactional_changes(&self) -> bool {
        false
    }

    /// The query for the `holder` of each lock that may be in the way of changing the threads table, as far as one may
    /// see them.
    fn lock_holders(&self, _names: &ThreadsTable) -> Option<String> {
        None
    }
}

/// What `doctor` asks, without changing anything.
#[async_trait]
pub(super) trait SchemaFacts {
    /// The query for its `version`, with the product.
    fn version(&self) -> &'static str;

    /// Whether the connection is encrypted; `None` if there is none.
    async fn is_encrypted(&self, db: &Pool) -> Result<Option<bool>, DbErr>;

    /// The query for what its clock says, in `millis` since 1970; `None` if it has none of its own.
    fn clock(&self) -> Option<&'static str>;

    /// The index over closed and unmarked rows.
    async fn index(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr>;

    /// What has to be executed before the migration that makes that index makes it anew.
    fn before_index_again(&self) -> String {
        format!("DROP INDEX IF EXISTS {}; ", migrations::UNMARKED_INDEX)
    }

    /// The trigger that clears the mark.
    async fn trigger(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr>;

    /// The query for the estimated `rows` of the threads table; `None` if there is no choice between table and index.
    fn estimate(&self, threads: &Mapping) -> Option<String>;

    /// Whether this plan of a sweep's query reads the whole table.
    async fn reads_whole(&self, db: &Pool, sweep: &str) -> Result<bool, DbErr>;

    /// Whether a sweep's query reads the whole table instead of the index; `None` if the table is small.
    async fn reads_whole_table(&self, db: &Pool, threads: &Mapping) -> Result<Option<bool>, DbErr> {
        let Some(estimate) = self.estimate(threads) else { return Ok(None) };
        let rows = db.rows(estimate).await?;
        let rows = rows.first().map(|row| row.try_get::<Option<i64>>("", "estimate")).transpose()?.flatten();
        if rows.is_none_or(|rows| rows < LARGE_TABLE_ROWS) {
            return Ok(None);
        }
        let names = &threads.names.marked();
        if threads.names.volumes.is_some() {
            let table = names.table_sql(threads.dialect);
            let [thread, mark] = [&names.status, &names.mark].map(|name| threads.dialect.quoted(name));
            let sweep = format!("SELECT {thread} FROM {table} WHERE {mark} IS NULL ORDER BY {thread} LIMIT 1000");
            return self.reads_whole(db, &sweep).await.map(Some);
        }
        let table = threads.table_sql();
        let [id, status, mark] = [&names.id, &names.status, &names.mark].map(|name| threads.dialect.quoted(name));
        let closed = threads.closed_sql();
        let sweep =
            format!("SELECT {id} FROM {table} WHERE {status} = {closed} AND {mark} IS NULL ORDER BY {id} LIMIT 1000");
        self.reads_whole(db, &sweep).await.map(Some)
    }

    /// What is executed before statements are tried out.
    fn before_trying(&self) -> Option<&'static str> {
        None
    }

    /// The query for a row if this user may not do what no statement without rows can try out; its `what` says what.
    fn denied(&self) -> Option<&'static str> {
        None
    }
}
