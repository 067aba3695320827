//! The partial index over closed and unmarked rows: what makes a sweep over millions of marked threads cost one page. It
//! has all that a sweep reads, so PostgreSQL does not touch the table itself.
//!
//! MySQL has no partial indexes. There it is one over all rows that begins with what the condition asks for: the closed
//! and unmarked ones lie together in it, by their id, so that a sweep reads as little.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    Found,
    change::{Change, sql},
    lock_timeout, quoted,
};

/// What it is called.
pub const NAME: &str = "volume_reaper_unmarked_threads";

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    /// An index is built on PostgreSQL without blocking the platform's writes, and `CREATE INDEX CONCURRENTLY` can't run
    /// in a transaction.
    fn is_transaction(&self) -> bool {
        false
    }

    fn up(&self, backend: DbBackend) -> Vec<String> {
        let threads = &self.0.mapping;
        if backend == DbBackend::MySql {
            return self.up_on_mysql();
        }
        let columns = [Some(&threads.names.id), threads.names.closed_at.as_ref()];
        let mut index = Index::create().name(NAME).table(threads.table()).if_not_exists().to_owned();
        for column in columns.into_iter().flatten() {
            index.col(Alias::new(column));
        }
        for condition in [threads.is_closed(), Expr::col(Alias::new(&threads.names.mark)).is_null()] {
            index.and_where(condition);
        }
        if backend == DbBackend::Postgres {
            index.concurrently();
        }
        let mut statements = self.0.drop_if_invalid(NAME, &threads.beside(NAME, backend));
        statements.push(sql(backend, &index));
        statements
    }

    fn down(&self, backend: DbBackend) -> Vec<String> {
        if backend == DbBackend::MySql {
            return self.drop_on_mysql();
        }
        // Concurrently too: without it, writers wait with us until the last reader of the table has ended.
        let concurrently = if backend == DbBackend::Postgres { "CONCURRENTLY " } else { "" };
        vec![format!("DROP INDEX {concurrently}IF EXISTS {}", self.0.mapping.beside(NAME, backend))]
    }
}

/// How much of a status without a limit stands in MySQL's index. One that is longer is told from others in the row.
const STATUS_PREFIX: u32 = 64;

impl Migration {
    /// Built without blocking the platform's writes (MySQL's manual, "Online DDL Operations"); where that can't be, the
    /// server says so. One that is there already may be over other columns.
    fn up_on_mysql(&self) -> Vec<String> {
        let threads = &self.0.mapping;
        let quoted = |name: &String| quoted(DbBackend::MySql, name);
        let status = quoted(&threads.names.status);
        let status = if threads.status_is_unlimited { format!("{status}({STATUS_PREFIX})") } else { status };
        let (mark, id) = (quoted(&threads.names.mark), quoted(&threads.names.id));
        let columns = [Some(status), Some(mark), Some(id), threads.names.closed_at.as_ref().map(quoted)];
        let columns = columns.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let mut statements = self.drop_on_mysql();
        statements.extend(lock_timeout(DbBackend::MySql));
        statements.push(format!(
            "ALTER TABLE {} ADD INDEX {NAME} ({columns}), ALGORITHM=INPLACE, LOCK=NONE",
            threads.table_sql()
        ));
        statements
    }

    fn drop_on_mysql(&self) -> Vec<String> {
        let mut statements = self.0.drop_if_there(NAME, &self.0.mapping.table_sql());
        if !statements.is_empty() {
            statements.splice(0..0, lock_timeout(DbBackend::MySql));
        }
        statements
    }
}
