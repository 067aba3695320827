//! The list of sweeps: a row when one begins, completed when it has ended.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    PAGE_TIMEOUT, ROW_TIMEOUT, Store,
    history_entities::sweep::{ActiveModel, Column, Entity, Model},
};
use crate::{
    cleanup::{Cause, SweepEnd, SweepLog},
    failure::Failure,
};

/// No sweep by hand runs so long; who began one that does is gone.
const LONGEST: TimeDelta = TimeDelta::days(1);
/// Among so many sweeps is the latest one of each host that still is one.
const RECENT: u64 = 200;
/// What is said of a sweep whose process ended before it.
const CUT_OFF: &str = "cut off: its process ended";

/// A sweep, as it is in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LoggedSweep {
    /// Sorts by time.
    pub id: String,
    /// The host; none for what is on no host of several.
    pub host: Option<String>,
    /// `schedule` or `person`.
    pub cause: String,
    /// Who swept.
    pub replica: String,
    /// The person who asked for it.
    pub actor: Option<String>,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// When it ended; none while it runs.
    pub ended_at: Option<DateTime<Utc>>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<i64>,
    /// Why it was not done, or not to its end.
    pub skipped_reason: Option<String>,
    /// What it did, as `sweep --json` prints it.
    pub report: Option<serde_json::Value>,
}

impl From<Model> for LoggedSweep {
    fn from(row: Model) -> Self {
        Self {
            id: row.id,
            host: row.host,
            cause: row.cause,
            replica: row.replica,
            actor: row.actor,
            began_at: row.began_at,
            ended_at: row.ended_at,
            duration_ms: row.duration_ms,
            skipped_reason: row.skipped_reason,
            report: row.report.and_then(|report| serde_json::from_str(&report).ok()),
        }
    }
}

impl SweepLog for Store {
    async fn sweep_began(&self, host: Option<&str>, cause: Cause) -> Result<Option<String>, Failure> {
        let now = Utc::now().trunc_subsecs(3);
        let id = uuid::Uuid::now_v7().to_string();
        let actor = match cause {
            Cause::Schedule => None,
            Cause::Person => self.actor.clone(),
        };
        let row = ActiveModel {
            id: Set(id.clone()),
            host: Set(host.map(str::to_owned)),
            cause: Set(cause.as_str().to_owned()),
            replica: Set(self.replica.clone()),
            actor: Set(actor),
            began_at: Set(now),
            ended_at: Set(None),
            duration_ms: Set(None),
            skipped_reason: Set(None),
            report: Set(None),
        };
        self.bounded(ROW_TIMEOUT, async {
            if cause == Cause::Schedule {
                // The lease lets only one replica sweep by its schedule: what still runs does not.
                let of_host = host.map_or_else(|| Column::Host.is_null(), |host| Column::Host.eq(host));
                let is_over = Condition::any()
                    .add(Column::BeganAt.lt(now - LONGEST))
                    .add(Condition::all().add(of_host).add(Column::Cause.eq(Cause::Schedule.as_str())));
                let update = Entity::update_many()
                    .col_expr(Column::EndedAt, Expr::value(now))
                    .col_expr(Column::SkippedReason, Expr::value(CUT_OFF))
                    .filter(Column::EndedAt.is_null())
                    .filter(is_over);
                update.exec(&self.db).await?;
            }
            Entity::insert(row).exec_without_returning(&self.db).await
        })
        .await?;
        Ok(Some(id))
    }

    async fn sweep_ended(&self, id: &str, end: SweepEnd) -> Result<(), Failure> {
        let update = Entity::update_many()
            .col_expr(Column::EndedAt, Expr::value(Utc::now().trunc_subsecs(3)))
            .col_expr(Column::DurationMs, Expr::value(i64::try_from(end.duration_ms).unwrap_or(i64::MAX)))
            .col_expr(Column::SkippedReason, Expr::value(end.skipped_reason))
            .col_expr(Column::Report, Expr::value(end.report))
            .filter(Column::Id.eq(id));
        self.bounded(ROW_TIMEOUT, update.exec(&self.db)).await.map(drop)
    }

    async fn sweep_stopped(&self, id: &str) -> Result<Option<String>, Failure> {
        let row = self.bounded(ROW_TIMEOUT, Entity::find_by_id(id).one(&self.db)).await?;
        Ok(row.and_then(|row| row.skipped_reason))
    }
}

impl Store {
    /// Says in the list that a sweep is to end. Whether it runs.
    pub async fn stop_sweep(&self, id: &str, who: &str) -> Result<bool, Failure> {
        let update = Entity::update_many()
            .col_expr(Column::SkippedReason, Expr::value(format!("stopped by {who}")))
            .filter(Column::Id.eq(id))
            .filter(Column::EndedAt.is_null());
        Ok(self.bounded(ROW_TIMEOUT, update.exec(&self.db)).await?.rows_affected == 1)
    }

    /// The latest sweeps, or those before the one called `after`; at most `limit`.
    pub async fn sweeps(&self, after: Option<&str>, limit: u64) -> Result<Vec<LoggedSweep>, Failure> {
        let mut select = Entity::find().order_by_desc(Column::Id).limit(limit);
        if let Some(after) = after {
            select = select.filter(Column::Id.lt(after));
        }
        let rows = self.bounded(ROW_TIMEOUT, select.all(&self.db)).await?;
        Ok(rows.into_iter().map(LoggedSweep::from).collect())
    }

    /// The latest report of each host, and of what is on none of several.
    pub async fn latest_reports(&self) -> Result<Vec<serde_json::Value>, Failure> {
        let select = Entity::find().filter(Column::Report.is_not_null()).order_by_desc(Column::Id).limit(RECENT);
        let rows = self.bounded(ROW_TIMEOUT, select.all(&self.db)).await?;
        let mut hosts = std::collections::HashSet::new();
        let latest = rows.into_iter().filter(|row| hosts.insert(row.host.clone()));
        Ok(latest.filter_map(|row| serde_json::from_str(&row.report?).ok()).collect())
    }

    /// Forgets the sweeps that ended so long ago.
    pub(super) async fn forget_sweeps(&self, kept: Duration) -> Result<(), Failure> {
        let kept = TimeDelta::from_std(kept).unwrap_or(TimeDelta::MAX);
        let Some(before) = Utc::now().checked_sub_signed(kept) else { return Ok(()) };
        let delete = Entity::delete_many().filter(Column::EndedAt.lt(before));
        self.bounded(PAGE_TIMEOUT, delete.exec(&self.db)).await.map(drop)
    }
}
