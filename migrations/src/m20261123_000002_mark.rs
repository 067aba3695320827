//! The mark: our column in the threads table, unless the platform has one already. That one is used as it is, and stays.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    ADDITIONS_TABLE, Found,
    change::{Change, sql},
    key_text, literal, lock_timeout, our_table, quoted, time,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    /// A nullable column without default: no row is rewritten, however large the table. That it is ours is written down
    /// first: MySQL does not take back what was done before it failed, and the column would be theirs to the next try.
    fn up(&self, backend: DbBackend) -> Vec<String> {
        if self.0.has_mark {
            return Vec::new();
        }
        let names = &self.0.mapping.names;
        let additions = sql(
            backend,
            our_table(backend, ADDITIONS_TABLE)
                .col(key_text(backend, "table_name").not_null())
                .col(key_text(backend, "column_name").not_null()),
        );
        let mut statements = vec![additions];
        if !self.0.mark_is_ours {
            let (table, mark) = (literal(backend, &names.table_sql(backend)), literal(backend, &names.mark));
            statements
                .push(format!("INSERT INTO {ADDITIONS_TABLE} (table_name, column_name) VALUES ({table}, {mark})"));
        }
        statements.extend(lock_timeout(backend));
        let mark = time(backend, Alias::new(&names.mark));
        statements.push(sql(backend, Table::alter().table(self.0.mapping.table()).add_column(mark)));
        statements
    }

    /// Takes away the column only if it was us who added it.
    fn down(&self, backend: DbBackend) -> Vec<String> {
        if !self.0.mark_is_ours {
            return Vec::new();
        }
        let names = &self.0.mapping.names;
        let mut statements = lock_timeout(backend);
        if self.0.has_mark {
            let (table, mark) = (names.table_sql(backend), quoted(backend, &names.mark));
            statements.push(format!("ALTER TABLE {table} DROP COLUMN {mark}"));
        }
        statements.push(format!("DROP TABLE IF EXISTS {ADDITIONS_TABLE}"));
        statements
    }
}
