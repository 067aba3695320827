//! The pause of all removal, and the index that counts the removals of the last hour.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    Found,
    change::{Change, sql},
    is_removal, key_text, our_table, time,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

const TABLE: &str = "removal_pause";
const RECEIPTS: &str = "volume_removals";
const INDEX: &str = "volume_removals_removed_at";

impl Change for Migration {
    /// The index is built while receipts are being written. If it ends in between, the next try takes up what is there.
    fn is_transaction(&self) -> bool {
        false
    }

    fn up(&self, backend: DbBackend) -> Vec<String> {
        let table = sql(
            backend,
            our_table(backend, TABLE)
                .col(key_text(backend, "name").not_null().primary_key())
                .col(time(backend, "paused_at"))
                .col(ColumnDef::new("reason").text())
                .col(ColumnDef::new("paused_by").text())
                .col(time(backend, "resumed_at")),
        );
        let mut index = Index::create().name(INDEX).table(RECEIPTS).to_owned();
        if backend == DbBackend::MySql {
            // No partial index: the removals lie together in one over all receipts.
            let mut statements = vec![table];
            statements.extend(self.0.drop_if_there(INDEX, RECEIPTS));
            statements.push(sql(backend, index.col("outcome").col("removed_at")));
            return statements;
        }
        index.col("removed_at").if_not_exists().and_where(is_removal());
        if backend == DbBackend::Postgres {
            index.concurrently();
        }
        let mut statements = vec![table];
        statements.extend(self.0.drop_if_invalid(INDEX, INDEX));
        statements.push(sql(backend, &index));
        statements
    }

    fn down(&self, backend: DbBackend) -> Vec<String> {
        let mut statements = if backend == DbBackend::MySql {
            self.0.drop_if_there(INDEX, RECEIPTS)
        } else {
            vec![sql(backend, Index::drop().name(INDEX).table(RECEIPTS).if_exists())]
        };
        statements.push(sql(backend, Table::drop().table(TABLE).if_exists()));
        statements
    }
}
