//! The receipts: append-only, one per mark.

use sea_orm_migration::prelude::*;

use crate::{is_mysql, key_text, our_table, time};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "volume_removals";
const INDEX: &str = "volume_removals_thread_id";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                our_table(manager, TABLE)
                    .col(ColumnDef::new("id").big_integer().not_null().auto_increment().primary_key())
                    .col(key_text(manager, "thread_id").not_null())
                    .col(ColumnDef::new("volume_name").text().not_null())
                    .col(key_text(manager, "outcome").not_null())
                    .col(ColumnDef::new("source").text().not_null())
                    .col(ColumnDef::new("event_id").text())
                    .col(ColumnDef::new("replica").text().not_null())
                    .col(time(manager, "removed_at").not_null())
                    .to_owned(),
            )
            .await?;
        // MySQL does not know `IF NOT EXISTS` here, and does not take the table back either.
        if is_mysql(manager) && manager.has_index(TABLE, INDEX).await? {
            return Ok(());
        }
        manager.create_index(Index::create().name(INDEX).table(TABLE).col("thread_id").if_not_exists().to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(TABLE).if_exists().to_owned()).await
    }
}
