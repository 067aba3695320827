//! The holds: threads that are not to be cleaned, whatever their status.

use sea_orm_migration::prelude::*;

use crate::{key_text, our_table, time};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "thread_holds";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Without a foreign key: a hold may come before its thread, and the platform may delete its rows as it likes.
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                our_table(manager, TABLE)
                    .col(key_text(manager, "thread_id").not_null().primary_key())
                    .col(ColumnDef::new("reason").text().not_null())
                    .col(time(manager, "held_at").not_null())
                    .col(time(manager, "until"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(TABLE).if_exists().to_owned()).await
    }
}
