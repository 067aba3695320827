//! Lists for people, page by page: what waits, what is held. No page costs more than its rows.

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QueryResult, QuerySelect};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Hold, PAGE_TIMEOUT, Store,
    entities::hold,
    rows::{host, time},
    threads::host_column,
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
        let Some(mut select) = self.candidate_page(threads, scope, after, limit) else { return Ok(Vec::new()) };
        select.expr_as(host_column(threads), "host_text");
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
