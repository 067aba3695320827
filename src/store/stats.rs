//! Counts of the receipts by minute, hour and day, so that nobody has to count millions of receipts to draw a line.
//!
//! They are counted after the fact, each receipt once, by whoever sweeps: the transaction of a mark has nothing to do
//! with it, since all of them would wait for one row. What is counted is known by the receipts' ids. An id is given out
//! before its transaction commits, so that ids become visible out of their order: only receipts are counted that come
//! after none which may still be uncommitted. Whoever reads adds what was not counted yet, up to a bound, see
//! `stats_since`.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, DurationRound, SubsecRound, TimeDelta, Utc};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    FromQueryResult, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    PAGE_TIMEOUT, ROW_TIMEOUT, Store,
    entities::volume_removal,
    history_entities::{rollup, stat},
};
use crate::failure::Failure;

/// The row with the latest receipt that was counted.
pub(super) const ROLLUP: &str = "stats";
/// Receipts that are counted in one transaction. SQLite's others wait for it.
pub(super) const RECEIPTS_A_STEP: u64 = 5000;
/// How long minutes are kept: nobody looks at those of last week.
const MINUTES_KEPT: TimeDelta = TimeDelta::days(2);
/// How long hours and days are kept.
const REST_KEPT: TimeDelta = TimeDelta::days(90);

/// How finely is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// By the minute, kept for two days.
    Minute,
    /// By the hour, kept for 90 days.
    Hour,
    /// By the day in UTC, kept for 90 days.
    Day,
}

impl Resolution {
    const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// The name in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    pub(super) fn bucket(self, at: DateTime<Utc>) -> DateTime<Utc> {
        let length = match self {
            Self::Minute => TimeDelta::minutes(1),
            Self::Hour => TimeDelta::hours(1),
            Self::Day => TimeDelta::days(1),
        };
        at.duration_trunc(length).unwrap_or(at)
    }
}

/// How many volumes went within one bucket, of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stat {
    /// When the minute, hour or day began.
    pub bucket: DateTime<Utc>,
    /// The Docker host; empty where the receipts name none.
    pub host: String,
    /// Who asked, such as `event`.
    pub source: String,
    /// How it went, such as `removed`.
    pub outcome: String,
    /// How many.
    pub receipts: i64,
    /// What was in them, as far as it is known.
    pub bytes: i64,
    /// How many of them had an unknown size.
    pub unsized_receipts: i64,
}

/// What is counted of a receipt.
#[derive(FromQueryResult)]
pub(super) struct CountableReceipt {
    pub(super) id: i64,
    pub(super) removed_at: DateTime<Utc>,
    host: Option<String>,
    source: String,
    outcome: String,
    bytes: Option<i64>,
}

/// The kind of a receipt.
pub(super) type Kind = (DateTime<Utc>, String, String, String);

#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) receipts: i64,
    pub(super) bytes: i64,
    pub(super) unsized_receipts: i64,
}

#[derive(Default)]
pub(super) struct Sums(pub(super) BTreeMap<Kind, Sum>);

impl Sums {
    pub(super) fn add(&mut self, kind: Kind, sum: Sum) {
        let all = self.0.entry(kind).or_default();
        all.receipts += sum.receipts;
        all.bytes = all.bytes.saturating_add(sum.bytes);
        all.unsized_receipts += sum.unsized_receipts;
    }

    pub(super) fn add_receipt(&mut self, resolution: Resolution, row: &CountableReceipt) {
        let kind = (
            resolution.bucket(row.removed_at),
            row.host.clone().unwrap_or_default(),
            row.source.clone(),
            row.outcome.clone(),
        );
        // Of what was found gone nobody knows what was in it, and nothing was reclaimed.
        let is_unsized = row.bytes.is_none() && row.outcome == "removed";
        self.add(
            kind,
            Sum { receipts: 1, bytes: row.bytes.unwrap_or_default(), unsized_receipts: i64::from(is_unsized) },
        );
    }
}

impl Store {
    /// The latest receipt's id; 0 if there is none.
    pub async fn latest_receipt(&self) -> Result<i64, Failure> {
        use volume_removal::{Column, Entity};
        let latest = Entity::find().select_only().column(Column::Id).order_by_desc(Column::Id).into_tuple::<i64>();
        Ok(self.bounded(ROW_TIMEOUT, latest.one(&self.db)).await?.unwrap_or_default())
    }

    /// Counts the receipts up to this id that were not counted before. Every receipt up to there has to be committed,
    /// or never to be.
    pub async fn roll_up(&self, up_to: i64) -> Result<(), Failure> {
        while self.bounded(PAGE_TIMEOUT, self.roll_up_step(up_to)).await? {}
        Ok(())
    }

