//! The index over closed and unmarked rows, or over the unmarked ones of a table of volumes: what makes a sweep over
//! millions of marked threads cost one page.

use sea_orm_migration::prelude::*;

use crate::{Found, change::Change};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    /// An index is built on PostgreSQL without blocking the platform's writes, and `CREATE INDEX CONCURRENTLY` can't
    /// run in a transaction.
    fn is_transaction(&self) -> bool {
        false
    }

    fn up(&self) -> Vec<String> {
        let dialect = self.0.mapping.dialect;
        match &self.0.mapping.names.volumes {
            None => dialect.create_index(&self.0),
            Some(volumes) => dialect.create_volumes_indexes(&self.0, volumes),
        }
    }

    fn down(&self) -> Vec<String> {
        let dialect = self.0.mapping.dialect;
        match &self.0.mapping.names.volumes {
            None => dialect.drop_index(&self.0),
            Some(volumes) => dialect.drop_volumes_indexes(&self.0, volumes),
        }
    }
}
