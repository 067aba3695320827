//! The threads table: read, marked and paged by the names that the configuration gives it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDateTime, Utc};
use migrations::mysql_quoted;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait, ExprTrait, QueryResult,
    sea_query::{Alias, Condition, Expr, Func, Order, Query, UpdateStatement},
};

use super::{PAGE_TIMEOUT, ROW_TIMEOUT, Store, entities::volume_removal};
use crate::{
    breaker::Pause,
    coordinator::{Backlog, Candidate, Mark, Origin, Receipt, Report, Thread, Threads},
    failed_cleanup::FailedCleanup,
    failure::Failure,
    volume_name::ThreadId,
};

impl Store {
    pub(super) fn table(&self) -> Alias {
        Alias::new(&self.threads.table)
    }

    pub(super) fn id(&self) -> Alias {
        Alias::new(&self.threads.id)
    }

    pub(super) fn status(&self) -> Alias {
        Alias::new(&self.threads.status)
    }

    pub(super) fn closed_at(&self) -> Alias {
        Alias::new(&self.threads.closed_at)
    }

    fn mark(&self) -> Alias {
        Alias::new(&self.threads.mark)
    }

    /// The condition that selects a thread's row.
    ///
    /// A collation of MySQL's may take ids for equal that are not, such as those that differ in case: found by the index
    /// as the collation has it, the id is then compared byte by byte. Otherwise one thread's close would remove the
    /// volume of another.
    pub(super) fn is_thread(&self, thread: &ThreadId) -> Condition {
        let found = Condition::all().add(Expr::col(self.id()).eq(thread.as_str()));
        if self.backend() != DbBackend::MySql {
            return found;
        }
        let column = mysql_quoted(&self.threads.id);
        let bytes = format!("CAST(CONVERT({column} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)");
        found.add(Expr::cust_with_values(bytes, [thread.as_str()]))
    }

    pub(super) fn as_text(&self, expr: Expr) -> Expr {
        expr.cast_as(if self.backend() == DbBackend::MySql { "char" } else { "text" })
    }

    /// Marks rows that are closed and unmarked, and no others.
    fn guarded_mark(&self, at: DateTime<Utc>) -> UpdateStatement {
        Query::update().table(self.table()).value(self.mark(), at).cond_where(self.threads.is_candidate()).to_owned()
    }

    async fn select(&self, thread: &ThreadId) -> Result<Option<Thread>, DbErr> {
        let select = Query::select()
            .expr(self.as_text(Expr::col(Alias::new(&self.threads.status))))
            .expr(Expr::col(self.mark()).is_not_null())
            .column(self.closed_at())
            .expr(Self::is_held(Expr::val(thread.as_str())))
            .expr(Self::pause_reason())
            .from(self.table())
            .cond_where(self.is_thread(thread))
            .to_owned();
        let Some(row) = self.db.query_one(&select).await? else {
            return Ok(None);
        };
        let status: Option<String> = row.try_get_by_index(0)?;
        Ok(Some(Thread {
            closed: status.as_ref() == Some(&self.threads.closed_value),
            marked: row.try_get_by_index(1)?,
            closed_at: time_at(&row, 2),
            held: row.try_get_by_index(3)?,
            pause: row.try_get_by_index(4)?,
        }))
    }

    async fn mark_one(&self, receipt: &Receipt) -> Result<Mark, DbErr> {
        let update = self.guarded_mark(receipt.at).cond_where(self.is_thread(&receipt.thread_id)).to_owned();
        let transaction = self.db.begin_marking().await?;
        if transaction.execute(&update).await?.rows_affected() == 1 {
            volume_removal::Entity::insert(self.row(receipt)).exec_without_returning(&transaction).await?;
            transaction.commit().await?;
            return Ok(Mark::Set);
        }
        transaction.rollback().await?;
        Ok(match self.select(&receipt.thread_id).await? {
            None => Mark::NoRow,
            Some(thread) if !thread.closed => Mark::Reopened,
            Some(_) => Mark::AlreadySet,
        })
    }

