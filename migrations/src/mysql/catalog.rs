//! What MySQL's catalogue is asked.

use sea_orm_migration::{prelude::*, sea_orm::QueryResult};

use super::MySql;
use crate::{Column, Dialect, MARKED_INDEX, REOPEN_TRIGGER, Takes, ThreadsTable};

pub(super) const TABLES: &str = "SELECT CAST(table_name AS char) AS name FROM information_schema.tables \
                                 WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY 1";

/// Each part names the database and the table itself: what is compared with another part's is looked for in all
/// databases of the server. Names of tables are told apart by case unless the server says that they are not.
pub(super) fn columns(dialect: &MySql, names: &ThreadsTable) -> String {
    let table = dialect.literal(&names.table);
    format!(
        "SELECT CASE WHEN tables.table_type = 'BASE TABLE' AND tables.engine <> 'InnoDB' THEN 'other engine' \
         ELSE CAST(tables.table_type AS char) END AS kind, CAST(columns.column_name AS char) AS name, \
         coalesce(columns.column_default, 'NULL') <> 'NULL' OR columns.extra LIKE '%on update%' \
          OR columns.extra LIKE '%generated%' AS fills_itself, \
         columns.is_nullable = 'YES' AS is_nullable, CAST(columns.column_type AS char) AS type_name, \
         CAST(columns.data_type AS char) AS base, (\
          SELECT CAST(MIN(found.index_name) AS char) FROM information_schema.statistics AS found \
          WHERE found.table_schema = DATABASE() \
          AND found.table_name = {table} AND found.column_name = columns.column_name \
          AND found.non_unique = 0 AND found.sub_part IS NULL AND NOT EXISTS (\
           SELECT 1 FROM information_schema.statistics AS other WHERE other.table_schema = DATABASE() \
           AND other.table_name = {table} AND other.index_name = found.index_name AND other.seq_in_index > 1)\
         ) AS own_key \
         FROM information_schema.columns AS columns JOIN information_schema.tables AS tables \
         ON tables.table_schema = DATABASE() AND tables.table_name = columns.table_name \
         AND tables.table_name = {table} \
         WHERE columns.table_schema = DATABASE() AND columns.table_name = {table} \
         AND (BINARY columns.table_name = {table} OR @@lower_case_table_names > 0) ORDER BY columns.ordinal_position"
    )
}

pub(super) fn column(row: &QueryResult) -> Result<Column, DbErr> {
    let (type_name, base): (String, String) = (row.try_get("", "type_name")?, row.try_get("", "base")?);
    let takes = match base.as_str() {
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Takes::Text,
        "enum" => Takes::Enum(labels(&type_name)),
        "uuid" => Takes::Uuid,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" if type_name.contains("unsigned") => Takes::Unsigned,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => Takes::Integer,
        "bit" if type_name == "bit(1)" => Takes::Boolean,
        "datetime" | "timestamp" => Takes::Naive,
        _ => Takes::Other,
    };
    let own_key: Option<String> = row.try_get("", "own_key")?;
    Ok(Column {
        name: row.try_get("", "name")?,
        takes,
        is_unlimited: base.ends_with("text"),
        is_nullable: row.try_get("", "is_nullable")?,
        is_unique: own_key.is_some(),
        own_key,
        fills_itself: row.try_get("", "fills_itself")?,
        type_name,
    })
}

/// The labels in a type such as `enum('open','it''s closed')`.
fn labels(type_name: &str) -> Vec<String> {
    let labels = type_name.strip_prefix("enum('").and_then(|rest| rest.strip_suffix("')")).unwrap_or_default();
    labels.split("','").map(|label| label.replace("''", "'")).collect()
}

pub(super) fn relations(dialect: &MySql, names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| dialect.literal(name)).collect();
    format!(
        "SELECT CAST(table_name AS char) AS name, \
         CAST(GROUP_CONCAT(column_name ORDER BY ordinal_position) AS char) AS columns \
         FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN ({}) \
         GROUP BY table_name ORDER BY table_name",
        names.join(", ")
    )
}

/// `IF EXISTS` is not known for indexes.
pub(super) fn indexes(dialect: &MySql, names: &ThreadsTable) -> String {
    let table = dialect.literal(&names.table);
    format!(
        "SELECT DISTINCT CAST(index_name AS char) AS name FROM information_schema.statistics \
         WHERE table_schema = DATABASE() AND table_name = {table} AND index_name LIKE 'volume!_re%' ESCAPE '!'"
    )
}

/// A foreign key always has one, which is dropped without a word when another would do, and then that one stays.
pub(super) fn index_by_thread(dialect: &MySql, names: &ThreadsTable) -> String {
    let [table, thread] = [&names.table, &names.status].map(|name| dialect.literal(name));
    format!(
        "SELECT 1 FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = {table} \
         AND column_name = {thread} AND seq_in_index = 1 AND index_name <> '{MARKED_INDEX}'"
    )
}

pub(super) fn obstacles(dialect: &MySql, names: &ThreadsTable) -> String {
    let [table, status] = [&names.table, &names.status].map(|name| dialect.literal(name));
    format!(
        "SELECT CAST(CONCAT('has a status ', column_name, ' that is generated, and can''t be looked at before an \
         update: set VOLUME_REAPER_THREADS_STATUS_COLUMN to the column that it is made from') AS char) AS name \
         FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = {table} \
         AND column_name = {status} AND extra LIKE '%generated%' AND extra NOT LIKE '%default_generated%'"
    )
}

pub(super) fn other_triggers(dialect: &MySql, names: &ThreadsTable) -> String {
    let table = dialect.literal(&names.table);
    format!(
        "SELECT CAST(trigger_name AS char) AS name FROM information_schema.triggers WHERE trigger_schema = DATABASE() \
         AND event_object_table = {table} AND action_timing = 'BEFORE' AND event_manipulation = 'UPDATE' \
         AND trigger_name <> '{REOPEN_TRIGGER}' ORDER BY 1"
    )
}
