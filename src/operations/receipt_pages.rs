//! The receipts for people who look: pages of them, of which none costs more than a bounded look through the table.

use crate::{
    failure::Failure,
    store::{ListedReceipt, ReceiptFilter, ReceiptPlace, Store},
};

/// Receipts that are looked at for one page: a filter that nothing meets must not read the whole table.
const MOST_ROWS: u64 = 2000;

/// The next page behind a place, at most `limit` receipts, the latest first; and where the one after it begins. A page
/// can be short, or empty, and have a next one.
pub async fn page(
    store: &Store,
    filter: &ReceiptFilter,
    after: Option<ReceiptPlace>,
    limit: usize,
) -> Result<(Vec<ListedReceipt>, Option<ReceiptPlace>), Failure> {
    // One more than fits, which says whether there is a next page.
    let wanted = limit as u64 + 1;
    // These have an index, or are few.
    let is_cheap = filter.thread.is_some() || (filter.host.is_none() && filter.outcome.is_none());
    let mut found = if is_cheap {
        store.list_receipts(filter, after, wanted).await?
    } else {
        store.list_receipts_among(filter, after, MOST_ROWS, wanted).await?
    };
    if found.len() > limit {
        found.truncate(limit);
        let next = found.last().map(ListedReceipt::place);
        return Ok((found, next));
    }
    let next = if is_cheap { None } else { store.receipt_place(filter, after, MOST_ROWS).await? };
    Ok((found, next))
}
