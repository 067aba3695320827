//! The receipts for people who look: pages of them, of which none costs more than a bounded look through the table.

use crate::{
    failure::Failure,
    store::{ListedReceipt, ReceiptFilter, ReceiptPlace, Store},
};

/// Receipts that are looked through for one page: a filter that nothing meets must not read the whole table.
const MOST_ROWS: usize = 10_000;
/// Receipts that are read at once.
const CHUNK: u64 = 1000;

/// The next page behind a place, at most `limit` receipts, the latest first; and where the one after it begins. A page
/// can be short, or empty, and have a next one.
pub async fn page(
    store: &Store,
    filter: &ReceiptFilter,
    after: Option<ReceiptPlace>,
    limit: usize,
) -> Result<(Vec<ListedReceipt>, Option<ReceiptPlace>), Failure> {
    // These have an index, or are few.
    if filter.thread.is_some() || (filter.host.is_none() && filter.outcome.is_none()) {
        let mut found = store.list_receipts(filter, after, limit as u64 + 1).await?;
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| has_more).map(ListedReceipt::place);
        return Ok((found, next));
    }
    let all = ReceiptFilter { host: None, outcome: None, ..filter.clone() };
    let is_meant = |receipt: &ListedReceipt| {
        filter.host.as_ref().is_none_or(|host| receipt.host.as_ref() == Some(host))
            && filter.outcome.as_ref().is_none_or(|outcome| receipt.outcome == *outcome)
    };
    let (mut found, mut after, mut looked_through) = (Vec::new(), after, 0);
    loop {
        let rows = store.list_receipts(&all, after, CHUNK).await?;
        let is_end = (rows.len() as u64) < CHUNK;
        looked_through += rows.len();
        for row in rows {
            if found.len() == limit {
                return Ok((found, after));
            }
            after = Some(row.place());
            found.extend(Some(row).filter(is_meant));
        }
        if is_end || looked_through >= MOST_ROWS {
            return Ok((found, after.filter(|_| !is_end)));
        }
    }
}
