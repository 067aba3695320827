//! The receipts: append-only, one per mark.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "volume_removals";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(TABLE)
                    .if_not_exists()
                    .col(ColumnDef::new("id").big_integer().not_null().auto_increment().primary_key())
                    .col(ColumnDef::new("thread_id").text().not_null())
                    .col(ColumnDef::new("volume_name").text().not_null())
                    .col(ColumnDef::new("outcome").text().not_null())
                    .col(ColumnDef::new("source").text().not_null())
                    .col(ColumnDef::new("event_id").text())
                    .col(ColumnDef::new("replica").text().not_null())
                    .col(ColumnDef::new("removed_at").timestamp_with_time_zone().not_null())
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("volume_removals_thread_id")
                    .table(TABLE)
                    .col("thread_id")
                    .if_not_exists()
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(TABLE).if_exists().to_owned()).await
    }
}
