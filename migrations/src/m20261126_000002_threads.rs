//! The threads table, for who has none yet.

use sea_orm_migration::prelude::*;

use crate::{
    Found,
    change::{Change, sql},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    fn up(&self) -> Vec<String> {
        if self.0.has_table {
            return Vec::new();
        }
        // The names are the default ones, or the table would have been refused as misspelt.
        let (dialect, names) = (self.0.mapping.dialect, &self.0.mapping.names);
        let mut table = dialect.table(&names.table);
        if let Some(host) = &names.host {
            table.col(dialect.key_text(host));
        }
        vec![sql(
            dialect,
            table
                .col(dialect.key_text(&names.id).not_null().primary_key())
                .col(dialect.key_text(&names.status).not_null().default("open"))
                .col(dialect.time("closed_at"))
                // For threads that are known from events alone.
                .col(dialect.time("reopened_at"))
                .col(dialect.time("created_at").not_null().default(dialect.now())),
        )]
    }

    /// Leaves the table: the platform's threads are in it.
    fn down(&self) -> Vec<String> {
        Vec::new()
    }
}
