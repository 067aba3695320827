//! Clean-ups that failed, one row per thread for as long as it is closed and unmarked: sweeps back off by them, across
//! replicas and restarts.

use sea_orm_migration::prelude::*;

use crate::{key_text, our_table, time};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "cleanup_failures";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                our_table(manager, TABLE)
                    .col(key_text(manager, "thread_id").not_null().primary_key())
                    .col(ColumnDef::new("attempts").big_integer().not_null())
                    .col(time(manager, "first_failed_at").not_null())
                    .col(time(manager, "failed_at").not_null())
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
