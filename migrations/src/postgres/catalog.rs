//! What PostgreSQL's own catalogue is asked: that of the standard shows only what one may touch.

use sea_orm_migration::{prelude::*, sea_orm::QueryResult};

use super::Postgres;
use crate::{BOOKKEEPING_TABLE, Column, Dialect, REOPEN_TRIGGER, Takes, ThreadsTable};

pub(super) const TABLES: &str = "SELECT CASE WHEN pg_table_is_visible(pg_class.oid) THEN CAST(relname AS text) \
     ELSE nspname || '.' || relname END AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
     WHERE relkind IN ('r', 'p') AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1";

/// What an interrupted concurrent build left is of no use, and `IF NOT EXISTS` would take it for good.
pub(super) const INVALID_INDEXES: &str = "SELECT CAST(relname AS text) AS name FROM pg_index \
     JOIN pg_class ON pg_class.oid = indexrelid WHERE relname LIKE 'volume!_re%' ESCAPE '!' AND NOT indisvalid";

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
         WHERE attrelid = {} AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        regclass(dialect, names)
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
        own_key: None,
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
    let table = regclass(dialect, names);
    format!("SELECT 1 FROM pg_trigger WHERE tgname = '{REOPEN_TRIGGER}' AND tgrelid = {table}")
}

/// Row-level security that counts for this user: its policies would have us take rows for missing, or marks for set.
pub(super) fn obstacles(dialect: &Postgres, names: &ThreadsTable) -> String {
    let table = regclass(dialect, names);
    let status = dialect.literal(&names.status);
    let [user, rule, column] = ["current_user", "rulename", "attname"].map(|name| format!("quote_ident({name})"));
    [
        format!(
            "SELECT 'is under row-level security for ' || {user} || ', which may hide rows, or keep them from being \
             marked: ALTER ROLE ' || {user} || ' BYPASSRLS' AS name WHERE row_security_active(CAST({table} AS oid))"
        ),
        format!(
            "SELECT 'has tables that inherit from it (' || string_agg(CAST(CAST(inhrelid AS regclass) AS text), ', ') \
             || '), which is not supported: their rows have neither our trigger nor our index' \
             FROM pg_inherits WHERE inhparent = {table} HAVING count(*) > 0"
        ),
        format!(
            "SELECT 'is a partition of ' || CAST(CAST(inhparent AS regclass) AS text) || ', which is not supported' \
             FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhrelid = {table} AND relispartition"
        ),
        format!(
            "SELECT 'has the rule ' || {rule} || ', which rewrites updates, so that marks would get lost' \
             FROM pg_rewrite WHERE ev_class = {table} AND ev_type = '2'"
        ),
        format!(
            "SELECT 'has a status ' || {column} || ' that is generated, and can''t be looked at before an update: set \
             VOLUME_REAPER_THREADS_STATUS_COLUMN to the column that it is made from' \
             FROM pg_attribute WHERE attrelid = {table} AND attname = {status} AND attgenerated <> ''"
        ),
    ]
    .join(" UNION ALL ")
}

pub(super) fn lacks(dialect: &Postgres, names: &ThreadsTable) -> String {
    let table = regclass(dialect, names);
    let [owner, user, schema] =
        ["pg_get_userbyid(relowner)", "current_user", "current_schema()"].map(|name| format!("quote_ident({name})"));
    [
        format!(
            "SELECT 'belongs to ' || {owner} || ', and only its owner can add a column, an index or a trigger: \
             GRANT ' || {owner} || ' TO ' || {user} AS name \
             FROM pg_class WHERE oid = {table} AND NOT pg_has_role(relowner, 'USAGE')"
        ),
        format!(
            "SELECT 'can''t have our tables beside it: GRANT CREATE ON SCHEMA ' || {schema} || ' TO ' || {user} \
             WHERE NOT has_schema_privilege(current_schema(), 'CREATE')"
        ),
    ]
    .join(" UNION ALL ")
}

/// In another schema than those that are looked in, unless it is another volume-reaper's own.
pub(super) fn elsewhere(dialect: &Postgres, names: &ThreadsTable) -> String {
    let table = dialect.literal(&names.table);
    format!(
        "SELECT quote_ident(nspname) || '.' || quote_ident(relname) AS name FROM pg_class \
         JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE relname = {table} \
         AND relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname !~ '^pg_' AND nspname <> 'information_schema' \
         AND NOT EXISTS (SELECT 1 FROM pg_class AS beside \
          WHERE beside.relnamespace = pg_class.relnamespace AND beside.relname = '{BOOKKEEPING_TABLE}') \
         ORDER BY 1"
    )
}

/// By the bits of its type: 1 for each row, 2 before, 16 when updated.
pub(super) fn other_triggers(dialect: &Postgres, names: &ThreadsTable) -> String {
    format!(
        "SELECT CAST(tgname AS text) AS name FROM pg_trigger WHERE tgrelid = {} AND NOT tgisinternal \
         AND tgname <> '{REOPEN_TRIGGER}' AND tgtype & 19 = 19 AND tgenabled <> 'D' ORDER BY 1",
        regclass(dialect, names)
    )
}

/// The table as the search path finds it.
fn regclass(dialect: &Postgres, names: &ThreadsTable) -> String {
    format!("to_regclass({})", dialect.literal(&names.table_sql(dialect)))
}
