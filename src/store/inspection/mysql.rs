//! The same questions, as MySQL and MariaDB are asked them.

use chrono::{DateTime, Utc};
use migrations::{REOPEN_TRIGGER, UNMARKED_INDEX, literal, quoted};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement};

use super::{LARGE_TABLE_ROWS, Part, Store};
use crate::commands::doctor::findings::ClockReading;

impl Store {
    async fn mysql_rows(&self, sql: impl Into<String>) -> Result<Vec<QueryResult>, DbErr> {
        self.db.query_all_raw(Statement::from_string(DbBackend::MySql, sql)).await
    }

    /// MariaDB says so itself in its version, MySQL does not.
    pub(super) async fn mysql_version(&self) -> Result<String, DbErr> {
        let rows = self.mysql_rows("SELECT version()").await?;
        let version = rows.first().map_or(Ok(String::new()), |row| row.try_get_by_index::<String>(0))?;
        Ok(if version.contains("MariaDB") { version } else { format!("MySQL {version}") })
    }

    pub(super) async fn mysql_encrypted(&self) -> Result<Option<bool>, DbErr> {
        let rows = self.mysql_rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await?;
        let cipher = rows.first().map(|row| row.try_get_by_index::<String>(1)).transpose()?;
        Ok(cipher.map(|cipher| !cipher.is_empty()))
    }

    pub(super) async fn mysql_clock(&self) -> Result<Option<ClockReading>, DbErr> {
        let asked = Utc::now();
        let rows = self.mysql_rows("SELECT CAST(unix_timestamp(now(3)) * 1000 AS signed)").await?;
        let answered = Utc::now();
        let millis = rows.first().map(|row| row.try_get_by_index::<i64>(0)).transpose()?;
        let said = millis.and_then(DateTime::from_timestamp_millis);
        Ok(said.map(|said| ClockReading { asked, said, answered }))
    }

    pub(super) fn mysql_columns(&self) -> String {
        format!("SELECT column_name FROM information_schema.columns WHERE {}", self.of_threads("table"))
    }

    /// The condition that selects what the catalogue says of the threads table.
    fn of_threads(&self, kind: &str) -> String {
        let table = literal(DbBackend::MySql, &self.threads.table);
        match kind {
            "trigger" => format!("event_object_schema = DATABASE() AND event_object_table = {table}"),
            _ => format!("table_schema = DATABASE() AND table_name = {table}"),
        }
    }

    pub(super) async fn mysql_index(&self) -> Result<Part, DbErr> {
        let (of_threads, name) = (self.of_threads("index"), literal(DbBackend::MySql, UNMARKED_INDEX));
        let rows = self
            .mysql_rows(format!(
                "SELECT column_name FROM information_schema.statistics \
                 WHERE {of_threads} AND index_name = {name} ORDER BY seq_in_index"
            ))
            .await?;
        let columns = rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<Vec<String>, _>>()?;
        let threads = &self.threads;
        // The rest only spares reading the rows.
        let leading = [&threads.status, &threads.mark, &threads.id];
        Ok(if columns.is_empty() {
            Part::Missing
        } else if columns.iter().take(leading.len()).eq(leading) {
            Part::AsOurs
        } else {
            Part::Broken(format!("it is over other columns: {}", columns.join(", ")))
        })
    }

    pub(super) async fn mysql_trigger(&self) -> Result<Part, DbErr> {
        let (of_threads, name) = (self.of_threads("trigger"), literal(DbBackend::MySql, REOPEN_TRIGGER));
        let rows = self
            .mysql_rows(format!(
                "SELECT action_statement FROM information_schema.triggers WHERE {of_threads} AND trigger_name = {name}"
            ))
            .await?;
        let Some(row) = rows.first() else {
            return self.trigger_out_of_sight().await;
        };
        // Who has rights to some columns only sees that the trigger is there, and not what it does.
        let Some(statement) = row.try_get_by_index::<Option<String>>(0)? else {
            return Ok(Part::AsOurs);
        };
        let closed = self.mapping().await?.closed_sql();
        Ok(if statement.contains(&format!(" {closed}")) {
            Part::AsOurs
        } else {
            Part::Broken(format!("it was made for another status than {closed}"))
        })
    }

    /// The catalogue hides triggers from a user without the right to them. Asked for by name, the server says which it is.
    async fn trigger_out_of_sight(&self) -> Result<Part, DbErr> {
        match self.mysql_rows(format!("SHOW CREATE TRIGGER {REOPEN_TRIGGER}")).await {
            Err(error) if super::mysql_number_of(&error) == Some(NO_SUCH_TRIGGER) => Ok(Part::Missing),
            Err(error) => Err(error),
            Ok(_) => Ok(Part::Broken("it is on another table".to_owned())),
        }
    }

    /// What a sweep does, as the server would do it now.
    pub(super) async fn mysql_reads_whole_table(&self) -> Result<Option<bool>, DbErr> {
        let of_threads = self.of_threads("table");
        let estimate = format!("SELECT CAST(table_rows AS signed) FROM information_schema.tables WHERE {of_threads}");
        let estimate = self.mysql_rows(estimate).await?;
        let estimate = estimate.first().map(|row| row.try_get_by_index::<Option<i64>>(0)).transpose()?.flatten();
        if estimate.is_none_or(|rows| rows < LARGE_TABLE_ROWS) {
            return Ok(None);
        }
        let (table, id) = (quoted(DbBackend::MySql, &self.threads.table), quoted(DbBackend::MySql, &self.threads.id));
        let (status, mark) =
            (quoted(DbBackend::MySql, &self.threads.status), quoted(DbBackend::MySql, &self.threads.mark));
        let closed = self.mapping().await?.closed_sql();
        let plan = self
            .mysql_rows(format!(
                "EXPLAIN FORMAT=TRADITIONAL SELECT {id} FROM {table} WHERE {status} = {closed} AND {mark} IS NULL ORDER BY {id} LIMIT 1000"
            ))
            .await?;
        let key = plan.first().map(|row| row.try_get::<Option<String>>("", "key")).transpose()?.flatten();
        Ok(Some(key.as_deref() != Some(UNMARKED_INDEX)))
    }
}

/// MySQL's `ER_TRG_DOES_NOT_EXIST`.
const NO_SUCH_TRIGGER: u16 = 1360;
