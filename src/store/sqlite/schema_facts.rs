//! What `doctor` asks SQLite.

use migrations::{Dialect, Mapping, REOPEN_TRIGGER, Sqlite, UNMARKED_INDEX};
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
        part(db, threads, "index", UNMARKED_INDEX).await
    }

    async fn trigger(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr> {
        part(db, threads, "trigger", REOPEN_TRIGGER).await
    }

    /// It has no statistics that would speak against the index.
    fn estimate(&self, _threads: &Mapping) -> Option<String> {
        None
    }

    async fn reads_whole(&self, _db: &Pool, _sweep: &str) -> Result<bool, DbErr> {
        Ok(false)
    }
}

async fn part(db: &Pool, threads: &Mapping, kind: &str, name: &str) -> Result<Part, DbErr> {
    let table = Sqlite.literal(&threads.names.table);
    let rows = db.rows(format!(
        "SELECT sql AS definition FROM sqlite_master WHERE type = '{kind}' AND name = '{name}' AND tbl_name = {table}"
    ));
    let rows = rows.await?;
    let Some(row) = rows.first() else { return Ok(Part::Missing) };
    Ok(is_for_this_status(threads, &row.try_get::<String>("", "definition")?))
}
