//! The partial index over closed and unmarked rows: what makes a sweep over millions of marked threads cost one page. It
//! has all that a sweep reads, so PostgreSQL does not touch the table itself.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{ThreadsTable, drop_if_invalid};

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
        manager.drop_index(Index::drop().name(NAME).table(Alias::new(&self.0.table)).if_exists().to_owned()).await
    }
}
