//! The threads table, for who has none yet.

use sea_orm_migration::prelude::*;

use crate::{ThreadsTable, is_mysql, key_text, our_table, time};

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
        // MySQL's current timestamp is in the time zone of the platform's session.
        let now = if is_mysql(manager) { Expr::cust("(UTC_TIMESTAMP(3))") } else { Expr::current_timestamp() };
        manager
            .create_table(
                our_table(manager, Alias::new(&threads.table))
                    .col(key_text(manager, Alias::new(&threads.id)).not_null().primary_key())
                    .col(key_text(manager, Alias::new(&threads.status)).not_null().default("open"))
                    .col(time(manager, Alias::new(&threads.closed_at)))
                    // For threads that only events tell of.
                    .col(time(manager, "reopened_at"))
                    .col(time(manager, "created_at").not_null().default(now))
                    .to_owned(),
            )
            .await
    }

    /// Leaves the table: the platform's threads are in it.
    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}
