//! How much is left to do, and since when.

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait, DbErr, ExprTrait,
    sea_query::{Expr, Func, Query},
};

use super::{Store, rows::time, threads::id};
use crate::cleanup::Backlog;

impl Store {
    pub(super) async fn count_backlog(&self) -> Result<Backlog, DbErr> {
        let threads = self.mapping().await?;
        let count = Query::select()
            .expr_as(Expr::col(id(threads)).count(), "unmarked")
            .expr_as(Func::min(threads.read_closed_at()), "oldest_closed_at")
            .from(threads.table())
            .cond_where(threads.is_candidate())
            .to_owned();
        let row = self.db.query_one(&count).await?;
        Ok(Backlog {
            unmarked: row.as_ref().and_then(|row| row.try_get::<i64>("", "unmarked").ok()).unwrap_or(0).unsigned_abs(),
            oldest_closed_at: row.and_then(|row| time(&row, "oldest_closed_at")),
        })
    }

    pub(super) async fn select_oldest_not_held(&self) -> Result<Option<DateTime<Utc>>, DbErr> {
        let threads = self.mapping().await?;
        let select = Query::select()
            .expr_as(Func::min(threads.read_closed_at()), "oldest_closed_at")
            .from(threads.table())
            .cond_where(threads.is_candidate())
            .and_where(self.is_held(threads.as_text(threads.qualified_id())).not())
            .to_owned();
        Ok(self.db.query_one(&select).await?.and_then(|row| time(&row, "oldest_closed_at")))
    }
}
