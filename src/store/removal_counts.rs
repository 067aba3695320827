//! How many volumes went in the last hour and day: the minutes that were counted are added up, and receipts are read by
//! the index, up to a bound, only where no whole counted minute has them. A day may have had millions.

use std::{collections::BTreeMap, ops::Not};

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{
    ConnectionTrait, EntityTrait, ExprTrait, Order, QuerySelect, QueryTrait,
    sea_query::{CaseStatement, Condition, Expr, Func, Query, SelectStatement, UnionType},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    PAGE_TIMEOUT, Store,
    entities::volume_removal::{Column, Entity},
    history_entities::{rollup, stat},
    stats::{ROLLUP, Resolution},
    stats_since::UNCOUNTED_RECEIPTS_READ,
};
use crate::{cleanup::Gone, failure::Failure};

/// How many volumes were found to be gone, by outcome, and what was in those that were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Removals {
    /// In the last hour.
    pub last_hour: BTreeMap<String, u64>,
    /// In the last 24 hours, the last one included.
    pub last_day: BTreeMap<String, u64>,
    /// In the last hour.
    pub reclaimed_last_hour: Reclaimed,
    /// In the last 24 hours, the last one included.
    pub reclaimed_last_day: Reclaimed,
    /// Whether there may be more: so many receipts were not counted yet that only the latest were looked at.
    #[serde(skip_serializing_if = "Not::not")]
    pub at_least: bool,
}

/// What was in volumes that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reclaimed {
    /// As far as it is known.
    pub bytes: u64,
    /// How many had an unknown size.
    pub unsized_volumes: u64,
}

/// What went since some time.
#[derive(Default)]
struct Since {
    by_outcome: BTreeMap<String, u64>,
    reclaimed: Reclaimed,
    has_more: bool,
}

impl Store {
    /// Counts the receipts of the last hour and day before `now`.
    pub async fn removals(&self, now: DateTime<Utc>) -> Result<Removals, Failure> {
        let hour = self.removals_since(now - TimeDelta::hours(1)).await?;
        let day = self.removals_since(now - TimeDelta::hours(24)).await?;
        Ok(Removals {
            last_hour: hour.by_outcome,
            last_day: day.by_outcome,
            reclaimed_last_hour: hour.reclaimed,
            reclaimed_last_day: day.reclaimed,
            at_least: hour.has_more || day.has_more,
        })
    }

    /// The numbers by outcome, and whether there may be more.
    async fn removals_since(&self, since: DateTime<Utc>) -> Result<Since, Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let Since { by_outcome: mut removals, mut reclaimed, mut has_more } = Since::default();
            let number_type = self.engine.dialect().number_type();
            let mut read = BTreeMap::<i64, u64>::new();
            for row in self.db.query_all(&removals_since(since, number_type)).await? {
                let (part, outcome): (i64, String) = (row.try_get("", "part")?, row.try_get("", "outcome")?);
                let (volumes, receipts): (i64, i64) = (row.try_get("", "volumes")?, row.try_get("", "receipts_read")?);
                let of_part = read.entry(part).or_default();
                *of_part += receipts.unsigned_abs();
                has_more |= *of_part >= UNCOUNTED_RECEIPTS_READ;
                let (bytes, sized): (Option<i64>, i64) = (row.try_get("", "bytes")?, row.try_get("", "sized")?);
                if outcome == Gone::Removed.as_str() {
                    reclaimed.bytes += bytes.unwrap_or_default().unsigned_abs();
                    reclaimed.unsized_volumes += (volumes - sized).unsigned_abs();
                }
                if volumes > 0 {
                    *removals.entry(outcome).or_default() += volumes.unsigned_abs();
                }
            }
            Ok(Since { by_outcome: removals, reclaimed, has_more })
        })
        .await
    }
}

