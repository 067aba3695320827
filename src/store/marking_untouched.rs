//! Marking many threads by one statement, where nobody has touched them since they were read.
//!
//! That is how it is with nearly all that a sweep finds absent. No row is read and locked first: what the update itself
//! returns says whether all is as it was read, and if not, all of it is rolled back, and done with a look before.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use migrations::Mapping;
use sea_orm::{
    ConnectionTrait, DbErr, ExprTrait, QueryResult,
    sea_query::{BinOper, Expr, Query},
};

use super::{
    Store,
    errors::database_error,
    marking::{guarded_mark, has_mark, mark_value},
    threads::{close_written, id_as_text, is_one_of},
};
use crate::cleanup::Receipt;

/// What is said of a row that is marked now.
const RETURNED: [&str; 3] = ["thread_id_text", "close_written", "has_mark"];

impl Store {
    /// Whether all of these are marked now. If not, nothing is changed: one has another close, has no row, was marked
    /// or is locked by somebody else, or has more than one volume, about which there is more to be asked.
    pub(super) async fn mark_untouched(
        &self,
        threads: &Mapping,
        receipts: &[Receipt],
        at: DateTime<Utc>,
    ) -> Result<bool, DbErr> {
        let closes = receipts.iter().map(|receipt| (receipt.thread_id.as_str(), receipt.close.written.as_deref()));
        let closes: HashMap<_, _> = closes.collect();
        let is_plain = |receipt: &Receipt| receipt.completes && !receipt.is_written;
        let have_one_volume_each = closes.len() == receipts.len() && threads.names.volumes.is_none();
        if !have_one_volume_each || !receipts.iter().all(is_plain) || !self.db.support_returning() {
            return Ok(false);
        }
        let transaction = self.db.begin_marking().await?;
        if let Some(sql) = self.engine.before_impatient_update() {
            transaction.execute_unprepared(sql).await?;
        }
        let mut update = guarded_mark(threads, mark_value(threads, at));
        update.and_where(is_one_of(threads, closes.keys().copied()));
        let returned = [id_as_text(threads), close_written(threads), has_mark(threads)].into_iter().zip(RETURNED);
        update.returning(
            Query::returning().exprs(returned.map(|(value, name)| value.binary(BinOper::As, Expr::cust(name)))),
        );
        // The receipts are made while the database has the update.
        let linking = async { self.link_receipts(receipts) };
        let (marked, linked) = tokio::join!(biased; transaction.query_all(&update), linking);
        let Some(unwritten) = linked? else { return Ok(false) };
        let are_as_read = match marked {
            Ok(marked) => marked.len() == closes.len() && are_as_read(&marked, &closes)?,
            Err(error) if database_error(&error).is_some_and(|error| self.engine.is_lock_timeout(error)) => false,
            Err(error) => return Err(error),
        };
        if !are_as_read {
            unwritten.discard();
            transaction.rollback().await?;
            return Ok(false);
        }
        self.announce(&*transaction, receipts.iter()).await?;
        let linked = unwritten.write(&*transaction).await?;
        transaction.commit().await?;
        linked.committed();
        Ok(true)
    }
}

/// Whether these rows have a mark, which a trigger may have undone, and still the close that was read.
fn are_as_read(marked: &[QueryResult], closes: &HashMap<&str, Option<&str>>) -> Result<bool, DbErr> {
    let [id, close, has_mark] = RETURNED;
    for row in marked {
        let (id, close): (String, Option<String>) = (row.try_get("", id)?, row.try_get("", close)?);
        if !row.try_get("", has_mark).unwrap_or(false) || closes.get(id.as_str()) != Some(&close.as_deref()) {
            return Ok(false);
        }
    }
    Ok(true)
}
