//! The holds: threads that are not to be cleaned, whatever their status.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    change::{Change, sql},
    key_text, our_table, time,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "thread_holds";

impl Change for Migration {
    /// Without a foreign key: a hold may come before its thread, and the platform may delete its rows as it likes.
    fn up(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(
            backend,
            our_table(backend, TABLE)
                .col(key_text(backend, "thread_id").not_null().primary_key())
                .col(ColumnDef::new("reason").text().not_null())
                .col(time(backend, "held_at").not_null())
                .col(time(backend, "until")),
        )]
    }

    fn down(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(backend, Table::drop().table(TABLE).if_exists())]
    }
}
