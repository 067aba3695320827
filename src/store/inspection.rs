//! Looking at the database without changing anything in it: the facts that `doctor` judges.

mod mysql;

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use migrations::{REOPEN_TRIGGER, ThreadsTable, UNMARKED_INDEX, literal, quoted};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, RuntimeErr, Statement, sqlx};

use super::{MigrationStatus, PinnedDaemon, Pool, Store, failure, is_mysql, mysql_number};
use crate::{commands::doctor::findings::ClockReading, config::SecretUrl, failure::Failure};

/// For all questions together, once a connection is there.
const QUESTIONS_TIMEOUT: Duration = Duration::from_secs(10);
/// For finding out why there is no connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A table with fewer rows is read as a whole whatever indexes it has.
const LARGE_TABLE_ROWS: i64 = 50_000;

/// Why the database could not be asked; each with the error's text.
#[derive(Debug)]
pub enum Unreachable {
    /// Nobody answers at that address.
    Connect(String),
    /// User or password, or this host may not connect.
    Login(String),
    /// The server has no such database; SQLite no such file.
    NoDatabase(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(text) | Self::Login(text) | Self::NoDatabase(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

/// What was found of a database that answers.
#[derive(Debug)]
pub struct Inspection {
    /// Product and version.
    pub version: String,
    /// Whether the connection is encrypted; `None` if there is no connection, as with SQLite.
    pub encrypted: Option<bool>,
    /// Its clock; `None` if it has none of its own.
    pub clock: Option<ClockReading>,
    /// All migrations, or why they can't be read.
    pub migrations: Result<Vec<MigrationStatus>, Failure>,
    /// What the migrations made; `None` unless all are applied.
    pub schema: Option<Schema>,
}

/// A part of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As the migrations made it.
    AsOurs,
    /// Not there.
    Missing,
    /// There, and switched off.
    Disabled,
    /// There, but not as it should be; the text says how.
    Broken(String),
}

/// What the migrations made, as it is now.
#[derive(Debug)]
pub struct Schema {
    /// Columns of the threads table that are not there; `None` if the table itself is not.
    pub missing_columns: Result<Option<Vec<String>>, Failure>,
    /// The index over closed and unmarked rows.
    pub index: Result<Part, Failure>,
    /// Whether a sweep's query reads the whole table instead of the index; `None` if the table is small.
    pub reads_whole_table: Result<Option<bool>, Failure>,
    /// The trigger that clears the mark.
    pub trigger: Result<Part, Failure>,
    /// Whether what we do with rows would be allowed.
    pub may_write: Result<(), Failure>,
    /// The pinned daemons.
    pub pinned: Result<Vec<PinnedDaemon>, Failure>,
}

impl Store {
    /// A store to look at: where SQLite has no file yet none is made, and its journal stays as it is.
    pub async fn to_look_at(url: &SecretUrl, threads: ThreadsTable) -> Result<Self, Unreachable> {
        match Pool::open(url, 1, |sqlite| sqlite.create_if_missing(false)).await {
            Ok(db) => Ok(Self::looking(db, url, threads)),
            Err(error) => Err(why_unreachable(url, &error).await),
        }
    }

    /// Looks at the database. Takes less than twenty seconds, and changes nothing.
    pub async fn inspect(&self) -> Result<Inspection, Unreachable> {
        if let Err(error) = self.db.ping().await {
            return Err(why_unreachable(&self.url, &error).await);
        }
        match tokio::time::timeout(QUESTIONS_TIMEOUT, self.look()).await {
            Ok(found) => found.map_err(|error| Unreachable::Other(failure(&self.url, &error).message)),
            Err(_) => Err(Unreachable::Other(format!(
                "database at {}: no answer within {}",
                self.url,
                humantime::format_duration(QUESTIONS_TIMEOUT)
            ))),
        }
    }

    async fn look(&self) -> Result<Inspection, DbErr> {
        let migrations = self.migration_status().await;
        let all_applied = matches!(&migrations, Ok(all) if all.iter().all(|migration| migration.applied));
        Ok(Inspection {
            version: self.version().await?,
            encrypted: self.encrypted().await?,
            clock: self.clock().await?,
            migrations,
            schema: if all_applied { Some(self.schema().await) } else { None },
        })
    }

    async fn schema(&self) -> Schema {
        let failed = |error: DbErr| failure(&self.url, &error);
        Schema {
            missing_columns: self.missing_columns().await.map_err(failed),
            index: self.index().await.map_err(failed),
            reads_whole_table: self.reads_whole_table().await.map_err(failed),
            trigger: self.trigger().await.map_err(failed),
            may_write: self.may_write().await.map_err(failed),
            pinned: self.pinned_daemons().await,
        }
    }

    /// The rows of one of two queries, by the kind of database; MySQL is asked elsewhere.
    async fn rows(&self, postgres: impl Into<String>, sqlite: impl Into<String>) -> Result<Vec<QueryResult>, DbErr> {
        let backend = self.backend();
        let sql = if backend == DbBackend::Postgres { postgres.into() } else { sqlite.into() };
        self.db.query_all_raw(Statement::from_string(backend, sql)).await
    }

    async fn version(&self) -> Result<String, DbErr> {
        if self.backend() == DbBackend::MySql {
            return self.mysql_version().await;
        }
        let rows = self
            .rows("SELECT 'PostgreSQL ' || current_setting('server_version')", "SELECT 'SQLite ' || sqlite_version()")
            .await?;
        rows.first().map_or(Ok(String::new()), |row| row.try_get_by_index(0))
    }

    async fn encrypted(&self) -> Result<Option<bool>, DbErr> {
        if self.backend() == DbBackend::MySql {
            return self.mysql_encrypted().await;
        }
        if self.backend() == DbBackend::Sqlite {
            return Ok(None);
        }
        let rows = self.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", "").await?;
        rows.first().map(|row| row.try_get_by_index(0)).transpose()
    }

    async fn clock(&self) -> Result<Option<ClockReading>, DbErr> {
        if self.backend() == DbBackend::MySql {
            return self.mysql_clock().await;
        }
        if self.backend() == DbBackend::Sqlite {
            return Ok(None);
        }
        let asked = Utc::now();
        let rows = self.rows("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)", "").await?;
        let answered = Utc::now();
        let millis = rows.first().map(|row| row.try_get_by_index::<i64>(0)).transpose()?;
        let said = millis.and_then(DateTime::from_timestamp_millis);
        Ok(said.map(|said| ClockReading { asked, said, answered }))
    }

    /// The threads table as PostgreSQL finds it, along its search path.
    fn regclass(&self) -> String {
        format!("to_regclass({})", literal(DbBackend::Postgres, &self.threads.table_sql(DbBackend::Postgres)))
    }

    /// From the catalogue, since SQLite takes an unknown name in double quotes for a text.
    async fn missing_columns(&self) -> Result<Option<Vec<String>>, DbErr> {
        let table = self.regclass();
        let rows = self
            .rows(
                format!(
                    "SELECT CAST(attname AS text) FROM pg_attribute \
                     WHERE attrelid = {table} AND attnum > 0 AND NOT attisdropped"
                ),
                if self.backend() == DbBackend::MySql {
                    self.mysql_columns()
                } else {
                    format!("SELECT name FROM pragma_table_info({})", literal(DbBackend::Sqlite, &self.threads.table))
                },
            )
            .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let there = rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<Vec<String>, _>>()?;
        let threads = &self.threads;
        let needed = [Some(&threads.id), Some(&threads.status), threads.closed_at.as_ref(), Some(&threads.mark)];
        let missing: Vec<_> = needed.into_iter().flatten().filter(|column| !there.contains(column)).cloned().collect();
        if missing.is_empty() {
            // Whether those that are there fit.
            self.mapping().await?;
        }
        Ok(Some(missing))
    }

    async fn index(&self) -> Result<Part, DbErr> {
        if self.backend() == DbBackend::MySql {
            return self.mysql_index().await;
        }
        let (table, name) = (self.regclass(), literal(self.backend(), UNMARKED_INDEX));
        let rows = self
            .rows(
                format!(
                    "SELECT CASE WHEN indisvalid AND indisready THEN '' ELSE 'invalid' END, \
                     coalesce(pg_get_expr(indpred, indrelid), '') \
                     FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
                     WHERE relname = {name} AND indrelid = {table}"
                ),
                self.sqlite_part("index", UNMARKED_INDEX),
            )
            .await?;
        self.part(&rows).await
    }

    async fn trigger(&self) -> Result<Part, DbErr> {
        if self.backend() == DbBackend::MySql {
            return self.mysql_trigger().await;
        }
        let (table, name) = (self.regclass(), literal(self.backend(), REOPEN_TRIGGER));
        let rows = self
            .rows(
                format!(
                    "SELECT CASE WHEN tgenabled IN ('O', 'A') THEN '' ELSE 'disabled' END, \
                     pg_get_triggerdef(oid) FROM pg_trigger \
                     WHERE tgname = {name} AND tgrelid = {table} AND NOT tgisinternal"
                ),
                self.sqlite_part("trigger", REOPEN_TRIGGER),
            )
            .await?;
        self.part(&rows).await
    }

    fn sqlite_part(&self, kind: &str, name: &str) -> String {
        let [kind, name, table] = [kind, name, &self.threads.table].map(|text| literal(DbBackend::Sqlite, text));
        format!("SELECT '', sql FROM sqlite_master WHERE type = {kind} AND name = {name} AND tbl_name = {table}")
    }

    /// A part from a row with its state and its definition, in which the closed value stands: with
    /// another one than the configured, the index would be of no use and the trigger clear every mark.
    async fn part(&self, rows: &[QueryResult]) -> Result<Part, DbErr> {
        let Some(row) = rows.first() else { return Ok(Part::Missing) };
        let (state, definition): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        let closed = self.mapping().await?.closed_sql();
        Ok(if state == "disabled" {
            Part::Disabled
        } else if state == "invalid" {
            Part::Broken("its build was interrupted, so that it is not used".to_owned())
        } else if !definition.to_lowercase().contains(&format!(" {}", closed.to_lowercase())) {
            Part::Broken(format!("it was made for another status than {closed}"))
        } else {
            Part::AsOurs
        })
    }

    /// SQLite has no choice: it has no statistics that would speak against the index.
    async fn reads_whole_table(&self) -> Result<Option<bool>, DbErr> {
        if self.backend() == DbBackend::MySql {
            return self.mysql_reads_whole_table().await;
        }
        if self.backend() == DbBackend::Sqlite {
            return Ok(None);
        }
        let rows =
            self.rows(format!("SELECT CAST(reltuples AS bigint) FROM pg_class WHERE oid = {}", self.regclass()), "");
        let estimate = rows.await?.first().map(|row| row.try_get_by_index::<i64>(0)).transpose()?;
        if estimate.is_none_or(|rows| rows < LARGE_TABLE_ROWS) {
            return Ok(None);
        }
        let (table, quoted) = (self.threads.table_sql(self.backend()), |name| quoted(self.backend(), name));
        let (id, status, mark) = (quoted(&self.threads.id), quoted(&self.threads.status), quoted(&self.threads.mark));
        let closed = self.mapping().await?.closed_sql();
        let explain = format!(
            "EXPLAIN SELECT {id} FROM {table} WHERE {status} = {closed} AND {mark} IS NULL ORDER BY {id} LIMIT 1000"
        );
        let plan = self.rows(explain, "").await?;
        let plan = plan.iter().map(|row| row.try_get_by_index(0)).collect::<Result<Vec<String>, _>>()?;
        Ok(Some(plan.iter().any(|line| line.contains("Seq Scan"))))
    }

    /// What marking, receipts and pinning do, on no row, in a transaction that is taken back. Rights, a server that
    /// takes no writes and a read-only file show all the same.
    async fn may_write(&self) -> Result<(), DbErr> {
        let backend = self.backend();
        let (table, id) = (self.threads.table_sql(backend), quoted(backend, &self.threads.id));
        let mark = quoted(backend, &self.threads.mark);
        // Older MySQLs have no condition without a table.
        let no_row = if backend == DbBackend::MySql { "FROM DUAL WHERE 1 = 0" } else { "WHERE 1 = 0" };
        let mut statements = vec![
            format!("UPDATE {table} SET {mark} = {mark} WHERE {id} IS NULL AND 1 = 0"),
            format!(
                "INSERT INTO volume_removals (thread_id, volume_name, outcome, source, replica, removed_at) \
                 SELECT '', '', '', '', '', CURRENT_TIMESTAMP {no_row}"
            ),
            format!("INSERT INTO docker_daemons (name, identity, pinned_at) SELECT '', '', CURRENT_TIMESTAMP {no_row}"),
            "SELECT 1 FROM thread_holds WHERE 1 = 0".to_owned(),
            "UPDATE removal_pause SET reason = reason WHERE 1 = 0".to_owned(),
            format!("INSERT INTO removal_pause (name) SELECT '' {no_row}"),
            format!(
                "INSERT INTO cleanup_failures (thread_id, attempts, first_failed_at, failed_at, error, replica) \
                 SELECT '', 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, '', '' {no_row}"
            ),
            "UPDATE cleanup_failures SET attempts = attempts WHERE 1 = 0".to_owned(),
            "DELETE FROM cleanup_failures WHERE 1 = 0".to_owned(),
        ];
        let transaction = self.db.begin_write().await?;
        if self.backend() == DbBackend::Postgres {
            statements.insert(0, "SET LOCAL lock_timeout = '2s'".to_owned());
            // No row is inserted above, so that the sequence is not touched, nor its rights.
            let sequence = "SELECT has_sequence_privilege(pg_get_serial_sequence('volume_removals', 'id'), 'USAGE')";
            let row = transaction.query_one_raw(Statement::from_string(DbBackend::Postgres, sequence)).await?;
            if row.is_some_and(|row| row.try_get_by_index::<Option<bool>>(0).ok().flatten() == Some(false)) {
                return Err(DbErr::Custom("permission denied for the sequence of volume_removals.id".to_owned()));
            }
        }
        for statement in statements {
            transaction.execute_unprepared(&statement).await?;
        }
        transaction.rollback().await
    }
}

/// Tells the reasons apart by the server's code (PostgreSQL's manual, appendix A; sqlite.org/rescode.html; MySQL's manual,
/// "Server Error Message Reference").
async fn why_unreachable(url: &SecretUrl, error: &DbErr) -> Unreachable {
    let text = failure(url, error).message;
    match mysql_number_of(error) {
        Some(1044 | 1045 | 1130 | 1698) => return Unreachable::Login(text),
        Some(1049) => return Unreachable::NoDatabase(text),
        Some(_) | None => {}
    }
    let code = database_error(error).and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    match code.as_deref() {
        Some(code) if code.starts_with("28") => Unreachable::Login(text),
        Some("3D000" | "14") => Unreachable::NoDatabase(text),
        Some(_) => Unreachable::Other(text),
        None => match connection_error(url).await {
            Some(why) => Unreachable::Connect(format!("database at {url}: {why}")),
            None => Unreachable::Other(text),
        },
    }
}

/// What the server itself said.
fn database_error(error: &DbErr) -> Option<&dyn sqlx::error::DatabaseError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => match error.as_ref() {
            sqlx::Error::Database(error) => Some(error.as_ref()),
            _ => None,
        },
        _ => None,
    }
}

fn mysql_number_of(error: &DbErr) -> Option<u16> {
    database_error(error).and_then(mysql_number)
}

/// Why no connection to the URL's host can be made: the pool says only that there was none in time.
async fn connection_error(url: &SecretUrl) -> Option<String> {
    let usual_port = if is_mysql(url) { 3306 } else { 5432 };
    let (host, port) = (url.host()?.trim_start_matches('[').trim_end_matches(']'), url.port().unwrap_or(usual_port));
    match tokio::time::timeout(PROBE_TIMEOUT, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {}", humantime::format_duration(PROBE_TIMEOUT))),
    }
}
