//! What PostgreSQL's own catalogue is asked: that of the standard shows only what one may touch.

use sea_orm_migration::{prelude::*, sea_orm::QueryResult};

use super::Postgres;
use crate::{Column, Dialect, REOPEN_TRIGGER, Takes, ThreadsTable};

pub(super) const TABLES: &str = "SELECT CASE WHEN pg_table_is_visible(pg_class.oid) THEN CAST(relname AS text) \
     ELSE nspname || '.' || relname END AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
     WHERE relkind IN ('r', 'p') AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1";

/// What an interrupted concurrent build left is of no use, and `IF NOT EXISTS` would take it for good.
pub(super) const INVALID_INDEXES: &str = "SELECT CAST(relname AS text) AS name FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
     WHERE relname LIKE 'volume!_re%' ESCAPE '!' AND NOT indisvalid";

pub(super) fn columns(dialect: &Postgres, names: &ThreadsTable) -> String {
    format!(
        "SELECT CAST(class.relkind AS text) AS kind, CAST(attname AS text) AS name, NOT attnotnull AS is_nullable, \
         format_type(atttypid, atttypmod) AS type_name, CAST(base.typname AS text) AS base, \
         (SELECT string_agg(CAST(enumlabel AS text), chr(10) ORDER BY enumsortorder) FROM pg_enum \
          WHERE enumtypid = base.oid) AS labels, atthasdef AS fills_itself, \
         EXISTS (SELECT 1 FROM pg_index WHERE indrelid = attrelid AND indisunique AND indisvalid AND indpred IS NULL \
          AND indnkeyatts = 1 AND indkey[0] = attnum) AS is_unique \
         FROM pg_attribute JOIN pg_class class ON class.oid = attrelid JOIN pg_type type ON type.oid = atttypid \
         JOIN pg_type base ON base.oid = CASE type.typtype WHEN 'd' THEN type.typbasetype ELSE type.oid END \
         WHERE attrelid = to_regclass({}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        dialect.literal(&names.table_sql(dialect))
    )
}

pub(super) fn column(row: &QueryResult) -> Result<Column, DbErr> {
    let labels: Option<String> = row.try_get("", "labels")?;
    let base: String = row.try_get("", "base")?;
    let takes = match (labels, base.as_str()) {
        (Some(labels), _) => Takes::Enum(labels.lines().map(str::to_owned).collect()),
        (None, "text" | "varchar") => Takes::Text,
        (None, "bpchar") => Takes::Blanked,
        (None, "uuid") => Takes::Uuid,
        (None, "int2" | "int4" | "int8") => Takes::Integer,
        (None, "bool") => Takes::Boolean,
        (None, "timestamptz") => Takes::Zoned,
        (None, "timestamp") => Takes::Naive,
        (None, _) => Takes::Other,
    };
    Ok(Column {
        name: row.try_get("", "name")?,
        type_name: row.try_get("", "type_name")?,
        takes,
        is_unlimited: false,
        is_nullable: row.try_get("", "is_nullable")?,
        is_unique: row.try_get("", "is_unique")?,
        fills_itself: row.try_get("", "fills_itself")?,
    })
}

/// In the schema in which a table without one is created, whatever other schemas of the search path have.
pub(super) fn relations(dialect: &Postgres, names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| dialect.literal(name)).collect();
    format!(
        "SELECT CAST(relname AS text) AS name, coalesce((SELECT string_agg(CAST(attname AS text), ',' ORDER BY attnum) \
         FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped), '') AS columns \
         FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
         WHERE nspname = current_schema() AND relname IN ({}) ORDER BY relname",
        names.join(", ")
    )
}

pub(super) fn is_same_table(dialect: &Postgres, one: &str, other: &str) -> String {
    let [one, other] = [one, other].map(|name| dialect.literal(name));
    format!("SELECT 1 WHERE to_regclass({one}) = to_regclass({other})")
}

pub(super) fn trigger(dialect: &Postgres, names: &ThreadsTable) -> String {
    let table = dialect.literal(&names.table_sql(dialect));
    format!("SELECT 1 FROM pg_trigger WHERE tgname = '{REOPEN_TRIGGER}' AND tgrelid = to_regclass({table})")
}
