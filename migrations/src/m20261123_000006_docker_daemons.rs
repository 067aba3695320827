//! The pinned identities of Docker daemons: whose "not there" counts.

use sea_orm_migration::prelude::*;

use crate::{key_text, our_table, time};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "docker_daemons";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                our_table(manager, TABLE)
                    .col(key_text(manager, "name").not_null().primary_key())
                    .col(ColumnDef::new("identity").text().not_null())
                    .col(time(manager, "pinned_at").not_null())
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(TABLE).if_exists().to_owned()).await
    }
}
