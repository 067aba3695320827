//! Lists for people, page by page: what waits, what is held. No page costs more than its rows.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QueryResult, QuerySelect,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Hold, PAGE_TIMEOUT, Store,
    entities::{failure, hold},
    rows::{host, time},
    threads::{host_column, is_one_of},
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

/// What we have written down of threads, which is short beside the threads themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notes {
    /// The holds in force.
    Holds,
    /// The failed clean-ups.
    Failures,
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
        self.db.query_all(&select).await?.iter().map(waiting_row).collect()
    }

    /// Of these threads the closed and unmarked ones of a scope, in the order of their ids here.
    pub async fn waiting_of(&self, scope: &Scope, ids: &[String]) -> Result<Vec<WaitingRow>, Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let (threads, limit) = (self.mapping().await?, ids.len() as u64);
            let Some(mut select) = self.candidate_page(threads, scope, None, limit).filter(|_| limit > 0) else {
                return Ok(Vec::new());
            };
            select.expr_as(host_column(threads), "host_text");
            select.and_where(is_one_of(threads, ids.iter().map(String::as_str)));
            let rows = self.db.query_all(&select).await?;
            let rows = rows.iter().map(waiting_row).collect::<Result<Vec<_>, _>>()?;
            let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.thread_id.clone(), row)).collect();
            Ok(ids.iter().filter_map(|id| rows.remove(id)).collect())
        })
        .await
    }

    /// The next threads that notes are about, by their ids; at most `limit`. They need not wait, nor be there.
    pub async fn noted_threads(&self, notes: Notes, after: Option<&str>, limit: u64) -> Result<Vec<String>, Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            match notes {
                Notes::Holds => {
                    use hold::{Column, Entity};
                    let in_force = Condition::any().add(Column::Until.is_null()).add(Column::Until.gt(Utc::now()));
                    let select = Entity::find().select_only().column(Column::ThreadId).filter(in_force);
                    let select = select.filter(Condition::all().add_option(after.map(|id| Column::ThreadId.gt(id))));
                    select.order_by_asc(Column::ThreadId).limit(limit).into_tuple().all(&self.db).await
                }
                Notes::Failures => {
                    use failure::{Column, Entity};
                    let select = Entity::find().select_only().column(Column::ThreadId);
                    let select = select.filter(Condition::all().add_option(after.map(|id| Column::ThreadId.gt(id))));
                    select.order_by_asc(Column::ThreadId).limit(limit).into_tuple().all(&self.db).await
                }
            }
        })
        .await
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

fn waiting_row(row: &QueryResult) -> Result<WaitingRow, DbErr> {
    Ok(WaitingRow {
        thread_id: row.try_get("", "thread_id_text")?,
        closed_at: time(row, "read_closed_at"),
        held: row.try_get("", "is_held")?,
        host: host(row, "host_text")?,
    })
}
