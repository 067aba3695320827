//! The holds: threads that are not to be cleaned, whatever their status.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "thread_holds";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Without a foreign key: a hold may come before its thread, and the platform may delete its rows as it likes.
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(TABLE)
                    .if_not_exists()
                    .col(ColumnDef::new("thread_id").text().not_null().primary_key())
                    .col(ColumnDef::new("reason").text().not_null())
                    .col(ColumnDef::new("held_at").timestamp_with_time_zone().not_null())
                    .col(ColumnDef::new("until").timestamp_with_time_zone())
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(TABLE).if_exists().to_owned()).await
    }
}
