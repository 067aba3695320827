//! The partial index over closed and unmarked rows: what makes a sweep over millions of marked threads cost one page. It
//! has all that a sweep reads, so PostgreSQL does not touch the table itself.
//!
//! MySQL has no partial indexes. There it is one over all rows that begins with what the condition asks for: the closed
//! and unmarked ones lie together in it, by their id, so that a sweep reads as little.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, Statement},
};

use crate::{ThreadsTable, drop_if_invalid, drop_index, is_mysql};

/// What it is called.
pub const NAME: &str = "volume_reaper_unmarked_threads";

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) ThreadsTable);

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Not in a transaction on PostgreSQL: an index is built there without blocking the platform's writes, and
    /// `CREATE INDEX CONCURRENTLY` can't run in one.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let threads = &self.0;
        if is_mysql(manager) {
            return create_on_mysql(threads, manager).await;
        }
        let mut index = Index::create()
            .name(NAME)
            .table(Alias::new(&threads.table))
            .col(Alias::new(&threads.id))
            .col(Alias::new(&threads.closed_at))
            .if_not_exists()
            .to_owned();
        for condition in [threads.is_closed(), Expr::col(Alias::new(&threads.mark)).is_null()] {
            index.and_where(condition);
        }
        if manager.get_database_backend() == DbBackend::Postgres {
            drop_if_invalid(manager, NAME).await?;
            index.concurrently();
        }
        manager.create_index(index).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_index(manager, &self.0.table, NAME).await
    }
}

/// Built without blocking the platform's writes (MySQL's manual, "Online DDL Operations"). One that is there already may
/// be over other columns.
async fn create_on_mysql(threads: &ThreadsTable, manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    drop_index(manager, &threads.table, NAME).await?;
    let mut index = Index::create().name(NAME).table(Alias::new(&threads.table)).to_owned();
    if is_unlimited_text(threads, manager).await? {
        index.col((Alias::new(&threads.status), STATUS_PREFIX));
    } else {
        index.col(Alias::new(&threads.status));
    }
    for column in [&threads.mark, &threads.id, &threads.closed_at] {
        index.col(Alias::new(column));
    }
    manager.create_index(index).await
}

/// How much of a status without a limit stands in the index. One that is longer is told from others in the row.
const STATUS_PREFIX: u32 = 64;

async fn is_unlimited_text(threads: &ThreadsTable, manager: &SchemaManager<'_>) -> Result<bool, DbErr> {
    let ask = "SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE() \
               AND table_name = ? AND column_name = ? AND data_type LIKE '%text'";
    let values = [threads.table.as_str(), threads.status.as_str()].map(Value::from);
    let ask = Statement::from_sql_and_values(DbBackend::MySql, ask, values);
    Ok(manager.get_connection().query_one_raw(ask).await?.is_some())
}
