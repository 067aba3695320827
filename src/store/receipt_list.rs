//! The receipts as a list: pages of them by filters, the latest first.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, Iterable, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select,
    sea_query::{Order, Query},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    PAGE_TIMEOUT, Store,
    entities::volume_removal::{Column, Entity, Model},
};
use crate::failure::Failure;

/// Which receipts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiptFilter {
    /// From then on.
    pub since: Option<DateTime<Utc>>,
    /// Before then.
    pub until: Option<DateTime<Utc>>,
    /// Of this thread.
    pub thread: Option<String>,
    /// Of this Docker host.
    pub host: Option<String>,
    /// With this outcome.
    pub outcome: Option<String>,
}

/// A place in the list; the next page begins behind it. Written as `MILLISECONDS-ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptPlace {
    at: DateTime<Utc>,
    id: i64,
}

impl FromStr for ReceiptPlace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (millis, id) = text.rsplit_once('-')?;
            Some(Self { at: DateTime::from_timestamp_millis(millis.parse().ok()?)?, id: id.parse().ok()? })
        };
        parse().ok_or("is no place in the list, such as 1795000000000-42: `receipts --json` ends with the next one")
    }
}

impl std::fmt::Display for ReceiptPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.at.timestamp_millis(), self.id)
    }
}

/// A receipt in the list, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ListedReceipt {
    /// Its id.
    pub id: i64,
    /// When the volume was known to be gone.
    pub removed_at: DateTime<Utc>,
    /// The thread.
    pub thread_id: String,
    /// Its volume.
    pub volume_name: String,
    /// How it went, such as `removed`.
    pub outcome: String,
    /// Who asked, such as `event`.
    pub source: String,
    /// The id of the event's message, if it had one.
    pub event_id: Option<String>,
    /// The Docker host.
    pub host: Option<String>,
    /// The identity of its daemon.
    pub daemon: Option<String>,
    /// What was in the volume; none if that is unknown.
    pub bytes: Option<i64>,
    /// From the decision to the daemon's answer, in milliseconds.
    pub duration_ms: Option<i64>,
    /// The person who asked for it.
    pub actor: Option<String>,
    /// The container that was removed, where it is one.
    pub container_id: Option<String>,
    /// Its name.
    pub container_name: Option<String>,
    /// Who wrote it.
    pub replica: String,
    /// Its chain.
    pub chain_id: Option<String>,
    /// Its place there.
    pub chain_sequence: Option<i64>,
    /// The hash over it and the one before.
    pub chain_hash: Option<String>,
}

impl ListedReceipt {
    /// Its place in the list.
    #[must_use]
    pub fn place(&self) -> ReceiptPlace {
        ReceiptPlace { at: self.removed_at, id: self.id }
    }
}

impl From<Model> for ListedReceipt {
    fn from(row: Model) -> Self {
        Self {
            id: row.id,
            removed_at: row.removed_at,
            thread_id: row.thread_id,
            volume_name: row.volume_name,
            outcome: row.outcome,
            source: row.source,
            event_id: row.event_id,
            host: row.host,
            daemon: row.daemon,
            bytes: row.bytes,
            duration_ms: row.duration_ms,
            actor: row.actor,
            container_id: row.container_id,
            container_name: row.container_name,
            replica: row.replica,
            chain_id: row.chain_id,
            chain_sequence: row.chain_sequence,
            chain_hash: row.chain_hash,
        }
    }
}

/// The receipts behind a place and within the filter's time, the latest first: in the order of an index.
fn latest(filter: &ReceiptFilter, after: Option<ReceiptPlace>) -> Select<Entity> {
    let behind = after.map(|ReceiptPlace { at, id }| {
        let earlier = Condition::all().add(Column::RemovedAt.eq(at)).add(Column::Id.lt(id));
        // The first part alone tells the index where to begin.
        let from = Condition::all().add(Column::RemovedAt.lte(at));
        from.add(Condition::any().add(Column::RemovedAt.lt(at)).add(earlier))
    });
    let is_meant = Condition::all()
        .add_option(filter.since.map(|since| Column::RemovedAt.gte(since)))
        .add_option(filter.until.map(|until| Column::RemovedAt.lt(until)))
        .add_option(behind);
    Entity::find().filter(is_meant).order_by_desc(Column::RemovedAt).order_by_desc(Column::Id)
}

/// What the filter says besides the time.
fn is_so(filter: &ReceiptFilter) -> Condition {
    Condition::all()
        .add_option(filter.thread.as_deref().map(|thread| Column::ThreadId.eq(thread)))
        .add_option(filter.host.as_deref().map(|host| Column::Host.eq(host)))
        .add_option(filter.outcome.as_deref().map(|outcome| Column::Outcome.eq(outcome)))
}

impl Store {
    /// The latest receipts, or those behind this place; at most `limit`.
    pub async fn list_receipts(
        &self,
        filter: &ReceiptFilter,
        after: Option<ReceiptPlace>,
        limit: u64,
    ) -> Result<Vec<ListedReceipt>, Failure> {
        let select = latest(filter, after).filter(is_so(filter)).limit(limit);
        let rows = self.bounded(PAGE_TIMEOUT, select.all(&self.db)).await?;
        Ok(rows.into_iter().map(ListedReceipt::from).collect())
    }

    /// The latest receipts, or those behind this place; at most `limit`. Only `most` of those within the filter's time
    /// are looked at: where nothing is as the filter says besides, it does not take a walk through the table.
    pub async fn list_receipts_among(
        &self,
        filter: &ReceiptFilter,
        after: Option<ReceiptPlace>,
        most: u64,
        limit: u64,
    ) -> Result<Vec<ListedReceipt>, Failure> {
        let select = Query::select()
            .columns(Column::iter())
            .from_subquery(latest(filter, after).limit(most).into_query(), Entity)
            .cond_where(is_so(filter))
            .order_by(Column::RemovedAt, Order::Desc)
            .order_by(Column::Id, Order::Desc)
            .limit(limit)
            .to_owned();
        self.bounded(PAGE_TIMEOUT, async {
            let rows = self.db.query_all(&select).await?;
            rows.iter().map(|row| Ok(Model::from_query_result(row, "")?.into())).collect()
        })
        .await
    }

    /// The place of the receipt that comes as the so many-th within the filter's time, if there are so many.
    pub async fn receipt_place(
        &self,
        filter: &ReceiptFilter,
        after: Option<ReceiptPlace>,
        number: u64,
    ) -> Result<Option<ReceiptPlace>, Failure> {
        let select = latest(filter, after).select_only().column(Column::RemovedAt).column(Column::Id);
        let select = select.offset(number.saturating_sub(1)).limit(1).into_tuple();
        let place: Option<(DateTime<Utc>, i64)> = self.bounded(PAGE_TIMEOUT, select.one(&self.db)).await?;
        Ok(place.map(|(at, id)| ReceiptPlace { at, id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in ["1795000000000-42", "-5-7"] {
            assert_eq!(text.parse::<ReceiptPlace>().map(|place| place.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "42", "a-1", "1-b", "99999999999999999999-1"] {
            assert!(text.parse::<ReceiptPlace>().is_err(), "{text:?}");
        }
    }
}
