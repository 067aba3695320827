//! How many volumes went since a moment: what was counted, and the latest receipts that were not counted yet.

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, sea_query::Expr,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    PAGE_TIMEOUT, Store,
    entities::volume_removal,
    history_entities::{rollup, stat},
    stats::{
        CountableReceipt, Kind, RECEIPTS_A_STEP, ROLLUP, Resolution, Stat, Sum, Sums, countable_receipts, counted,
    },
};
use crate::failure::Failure;

/// Receipts that were not counted yet, as far as whoever asks for counts has them read: in a loaded minute there are as
/// many, and after an upgrade millions wait to be counted.
pub const UNCOUNTED_RECEIPTS_READ: u64 = 50_000;

/// How many volumes went, by the bucket, host, source and outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stats {
    /// In the order of time.
    pub stats: Vec<Stat>,
    /// Whether there may be more: so many receipts were not counted yet that only the latest were looked at.
    pub at_least: bool,
}

/// A row of counts, and the latest receipt that is in any.
#[derive(FromQueryResult)]
struct CountedStat {
    bucket: DateTime<Utc>,
    host: String,
    source: String,
    outcome: String,
    receipts: i64,
    bytes: i64,
    unsized_receipts: i64,
    counted: Option<i64>,
}

impl Store {
    /// How many volumes went since, by this resolution; of what was not counted yet, the latest
    /// [`UNCOUNTED_RECEIPTS_READ`] are added.
    pub async fn stats(&self, resolution: Resolution, since: DateTime<Utc>) -> Result<Stats, Failure> {
        let mut all = self.stats_of(&[(resolution, since)]).await?;
        Ok(all.pop().unwrap_or_default())
    }

    /// How many volumes went since, by each of these resolutions from each of these moments on. What was not counted
    /// yet is read once for all of them.
    pub async fn stats_of(&self, wanted: &[(Resolution, DateTime<Utc>)]) -> Result<Vec<Stats>, Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let (uncounted, at_least) = self.uncounted_receipts().await?;
            let mut all = Vec::with_capacity(wanted.len());
            for &(resolution, since) in wanted {
                let stats = self.sums_since(resolution, since, &uncounted).await?;
                all.push(Stats { stats, at_least });
            }
            Ok(all)
        })
        .await
    }

    /// What was counted since, with those of these receipts that were not.
    async fn sums_since(
        &self,
        resolution: Resolution,
        since: DateTime<Utc>,
        uncounted: &[CountableReceipt],
    ) -> Result<Vec<Stat>, DbErr> {
        let since = resolution.bucket(since);
        let (mut sums, mut counted) = (Sums::default(), 0);
        for row in stats_since(resolution, since).into_model::<CountedStat>().all(&self.db).await? {
            counted = row.counted.unwrap_or_default();
            let kind = (row.bucket, row.host, row.source, row.outcome);
            sums.add(kind, Sum { receipts: row.receipts, bytes: row.bytes, unsized_receipts: row.unsized_receipts });
        }
        // Those that were counted meanwhile are in the sums already.
        let uncounted = uncounted.iter().filter(|receipt| receipt.id > counted && receipt.removed_at >= since);
        uncounted.for_each(|receipt| sums.add_receipt(resolution, receipt));
        let stat = |((bucket, host, source, outcome), sum): (Kind, Sum)| Stat {
            bucket,
            host,
            source,
            outcome,
            receipts: sum.receipts,
            bytes: sum.bytes,
            unsized_receipts: sum.unsized_receipts,
        };
        Ok(sums.0.into_iter().map(stat).collect())
    }

    /// The latest receipts that were not counted yet, and whether there may be more.
    async fn uncounted_receipts(&self) -> Result<(Vec<CountableReceipt>, bool), DbErr> {
        let counted = counted(&self.db).await?;
        let (mut receipts, mut before) = (Vec::new(), i64::MAX);
        while (receipts.len() as u64) < UNCOUNTED_RECEIPTS_READ {
            let step = countable_receipts()
                .filter(volume_removal::Column::Id.gt(counted))
                .filter(volume_removal::Column::Id.lt(before))
                .order_by_desc(volume_removal::Column::Id)
                .limit(RECEIPTS_A_STEP);
            let step = step.into_model::<CountableReceipt>().all(&self.db).await?;
            let is_last = (step.len() as u64) < RECEIPTS_A_STEP;
            before = step.last().map_or(before, |receipt| receipt.id);
            receipts.extend(step);
            if is_last {
                return Ok((receipts, false));
            }
        }
        Ok((receipts, true))
    }
}

/// What was counted, each row with the latest receipt that was: of one moment, since it is one statement.
fn stats_since(resolution: Resolution, since: DateTime<Utc>) -> sea_orm::Select<stat::Entity> {
    let latest = rollup::Entity::find_by_id(ROLLUP).select_only().column(rollup::Column::ReceiptId);
    stat::Entity::find()
        .column_as(Expr::from(latest.into_query()), "counted")
        .filter(stat::Column::Resolution.eq(resolution.as_str()))
        .filter(stat::Column::Bucket.gte(since))
}
