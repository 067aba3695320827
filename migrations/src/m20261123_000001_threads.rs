//! The threads table, for who has none yet.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    Found,
    change::{Change, sql},
    key_text, our_table, time,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    fn up(&self, backend: DbBackend) -> Vec<String> {
        if self.0.has_table {
            return Vec::new();
        }
        // The names are the default ones, or the table would have been refused as misspelt.
        let names = &self.0.mapping.names;
        // MySQL's current timestamp is in the time zone of the platform's session.
        let now =
            if backend == DbBackend::MySql { Expr::cust("(UTC_TIMESTAMP(3))") } else { Expr::current_timestamp() };
        let mut table = our_table(backend, Alias::new(&names.table));
        if let Some(host) = &names.host {
            table.col(key_text(backend, Alias::new(host)));
        }
        vec![sql(
            backend,
            table
                .col(key_text(backend, Alias::new(&names.id)).not_null().primary_key())
                .col(key_text(backend, Alias::new(&names.status)).not_null().default("open"))
                .col(time(backend, "closed_at"))
                // For threads that only events tell of.
                .col(time(backend, "reopened_at"))
                .col(time(backend, "created_at").not_null().default(now)),
        )]
    }

    /// Leaves the table: the platform's threads are in it.
    fn down(&self, _backend: DbBackend) -> Vec<String> {
        Vec::new()
    }
}
