//! The pause of all removal, as guarded statements on one row, and the count that leads to it.

use chrono::{SubsecRound, TimeDelta, Utc};
use migrations::is_removal;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, Condition, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::Expr,
};

use super::{
    ROW_TIMEOUT, Store,
    entities::{
        pause::{ActiveModel, Column, Entity, Model},
        volume_removal,
    },
    seen_volumes::{DOUBT, row_of_doubt},
};
use crate::{cleanup::Pause, failure::Failure};

/// How far the clocks of replicas may differ. What lies further ahead was written by one that was wrong, and would
/// count until its time has come.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::hours(1);

/// The row of a pause of everything. Others are of one host.
const EVERYTHING: &str = "everything";

/// The row of a host's pause, or that of everything.
fn row_of(host: Option<&str>) -> String {
    host.map_or_else(|| EVERYTHING.to_owned(), |host| format!("host/{host}"))
}

impl Store {
    /// The pause of all removal, or else that of removal on this host, if there is one.
    pub(super) async fn select_pause(&self, host: Option<&str>) -> Result<Option<Pause>, Failure> {
        if self.is_bare() {
            return Ok(None);
        }
        let rows = Entity::find().filter(is_about(host)).all(&self.db);
        let rows = self.bounded(ROW_TIMEOUT, rows).await?;
        let (everything, of_host): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.name == EVERYTHING);
        let (doubts, of_host): (Vec<_>, Vec<_>) = of_host.into_iter().partition(|row| row.name.starts_with(DOUBT));
        Ok(doubts.into_iter().chain(everything).chain(of_host).find_map(in_force))
    }

    /// The pause of all removal, on every host.
    pub async fn pause_of_everything(&self) -> Result<Option<Pause>, Failure> {
        if self.is_bare() {
            return Ok(None);
        }
        Ok(self.bounded(ROW_TIMEOUT, self.pause_row()).await?.and_then(in_force))
    }

    /// Pauses removal on this host, or all, unless that is paused already. Whether this call did it.
    pub(super) async fn set_pause(&self, host: Option<&str>, reason: &str) -> Result<bool, Failure> {
        self.set_pause_row(&row_of(host), reason).await
    }

    pub(super) async fn set_pause_row(&self, name: &str, reason: &str) -> Result<bool, Failure> {
        self.bounded(ROW_TIMEOUT, async {
            // In two steps, since MySQL knows no condition in an insert that updates instead.
            self.insert_pause_row(name).await?;
            let update = Entity::update_many()
                .col_expr(Column::PausedAt, Expr::value(Utc::now().trunc_subsecs(3)))
                .col_expr(Column::Reason, Expr::value(reason))
                .col_expr(Column::PausedBy, Expr::value(self.replica.as_str()))
                .filter(Column::Name.eq(name))
                .filter(Column::PausedAt.is_null());
            Ok(update.exec(&self.db).await?.rows_affected == 1)
        })
        .await
    }

    /// The row of a pause that is not in force, unless the row is there.
    async fn insert_pause_row(&self, name: &str) -> Result<(), DbErr> {
        let row = ActiveModel {
            name: Set(name.to_owned()),
            paused_at: Set(None),
            reason: NotSet,
            paused_by: NotSet,
            resumed_at: NotSet,
        };
        Entity::insert(row).on_conflict_do_nothing_on([Column::Name]).exec_without_returning(&self.db).await?;
        Ok(())
    }

    /// Ends the pause on this host, or every pause; with that of everything, the budget of an hour is counted anew from
    /// here on. Returns the pauses that there were.
    pub async fn resume_removal(&self, host: Option<&str>) -> Result<Vec<Pause>, Failure> {
        let is_meant = is_meant(host);
        self.bounded(ROW_TIMEOUT, async {
            let before = Entity::find().filter(is_meant.clone()).order_by_asc(Column::Name).all(&self.db).await?;
            let update = Entity::update_many()
                .col_expr(Column::PausedAt, Expr::null())
                .col_expr(Column::ResumedAt, Expr::value(Utc::now()))
                .filter(is_meant)
                .filter(Column::PausedAt.is_not_null());
            let was_paused = update.exec(&self.db).await?.rows_affected > 0;
            Ok(before.into_iter().filter_map(in_force).filter(|_| was_paused).collect())
        })
        .await
    }

    /// The pauses in force that [`Self::resume_removal`] would end.
    pub async fn pauses_in_force(&self, host: Option<&str>) -> Result<Vec<Pause>, Failure> {
        let rows = Entity::find().filter(is_meant(host)).order_by_asc(Column::Name).all(&self.db);
        Ok(self.bounded(ROW_TIMEOUT, rows).await?.into_iter().filter_map(in_force).collect())
    }

    /// Counts the volumes and containers that were removed within the last hour, or since removal was last resumed if
    /// that is less.
    pub(super) async fn count_removed_last_hour(&self) -> Result<u64, Failure> {
        if self.is_bare() {
            return Ok(0);
        }
        self.bounded(ROW_TIMEOUT, async {
            let (now, removed_at) = (Utc::now(), volume_removal::Column::RemovedAt);
            let (an_hour_ago, latest) = (now - TimeDelta::hours(1), now + CLOCKS_DIFFER);
            let resumed_at = self.pause_row().await?.and_then(|row| row.resumed_at);
            let since = resumed_at.filter(|resumed_at| *resumed_at <= latest).max(Some(an_hour_ago));
            let removals = volume_removal::Entity::find()
                .filter(Condition::all().add(is_removal()).add(removed_at.gt(since)).add(removed_at.lte(latest)));
            removals.count(&self.db).await
        })
        .await
    }

    async fn pause_row(&self) -> Result<Option<Model>, DbErr> {
        Entity::find_by_id(EVERYTHING).one(&self.db).await
    }

    /// Why removal is paused, everywhere or on this host, or null: part of the statement that reads a thread's row.
    pub(super) fn pause_reason(&self, host: Option<&str>) -> Expr {
        if self.is_bare() {
            return Expr::null();
        }
        let select = Entity::find().select_only().column_as(Column::Reason.min(), "reason");
        Expr::from(select.filter(is_about(host)).filter(Column::PausedAt.is_not_null()).into_query())
    }
}

/// The condition that selects the pauses that resuming on this host, or everywhere, ends.
fn is_meant(host: Option<&str>) -> Condition {
    host.map_or_else(Condition::all, |host| {
        Condition::all().add(Column::Name.is_in([row_of(Some(host)), row_of_doubt(host)]))
    })
}

/// The condition that selects the pauses of everything and of this host, and the doubts.
fn is_about(host: Option<&str>) -> Condition {
    let everything = Condition::any().add(Column::Name.eq(EVERYTHING));
    match host {
        Some(host) => everything.add(Column::Name.is_in([row_of(Some(host)), row_of_doubt(host)])),
        // Of the only host, or of what may be on any: what one of them lacks may be what vanished.
        None => everything.add(Column::Name.starts_with(DOUBT)),
    }
}

fn in_force(row: Model) -> Option<Pause> {
    Some(Pause {
        paused_at: row.paused_at?,
        reason: row.reason.unwrap_or_default(),
        paused_by: row.paused_by.unwrap_or_default(),
    })
}
