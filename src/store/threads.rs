//! The threads table: read and paged by the names that the configuration gives it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use migrations::Mapping;
use sea_orm::{
    ConnectionTrait, DbErr, ExprTrait, QueryResult,
    sea_query::{Alias, Condition, Expr, Order, Query, SelectStatement},
};
use tracing::Instrument;

use super::{
    PAGE_TIMEOUT, ROW_TIMEOUT, Store,
    pool::Marking,
    rows::{host, time},
    volume_hosts::{has_volume_in_scope, is_of_scope},
};
use crate::{
    cleanup::{
        Backlog, Candidate, Close, ContainerReceipt, Failures, Locked, Mark, Pause, Pauses, Receipt, Receipts, Rows,
        Scope, Thread, Threads, failing::FailedCleanup,
    },
    failure::Failure,
    volume_name::{ThreadId, VolumeName},
};

impl Store {
    /// Selects what a clean-up wants to know of rows, and of the pause on this host.
    pub(super) fn select_rows(&self, threads: &Mapping, on: Option<&str>) -> SelectStatement {
        Query::select()
            .expr_as(id_as_text(threads), "thread_id_text")
            .expr_as(threads.is_closed(), "is_closed")
            .expr_as(threads.is_marked(), "is_marked")
            .expr_as(threads.read_closed_at(), "read_closed_at")
            .expr_as(close_written(threads), "close_written")
            .expr_as(self.is_held(threads.as_text(threads.qualified_id())), "is_held")
            .expr_as(host_column(threads), "host_text")
            .expr_as(self.pause_reason(on), "pause_reason")
            .expr_as(self.unserved_host_column(), "unserved_host")
            .expr_as(
                self.engine.clock().map_or_else(Expr::null, |clock| Expr::cust(format!("({clock})"))),
                "said_millis",
            )
            .from(threads.table())
            .to_owned()
    }

    pub(super) async fn read_rows(&self, wanted: &[ThreadId], host: Option<&str>) -> Result<Rows, DbErr> {
        let threads = self.mapping().await?;
        let ids = wanted.iter().map(ThreadId::as_str);
        let select = self.select_rows(threads, host).and_where(is_one_of(threads, ids)).to_owned();
        let mut rows = rows_of(&self.db.query_all(&select).await?, wanted)?;
        self.add_volumes(&self.db, &mut rows).await?;
        rows.foreign.extend(wanted.iter().filter(|id| threads.id_value(id.as_str()).is_none()).cloned());
        Ok(rows)
    }

    /// Selects the next closed and unmarked threads of a scope by their id; none if there can be no next.
    pub(super) fn candidate_page(
        &self,
        threads: &Mapping,
        scope: &Scope,
        after: Option<&str>,
        limit: u64,
    ) -> Option<SelectStatement> {
        let mut select = Query::select()
            // Under another name than the column's: by that name the rows would be ordered as texts, past the index.
            .expr_as(id_as_text(threads), "thread_id_text")
            .expr_as(threads.read_closed_at(), "read_closed_at")
            .expr_as(self.is_held(threads.as_text(threads.qualified_id())), "is_held")
            .from(threads.table())
            .cond_where(threads.is_candidate())
            .cond_where(is_in_scope(threads, scope)?)
            .order_by(id(threads), Order::Asc)
            .limit(limit)
            .to_owned();
        if let Some(after) = after {
            // SQLite takes texts into a column of numbers too, and puts them last: no thread comes after one.
            select.and_where(Expr::col(id(threads)).gt(threads.id_value(after)?));
        }
        Some(select)
    }

