//! The pinned identities of Docker daemons: whose "not there" counts.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    change::{Change, sql},
    key_text, our_table, time,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "docker_daemons";

impl Change for Migration {
    fn up(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(
            backend,
            our_table(backend, TABLE)
                .col(key_text(backend, "name").not_null().primary_key())
                .col(ColumnDef::new("identity").text().not_null())
                .col(time(backend, "pinned_at").not_null()),
        )]
    }

    fn down(&self, backend: DbBackend) -> Vec<String> {
        vec![sql(backend, Table::drop().table(TABLE).if_exists())]
    }
}
