//! Lists for people, page by page: what waits, what is held. No page costs more than its rows.

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QueryResult, QuerySelect,
    sea_query::{Expr, Order, Query},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Hold, PAGE_TIMEOUT, Store,
    entities::hold,
    rows::{host, time},
    threads::{host_column, id, id_as_text, is_in_scope},
};
use crate::{cleanup::Scope, failure::Failure};

/// A closed and unmarked thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRow {
    /// Its id as it is in the row; it need not be a valid one.
    pub thread_id: String,
    /// When it was closed, if the platform said so.
    pub closed_at: Option<DateTime<Utc>>,
    /// A person holds it.
    pub held: bool,
    /// The Docker host that its row names.
    pub host: Option<String>,
}

/// A hold in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ListedHold {
    /// The thread.
    pub thread_id: String,
    /// The hold, which may have ended by itself.
    #[serde(flatten)]
    pub hold: Hold,
}

impl Store {
    /// The next closed and unmarked threads of a scope by their id; at most `limit`.
    pub async fn waiting(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<WaitingRow>, Failure> {
        self.bounded(PAGE_TIMEOUT, self.select_waiting(scope, after, limit)).await
    }

    async fn select_waiting(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<WaitingRow>, DbErr> {
        let threads = self.mapping().await?;
        let Some(in_scope) = is_in_scope(threads, scope) else { return Ok(Vec::new()) };
        let mut select = Query::select()
            // Under other names than the columns', as in a sweep's pages.
            .expr_as(id_as_text(threads), "thread_id_text")
            .expr_as(threads.read_closed_at(), "read_closed_at")
            .expr_as(self.is_held(threads.as_text(threads.qualified_id())), "is_held")
            .expr_as(host_column(threads), "host_text")
            .from(threads.table())
            .cond_where(threads.is_candidate())
            .cond_where(in_scope)
            .order_by(id(threads), Order::Asc)
            .limit(limit)
            .to_owned();
        if let Some(after) = after {
            let Some(after) = threads.id_value(after) else { return Ok(Vec::new()) };
            select.and_where(Expr::col(id(threads)).gt(after));
        }
        let read = |row: &QueryResult| {
            Ok(WaitingRow {
                thread_id: row.try_get("", "thread_id_text")?,
                closed_at: time(row, "read_closed_at"),
                held: row.try_get("", "is_held")?,
                host: host(row, "host_text")?,
            })
        };
        self.db.query_all(&select).await?.iter().map(read).collect()
    }

    /// The next holds by their threads' ids, whether they are still in force or not; at most `limit`.
    pub async fn hold_page(&self, after: Option<&str>, limit: u64) -> Result<Vec<ListedHold>, Failure> {
        use hold::{Column, Entity};
        let mut select = Entity::find().order_by_asc(Column::ThreadId).limit(limit);
        if let Some(after) = after {
            select = select.filter(Column::ThreadId.gt(after));
        }
        let rows = self.bounded(PAGE_TIMEOUT, select.all(&self.db)).await?;
        Ok(rows.into_iter().map(|row| ListedHold { thread_id: row.thread_id.clone(), hold: row.into() }).collect())
    }
}
