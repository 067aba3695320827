//! The pause of all removal, and the index that counts the removals of the last hour.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{drop_if_invalid, drop_index, is_mysql, is_removal, key_text, our_table, time};

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
                our_table(manager, TABLE)
                    .col(key_text(manager, "name").not_null().primary_key())
                    .col(time(manager, "paused_at"))
                    .col(ColumnDef::new("reason").text())
                    .col(ColumnDef::new("paused_by").text())
                    .col(time(manager, "resumed_at"))
                    .to_owned(),
            )
            .await?;
        let mut index = Index::create().name(INDEX).table(RECEIPTS).to_owned();
        if is_mysql(manager) {
            // No partial index: the removals lie together in one over all receipts.
            drop_index(manager, RECEIPTS, INDEX).await?;
            index.col("outcome").col("removed_at");
            return manager.create_index(index).await;
        }
        index.col("removed_at").if_not_exists().and_where(is_removal());
        if manager.get_database_backend() == DbBackend::Postgres {
            drop_if_invalid(manager, INDEX).await?;
            index.concurrently();
        }
        manager.create_index(index).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_index(manager, RECEIPTS, INDEX).await?;
        manager.drop_table(Table::drop().table(TABLE).if_exists().to_owned()).await
    }
}
