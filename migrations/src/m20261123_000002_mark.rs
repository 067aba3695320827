//! The mark: our column in the threads table.

use sea_orm_migration::prelude::*;

use crate::{ThreadsTable, time};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) ThreadsTable);

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// A nullable column without default: no row is rewritten, however large the table.
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let threads = &self.0;
        if manager.has_column(&threads.table, &threads.mark).await? {
            return Ok(());
        }
        manager
            .alter_table(
                Table::alter()
                    .table(Alias::new(&threads.table))
                    .add_column(time(manager, Alias::new(&threads.mark)))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let threads = &self.0;
        // On MySQL no change of the schema is taken back, and one that ended in between begins again here.
        if !manager.has_column(&threads.table, &threads.mark).await? {
            return Ok(());
        }
        manager
            .alter_table(
                Table::alter().table(Alias::new(&threads.table)).drop_column(Alias::new(&threads.mark)).to_owned(),
            )
            .await
    }
}
