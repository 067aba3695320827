//! What `doctor` asks PostgreSQL.

use migrations::{Dialect, Mapping, Postgres, REOPEN_TRIGGER, ThreadsTable, UNMARKED_INDEX};
use sea_orm::{DbErr, prelude::async_trait::async_trait};

use crate::store::{
    Pool,
    engine::SchemaFacts,
    schema_facts::{Part, is_for_this_status},
};

#[async_trait]
impl SchemaFacts for Postgres {
    fn version(&self) -> &'static str {
        "SELECT 'PostgreSQL ' || current_setting('server_version') AS version"
    }

    async fn is_encrypted(&self, db: &Pool) -> Result<Option<bool>, DbErr> {
        let rows = db.rows("SELECT ssl AS is_encrypted FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await?;
        rows.first().map(|row| row.try_get("", "is_encrypted")).transpose()
    }

    fn clock(&self) -> Option<&'static str> {
        Some("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) AS millis")
    }

    async fn index(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr> {
        let rows = db.rows(format!(
            "SELECT indisvalid AND indisready AS is_valid, coalesce(pg_get_expr(indpred, indrelid), '') AS definition \
             FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relname = '{UNMARKED_INDEX}' AND indrelid \
             = {}",
            regclass(&threads.names.marked())
        ));
        let rows = rows.await?;
        let Some(row) = rows.first() else { return Ok(Part::Missing) };
        if !row.try_get::<bool>("", "is_valid")? {
            return Ok(Part::Broken("its build was interrupted, so that it is not used".to_owned()));
        }
        if threads.names.volumes.is_some() {
            return Ok(Part::AsOurs);
        }
        Ok(is_for_this_status(threads, &row.try_get::<String>("", "definition")?))
    }

    async fn trigger(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr> {
        let rows = db.rows(format!(
            "SELECT tgenabled IN ('O', 'A') AS is_enabled, pg_get_triggerdef(oid) AS definition FROM pg_trigger \
             WHERE tgname = '{REOPEN_TRIGGER}' AND tgrelid = {} AND NOT tgisinternal",
            regclass(&threads.names)
        ));
        let rows = rows.await?;
        let Some(row) = rows.first() else { return Ok(Part::Missing) };
        if !row.try_get::<bool>("", "is_enabled")? {
            return Ok(Part::Disabled);
        }
        Ok(is_for_this_status(threads, &row.try_get::<String>("", "definition")?))
    }

    fn estimate(&self, threads: &Mapping) -> Option<String> {
        let table = regclass(&threads.names.marked());
        Some(format!("SELECT CAST(reltuples AS bigint) AS estimate FROM pg_class WHERE oid = {table}"))
    }

    async fn reads_whole(&self, db: &Pool, sweep: &str) -> Result<bool, DbErr> {
        let rows = db.rows(format!("EXPLAIN {sweep}")).await?;
        let plan = rows.iter().map(|row| row.try_get("", "QUERY PLAN")).collect::<Result<Vec<String>, _>>()?;
        Ok(plan.iter().any(|line| line.contains("Seq Scan")))
    }

    fn before_trying(&self) -> Option<&'static str> {
        Some("SET LOCAL lock_timeout = '2s'")
    }

    /// No row is inserted, so that the sequence is not touched, nor its rights.
    fn denied(&self) -> Option<&'static str> {
        Some(
            "SELECT 'permission denied for the sequence of volume_removals.id' AS what \
             WHERE NOT has_sequence_privilege(pg_get_serial_sequence('volume_removals', 'id'), 'USAGE')",
        )
    }
}

/// The threads table as PostgreSQL finds it, along its search path.
fn regclass(names: &ThreadsTable) -> String {
    format!("to_regclass({})", Postgres.literal(&names.table_sql(&Postgres)))
}