    /// Counts a step's receipts. Whether there may be more.
    async fn roll_up_step(&self, up_to: i64) -> Result<bool, DbErr> {
        use rollup::{Column, Entity};
        let now = Utc::now().trunc_subsecs(3);
        let free = rollup::ActiveModel { name: Set(ROLLUP.to_owned()), receipt_id: Set(0), rolled_at: Set(now) };
        let transaction = self.db.begin_write().await?;
        Entity::insert(free).on_conflict_do_nothing_on([Column::Name]).exec_without_returning(&transaction).await?;
        let counted = counted(&transaction).await?;
        let rows = countable_receipts()
            .filter(volume_removal::Column::Id.gt(counted))
            .filter(volume_removal::Column::Id.lte(up_to))
            .order_by_asc(volume_removal::Column::Id)
            .limit(RECEIPTS_A_STEP);
        let rows = rows.into_model::<CountableReceipt>().all(&transaction).await?;
        let Some(last) = rows.last() else {
            transaction.rollback().await?;
            return Ok(false);
        };
        // First, since it locks the row: who else counts at the same time finds that it is another's.
        let update = Entity::update_many()
            .col_expr(Column::ReceiptId, Expr::value(last.id))
            .col_expr(Column::RolledAt, Expr::value(now))
            .filter(Column::Name.eq(ROLLUP))
            .filter(Column::ReceiptId.eq(counted));
        if update.exec(&transaction).await?.rows_affected != 1 {
            transaction.rollback().await?;
            return Ok(true);
        }
        for resolution in Resolution::ALL {
            let mut sums = Sums::default();
            for row in &rows {
                sums.add_receipt(resolution, row);
            }
            for (kind, sum) in sums.0 {
                add(&transaction, resolution, kind, sum).await?;
            }
        }
        transaction.commit().await?;
        Ok(rows.len() as u64 == RECEIPTS_A_STEP)
    }

    /// Forgets counts and sweeps that nobody looks at any more.
    pub async fn forget_history(&self) -> Result<(), Failure> {
        let now = Utc::now();
        let is_over = |minutes: bool, kept| {
            let resolution = stat::Column::Resolution;
            let of_kind = if minutes {
                resolution.eq(Resolution::Minute.as_str())
            } else {
                resolution.ne(Resolution::Minute.as_str())
            };
            Condition::all().add(of_kind).add(stat::Column::Bucket.lt(now - kept))
        };
        let is_over = Condition::any().add(is_over(true, MINUTES_KEPT)).add(is_over(false, REST_KEPT));
        self.bounded(PAGE_TIMEOUT, stat::Entity::delete_many().filter(is_over).exec(&self.db)).await?;
        self.forget_sweeps(REST_KEPT.to_std().unwrap_or(Duration::MAX)).await
    }
}

/// The latest receipt that was counted; 0 if none was.
pub(super) async fn counted(db: &impl ConnectionTrait) -> Result<i64, DbErr> {
    let row = rollup::Entity::find_by_id(ROLLUP).one(db).await?;
    Ok(row.map(|row| row.receipt_id).unwrap_or_default())
}

/// What is counted of each receipt.
pub(super) fn countable_receipts() -> sea_orm::Select<volume_removal::Entity> {
    use volume_removal::{Column, Entity};
    Entity::find().select_only().columns([
        Column::Id,
        Column::RemovedAt,
        Column::Host,
        Column::Source,
        Column::Outcome,
        Column::Bytes,
    ])
}

/// Adds to a row, or makes it.
async fn add(
    transaction: &DatabaseTransaction,
    resolution: Resolution,
    (bucket, host, source, outcome): Kind,
    sum: Sum,
) -> Result<(), DbErr> {
    use stat::{Column, Entity};
    let plus = |column: Column, more: i64| Expr::col(column).add(more);
    let update = Entity::update_many()
        .col_expr(Column::Receipts, plus(Column::Receipts, sum.receipts))
        .col_expr(Column::Bytes, plus(Column::Bytes, sum.bytes))
        .col_expr(Column::UnsizedReceipts, plus(Column::UnsizedReceipts, sum.unsized_receipts))
        .filter(Column::Resolution.eq(resolution.as_str()))
        .filter(Column::Bucket.eq(bucket))
        .filter(Column::Host.eq(host.as_str()))
        .filter(Column::Source.eq(source.as_str()))
        .filter(Column::Outcome.eq(outcome.as_str()));
    if update.exec(transaction).await?.rows_affected > 0 {
        return Ok(());
    }
    let row = stat::ActiveModel {
        resolution: Set(resolution.as_str().to_owned()),
        bucket: Set(bucket),
        host: Set(host),
        source: Set(source),
        outcome: Set(outcome),
        receipts: Set(sum.receipts),
        bytes: Set(sum.bytes),
        unsized_receipts: Set(sum.unsized_receipts),
    };
    Entity::insert(row).exec_without_returning(transaction).await.map(drop)
}
