//! The bookkeeping: what of this database is ours, and whose threads table it was made for.

use sea_orm_migration::prelude::*;

use crate::{
    ADDITIONS_TABLE, Found,
    bookkeeping::THREADS,
    change::{Change, sql},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    fn up(&self) -> Vec<String> {
        let (dialect, names) = (self.0.mapping.dialect, &self.0.mapping.names);
        let [mut kind, mut table, mut column] =
            ["kind", "table_name", "column_name"].map(|name| dialect.key_text(name).not_null().to_owned());
        let additions = sql(
            dialect,
            dialect
                .table(ADDITIONS_TABLE)
                .col(&mut kind)
                .col(&mut table)
                .col(&mut column)
                .primary_key(Index::create().col("kind").col("table_name").col("column_name")),
        );
        let mut statements = vec![additions];
        if self.0.bookkeeping.threads.is_none() {
            statements.push(self.0.note(THREADS, &names.table_sql(dialect), ""));
        }
        statements
    }

    /// With the tables that it knows: where a migration is not taken back when it fails in its middle, there may be
    /// some that nobody else would ever drop.
    fn down(&self) -> Vec<String> {
        let noted = self.0.bookkeeping.own_tables.iter().map(String::as_str);
        let drop = |table: &str| sql(self.0.mapping.dialect, Table::drop().table(Alias::new(table)).if_exists());
        noted.chain([ADDITIONS_TABLE]).map(drop).collect()
    }
}