    async fn mark_many(&self, receipts: &[Receipt]) -> Result<Vec<ThreadId>, DbErr> {
        let Some(first) = receipts.first() else {
            return Ok(Vec::new());
        };
        let ids = receipts.iter().map(|receipt| receipt.thread_id.as_str());
        let transaction = self.db.begin_marking().await?;
        let marked = if self.backend() == DbBackend::MySql {
            self.lock_and_mark(&transaction, ids, first.at).await?
        } else {
            let mut update = self.guarded_mark(first.at);
            update.and_where(Expr::col(self.id()).is_in(ids)).returning_col(self.id());
            ids_of(&transaction.query_all(&update).await?)?
        };
        let marked: Vec<&Receipt> =
            receipts.iter().filter(|receipt| marked.contains(receipt.thread_id.as_str())).collect();
        if !marked.is_empty() {
            volume_removal::Entity::insert_many(marked.iter().map(|receipt| self.row(receipt)))
                .exec_without_returning(&transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(marked.into_iter().map(|receipt| receipt.thread_id.clone()).collect())
    }

    /// MySQL's updates do not say which rows they changed. So these are locked as what the update asks for, and whoever
    /// waits for them finds them marked.
    async fn lock_and_mark(
        &self,
        transaction: &DatabaseTransaction,
        ids: impl Iterator<Item = &str>,
        at: DateTime<Utc>,
    ) -> Result<HashSet<String>, DbErr> {
        let asked: HashSet<&str> = ids.collect();
        let lock = Query::select()
            .column(self.id())
            .from(self.table())
            .cond_where(self.threads.is_candidate())
            .and_where(Expr::col(self.id()).is_in(asked.iter().copied()))
            .lock_exclusive()
            .to_owned();
        let mut locked = ids_of(&transaction.query_all(&lock).await?)?;
        // See `is_thread`.
        locked.retain(|id| asked.contains(id.as_str()));
        if !locked.is_empty() {
            let update = self.guarded_mark(at).and_where(Expr::col(self.id()).is_in(&locked)).to_owned();
            transaction.execute(&update).await?;
        }
        Ok(locked)
    }

    /// Writes a receipt for a volume that has no thread to mark.
    pub async fn record(&self, receipt: &Receipt) -> Result<(), Failure> {
        let insert = volume_removal::Entity::insert(self.row(receipt)).exec_without_returning(&self.db);
        self.bounded(ROW_TIMEOUT, insert).await.map(drop)
    }

    fn row(&self, receipt: &Receipt) -> volume_removal::ActiveModel {
        let event_id = match &receipt.origin {
            Origin::Event(id) => id.clone(),
            Origin::Sweep | Origin::Docker | Origin::Orphan => None,
        };
        volume_removal::ActiveModel {
            id: NotSet,
            thread_id: Set(receipt.thread_id.to_string()),
            volume_name: Set(receipt.volume.to_string()),
            outcome: Set(receipt.outcome.to_owned()),
            source: Set(receipt.origin.as_str().to_owned()),
            event_id: Set(event_id),
            replica: Set(self.replica.clone()),
            removed_at: Set(receipt.at),
        }
    }
}

impl Threads for Store {
    async fn find(&self, thread: &ThreadId) -> Result<Option<Thread>, Failure> {
        self.bounded(ROW_TIMEOUT, self.select(thread)).await
    }

    async fn record_report(&self, thread: &ThreadId, report: &Report) -> Result<(), Failure> {
        self.upsert_report(thread, report).await
    }

    async fn mark(&self, receipt: &Receipt) -> Result<Mark, Failure> {
        self.bounded(ROW_TIMEOUT, self.mark_one(receipt)).await
    }

    async fn mark_all(&self, receipts: &[Receipt]) -> Result<Vec<ThreadId>, Failure> {
        self.bounded(PAGE_TIMEOUT, self.mark_many(receipts)).await
    }

    async fn known(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, bool>, Failure> {
        let ids = threads.iter().map(ThreadId::as_str);
        let select = Query::select()
            .column(self.id())
            .expr(self.as_text(Expr::col(Alias::new(&self.threads.status))))
            .expr(Expr::col(self.mark()).is_not_null())
            .from(self.table())
            .and_where(Expr::col(self.id()).is_in(ids))
            .to_owned();
        self.bounded(PAGE_TIMEOUT, async {
            let mut known = HashMap::new();
            for row in self.db.query_all(&select).await? {
                let id: String = row.try_get_by_index(0)?;
                let status: Option<String> = row.try_get_by_index(1)?;
                let is_marked = status.as_ref() == Some(&self.threads.closed_value) && row.try_get_by_index(2)?;
                known.extend(ThreadId::parse(&id).ok().map(|thread| (thread, is_marked)));
            }
            Ok(known)
        })
        .await
    }

    async fn unmark(&self, thread: &ThreadId) -> Result<bool, Failure> {
        let update = Query::update()
            .table(self.table())
            .value(self.mark(), Expr::null())
            .cond_where(self.is_thread(thread))
            .cond_where(self.threads.is_closed())
            .and_where(Expr::col(self.mark()).is_not_null())
            .to_owned();
        let changed = self.bounded(ROW_TIMEOUT, async { Ok(self.db.execute(&update).await?.rows_affected()) }).await?;
        Ok(changed == 1)
    }

    async fn candidates(&self, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        let mut select = Query::select()
            .columns([self.id(), self.closed_at()])
            .expr(Self::is_held(self.as_text(Expr::col((self.table(), self.id())))))
            .from(self.table())
            .cond_where(self.threads.is_candidate())
            .order_by(self.id(), Order::Asc)
            .limit(limit)
            .to_owned();
        if let Some(after) = after {
            select.and_where(Expr::col(self.id()).gt(after));
        }
        self.bounded(PAGE_TIMEOUT, async {
            let rows = self.db.query_all(&select).await?;
            let candidate = |row: &QueryResult| {
                Ok(Candidate {
                    id: row.try_get_by_index(0)?,
                    closed_at: time_at(row, 1),
                    held: row.try_get_by_index(2)?,
                })
            };
            rows.iter().map(candidate).collect()
        })
        .await
    }

    async fn note_failure(&self, thread: &ThreadId, error: &str) -> Result<(), Failure> {
        self.upsert_failure(thread, error).await
    }

    async fn failed(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, FailedCleanup>, Failure> {
        self.select_failures(threads).await
    }

    async fn forget_failures(&self) -> Result<(), Failure> {
        self.delete_settled_failures().await
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        let count = Query::select()
            .expr(Expr::col(self.id()).count())
            .expr(Func::min(Expr::col(self.closed_at())))
            .from(self.table())
            .cond_where(self.threads.is_candidate())
            .to_owned();
        let row = self.bounded(PAGE_TIMEOUT, self.db.query_one(&count)).await?;
        Ok(Backlog {
            unmarked: row.as_ref().and_then(|row| row.try_get_by_index::<i64>(0).ok()).unwrap_or(0).unsigned_abs(),
            oldest_closed_at: row.and_then(|row| time_at(&row, 1)),
        })
    }

    async fn pause(&self) -> Result<Option<Pause>, Failure> {
        Self::pause(self).await
    }

    async fn pause_removal(&self, reason: &str) -> Result<bool, Failure> {
        Self::pause_removal(self, reason).await
    }

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        Self::removed_last_hour(self).await
    }
}

fn ids_of(rows: &[QueryResult]) -> Result<HashSet<String>, DbErr> {
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// The time of a close. One without a zone is UTC; what we can't read at all counts as none, so that under a retention
/// the thread is kept.
pub(super) fn time_at(row: &QueryResult, index: usize) -> Option<DateTime<Utc>> {
    let without_zone = || {
        let time = row.try_get_by_index::<Option<NaiveDateTime>>(index).ok().flatten();
        time.map(|time| time.and_utc())
    };
    row.try_get_by_index::<Option<DateTime<Utc>>>(index).unwrap_or_else(|_| without_zone())
}
