//! What we add to MySQL's threads table: an index over all rows, since there are no partial ones. It begins with what
//! the condition asks for, so that the closed and unmarked rows lie together in it, by their id, and a sweep reads as
//! little.

use sea_orm_migration::prelude::*;

use super::MySql;
use crate::{Dialect, Found, MARKED_INDEX, Mapping, Parts, REOPEN_TRIGGER, UNMARKED_INDEX, VolumesTable, change::sql};

/// How much of a status without a limit stands in the index. A longer one is compared in the row.
const STATUS_PREFIX: u32 = 64;

impl Parts for MySql {
    /// With the table, since the server does not know `IF NOT EXISTS` elsewhere, and takes nothing back that failed.
    fn create_receipts(&self, mut table: TableCreateStatement) -> Vec<String> {
        table
            .index(Index::create().name("volume_removals_thread_id").col("thread_id"))
            .index(Index::create().name("volume_removals_removed_at").col("outcome").col("removed_at"))
            .index(Index::create().name("volume_removals_by_time").col("removed_at"));
        vec![sql(&MySql, &table)]
    }

    /// Built without blocking the platform's writes (MySQL's manual, "Online DDL Operations"); where that can't be, the
    /// server says so. One that is there already may be over other columns.
    fn create_index(&self, found: &Found) -> Vec<String> {
        let threads = &found.mapping;
        let quoted = |name: &String| MySql.quoted(name);
        let status = quoted(&threads.names.status);
        let status = if threads.status_is_unlimited { format!("{status}({STATUS_PREFIX})") } else { status };
        let (mark, id) = (quoted(&threads.names.mark), quoted(&threads.names.id));
        let columns = [Some(status), Some(mark), Some(id), threads.names.closed_at.as_ref().map(quoted)];
        let columns = columns.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let mut statements = self.drop_index(found);
        statements.extend(MySql.lock_timeout());
        statements.push(format!(
            "ALTER TABLE {} ADD INDEX {UNMARKED_INDEX} ({columns}), ALGORITHM=INPLACE, LOCK=NONE",
            threads.table_sql()
        ));
        statements
    }

    fn drop_index(&self, found: &Found) -> Vec<String> {
        if !found.indexes_in_the_way.iter().any(|there| there == UNMARKED_INDEX) {
            return Vec::new();
        }
        let drop = format!("ALTER TABLE {} DROP INDEX {UNMARKED_INDEX}", found.mapping.table_sql());
        MySql.lock_timeout().into_iter().chain([drop]).collect()
    }

    /// `<=>` is the equality that knows null.
    fn create_trigger(&self, threads: &Mapping) -> Vec<String> {
        let (table, closed) = (threads.table_sql(), threads.closed_sql());
        let [status, mark] = [&threads.names.status, &threads.names.mark].map(|name| MySql.quoted(name));
        vec![format!(
            "CREATE TRIGGER {REOPEN_TRIGGER} BEFORE UPDATE ON {table} FOR EACH ROW \
             SET NEW.{mark} = IF(NEW.{status} <=> {closed} \
             AND (OLD.{status} <=> {closed} OR NOT NEW.{mark} <=> OLD.{mark}), NEW.{mark}, NULL)"
        )]
    }

    fn create_volumes_indexes(&self, found: &Found, volumes: &VolumesTable) -> Vec<String> {
        let [thread, mark] = [&volumes.thread, &volumes.mark].map(|name| MySql.quoted(name));
        let mut statements = self.drop_volumes_indexes(found, volumes);
        statements.extend(MySql.lock_timeout());
        let by_thread = format!(" ADD INDEX {MARKED_INDEX} ({thread}, {mark}),");
        statements.push(format!(
            "ALTER TABLE {} ADD INDEX {UNMARKED_INDEX} ({mark}, {thread}),{} ALGORITHM=INPLACE, LOCK=NONE",
            volumes.table_sql(&MySql),
            if found.has_index_by_thread { "" } else { &by_thread }
        ));
        statements
    }

    fn drop_volumes_indexes(&self, found: &Found, volumes: &VolumesTable) -> Vec<String> {
        let ours = [MARKED_INDEX, UNMARKED_INDEX].into_iter();
        let there = ours.filter(|name| found.indexes_in_the_way.iter().any(|there| there == name));
        let drops: Vec<_> = there.map(|name| format!("DROP INDEX {name}")).collect();
        if drops.is_empty() {
            return Vec::new();
        }
        let drop = format!("ALTER TABLE {} {}", volumes.table_sql(&MySql), drops.join(", "));
        MySql.lock_timeout().into_iter().chain([drop]).collect()
    }

    /// By the volumes of the thread alone: of those that have a mark, the server would scan the index while they are
    /// few, and whoever reopens one thread would wait for another's mark, or end as the victim of a deadlock with it.
    fn create_volumes_trigger(&self, threads: &Mapping, volumes: &VolumesTable) -> Vec<String> {
        let (table, closed, marked) = (threads.table_sql(), threads.closed_sql(), volumes.table_sql(&MySql));
        let [id, status, thread, mark] =
            [&threads.names.id, &threads.names.status, &volumes.thread, &volumes.mark].map(|name| MySql.quoted(name));
        vec![format!(
            "CREATE TRIGGER {REOPEN_TRIGGER} AFTER UPDATE ON {table} FOR EACH ROW \
             UPDATE {marked} SET {mark} = NULL WHERE {thread} = NEW.{id} AND ({mark} IS NULL) = 0 \
             AND OLD.{status} <=> {closed} AND NOT NEW.{status} <=> {closed}"
        )]
    }

    fn drop_trigger(&self, _found: &Found) -> Vec<String> {
        MySql.lock_timeout().into_iter().chain([format!("DROP TRIGGER IF EXISTS {REOPEN_TRIGGER}")]).collect()
    }
}
