//! The threads table: read, marked and paged by the names that the configuration gives it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDateTime, Utc};
use migrations::{Mapping, MarkType};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait, ExprTrait, QueryResult,
    sea_query::{Alias, Condition, Expr, Func, Order, Query, UpdateStatement},
};

use super::{PAGE_TIMEOUT, ROW_TIMEOUT, Store, entities::volume_removal};
use crate::{
    cleanup::{
        Backlog, Candidate, Mark, Origin, Receipt, Report, Scope, Thread, Threads, breaker::Pause,
        failing::FailedCleanup,
    },
    failure::Failure,
    volume_name::ThreadId,
};

impl Store {
    /// Marks rows that are closed and unmarked, and no others.
    fn guarded_mark(threads: &Mapping, at: DateTime<Utc>) -> UpdateStatement {
        // Without a zone: by our own clock's UTC, and not by what the connection's zone makes of it.
        let at = match threads.mark {
            MarkType::Zoned => Expr::val(at),
            MarkType::Naive => Expr::val(at.naive_utc()),
        };
        Query::update().table(threads.table()).value(mark(threads), at).cond_where(threads.is_candidate()).to_owned()
    }

    async fn select(&self, thread: &ThreadId, host: Option<&str>) -> Result<Option<Thread>, DbErr> {
        let threads = self.mapping().await?;
        let Some(is_thread) = threads.is_thread(thread.as_str()) else {
            return Ok(None);
        };
        let select = Query::select()
            .expr(threads.is_closed())
            .expr(threads.read_mark().is_not_null())
            .expr(closed_at(threads))
            .expr(self.is_held(Expr::val(thread.as_str())))
            .expr(self.pause_reason(host))
            .expr(id_as_text(threads))
            .expr(host_column(threads))
            .expr(self.first_stranger())
            .from(threads.table())
            .cond_where(is_thread)
            .to_owned();
        let Some(row) = self.db.query_one(&select).await? else {
            return Ok(None);
        };
        // What the database takes for the same id (under a collation without case, say) may be another volume's name.
        if row.try_get_by_index::<String>(5)? != thread.as_str() {
            return Ok(None);
        }
        Ok(Some(Thread {
            closed: row.try_get_by_index::<Option<bool>>(0)?.unwrap_or(false),
            marked: row.try_get_by_index(1)?,
            closed_at: time_at(&row, 2),
            held: row.try_get_by_index(3)?,
            pause: row.try_get_by_index(4)?,
            host: host_at(&row, 6)?,
            stranger: row.try_get_by_index(7)?,
        }))
    }

    async fn mark_one(&self, receipt: &Receipt) -> Result<Mark, DbErr> {
        let threads = self.mapping().await?;
        let Some(is_thread) = threads.is_thread(receipt.thread_id.as_str()) else {
            return Ok(Mark::NoRow);
        };
        let update = Self::guarded_mark(threads, receipt.at).cond_where(is_thread).to_owned();
        let transaction = self.db.begin_marking().await?;
        if transaction.execute(&update).await?.rows_affected() == 1 {
            volume_removal::Entity::insert(self.row(receipt)).exec_without_returning(&transaction).await?;
            transaction.commit().await?;
            return Ok(Mark::Set);
        }
        transaction.rollback().await?;
        Ok(match self.select(&receipt.thread_id, None).await? {
            None => Mark::NoRow,
            Some(thread) if !thread.closed => Mark::Reopened,
            Some(_) => Mark::AlreadySet,
        })
    }