    async fn select_candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, DbErr> {
        let threads = self.mapping().await?;
        let Some(mut select) = self.candidate_page(threads, scope, after, limit) else { return Ok(Vec::new()) };
        select.expr_as(close_written(threads), "close_written");
        let rows = self.db.query_all(&select).await?;
        let candidate = |row: &QueryResult| {
            Ok(Candidate {
                id: row.try_get("", "thread_id_text")?,
                close: close_of(row),
                held: row.try_get("", "is_held")?,
                volumes: None,
            })
        };
        let mut candidates: Vec<Candidate> = rows.iter().map(candidate).collect::<Result<_, DbErr>>()?;
        let ids = candidates.iter().map(|candidate| candidate.id.as_str());
        if let Some(mut volumes) = self.unmarked_volumes(&self.db, ids, false).await? {
            for candidate in &mut candidates {
                let mut volumes = volumes.remove(&candidate.id).unwrap_or_default();
                volumes.retain(|volume| is_of_scope(volume, scope));
                candidate.volumes = Some(volumes);
            }
        }
        Ok(candidates)
    }

    async fn withdraw_mark(&self, thread: &ThreadId, volume: &VolumeName) -> Result<bool, DbErr> {
        let threads = self.mapping().await?;
        if let Some(volumes) = &threads.names.volumes {
            return self.withdraw_volume_mark(threads, volumes, thread, volume).await;
        }
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
}

impl Threads for Store {
    type Lock = Marking;

    fn marks_at_once(&self) -> usize {
        self.engine.marks_at_once()
    }

    async fn read(&self, threads: &[ThreadId], host: Option<&str>) -> Result<Rows, Failure> {
        self.bounded(PAGE_TIMEOUT, self.read_rows(threads, host)).await
    }

    async fn lock(
        &self,
        threads: &[ThreadId],
        host: Option<&str>,
        limit: Duration,
    ) -> Result<Locked<Marking>, Failure> {
        self.lock_rows(threads, host, limit).instrument(self.traced("lock")).await
    }

    async fn mark_locked(&self, lock: Marking, receipts: &[Receipt]) -> Result<HashSet<ThreadId>, Failure> {
        self.bounded(ROW_TIMEOUT, self.mark_rows_and_commit(lock, receipts)).instrument(self.traced("mark")).await
    }

    async fn mark(&self, receipts: &[Receipt]) -> Result<HashMap<ThreadId, Mark>, Failure> {
        self.bounded(PAGE_TIMEOUT, self.mark_unlocked(receipts)).instrument(self.traced("mark")).await
    }

    async fn candidates(&self, scope: &Scope, after: Option<&str>, limit: u64) -> Result<Vec<Candidate>, Failure> {
        self.bounded(PAGE_TIMEOUT, self.select_candidates(scope, after, limit)).instrument(self.traced("select")).await
    }

    async fn unmark(&self, thread: &ThreadId, volume: &VolumeName) -> Result<bool, Failure> {
        self.bounded(ROW_TIMEOUT, self.withdraw_mark(thread, volume)).await
    }

    async fn owners(&self, volumes: &[VolumeName]) -> Result<HashMap<VolumeName, Option<(ThreadId, Thread)>>, Failure> {
        self.bounded(PAGE_TIMEOUT, self.select_owners(volumes)).await
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        self.bounded(PAGE_TIMEOUT, self.count_backlog()).await
    }

    async fn oldest_not_held(&self) -> Result<Option<DateTime<Utc>>, Failure> {
        self.bounded(PAGE_TIMEOUT, self.select_oldest_not_held()).await
    }

    async fn unserved_host(&self) -> Result<Option<String>, Failure> {
        self.first_unserved_host().await
    }
}

impl Failures for Store {
    async fn note_failure(&self, thread: &ThreadId, error: &str) -> Result<(), Failure> {
        self.upsert_failure(thread, error).await
    }

    async fn failed(&self, threads: &[ThreadId]) -> Result<HashMap<ThreadId, FailedCleanup>, Failure> {
        self.select_failures(threads).await
    }

    async fn forget_failures(&self) -> Result<(), Failure> {
        self.delete_obsolete_failures().await
    }
}

impl Pauses for Store {
    async fn pause(&self, host: Option<&str>) -> Result<Option<Pause>, Failure> {
        self.select_pause(host).await
    }

