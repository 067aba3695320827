//! The leases: which replica does what only one may do. A row with an epoch, since poolers break advisory locks.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    change::{Change, sql},
    key_text, our_table, time,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "leases";

impl Change for Migration {
    fn up(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(
            backend,
            our_table(backend, TABLE)
                .col(key_text(backend, "name").not_null().primary_key())
                .col(ColumnDef::new("holder").text().not_null())
                .col(ColumnDef::new("epoch").big_integer().not_null())
                .col(time(backend, "expires_at").not_null()),
        )]
    }

    fn down(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(backend, Table::drop().table(TABLE).if_exists())]
    }
}
