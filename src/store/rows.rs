//! What is read from rows of the threads table, by the names that a statement gave it.

use chrono::{DateTime, NaiveDateTime, Utc};
use sea_orm::{DbErr, QueryResult};

/// A moment. One without a zone is UTC; what can't be read at all counts as none, so that under a retention the thread
/// is kept.
pub(super) fn time(row: &QueryResult, name: &str) -> Option<DateTime<Utc>> {
    let without_zone = || {
        let time = row.try_get::<Option<NaiveDateTime>>("", name).ok().flatten();
        time.map(|time| time.and_utc())
    };
    row.try_get::<Option<DateTime<Utc>>>("", name).unwrap_or_else(|_| without_zone())
}

/// The host that a row names; an empty text is none.
pub(super) fn host(row: &QueryResult, name: &str) -> Result<Option<String>, DbErr> {
    Ok(row.try_get::<Option<String>>("", name)?.filter(|host| !host.is_empty()))
}
