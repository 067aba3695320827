//! Clean-ups that failed, one row per thread for as long as it is closed and unmarked: sweeps back off by them, across
//! replicas and restarts.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    change::{Change, sql},
    key_text, our_table, time,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "cleanup_failures";

impl Change for Migration {
    fn up(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(
            backend,
            our_table(backend, TABLE)
                .col(key_text(backend, "thread_id").not_null().primary_key())
                .col(ColumnDef::new("attempts").big_integer().not_null())
                .col(time(backend, "first_failed_at").not_null())
                .col(time(backend, "failed_at").not_null())
                .col(ColumnDef::new("error").text().not_null())
                .col(ColumnDef::new("replica").text().not_null()),
        )]
    }

    fn down(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(backend, Table::drop().table(TABLE).if_exists())]
    }
}
