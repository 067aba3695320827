//! Looking at the database without changing anything in it: the facts that `doctor` judges.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use migrations::{Mapping, ThreadsTable};
use sea_orm::{ConnectionTrait, DbErr, Statement};

use super::{
    MigrationStatus, PinnedDaemon, Pool, Store,
    engine::{Access, Engine, Refusal, engine_of},
    errors::{database_error, failure},
};
use crate::{clock::ClockReading, config::SecretUrl, failure::Failure};

/// For all questions together, once a connection is there.
const QUESTIONS_TIMEOUT: Duration = Duration::from_secs(10);
/// For finding out why there is no connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A table with fewer rows is read as a whole whatever indexes it has.
pub(super) const LARGE_TABLE_ROWS: i64 = 50_000;

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
    /// The URL's parameter with which the server has to prove who it is.
    pub verifying_parameter: &'static str,
    /// Whether the connection is encrypted; `None` if there is no connection, as with SQLite.
    pub encrypted: Option<bool>,
    /// Its clock; `None` if it has none of its own.
    pub clock: Option<ClockReading>,
    /// All migrations, or why they can't be read.
    pub migrations: Result<Vec<MigrationStatus>, Failure>,
    /// What speaks against applying those that are pending: what `migrate up --dry-run` says too.
    pub obstacles: Option<Failure>,
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
    /// Not for this user to see.
    OutOfSight,
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
    /// What has to be executed before that index is made anew.
    pub before_index_again: String,
    /// Whether a sweep's query reads the whole table instead of the index; `None` if the table is small.
    pub reads_whole_table: Result<Option<bool>, Failure>,
    /// The trigger that clears the mark.
    pub trigger: Result<Part, Failure>,
    /// Triggers of somebody else's that run before the threads table is updated.
    pub other_triggers: Result<Vec<String>, Failure>,
    /// Whether what we do with rows would be allowed.
    pub may_write: Result<(), Failure>,
    /// Whether what only a person's commands do would be allowed.
    pub may_act: Result<(), Failure>,
    /// The pinned daemons.
    pub pinned: Result<Vec<PinnedDaemon>, Failure>,
}

impl Store {
    /// A store to look at: where SQLite has no file yet none is made, and its journal stays as it is.
    pub async fn to_look_at(url: &SecretUrl, threads: ThreadsTable) -> Result<Self, Unreachable> {
        Self::to_look_at_with(url, threads, 1).await
    }

    /// A store to look at with at most so many connections.
    pub async fn to_look_at_with(url: &SecretUrl, threads: ThreadsTable, limit: u32) -> Result<Self, Unreachable> {
        let engine = engine_of(url);
        match Pool::open(engine, url, Access::Look, limit).await {
            Ok(db) => Ok(Self::looking(db, url, threads)),
            Err(error) => Err(why_unreachable(engine, url, &error).await),
        }
    }

