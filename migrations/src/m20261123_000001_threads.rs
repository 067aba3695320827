//! The threads table, for who has none yet.

use sea_orm_migration::prelude::*;

use crate::ThreadsTable;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) ThreadsTable);

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let threads = &self.0;
        if manager.has_table(&threads.table).await? {
            return Ok(());
        }
        // Other names than ours mean a table of the platform's: one that is not there is misspelt, not missing.
        if *threads != ThreadsTable::default() {
            return Err(DbErr::Migration(format!("there is no table {:?} in this database", threads.table)));
        }
        manager
            .create_table(
                Table::create()
                    .table(Alias::new(&threads.table))
                    .if_not_exists()
                    .col(ColumnDef::new(Alias::new(&threads.id)).text().not_null().primary_key())
                    .col(ColumnDef::new(Alias::new(&threads.status)).text().not_null().default("open"))
                    .col(ColumnDef::new(Alias::new(&threads.closed_at)).timestamp_with_time_zone())
                    .col(
                        ColumnDef::new("created_at")
                            .timestamp_with_time_zone()
                            .not_null()
                            .default(Expr::current_timestamp()),
                    )
                    .to_owned(),
            )
            .await
    }

    /// Leaves the table: the platform's threads are in it.
    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}
