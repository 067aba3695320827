//! Our own tables.

use sea_orm_migration::prelude::*;

use crate::{
    ADDITIONS_TABLE, Dialect, Found, OUR_TABLES, RECEIPTS_TABLE,
    bookkeeping::OWN_TABLE,
    change::{Change, sql},
    history,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    /// That a table is ours is written down first: MySQL does not take back what was done before something failed, and
    /// to the next try the table would be somebody else's.
    fn up(&self) -> Vec<String> {
        let noted = &self.0.bookkeeping.own_tables;
        let news = OUR_TABLES.iter().filter(|table| !noted.iter().any(|noted| noted == *table));
        news.map(|table| self.0.note(OWN_TABLE, table, "")).chain(create(self.0.mapping.dialect)).collect()
    }

    /// Drops what is noted as ours, and no table that only has its name.
    fn down(&self) -> Vec<String> {
        let dialect = self.0.mapping.dialect;
        let noted = self.0.bookkeeping.own_tables.iter().rev();
        let mut statements: Vec<_> =
            noted.map(|table| sql(dialect, Table::drop().table(Alias::new(table)).if_exists())).collect();
        if !statements.is_empty() {
            statements.push(format!("DELETE FROM {ADDITIONS_TABLE} WHERE kind = '{OWN_TABLE}'"));
        }
        statements
    }
}

fn create(dialect: &dyn Dialect) -> Vec<String> {
    let text = |name: &'static str| ColumnDef::new(name).text().to_owned();
    let number = |name: &'static str| ColumnDef::new(name).big_integer().to_owned();
    let key = |name: &'static str| dialect.key_text(name).not_null().primary_key().to_owned();
    let time = |name: &'static str| dialect.time(name);

    // How a volume was found to be gone: append-only, one per mark. And which containers were removed before it.
    let receipts = dialect
        .table(RECEIPTS_TABLE)
        .col(number("id").not_null().auto_increment().primary_key())
        .col(dialect.key_text("thread_id").not_null())
        .col(text("volume_name").not_null())
        .col(dialect.key_text("outcome").not_null())
        .col(text("source").not_null())
        .col(text("event_id"))
        .col(text("replica").not_null())
        .col(time("removed_at").not_null())
        .col(text("host"))
        .col(text("daemon"))
        // Null is unknown.
        .col(number("bytes"))
        .col(number("duration_ms"))
        .col(text("actor"))
        .col(text("container_id"))
        .col(text("container_name"))
        // Its place among the receipts of its replica, and the hash over it and the one before.
        .col(text("chain_id"))
        .col(number("chain_sequence"))
        .col(text("chain_hash"))
        .to_owned();
    // Whose "not there" counts: the pinned identities of Docker daemons.
    let daemons = dialect
        .table("volume_reaper_daemons")
        .col(key("name"))
        .col(text("identity").not_null())
        .col(time("pinned_at").not_null())
        // What its latest list had of our volumes.
        .col(number("volumes"))
        .col(time("seen_at"))
        .to_owned();
    // Which replica does what only one may do: a row with an epoch, since poolers break advisory locks.
    let leases = dialect
        .table("volume_reaper_leases")
        .col(key("name"))
        .col(text("holder").not_null())
        .col(number("epoch").not_null())
        .col(time("expires_at").not_null())
        .to_owned();
    // Threads that are not to be cleaned, whatever their status. Without a foreign key: a hold may come before its
    // thread, and the platform may delete its rows as it likes.
    let holds = dialect
        .table("volume_reaper_holds")
        .col(key("thread_id"))
        .col(text("reason").not_null())
        .col(time("held_at").not_null())
        .col(time("until"))
        .to_owned();
    // Whether removal is paused, everywhere or on one host.
    let pauses = dialect
        .table("volume_reaper_pauses")
        .col(key("name"))
        .col(time("paused_at"))
        .col(text("reason"))
        .col(text("paused_by"))
        .col(time("resumed_at"))
        .to_owned();
    // Clean-ups that failed, one row per thread for as long as it is closed and unmarked: sweeps back off by them,
    // across replicas and restarts.
    let failures = dialect
        .table("volume_reaper_failures")
        .col(key("thread_id"))
        .col(number("attempts").not_null())
        .col(time("first_failed_at").not_null())
        .col(time("failed_at").not_null())
        .col(text("error").not_null())
        .col(text("replica").not_null())
        .to_owned();

    let mut statements = dialect.create_receipts(receipts);
    statements.extend([daemons, leases, holds, pauses, failures].iter().map(|table| sql(dialect, table)));
    statements.extend(history::tables(dialect).iter().map(|table| sql(dialect, table)));
    statements
}
