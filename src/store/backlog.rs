//! How much is left to do, and since when.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use migrations::Mapping;
use sea_orm::{
    ConnectionTrait, DbErr, ExprTrait,
    sea_query::{Alias, Expr, Func, Order, Query, SelectStatement},
};

use super::{
    PAGE_TIMEOUT, Store,
    rows::{host, time},
    threads::{host_column, id},
};
use crate::{cleanup::Backlog, failure::Failure};

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

    /// What is left to do, counted up to so many: one more says that there are more, and then the oldest is unknown.
    pub async fn backlog_to(&self, most: u64) -> Result<Backlog, Failure> {
        self.bounded(PAGE_TIMEOUT, self.count_backlog_to(most)).await
    }

    async fn count_backlog_to(&self, most: u64) -> Result<Backlog, DbErr> {
        let threads = self.mapping().await?;
        let mut some = candidates_to(threads, most);
        some.expr_as(threads.read_closed_at(), "read_closed_at");
        let count = Query::select()
            .expr_as(Func::count(Expr::val(1)), "unmarked")
            .expr_as(Func::min(Expr::col("read_closed_at")), "oldest_closed_at")
            .from_subquery(some, Alias::new("counted"))
            .to_owned();
        let row = self.db.query_one(&count).await?;
        let unmarked = row.as_ref().and_then(|row| row.try_get::<i64>("", "unmarked").ok()).unwrap_or(0).unsigned_abs();
        let oldest_closed_at = row.filter(|_| unmarked <= most).and_then(|row| time(&row, "oldest_closed_at"));
        Ok(Backlog { unmarked, oldest_closed_at })
    }

    /// The closed and unmarked threads by the host that they, or their volumes, are on; none if there are more than so
    /// many.
    pub async fn unmarked_by_host_to(&self, most: u64) -> Result<Option<BTreeMap<Option<String>, u64>>, Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let threads = self.mapping().await?;
            let of_volumes = threads.names.volumes.as_ref().filter(|volumes| volumes.host.is_some());
            if of_volumes.is_some() || threads.names.host.is_none() {
                let unmarked = self.count_backlog_to(most).await?.unmarked;
                return Ok(match of_volumes {
                    _ if unmarked > most => None,
                    Some(volumes) => Some(self.count_by_host_of_volumes(threads, volumes).await?),
                    None => Some(BTreeMap::from([(None, unmarked)])),
                });
            }
            let mut some = candidates_to(threads, most);
            some.expr_as(host_column(threads), "host_text");
            let count = Query::select()
                .column("host_text")
                .expr_as(Func::count(Expr::val(1)), "threads")
                .from_subquery(some, Alias::new("counted"))
                .add_group_by([Expr::col("host_text")])
                .to_owned();
            let (mut by_host, mut all) = (BTreeMap::new(), 0);
            for row in self.db.query_all(&count).await? {
                let threads = row.try_get::<i64>("", "threads")?.unsigned_abs();
                *by_host.entry(host(&row, "host_text")?).or_default() += threads;
                all += threads;
            }
            Ok((all <= most).then_some(by_host))
        })
        .await
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

/// The first closed and unmarked threads, one more than so many, in the order of the index over them, so that it is
/// what is read. What is selected of them is to be added.
fn candidates_to(threads: &Mapping, most: u64) -> SelectStatement {
    Query::select()
        .from(threads.table())
        .cond_where(threads.is_candidate())
        .order_by(id(threads), Order::Asc)
        .limit(most.saturating_add(1))
        .to_owned()
}
