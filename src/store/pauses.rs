//! The pause of all removal, as guarded statements on one row, and the count that leads to it.

use chrono::{SubsecRound, TimeDelta, Utc};
use migrations::is_removal;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, Condition, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect, QueryTrait,
    sea_query::Expr,
};

use super::{
    ROW_TIMEOUT, Store,
    entities::{
        removal_pause::{ActiveModel, Column, Entity, Model},
        volume_removal,
    },
};
use crate::{breaker::Pause, failure::Failure};

/// The one row: a pause of everything. Others could be of one daemon.
const EVERYTHING: &str = "everything";

impl Store {
    /// The pause of all removal, if there is one.
    pub async fn pause(&self) -> Result<Option<Pause>, Failure> {
        if self.is_bare() {
            return Ok(None);
        }
        Ok(self.bounded(ROW_TIMEOUT, self.pause_row()).await?.and_then(in_force))
    }

    /// Pauses all removal, unless it is paused already. Whether this call did it.
    pub async fn pause_removal(&self, reason: &str) -> Result<bool, Failure> {
        self.bounded(ROW_TIMEOUT, async {
            // In two steps, since MySQL knows no condition in an insert that updates instead.
            self.insert_pause_row().await?;
            let update = Entity::update_many()
                .col_expr(Column::PausedAt, Expr::value(Utc::now().trunc_subsecs(3)))
                .col_expr(Column::Reason, Expr::value(reason))
                .col_expr(Column::PausedBy, Expr::value(self.replica.as_str()))
                .filter(Column::Name.eq(EVERYTHING))
                .filter(Column::PausedAt.is_null());
            Ok(update.exec(&self.db).await?.rows_affected == 1)
        })
        .await
    }

    /// The row of a pause that is not in force, unless the row is there.
    async fn insert_pause_row(&self) -> Result<(), DbErr> {
        let row = ActiveModel {
            name: Set(EVERYTHING.to_owned()),
            paused_at: Set(None),
            reason: NotSet,
            paused_by: NotSet,
            resumed_at: NotSet,
        };
        Entity::insert(row).on_conflict_do_nothing_on([Column::Name]).exec_without_returning(&self.db).await?;
        Ok(())
    }

    /// Ends the pause; the budget of an hour is counted anew from here on. Returns the pause that it was, if any.
    pub async fn resume_removal(&self) -> Result<Option<Pause>, Failure> {
        self.bounded(ROW_TIMEOUT, async {
            let before = self.pause_row().await?.and_then(in_force);
            let update = Entity::update_many()
                .col_expr(Column::PausedAt, Expr::null())
                .col_expr(Column::ResumedAt, Expr::value(Utc::now()))
                .filter(Column::Name.eq(EVERYTHING))
                .filter(Column::PausedAt.is_not_null());
            let was_paused = update.exec(&self.db).await?.rows_affected == 1;
            Ok(before.filter(|_| was_paused))
        })
        .await
    }

    /// Counts the volumes that were removed within the last hour, or since removal was last resumed if that is less.
    pub async fn removed_last_hour(&self) -> Result<u64, Failure> {
        if self.is_bare() {
            return Ok(0);
        }
        self.bounded(ROW_TIMEOUT, async {
            let an_hour_ago = Utc::now() - TimeDelta::hours(1);
            let resumed_at = self.pause_row().await?.and_then(|row| row.resumed_at);
            let since = resumed_at.map_or(an_hour_ago, |resumed_at| Ord::max(resumed_at, an_hour_ago));
            let removals = volume_removal::Entity::find()
                .filter(Condition::all().add(is_removal()).add(volume_removal::Column::RemovedAt.gt(since)));
            removals.count(&self.db).await
        })
        .await
    }

    async fn pause_row(&self) -> Result<Option<Model>, DbErr> {
        Entity::find_by_id(EVERYTHING).one(&self.db).await
    }

    /// Why removal is paused, or null: part of the statement that reads a thread's row.
    pub(super) fn pause_reason(&self) -> Expr {
        if self.is_bare() {
            return Expr::null();
        }
        let mut select = Entity::find().select_only().column(Column::Reason).into_query();
        select.and_where(Column::Name.eq(EVERYTHING)).and_where(Column::PausedAt.is_not_null());
        Expr::from(select)
    }
}

fn in_force(row: Model) -> Option<Pause> {
    Some(Pause {
        paused_at: row.paused_at?,
        reason: row.reason.unwrap_or_default(),
        paused_by: row.paused_by.unwrap_or_default(),
    })
}
