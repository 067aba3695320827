//! What we add to SQLite's threads table: a partial index, and a trigger after each update, since none may change a row
//! before.

use sea_orm_migration::prelude::*;

use super::Sqlite;
use crate::{Dialect, Found, Mapping, Parts, RECEIPTS_TABLE, REOPEN_TRIGGER, UNMARKED_INDEX, change::sql, is_removal};

impl Parts for Sqlite {
    fn create_receipts(&self, table: TableCreateStatement) -> Vec<String> {
        let index = |name: &str| Index::create().name(name).table(RECEIPTS_TABLE).if_not_exists().to_owned();
        vec![
            sql(&Sqlite, &table),
            sql(&Sqlite, index("volume_removals_thread_id").col("thread_id")),
            sql(&Sqlite, index("volume_removals_removed_at").col("removed_at").and_where(is_removal())),
            sql(&Sqlite, index("volume_removals_by_time").col("removed_at").col("id")),
        ]
    }

    fn create_index(&self, found: &Found) -> Vec<String> {
        let threads = &found.mapping;
        let mut index = Index::create().name(UNMARKED_INDEX).table(threads.table()).if_not_exists().to_owned();
        for column in [Some(&threads.names.id), threads.names.closed_at.as_ref()].into_iter().flatten() {
            index.col(Alias::new(column));
        }
        for condition in [threads.is_closed(), Expr::col(Alias::new(&threads.names.mark)).is_null()] {
            index.and_where(condition);
        }
        vec![sql(&Sqlite, &index)]
    }

    fn drop_index(&self, _found: &Found) -> Vec<String> {
        vec![format!("DROP INDEX IF EXISTS {}", Sqlite.quoted(UNMARKED_INDEX))]
    }

    fn create_trigger(&self, threads: &Mapping) -> Vec<String> {
        let (table, closed) = (threads.table_sql(), threads.closed_sql());
        let [id, status, mark] =
            [&threads.names.id, &threads.names.status, &threads.names.mark].map(|name| Sqlite.quoted(name));
        vec![format!(
            "CREATE TRIGGER {REOPEN_TRIGGER} AFTER UPDATE ON {table} FOR EACH ROW \
             WHEN NEW.{mark} IS NOT NULL AND (NEW.{status} IS NOT {closed} \
             OR (OLD.{status} IS NOT {closed} AND NEW.{mark} IS OLD.{mark})) \
             BEGIN UPDATE {table} SET {mark} = NULL WHERE {id} = NEW.{id}; END"
        )]
    }

    fn drop_trigger(&self, _found: &Found) -> Vec<String> {
        vec![format!("DROP TRIGGER IF EXISTS {REOPEN_TRIGGER}")]
    }
}
