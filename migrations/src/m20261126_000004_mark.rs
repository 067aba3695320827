//! The mark: our column in the threads table, or in the table of volumes if there is one, unless the platform has one
//! already. That one is used as it is, and stays.

use sea_orm_migration::prelude::*;

use crate::{
    ADDITIONS_TABLE, Found,
    bookkeeping::{COLUMN, VOLUMES},
    change::{Change, sql},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    /// A nullable column without default: no row is rewritten, however large the table. That it is ours is written down
    /// first, as with our tables.
    fn up(&self) -> Vec<String> {
        let (dialect, names) = (self.0.mapping.dialect, self.0.mapping.names.marked());
        let mut statements = Vec::new();
        if self.0.mapping.names.volumes.is_some() && self.0.bookkeeping.volumes.is_none() {
            statements.push(self.0.note(VOLUMES, &names.table_sql(dialect), ""));
        }
        if self.0.has_mark {
            return statements;
        }
        if !self.0.mark_is_ours {
            statements.push(self.0.note(COLUMN, &names.table_sql(dialect), &names.mark));
        }
        statements.extend(dialect.lock_timeout());
        let column = dialect.time(&names.mark);
        statements.push(sql(dialect, Table::alter().table(self.0.mapping.marked_table()).add_column(column)));
        statements
    }

    /// Takes away the column only if it was us who added it.
    fn down(&self) -> Vec<String> {
        let forget_volumes = self.0.mapping.names.volumes.is_some();
        let forget_volumes = forget_volumes.then(|| format!("DELETE FROM {ADDITIONS_TABLE} WHERE kind = '{VOLUMES}'"));
        if !self.0.mark_is_ours {
            return forget_volumes.into_iter().collect();
        }
        let (dialect, names) = (self.0.mapping.dialect, self.0.mapping.names.marked());
        let mut statements = dialect.lock_timeout();
        if self.0.has_mark {
            let (table, mark) = (names.table_sql(dialect), dialect.quoted(&names.mark));
            statements.push(format!("ALTER TABLE {table} DROP COLUMN {mark}"));
        }
        statements.push(format!("DELETE FROM {ADDITIONS_TABLE} WHERE kind = '{COLUMN}'"));
        statements.extend(forget_volumes);
        statements
    }
}
