//! What we add to PostgreSQL's threads table: a partial index, which has all that a sweep reads, so that it does not
//! touch the table itself, and a trigger before each update.

use sea_orm_migration::prelude::*;

use super::Postgres;
use crate::{
    Dialect, Found, MARKED_INDEX, Mapping, Parts, RECEIPTS_TABLE, REOPEN_TRIGGER, UNMARKED_INDEX, VolumesTable,
    change::sql, is_removal,
};

impl Parts for Postgres {
    fn create_receipts(&self, table: TableCreateStatement) -> Vec<String> {
        let index = |name: &str| Index::create().name(name).table(RECEIPTS_TABLE).if_not_exists().to_owned();
        vec![
            sql(&Postgres, &table),
            sql(&Postgres, index("volume_removals_thread_id").col("thread_id")),
            sql(&Postgres, index("volume_removals_removed_at").col("removed_at").and_where(is_removal())),
            sql(&Postgres, index("volume_removals_by_time").col("removed_at").col("id")),
        ]
    }

    /// Built without blocking the platform's writes.
    fn create_index(&self, found: &Found) -> Vec<String> {
        let threads = &found.mapping;
        let mut index =
            Index::create().name(UNMARKED_INDEX).table(threads.table()).if_not_exists().concurrently().to_owned();
        for column in [Some(&threads.names.id), threads.names.closed_at.as_ref()].into_iter().flatten() {
            index.col(Alias::new(column));
        }
        for condition in [threads.is_closed(), Expr::col(Alias::new(&threads.names.mark)).is_null()] {
            index.and_where(condition);
        }
        let is_invalid = found.indexes_in_the_way.iter().any(|invalid| invalid == UNMARKED_INDEX);
        let drop = format!("DROP INDEX CONCURRENTLY {}", Postgres.beside(&threads.names, UNMARKED_INDEX));
        is_invalid.then_some(drop).into_iter().chain([sql(&Postgres, &index)]).collect()
    }

    /// Concurrently too: without it, writers wait with us until the last reader of the table has ended.
    fn drop_index(&self, found: &Found) -> Vec<String> {
        vec![format!("DROP INDEX CONCURRENTLY IF EXISTS {}", Postgres.beside(&found.mapping.names, UNMARKED_INDEX))]
    }

    fn create_trigger(&self, threads: &Mapping) -> Vec<String> {
        let (table, closed) = (threads.table_sql(), threads.closed_sql());
        let [status, mark] = [&threads.names.status, &threads.names.mark].map(|name| Postgres.quoted(name));
        vec![
            format!(
                "CREATE FUNCTION {REOPEN_TRIGGER}() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN NEW.{mark} := NULL; RETURN NEW; END $$"
            ),
            format!(
                "CREATE TRIGGER {REOPEN_TRIGGER} BEFORE UPDATE ON {table} FOR EACH ROW \
                 WHEN (NEW.{mark} IS NOT NULL AND (NEW.{status} IS DISTINCT FROM {closed} \
                 OR (OLD.{status} IS DISTINCT FROM {closed} AND NEW.{mark} IS NOT DISTINCT FROM OLD.{mark}))) \
                 EXECUTE FUNCTION {REOPEN_TRIGGER}()"
            ),
        ]
    }

    fn create_volumes_indexes(&self, found: &Found, volumes: &VolumesTable) -> Vec<String> {
        let mark = Expr::col(Alias::new(&volumes.mark));
        let mut statements = Vec::new();
        for (name, rows) in [(UNMARKED_INDEX, mark.clone().is_null()), (MARKED_INDEX, mark.is_not_null())] {
            if found.indexes_in_the_way.iter().any(|invalid| invalid == name) {
                statements.push(format!("DROP INDEX CONCURRENTLY {}", Postgres.beside(&volumes.as_table(), name)));
            }
            let mut index = Index::create().name(name).table(volumes.table()).if_not_exists().concurrently().to_owned();
            statements.push(sql(&Postgres, index.col(Alias::new(&volumes.thread)).and_where(rows)));
        }
        statements
    }

    fn drop_volumes_indexes(&self, _found: &Found, volumes: &VolumesTable) -> Vec<String> {
        [MARKED_INDEX, UNMARKED_INDEX]
            .map(|name| format!("DROP INDEX CONCURRENTLY IF EXISTS {}", Postgres.beside(&volumes.as_table(), name)))
            .into()
    }

    /// Its function looks for the table where this connection does, whoever updates the thread.
    fn create_volumes_trigger(&self, threads: &Mapping, volumes: &VolumesTable) -> Vec<String> {
        let (table, closed, marked) = (threads.table_sql(), threads.closed_sql(), volumes.table_sql(&Postgres));
        let [id, status, thread, mark] = [&threads.names.id, &threads.names.status, &volumes.thread, &volumes.mark]
            .map(|name| Postgres.quoted(name));
        vec![
            format!(
                "CREATE FUNCTION {REOPEN_TRIGGER}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS \
                 $$ BEGIN UPDATE {marked} SET {mark} = NULL WHERE {thread} = NEW.{id} AND {mark} IS NOT NULL; \
                 RETURN NULL; END $$"
            ),
            format!(
                "CREATE TRIGGER {REOPEN_TRIGGER} AFTER UPDATE ON {table} FOR EACH ROW \
                 WHEN (OLD.{status} IS NOT DISTINCT FROM {closed} AND NEW.{status} IS DISTINCT FROM {closed}) \
                 EXECUTE FUNCTION {REOPEN_TRIGGER}()"
            ),
        ]
    }

    fn drop_trigger(&self, found: &Found) -> Vec<String> {
        let mut statements = Postgres.lock_timeout();
        if found.has_trigger {
            statements.push(format!("DROP TRIGGER {REOPEN_TRIGGER} ON {}", found.mapping.table_sql()));
        }
        statements.push(format!("DROP FUNCTION IF EXISTS {REOPEN_TRIGGER}()"));
        statements
    }
}
