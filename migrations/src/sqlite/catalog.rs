//! What SQLite's catalogue is asked.

use sea_orm_migration::{prelude::*, sea_orm::QueryResult};

use super::Sqlite;
use crate::{Column, Dialect, REOPEN_TRIGGER, Takes, ThreadsTable};

pub(super) const TABLES: &str =
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY 1";

pub(super) fn columns(dialect: &Sqlite, names: &ThreadsTable) -> String {
    let table = dialect.literal(&names.table);
    format!(
        "SELECT (SELECT type FROM sqlite_master WHERE name = {table} COLLATE NOCASE AND type IN ('table', 'view')) \
         AS kind, name, type AS type_name, NOT \"notnull\" AS is_nullable, \
         coalesce(upper(dflt_value), 'NULL') <> 'NULL' OR hidden > 1 AS fills_itself, \
         (pk = 1 AND (SELECT max(pk) FROM pragma_table_info({table})) = 1) OR EXISTS (\
          SELECT 1 FROM pragma_index_list({table}) AS list WHERE list.\"unique\" AND NOT list.partial \
          AND (SELECT group_concat(coalesce(info.name, ''), '/') FROM pragma_index_info(list.name) AS info) \
          = columns.name) AS is_unique FROM pragma_table_xinfo({table}) AS columns ORDER BY cid"
    )
}

/// By the rules of a column's affinity (sqlite.org/datatype3.html, 3.1), since SQLite has no other types.
pub(super) fn column(row: &QueryResult) -> Result<Column, DbErr> {
    let type_name: String = row.try_get("", "type_name")?;
    let upper = type_name.to_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| upper.contains(part));
    let takes = if has(&["INT", "BOOL"]) {
        Takes::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Takes::Text
    } else if has(&["BLOB", "REAL", "FLOA", "DOUB"]) {
        Takes::Other
    } else {
        Takes::Anything
    };
    Ok(Column {
        name: row.try_get("", "name")?,
        type_name,
        takes,
        is_unlimited: false,
        is_nullable: row.try_get("", "is_nullable")?,
        is_unique: row.try_get("", "is_unique")?,
        own_key: None,
        fills_itself: row.try_get("", "fills_itself")?,
    })
}

pub(super) fn relations(dialect: &Sqlite, names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| dialect.literal(name)).collect();
    format!(
        "SELECT lower(name) AS name, coalesce((SELECT group_concat(info.name, ',') \
         FROM pragma_table_info(sqlite_master.name) AS info), '') AS columns \
         FROM sqlite_master WHERE name COLLATE NOCASE IN ({}) ORDER BY name",
        names.join(", ")
    )
}

pub(super) fn other_triggers(dialect: &Sqlite, names: &ThreadsTable) -> String {
    let table = dialect.literal(&names.table);
    format!(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = {table} COLLATE NOCASE \
         AND name <> '{REOPEN_TRIGGER}' AND upper(sql) LIKE '%BEFORE%UPDATE%ON%' ORDER BY 1"
    )
}
