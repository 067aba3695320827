//! The holds: threads that are not to be cleaned.

use chrono::{DateTime, SubsecRound, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, EntityTrait, ExprTrait, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ROW_TIMEOUT, Store,
    entities::hold::{ActiveModel, Column, Entity, Model},
};
use crate::{failure::Failure, volume_name::ThreadId};

/// A hold on a thread. One whose time is over does not count any more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Hold {
    /// Why, for people.
    pub reason: String,
    /// Since when. Whole milliseconds.
    pub held_at: DateTime<Utc>,
    /// Until when; `None` is until it is released.
    pub until: Option<DateTime<Utc>>,
}

impl Hold {
    /// Whether it counts at `now`.
    #[must_use]
    pub fn is_in_force(&self, now: DateTime<Utc>) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

impl From<Model> for Hold {
    fn from(row: Model) -> Self {
        Self { reason: row.reason, held_at: row.held_at, until: row.until }
    }
}

impl Store {
    /// The latest hold on a thread that was not released, whether it is still in force or not.
    pub async fn hold_of(&self, thread: &ThreadId) -> Result<Option<Hold>, Failure> {
        let row = self.bounded(ROW_TIMEOUT, Entity::find_by_id(thread.as_str()).one(&self.db)).await?;
        Ok(row.map(Hold::from))
    }

    /// Holds a thread, whether it has a row or not, in place of any hold before.
    pub async fn hold(&self, thread: &ThreadId, reason: &str, until: Option<DateTime<Utc>>) -> Result<(), Failure> {
        let row = ActiveModel {
            thread_id: Set(thread.to_string()),
            reason: Set(reason.to_owned()),
            held_at: Set(Utc::now().trunc_subsecs(3)),
            until: Set(until),
        };
        let replace = OnConflict::column(Column::ThreadId)
            .update_columns([Column::Reason, Column::HeldAt, Column::Until])
            .to_owned();
        let insert = Entity::insert(row).on_conflict(replace);
        self.bounded(ROW_TIMEOUT, insert.exec_without_returning(&self.db)).await?;
        Ok(())
    }

    /// Ends the hold on a thread. Whether there was one.
    pub async fn release(&self, thread: &ThreadId) -> Result<bool, Failure> {
        let deleted = self.bounded(ROW_TIMEOUT, Entity::delete_by_id(thread.as_str()).exec(&self.db)).await?;
        Ok(deleted.rows_affected == 1)
    }

    /// Whether a hold on the thread with the id `id` (an expression of the threads table, as text) is in force: part of
    /// the statement that reads the thread's row, so that it costs no round trip of its own.
    pub(super) fn is_held(&self, id: Expr) -> Expr {
        if self.is_bare() {
            return Expr::cust("1 = 0");
        }
        let in_force = Condition::any().add(Column::Until.is_null()).add(Column::Until.gt(Utc::now()));
        let mut select = Entity::find().select_only().expr(Expr::val(1)).into_query();
        select.and_where(Expr::col((Entity, Column::ThreadId)).eq(id)).cond_where(in_force);
        Expr::exists(select)
    }
}
