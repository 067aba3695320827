//! Clean-ups that failed, one row per thread for as long as it is closed and unmarked: sweeps back off by them, across
//! replicas and restarts.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "cleanup_failures";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(TABLE)
                    .if_not_exists()
                    .col(ColumnDef::new("thread_id").text().not_null().primary_key())
                    .col(ColumnDef::new("attempts").big_integer().not_null())
                    .col(ColumnDef::new("first_failed_at").timestamp_with_time_zone().not_null())
                    .col(ColumnDef::new("failed_at").timestamp_with_time_zone().not_null())
                    .col(ColumnDef::new("error").text().not_null())
                    .col(ColumnDef::new("replica").text().not_null())
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(TABLE).if_exists().to_owned()).await
    }
}
