//! What we add to SQLite's threads table: a partial index, and a trigger after each update, since none may change a row
//! before.

use sea_orm_migration::prelude::*;

use super::Sqlite;
use crate::{
    Dialect, Found, MARKED_INDEX, Mapping, Parts, RECEIPTS_TABLE, REOPEN_TRIGGER, UNMARKED_INDEX, VolumesTable,
    change::sql, is_removal,
};

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

    fn create_volumes_indexes(&self, _found: &Found, volumes: &VolumesTable) -> Vec<String> {
        let mark = Expr::col(Alias::new(&volumes.mark));
        let indexes = [(UNMARKED_INDEX, mark.clone().is_null()), (MARKED_INDEX, mark.is_not_null())];
        let index = |(name, rows)| {
            let mut index = Index::create().name(name).table(volumes.table()).if_not_exists().to_owned();
            sql(&Sqlite, index.col(Alias::new(&volumes.thread)).and_where(rows))
        };
        indexes.map(index).into()
    }

    fn drop_volumes_indexes(&self, _found: &Found, _volumes: &VolumesTable) -> Vec<String> {
        [MARKED_INDEX, UNMARKED_INDEX].map(|name| format!("DROP INDEX IF EXISTS {}", Sqlite.quoted(name))).into()
    }

    fn create_volumes_trigger(&self, threads: &Mapping, volumes: &VolumesTable) -> Vec<String> {
        let (table, closed, marked) = (threads.table_sql(), threads.closed_sql(), volumes.table_sql(&Sqlite));
        let [id, status, thread, mark] =
            [&threads.names.id, &threads.names.status, &volumes.thread, &volumes.mark].map(|name| Sqlite.quoted(name));
        vec![format!(
            "CREATE TRIGGER {REOPEN_TRIGGER} AFTER UPDATE ON {table} FOR EACH ROW \
             WHEN OLD.{status} IS {closed} AND NEW.{status} IS NOT {closed} \
             BEGIN UPDATE {marked} SET {mark} = NULL WHERE {thread} = NEW.{id} AND {mark} IS NOT NULL; END"
        )]
    }

    fn drop_trigger(&self, _found: &Found) -> Vec<String> {
        vec![format!("DROP TRIGGER IF EXISTS {REOPEN_TRIGGER}")]
    }
}
