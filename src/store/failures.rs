//! Clean-ups that failed: noted once per failure, forgotten once per sweep.

use std::collections::HashMap;

use chrono::{SubsecRound, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, DbErr, EntityTrait, ExprTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict, Query},
};

use super::{
    PAGE_TIMEOUT, ROW_TIMEOUT, Store,
    entities::failure::{ActiveModel, Column, Entity, Model},
};
use crate::{
    cleanup::{
        Rows,
        failing::{FailedCleanup, error_to_keep},
    },
    failure::Failure,
    volume_name::ThreadId,
};

/// Failures whose threads are looked at for a page.
const LOOKED_AT: u64 = 1000;
/// Failures that are counted for a page.
const COUNTED: u64 = 10_000;

impl Store {
    /// Counts the closed and unmarked threads whose clean-up failed, and returns the `limit` with the most attempts.
    pub async fn worst_failures(&self, limit: u64) -> Result<(u64, Vec<(String, FailedCleanup)>), Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let failing = Entity::find().filter(self.is_still_candidate().await?);
            let worst = failing.clone().order_by_desc(Column::Attempts).order_by_asc(Column::ThreadId).limit(limit);
            let rows = worst.all(&self.db).await?;
            let rows = rows.into_iter().map(|row| (row.thread_id.clone(), row.into()));
            Ok((failing.count(&self.db).await?, rows.collect()))
        })
        .await
    }

    /// The failures for who looks at a glance. Of more than a thousand it is not looked whether their threads still
    /// wait: that would take a look at all that wait.
    pub async fn worst_failures_at_a_glance(
        &self,
        limit: usize,
    ) -> Result<(u64, Vec<(String, FailedCleanup)>), Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let worst = Entity::find().order_by_desc(Column::Attempts).order_by_asc(Column::ThreadId).limit(LOOKED_AT);
            let worst = worst.all(&self.db).await?;
            let are_all = (worst.len() as u64) < LOOKED_AT;
            let ids: Vec<_> = worst.iter().filter_map(|row| ThreadId::parse(&row.thread_id).ok()).collect();
            let rows = if ids.is_empty() { Rows::default() } else { self.read_rows(&ids, None).await? };
            let waits = |row: &Model| {
                let thread = ThreadId::parse(&row.thread_id).ok().and_then(|id| rows.threads.get(&id));
                thread.is_some_and(|thread| thread.closed && !thread.marked)
            };
            let mut worst: Vec<_> = worst.into_iter().filter(waits).collect();
            let failing = if are_all {
                worst.len() as u64
            } else {
                let some = Entity::find().select_only().column(Column::ThreadId).limit(COUNTED).into_tuple::<String>();
                some.all(&self.db).await?.len() as u64
            };
            worst.truncate(limit);
            Ok((failing, worst.into_iter().map(|row| (row.thread_id.clone(), row.into())).collect()))
        })
        .await
    }

    pub(super) async fn upsert_failure(&self, thread: &ThreadId, error: &str) -> Result<(), Failure> {
        let now = Utc::now().trunc_subsecs(3);
        let first = ActiveModel {
            thread_id: Set(thread.to_string()),
            attempts: Set(1),
            first_failed_at: Set(now),
            failed_at: Set(now),
            error: Set(error_to_keep(error)),
            replica: Set(self.replica.clone()),
        };
        let again = OnConflict::column(Column::ThreadId)
            .update_columns([Column::FailedAt, Column::Error, Column::Replica])
            .value(Column::Attempts, Expr::col((Entity, Column::Attempts)).add(1))
            .to_owned();
        let insert = Entity::insert(first).on_conflict(again);
        self.bounded(ROW_TIMEOUT, async { insert.exec_without_returning(&self.db).await.map(drop) }).await
    }

    pub(super) async fn select_failures(
        &self,
        threads: &[ThreadId],
    ) -> Result<HashMap<ThreadId, FailedCleanup>, Failure> {
        if threads.is_empty() || self.is_bare() {
            return Ok(HashMap::new());
        }
        let select = Entity::find().filter(Column::ThreadId.is_in(threads.iter().map(ThreadId::as_str)));
        let rows: Vec<Model> = self.bounded(PAGE_TIMEOUT, select.all(&self.db)).await?;
        let rows = rows.into_iter().filter_map(|row| Some((ThreadId::parse(&row.thread_id).ok()?, row.into())));
        Ok(rows.collect())
    }

    pub(super) async fn delete_obsolete_failures(&self) -> Result<(), Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let delete = Entity::delete_many().filter(self.is_still_candidate().await?.not());
            delete.exec(&self.db).await.map(drop)
        })
        .await
    }

    /// Whether a failure's thread is still closed and unmarked.
    async fn is_still_candidate(&self) -> Result<Condition, DbErr> {
        let threads = self.mapping().await?;
        let thread = Query::select()
            .expr(Expr::val(1))
            .from(threads.table())
            .and_where(threads.qualified_id_as_text().eq(Expr::col((Entity, Column::ThreadId))))
            .cond_where(threads.is_candidate())
            .to_owned();
        Ok(Condition::all().add(Expr::exists(thread)))
    }
}

impl From<Model> for FailedCleanup {
    fn from(row: Model) -> Self {
        Self {
            attempts: row.attempts.unsigned_abs(),
            first_failed_at: row.first_failed_at,
            failed_at: row.failed_at,
            error: row.error,
            replica: row.replica,
        }
    }
}