    async fn mark_many(&self, receipts: &[Receipt]) -> Result<Vec<ThreadId>, DbErr> {
        let Some(first) = receipts.first() else {
            return Ok(Vec::new());
        };
        let threads = self.mapping().await?;
        let ids = receipts.iter().map(|receipt| receipt.thread_id.as_str());
        let transaction = self.db.begin_marking().await?;
        let marked = if self.backend() == DbBackend::MySql {
            lock_and_mark(threads, &transaction, ids, first.at).await?
        } else {
            let update = Self::guarded_mark(threads, first.at)
                .and_where(is_one_of(threads, ids))
                .returning(Query::returning().expr(id_as_text(threads)))
                .to_owned();
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

    async fn select_known(&self, wanted: &[ThreadId]) -> Result<HashMap<ThreadId, Thread>, DbErr> {
        let threads = self.mapping().await?;
        let ids = wanted.iter().map(ThreadId::as_str);
        let select = Query::select()
            .expr(id_as_text(threads))
            .expr(threads.is_closed())
            .expr(threads.read_mark().is_not_null())
            .expr(closed_at(threads))
            .expr(self.is_held(threads.as_text(threads.qualified_id())))
            .expr(host_column(threads))
            .from(threads.table())
            .and_where(is_one_of(threads, ids))
            .to_owned();
        let mut known = HashMap::new();
        for row in self.db.query_all(&select).await? {
            let id: String = row.try_get_by_index(0)?;
            let Ok(thread) = ThreadId::parse(&id) else { continue };
            let found = Thread {
                closed: row.try_get_by_index::<Option<bool>>(1)?.unwrap_or(false),
                marked: row.try_get_by_index(2)?,
                closed_at: time_at(&row, 3),
                held: row.try_get_by_index(4)?,
                host: host_at(&row, 5)?,
                stranger: None,
                pause: None,
            };
            known.insert(thread, found);
        }
        Ok(known)
    }

    async fn select_candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, DbErr> {
        let threads = self.mapping().await?;
        let Some(in_scope) = is_in_scope(threads, scope) else { return Ok(Vec::new()) };
        let mut select = Query::select()
            // Under another name than the column's: by that name the rows would be ordered as texts, past the index.
            .expr_as(id_as_text(threads), "thread_id_text")
            .expr(closed_at(threads))
            .expr(self.is_held(threads.as_text(threads.qualified_id())))
            .from(threads.table())
            .cond_where(threads.is_candidate())
            .cond_where(in_scope)
            .order_by(id(threads), Order::Asc)
            .limit(limit)
            .to_owned();
        if let Some(after) = after {
            // SQLite takes texts into a column of numbers too, and puts them last: no thread comes after one.
            let Some(after) = threads.id_value(after) else { return Ok(Vec::new()) };
            select.and_where(Expr::col(id(threads)).gt(after));
        }
        let rows = self.db.query_all(&select).await?;
        let candidate = |row: &QueryResult| {
            Ok(Candidate { id: row.try_get_by_index(0)?, closed_at: time_at(row, 1), held: row.try_get_by_index(2)? })
        };
        rows.iter().map(candidate).collect()
    }

    async fn withdraw_mark(&self, thread: &ThreadId) -> Result<bool, DbErr> {
        let threads = self.mapping().await?;
        let Some(is_thread) = threads.is_thread(thread.as_str()) else {
            return Ok(false);
        };
        let update = Query::update()
            .table(threads.table())
            .value(mark(threads), Expr::null())
            .cond_where(is_thread)
            .cond_where(threads.is_closed())
            .and_where(Expr::col(mark(threads)).is_not_null())
            .to_owned();
        Ok(self.db.execute(&update).await?.rows_affected() == 1)
    }

    pub(super) async fn count_backlog(&self) -> Result<Backlog, DbErr> {
        let threads = self.mapping().await?;
        let count = Query::select()
            .expr(Expr::col(id(threads)).count())
            .expr(Func::min(closed_at(threads)))
            .from(threads.table())
            .cond_where(threads.is_candidate())
            .to_owned();
        let row = self.db.query_one(&count).await?;
        Ok(Backlog {
            unmarked: row.as_ref().and_then(|row| row.try_get_by_index::<i64>(0).ok()).unwrap_or(0).unsigned_abs(),
            oldest_closed_at: row.and_then(|row| time_at(&row, 1)),
        })
    }

    /// Writes a receipt for a volume that has no thread to mark.
    pub async fn record(&self, receipt: &Receipt) -> Result<(), Failure> {
        let insert = volume_removal::Entity::insert(self.row(receipt)).exec_without_returning(&self.db);
        self.bounded(ROW_TIMEOUT, insert).await.map(drop)
    }

    fn row(&self, receipt: &Receipt) -> volume_removal::ActiveModel {
        let event_id = match &receipt.origin {
            Origin::Event(id) => id.clone(),
            Origin::Sweep | Origin::Docker | Origin::Orphan | Origin::Retired => None,
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
    async fn find(&self, thread: &ThreadId, host: Option<&str>) -> Result<Option<Thread>, Failure> {
        self.bounded(ROW_TIMEOUT, self.select(thread, host)).await
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

    async fn known(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, Thread>, Failure> {
        self.bounded(PAGE_TIMEOUT, self.select_known(threads)).await
    }

    async fn stranger(&self) -> Result<Option<String>, Failure> {
        Self::stranger(self).await
    }

    async fn unmark(&self, thread: &ThreadId) -> Result<bool, Failure> {
        self.bounded(ROW_TIMEOUT, self.withdraw_mark(thread)).await
    }

    async fn candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        self.bounded(PAGE_TIMEOUT, self.select_candidates(scope, after, limit)).await
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
        self.bounded(PAGE_TIMEOUT, self.count_backlog()).await
    }

    async fn pause(&self, host: Option<&str>) -> Result<Option<Pause>, Failure> {
        Self::pause(self, host).await
    }

    async fn pause_removal(&self, host: Option<&str>, reason: &str) -> Result<bool, Failure> {
        Self::pause_removal(self, host, reason).await
    }

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        Self::removed_last_hour(self).await
    }
}

/// MySQL's updates do not say which rows they changed. So these are locked as what the update asks for, and whoever waits
/// for them finds them marked.
async fn lock_and_mark(
    threads: &Mapping,
    transaction: &DatabaseTransaction,
    ids: impl Iterator<Item = &str>,
    at: DateTime<Utc>,
) -> Result<HashSet<String>, DbErr> {
    let asked: HashSet<&str> = ids.collect();
    let lock = Query::select()
        .expr(id_as_text(threads))
        .from(threads.table())
        .cond_where(threads.is_candidate())
        .and_where(is_one_of(threads, asked.iter().copied()))
        .lock_exclusive()
        .to_owned();
    let mut locked = ids_of(&transaction.query_all(&lock).await?)?;
    // See `Mapping::is_thread`.
    locked.retain(|id| asked.contains(id.as_str()));
    if !locked.is_empty() {
        let is_locked = is_one_of(threads, locked.iter().map(String::as_str));
        transaction.execute(Store::guarded_mark(threads, at).and_where(is_locked)).await?;
    }
    Ok(locked)
}

fn ids_of(rows: &[QueryResult]) -> Result<HashSet<String>, DbErr> {
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

fn is_one_of<'a>(threads: &Mapping, ids: impl Iterator<Item = &'a str>) -> Expr {
    Expr::col(id(threads)).is_in(ids.filter_map(|id| threads.id_value(id)))
}

fn id(threads: &Mapping) -> Alias {
    Alias::new(&threads.names.id)
}

fn mark(threads: &Mapping) -> Alias {
    Alias::new(&threads.names.mark)
}

/// Only where a row is read: a condition on a cast column would not use the column's index.
fn id_as_text(threads: &Mapping) -> Expr {
    threads.as_text(Expr::col(id(threads)))
}

/// The host that a row names; an empty text is none.
pub(super) fn host_column(threads: &Mapping) -> Expr {
    threads.names.host.as_ref().map_or_else(Expr::null, |host| threads.as_text(Expr::col(Alias::new(host))))
}

pub(super) fn host_at(row: &QueryResult, index: usize) -> Result<Option<String>, DbErr> {
    Ok(row.try_get_by_index::<Option<String>>(index)?.filter(|host| !host.is_empty()))
}

/// The condition that selects the rows of a scope; `None` if there can be none.
fn is_in_scope(threads: &Mapping, scope: &Scope) -> Option<Condition> {
    let all = Condition::all();
    match (scope, &threads.names.host) {
        (Scope::All, _) | (Scope::Unplaced, None) => Some(all),
        (Scope::Host(_), None) => None,
        (Scope::Host(host), Some(column)) => Some(all.add(threads.is_text(column, host))),
        (Scope::Unplaced, Some(column)) => {
            let column = Expr::col(Alias::new(column));
            Some(all.add(column.clone().is_null().or(column.eq(""))))
        }
    }
}

pub(super) fn closed_at(threads: &Mapping) -> Expr {
    threads.names.closed_at.as_ref().map_or_else(Expr::null, |closed_at| Expr::col(Alias::new(closed_at)))
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