    /// Looks at the database. Takes less than twenty seconds, and changes nothing.
    pub async fn inspect(&self) -> Result<Inspection, Unreachable> {
        if let Err(error) = self.db.ping().await {
            return Err(why_unreachable(self.engine, &self.url, &error).await);
        }
        match tokio::time::timeout(QUESTIONS_TIMEOUT, self.look()).await {
            Ok(found) => found.map_err(|error| Unreachable::Other(failure(self.engine, &self.url, &error).message)),
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
        let obstacles = match &migrations {
            Ok(_) if !all_applied => self.found(&self.db).await.err(),
            // What can't even be read says so itself.
            Ok(_) | Err(_) => None,
        };
        Ok(Inspection {
            version: self.version().await?,
            verifying_parameter: self.engine.verifying_parameter(),
            encrypted: self.engine.is_encrypted(&self.db).await?,
            clock: self.clock().await?,
            migrations,
            obstacles: obstacles.map(|error| failure(self.engine, &self.url, &error)),
            schema: if all_applied { Some(self.schema().await) } else { None },
        })
    }

    async fn version(&self) -> Result<String, DbErr> {
        let rows = self.db.rows(self.engine.version()).await?;
        rows.first().map_or(Ok(String::new()), |row| row.try_get("", "version"))
    }

    async fn clock(&self) -> Result<Option<ClockReading>, DbErr> {
        let asked = Utc::now();
        let said = self.said_time().await?;
        let answered = Utc::now();
        Ok(said.map(|said| ClockReading { asked, said, answered }))
    }

    /// What time it is by the database's clock, if it has one of its own.
    pub(super) async fn said_time(&self) -> Result<Option<DateTime<Utc>>, DbErr> {
        let Some(query) = self.engine.clock() else { return Ok(None) };
        let rows = self.db.rows(query).await?;
        let millis = rows.first().map(|row| row.try_get::<i64>("", "millis")).transpose()?;
        Ok(millis.and_then(DateTime::from_timestamp_millis))
    }

    async fn schema(&self) -> Schema {
        let failed = |error: DbErr| failure(self.engine, &self.url, &error);
        Schema {
            missing_columns: self.missing_columns().await.map_err(failed),
            index: self.index().await.map_err(failed),
            before_index_again: self.engine.before_index_again(),
            reads_whole_table: self.reads_whole_table().await.map_err(failed),
            trigger: self.trigger().await.map_err(failed),
            other_triggers: self.other_triggers().await.map_err(failed),
            may_write: self.may_write().await.map_err(failed),
            may_act: self.try_out(self.tries_of_commands()).await.map_err(failed),
            pinned: self.pinned_daemons().await,
        }
    }

    /// Whether all that `serve` will do with rows is allowed. Changes nothing.
    pub async fn check_rights(&self) -> Result<(), Failure> {
        let tried = tokio::time::timeout(QUESTIONS_TIMEOUT, self.may_write()).await;
        let Ok(tried) = tried else { return Ok(()) };
        tried.map_err(|error| {
            let failure = failure(self.engine, &self.url, &error);
            Failure {
                message: format!("{}; `volume-reaper doctor` says which rights are needed", failure.message),
                ..failure
            }
        })
    }

    /// From the catalogue, since SQLite takes an unknown name in double quotes for a text.
    async fn missing_columns(&self) -> Result<Option<Vec<String>>, DbErr> {
        let rows = self.db.rows(self.engine.dialect().columns(&self.threads)?).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let there = rows.iter().map(|row| row.try_get("", "name")).collect::<Result<Vec<String>, _>>()?;
        let threads = &self.threads;
        let mark = Some(&threads.mark).filter(|_| threads.volumes.is_none());
        let needed = [Some(&threads.id), Some(&threads.status), threads.closed_at.as_ref(), mark];
        let missing: Vec<_> = needed.into_iter().flatten().filter(|column| !there.contains(column)).cloned().collect();
        if missing.is_empty() {
            // Whether those that are there fit.
            self.mapping().await?;
        }
        Ok(Some(missing))
    }

    async fn index(&self) -> Result<Part, DbErr> {
        self.engine.index(&self.db, self.mapping().await?).await
    }

    async fn trigger(&self) -> Result<Part, DbErr> {
        self.engine.trigger(&self.db, self.mapping().await?).await
    }

    async fn other_triggers(&self) -> Result<Vec<String>, DbErr> {
        let rows = self.db.rows(self.engine.dialect().other_triggers(&self.threads)).await?;
        rows.iter().map(|row| row.try_get("", "name")).collect()
    }

    async fn reads_whole_table(&self) -> Result<Option<bool>, DbErr> {
        self.engine.reads_whole_table(&self.db, self.mapping().await?).await
    }

    /// All that `serve` does with rows, on no row, in a transaction that is taken back. Rights, a server that takes no
    /// writes and a read-only file show all the same.
    async fn may_write(&self) -> Result<(), DbErr> {
        if let Some(denied) = self.engine.denied() {
            let row = self.db.query_one_raw(Statement::from_string(self.backend(), denied)).await?;
            if let Some(row) = row {
                return Err(DbErr::Custom(row.try_get("", "what")?));
            }
        }
        self.try_out(self.tries()).await
    }

    /// Executes statements in a transaction that is taken back.
    async fn try_out(&self, statements: Vec<String>) -> Result<(), DbErr> {
        let transaction = self.db.begin_write().await?;
        for statement in self.engine.before_trying().map(str::to_owned).into_iter().chain(statements) {
            transaction.execute_unprepared(&statement).await?;
        }
        transaction.rollback().await
    }
}

/// Whether a definition was made for the closed value that is configured: with another one, the index would be of no
/// use and the trigger clear every mark.
pub(super) fn is_for_this_status(threads: &Mapping, definition: &str) -> Part {
    let closed = threads.closed_sql();
    if definition.to_lowercase().contains(&format!(" {}", closed.to_lowercase())) {
        Part::AsOurs
    } else {
        Part::Broken(format!("it was made for another status than {closed}"))
    }
}

/// Why the database can't be asked, as far as its server or the address says.
async fn why_unreachable(engine: &dyn Engine, url: &SecretUrl, error: &DbErr) -> Unreachable {
    let text = failure(engine, url, error).message;
    match database_error(error) {
        Some(error) => match engine.refusal(error) {
            Some(Refusal::Login) => Unreachable::Login(text),
            Some(Refusal::NoDatabase) => Unreachable::NoDatabase(text),
            None => Unreachable::Other(text),
        },
        None => match connection_error(engine, url).await {
            Some(why) => Unreachable::Connect(format!("database at {url}: {why}")),
            None => Unreachable::Other(text),
        },
    }
}

/// Why no connection to the URL's host can be made: the pool says only that there was none in time.
async fn connection_error(engine: &dyn Engine, url: &SecretUrl) -> Option<String> {
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    let port = url.port().unwrap_or_else(|| engine.usual_port());
    match tokio::time::timeout(PROBE_TIMEOUT, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {}", humantime::format_duration(PROBE_TIMEOUT))),
    }
}
