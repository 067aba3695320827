//! The receipts: append-only, one per mark.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    change::{Change, sql},
    key_text, our_table, time,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "volume_removals";
const INDEX: &str = "volume_removals_thread_id";

impl Change for Migration {
    fn up(&self, backend: DbBackend) -> Vec<String> {
        let mut table = our_table(backend, TABLE);
        table
            .col(ColumnDef::new("id").big_integer().not_null().auto_increment().primary_key())
            .col(key_text(backend, "thread_id").not_null())
            .col(ColumnDef::new("volume_name").text().not_null())
            .col(key_text(backend, "outcome").not_null())
            .col(ColumnDef::new("source").text().not_null())
            .col(ColumnDef::new("event_id").text())
            .col(ColumnDef::new("replica").text().not_null())
            .col(time(backend, "removed_at").not_null());
        let mut index = Index::create().name(INDEX).col("thread_id").to_owned();
        if backend == DbBackend::MySql {
            // With the table, since MySQL does not know `IF NOT EXISTS` elsewhere, and takes nothing back that failed.
            return vec![sql(backend, table.index(&mut index))];
        }
        vec![sql(backend, &table), sql(backend, index.table(TABLE).if_not_exists())]
    }

    fn down(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(backend, Table::drop().table(TABLE).if_exists())]
    }
}
