//! What `doctor` asks SQLite.

use migrations::{Dialect, Mapping, REOPEN_TRIGGER, Sqlite, ThreadsTable, UNMARKED_INDEX};
use sea_orm::{DbErr, prelude::async_trait::async_trait};

use crate::store::{
    Pool,
    engine::SchemaFacts,
    schema_facts::{Part, is_for_this_status},
};

#[async_trait]
impl SchemaFacts for Sqlite {
    fn version(&self) -> &'static str {
        "SELECT 'SQLite ' || sqlite_version() AS version"
    }

    async fn is_encrypted(&self, _db: &Pool) -> Result<Option<bool>, DbErr> {
        Ok(None)
    }

    fn clock(&self) -> Option<&'static str> {
        None
    }

    async fn index(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr> {
        let Some(definition) = definition_of(db, &threads.names.marked(), "index", UNMARKED_INDEX).await? else {
            return Ok(Part::Missing);
        };
        let has_status = threads.names.volumes.is_none();
        Ok(if has_status { is_for_this_status(threads, &definition) } else { Part::AsOurs })
    }

    async fn trigger(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr> {
        let definition = definition_of(db, &threads.names, "trigger", REOPEN_TRIGGER).await?;
        Ok(definition.map_or(Part::Missing, |definition| is_for_this_status(threads, &definition)))
    }

    /// It has no statistics that would speak against the index.
    fn estimate(&self, _threads: &Mapping) -> Option<String> {
        None
    }

    async fn reads_whole(&self, _db: &Pool, _sweep: &str) -> Result<bool, DbErr> {
        Ok(false)
    }
}

async fn definition_of(db: &Pool, of: &ThreadsTable, kind: &str, name: &str) -> Result<Option<String>, DbErr> {
    let table = Sqlite.literal(&of.table);
    let rows = db.rows(format!(
        "SELECT sql AS definition FROM sqlite_master WHERE type = '{kind}' AND name = '{name}' AND tbl_name = {table}"
    ));
    let rows = rows.await?;
    rows.first().map(|row| row.try_get("", "definition")).transpose()
}