    async fn pause_removal(&self, host: Option<&str>, reason: &str) -> Result<bool, Failure> {
        self.set_pause(host, reason).await
    }
}

impl Receipts for Store {
    async fn record(&self, receipt: &Receipt) -> Result<(), Failure> {
        self.bounded(ROW_TIMEOUT, self.record_alone(receipt)).await
    }

    async fn record_containers(&self, receipts: &[ContainerReceipt]) -> Result<(), Failure> {
        self.bounded(ROW_TIMEOUT, self.write_container_receipts(receipts)).await
    }

    async fn removed_last_hour(&self) -> Result<u64, Failure> {
        self.count_removed_last_hour().await
    }
}

/// Rows by their threads, and what stands in each of them besides. What the database takes for the same id (under a
/// collation without case, say) may be another volume's name, and is no row of these threads.
pub(super) fn rows_of(rows: &[QueryResult], wanted: &[ThreadId]) -> Result<Rows, DbErr> {
    let wanted: HashSet<&str> = wanted.iter().map(ThreadId::as_str).collect();
    let mut found = Rows::default();
    for row in rows {
        let id: String = row.try_get("", "thread_id_text")?;
        let Some(thread) = ThreadId::parse(&id).ok().filter(|_| wanted.contains(id.as_str())) else { continue };
        found.pause = row.try_get("", "pause_reason")?;
        found.unserved_host = row.try_get("", "unserved_host")?;
        let said: Option<i64> = row.try_get("", "said_millis")?;
        found.said_at = said.and_then(DateTime::from_timestamp_millis);
        let row = Thread {
            closed: row.try_get::<Option<bool>>("", "is_closed")?.unwrap_or(false),
            marked: row.try_get("", "is_marked")?,
            close: close_of(row),
            held: row.try_get("", "is_held")?,
            host: host(row, "host_text")?,
            volumes: None,
        };
        found.threads.insert(thread, row);
    }
    Ok(found)
}

pub(super) fn is_one_of<'a>(threads: &Mapping, ids: impl Iterator<Item = &'a str>) -> Expr {
    threads.is_one_of(Expr::col(id(threads)), ids)
}

pub(super) fn id(threads: &Mapping) -> Alias {
    Alias::new(&threads.names.id)
}

pub(super) fn mark(threads: &Mapping) -> Alias {
    Alias::new(&threads.names.mark)
}

/// Only where a row is read: a condition on a cast column would not use the column's index.
pub(super) fn id_as_text(threads: &Mapping) -> Expr {
    threads.as_text(Expr::col(id(threads)))
}

/// The host that a row names; an empty text is none.
pub(super) fn host_column(threads: &Mapping) -> Expr {
    threads.names.host.as_ref().map_or_else(Expr::null, |host| threads.as_text(Expr::col(Alias::new(host))))
}

/// The condition that selects the rows of a scope; `None` if there can be none.
pub(super) fn is_in_scope(threads: &Mapping, scope: &Scope) -> Option<Condition> {
    let by_own_row = || is_threads_host(threads, scope);
    has_volume_in_scope(threads, scope, by_own_row()).or_else(by_own_row)
}

/// The condition that the rows of threads themselves are of a scope.
fn is_threads_host(threads: &Mapping, scope: &Scope) -> Option<Condition> {
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

/// The time of a close as the database writes it: distinguishes closes whatever its type is.
pub(super) fn close_written(threads: &Mapping) -> Expr {
    let column = threads.names.closed_at.as_ref();
    column.map_or_else(Expr::null, |closed_at| threads.as_text(Expr::col(Alias::new(closed_at))))
}

fn close_of(row: &QueryResult) -> Close {
    let written = row.try_get::<Option<String>>("", "close_written").ok().flatten();
    Close { at: time(row, "read_closed_at"), written }
}
