//! The tables that say what was done: sweeps, acts of people, counts, the chains of the receipts, and the events that
//! tell others.
//!
//! Their ids are UUIDs of version 7, which sort by time, so that no sequence has to be granted; the outbox alone is
//! ordered by the database, since what it orders was committed one after the other.

use sea_orm_migration::prelude::*;

use crate::Dialect;

/// Longer than any word of ours that stands in a key.
const WORD: u32 = 32;

pub(crate) fn tables(dialect: &dyn Dialect) -> [TableCreateStatement; 6] {
    let text = |name: &'static str| ColumnDef::new(name).text().to_owned();
    let number = |name: &'static str| ColumnDef::new(name).big_integer().to_owned();
    let key = |name: &'static str| dialect.key_text(name).not_null().primary_key().to_owned();
    let time = |name: &'static str| dialect.time(name);
    let word = |name: &'static str| ColumnDef::new(name).string_len(WORD).not_null().to_owned();

    // Where a replica's chain of receipts begins, and how far it is known to go.
    let chains = dialect
        .table("volume_reaper_chains")
        .col(key("id"))
        .col(text("replica").not_null())
        .col(time("began_at").not_null())
        // The first receipt that is kept, and the hash before it: those before were deleted by the retention.
        .col(number("kept_from").not_null())
        .col(text("kept_after").not_null())
        // It has at least so many, and the hash of that one.
        .col(number("length").not_null())
        .col(text("head").not_null())
        .col(time("noted_at").not_null())
        // Nothing comes after that.
        .col(time("closed_at"))
        .to_owned();
    // Each sweep, dry runs left out.
    let sweeps = dialect
        .table("volume_reaper_sweeps")
        .col(key("id"))
        // Null is what is on no host of several.
        .col(dialect.key_text("host"))
        .col(text("cause").not_null())
        .col(text("replica").not_null())
        .col(text("actor"))
        .col(time("began_at").not_null())
        // Null is still running.
        .col(time("ended_at"))
        .col(number("duration_ms"))
        .col(text("skipped_reason"))
        // As JSON.
        .col(text("report"))
        .to_owned();
    // Who did what.
    let actions = dialect
        .table("volume_reaper_actions")
        .col(key("id"))
        .col(time("done_at").not_null())
        .col(text("actor").not_null())
        // By what: the command line, the API or the console.
        .col(text("via").not_null())
        .col(text("action").not_null())
        .col(text("target"))
        // As JSON.
        .col(text("details"))
        // Null is that it went well.
        .col(text("error"))
        .col(text("replica").not_null())
        .to_owned();
    // How many volumes went, by minute, hour and day.
    let stats = dialect
        .table("volume_reaper_stats")
        .col(word("resolution"))
        .col(time("bucket").not_null())
        .col(dialect.key_text("host").not_null())
        .col(word("source"))
        .col(word("outcome"))
        .col(number("receipts").not_null())
        .col(number("bytes").not_null())
        // Receipts whose bytes are unknown.
        .col(number("unsized_receipts").not_null())
        .primary_key(Index::create().col("resolution").col("bucket").col("host").col("source").col("outcome"))
        .to_owned();
    // Up to which receipt they are counted.
    let rollups = dialect
        .table("volume_reaper_rollups")
        .col(key("name"))
        .col(number("receipt_id").not_null())
        .col(time("rolled_at").not_null())
        .to_owned();
    // Events that are to be published, each until the broker has it.
    let outbox = dialect
        .table("volume_reaper_outbox")
        .col(number("id").not_null().auto_increment().primary_key())
        .col(dialect.key_text("thread_id").not_null())
        .col(text("event").not_null())
        .col(time("made_at").not_null())
        .to_owned();
    [chains, sweeps, actions, stats, rollups, outbox]
}
