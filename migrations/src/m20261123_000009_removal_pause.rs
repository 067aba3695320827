//! The pause of all removal, and the index that counts the removals of the last hour.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{drop_if_invalid, is_removal};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "removal_pause";
const RECEIPTS: &str = "volume_removals";
const INDEX: &str = "volume_removals_removed_at";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Not in a transaction on PostgreSQL, since the index is built while receipts are being written. If it ends in
    /// between, the next try takes up what is there.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(TABLE)
                    .if_not_exists()
                    .col(ColumnDef::new("name").text().not_null().primary_key())
                    .col(ColumnDef::new("paused_at").timestamp_with_time_zone())
                    .col(ColumnDef::new("reason").text())
                    .col(ColumnDef::new("paused_by").text())
                    .col(ColumnDef::new("resumed_at").timestamp_with_time_zone())
                    .to_owned(),
            )
            .await?;
        let mut index = Index::create()
            .name(INDEX)
            .table(RECEIPTS)
            .col("removed_at")
            .if_not_exists()
            .and_where(is_removal())
            .to_owned();
        if manager.get_database_backend() == DbBackend::Postgres {
            drop_if_invalid(manager, INDEX).await?;
            index.concurrently();
        }
        manager.create_index(index).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_index(Index::drop().name(INDEX).table(RECEIPTS).if_exists().to_owned()).await?;
        manager.drop_table(Table::drop().table(TABLE).if_exists().to_owned()).await
    }
}