/// Which receipts a row of [`removals_since`] is about.
#[derive(Clone, Copy)]
enum Part {
    /// Of whole minutes and hours that were counted.
    Buckets,
    /// Counted ones of the minute that had begun before.
    Begun,
    /// Those that were not counted yet.
    Uncounted,
}

/// Numbers of volumes by part and outcome, and how many receipts were read for them: of one moment, since it is one
/// statement.
fn removals_since(since: DateTime<Utc>, number_type: &'static str) -> SelectStatement {
    let begun = Resolution::Minute.bucket(since);
    let whole = if begun == since { begun } else { begun + TimeDelta::minutes(1) };
    let whole_hour = Resolution::Hour.bucket(since) + TimeDelta::hours(1);
    let bucket = || Expr::col(stat::Column::Bucket);
    let minutes = buckets(Resolution::Minute, bucket().gte(whole).and(bucket().lt(whole_hour)));
    let hours = buckets(Resolution::Hour, bucket().gte(whole_hour));
    let id = || Expr::col(Column::Id);
    let removed_at = || Expr::col(Column::RemovedAt);
    let begun = Condition::all().add(removed_at().gte(since)).add(removed_at().lt(whole)).add(id().lte(counted()));
    let begun = receipts(Part::Begun, begun, &[Column::RemovedAt, Column::Id], since, number_type);
    let uncounted =
        receipts(Part::Uncounted, Condition::all().add(id().gt(counted())), &[Column::Id], since, number_type);
    let mut all = uncounted;
    all.unions([hours, minutes, begun].map(|select| (UnionType::All, select))).to_owned()
}

/// The numbers in these buckets.
fn buckets(resolution: Resolution, condition: Expr) -> SelectStatement {
    Query::select()
        .expr_as(Expr::val(Part::Buckets as i64), "part")
        .column(stat::Column::Outcome)
        .expr_as(Expr::col(stat::Column::Receipts), "volumes")
        .expr_as(Expr::col(stat::Column::Bytes), "bytes")
        .expr_as(Expr::col(stat::Column::Receipts).sub(Expr::col(stat::Column::UnsizedReceipts)), "sized")
        .expr_as(Expr::val(0_i64), "receipts_read")
        .from(stat::Entity)
        .and_where(Expr::col(stat::Column::Resolution).eq(resolution.as_str()))
        .and_where(condition)
        .to_owned()
}

/// The numbers of receipts since then among the latest that meet a condition, by outcome, and how many those are.
fn receipts(
    part: Part,
    condition: Condition,
    order: &[Column],
    since: DateTime<Utc>,
    number_type: &'static str,
) -> SelectStatement {
    let mut latest = Query::select()
        .columns([Column::Outcome, Column::RemovedAt, Column::Bytes])
        .from(Entity)
        .cond_where(condition)
        .limit(UNCOUNTED_RECEIPTS_READ)
        .to_owned();
    for column in order {
        latest.order_by(*column, Order::Desc);
    }
    let of_then_on = |what: Expr| CaseStatement::new().case(Expr::col(Column::RemovedAt).gte(since), what);
    let (is_since, bytes) = (of_then_on(Expr::val(1_i64)), of_then_on(Expr::col(Column::Bytes)));
    Query::select()
        .expr_as(Expr::val(part as i64), "part")
        .column(Column::Outcome)
        .expr_as(Func::count(is_since), "volumes")
        // A sum of whole numbers is none to every database.
        .expr_as(Expr::from(Func::sum(bytes.clone())).cast_as(number_type), "bytes")
        .expr_as(Func::count(bytes), "sized")
        .expr_as(Func::count(Expr::val(1_i64)), "receipts_read")
        .from_subquery(latest, "latest")
        .group_by_col(Column::Outcome)
        .to_owned()
}

/// The latest receipt that was counted; 0 if none was.
fn counted() -> Expr {
    let latest = rollup::Entity::find_by_id(ROLLUP).select_only().column(rollup::Column::ReceiptId).into_query();
    Func::coalesce([Expr::from(latest), Expr::val(0_i64)]).into()
}
