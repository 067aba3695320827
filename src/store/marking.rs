//! Locking rows and marking them, as the dialects allow.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use migrations::{Mapping, MarkType};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbErr, ExprTrait, QueryResult,
    sea_query::{BinOper, Expr, Query, UpdateStatement},
};

use super::{
    ROW_TIMEOUT, Store,
    chains::Linked,
    pool::Marking,
    threads::{close_written, id_as_text, is_one_of, mark, rows_of},
};
use crate::{
    cleanup::{Locked, Mark, Receipt, Rows},
    failure::{Dependency, Failure},
    volume_name::ThreadId,
};

/// A process that is frozen loses its locks this much later than it would have given them up by itself: PostgreSQL then
/// ends its connection.
const FROZEN_MARGIN: Duration = Duration::from_secs(10);

impl Store {
    /// Reads rows and locks those that are closed and unmarked.
    pub(super) async fn lock_rows(
        &self,
        wanted: &[ThreadId],
        host: Option<&str>,
        limit: Duration,
    ) -> Result<Locked<Marking>, Failure> {
        let lock = self.bounded(ROW_TIMEOUT, self.db.begin_marking()).await?;
        let locked = async {
            let threads = self.mapping().await?;
            let ids = || wanted.iter().map(ThreadId::as_str);
            let mut select = self.select_rows(threads, host);
            select.cond_where(threads.is_candidate()).and_where(is_one_of(threads, ids()));
            // In the same statement: a standby's rows lag behind, and are no ground for a removal.
            select.expr_as(threads.dialect.may_write(), "may_write");
            if let Some(ends) = self.engine.end_of_frozen_transaction(limit + FROZEN_MARGIN) {
                select.expr_as(Expr::cust(ends), "frozen_until");
            }
            threads.lock_free_rows(&mut select);
            let rows = lock.query_all(&select).await?;
            let may_write = rows.first().map(|row| row.try_get::<bool>("", "may_write")).transpose()?;
            let mut rows = rows_of(&rows, wanted)?;
            let mut busy = HashSet::new();
            self.lock_volumes(&lock, &mut rows, &mut busy).await?;
            if rows.threads.len() < wanted.len() {
                // Not there, not closed, marked, or locked by somebody else: the rows themselves say.
                let missing: Vec<_> = wanted.iter().filter(|id| !rows.threads.contains_key(id)).cloned().collect();
                let select = self.select_rows(threads, host).and_where(is_one_of(threads, ids())).to_owned();
                let mut others = rows_of(&lock.query_all(&select).await?, &missing)?;
                self.add_volumes(&*lock, &mut others).await?;
                let Rows { threads: others, pause, unserved_host, said_at, .. } = others;
                busy.extend(others.iter().filter(|(_, row)| row.closed && !row.marked).map(|(id, _)| id.clone()));
                (rows.pause, rows.unserved_host) = (rows.pause.or(pause), rows.unserved_host.or(unserved_host));
                rows.said_at = rows.said_at.or(said_at);
                rows.threads.extend(others);
            }
            Ok((rows, busy, may_write.unwrap_or(true)))
        };
        let (rows, busy, may_write) = self.bounded(ROW_TIMEOUT, locked).await?;
        if !may_write {
            return Err(self.not_writable());
        }
        Ok(Locked { rows, busy, lock })
    }

    pub(super) fn not_writable(&self) -> Failure {
        let what = format!(
            "database at {}: the server is read-only: a standby, or one that was set so. What it has may be out of \
             date, so nothing is removed by it; let DATABASE_URL lead to the primary",
            self.url
        );
        Failure::unavailable(Dependency::Database, what)
    }

    /// Marks rows that this transaction has locked.
    pub(super) async fn mark_rows_and_commit(
        &self,
        lock: Marking,
        receipts: &[Receipt],
    ) -> Result<HashSet<ThreadId>, DbErr> {
        let Some(first) = receipts.first() else {
            lock.rollback().await?;
            return Ok(HashSet::new());
        };
        let threads = self.mapping().await?;
        let complete: Vec<_> = receipts.iter().filter(|receipt| receipt.completes).collect();
        let mut marked = complete.clone();
        self.mark_all(threads, &lock, &mut marked, first.at).await?;
        let linked = self.write_receipts(&*lock, receipts).await?;
        self.announce(&*lock, marked.iter().copied()).await?;
        lock.commit().await?;
        linked.into_iter().for_each(Linked::committed);
        Ok(of_whole_threads(&marked, &complete).cloned().collect())
    }

    /// Marks what is still as it was read. What somebody else has locked is left alone.
    pub(super) async fn mark_unlocked(&self, receipts: &[Receipt]) -> Result<HashMap<ThreadId, Mark>, DbErr> {
        let Some(first) = receipts.first() else { return Ok(HashMap::new()) };
        let threads = self.mapping().await?;
        if self.mark_untouched(threads, receipts, first.at).await? {
            return Ok(receipts.iter().map(|receipt| (receipt.thread_id.clone(), Mark::Set)).collect());
        }
        let (complete, incomplete): (Vec<&Receipt>, Vec<_>) = receipts.iter().partition(|receipt| receipt.completes);
        let mut by_id: HashMap<&str, Vec<&Receipt>> = HashMap::new();
        for receipt in &complete {
            by_id.entry(receipt.thread_id.as_str()).or_default().push(receipt);
        }
        let transaction = self.db.begin_marking().await?;
        let mut select = Query::select()
            .expr_as(id_as_text(threads), "thread_id_text")
            .expr_as(close_written(threads), "close_written")
            .from(threads.table())
            .cond_where(threads.is_candidate())
            .and_where(is_one_of(threads, by_id.keys().copied()))
            .to_owned();
        threads.lock_free_rows(&mut select);
        let mut unchanged = Vec::new();
        for row in transaction.query_all(&select).await? {
            let id: String = row.try_get("", "thread_id_text")?;
            let written: Option<String> = row.try_get("", "close_written")?;
            let receipts = by_id.get(id.as_str()).into_iter().flatten();
            unchanged.extend(receipts.filter(|receipt| receipt.close.written == written).copied());
        }
        let ids: HashSet<_> = unchanged.iter().map(|receipt| receipt.thread_id.as_str()).collect();
        if let Some(free) = self.unmarked_volumes(&*transaction, ids.into_iter(), true).await? {
            // A row that was renamed meanwhile is another volume's, and one that is locked is not waited for.
            unchanged.retain(|receipt| {
                let mut rows = free.get(receipt.thread_id.as_str()).into_iter().flatten();
                // Nor is one that was moved to another host meanwhile.
                let is_there = |host: &Option<String>| host.is_none() || *host == receipt.details.host;
                rows.any(|row| row.name == receipt.volume.as_str() && is_there(&row.host))
            });
        }
        self.mark_all(threads, &transaction, &mut unchanged, first.at).await?;
        self.announce(&*transaction, unchanged.iter().copied()).await?;
        let whole = of_whole_threads(&unchanged, &complete);
        let mut marks: HashMap<_, _> = whole.map(|thread| (thread.clone(), Mark::Set)).collect();
        // What does not mark is gone all the same, whatever became of its thread.
        let linked = self.write_receipts(&*transaction, unchanged.into_iter().chain(incomplete)).await?;
        transaction.commit().await?;
        linked.into_iter().for_each(Linked::committed);
        let others: Vec<_> = complete.into_iter().filter(|it| !marks.contains_key(&it.thread_id)).collect();
        if !others.is_empty() {
            marks.extend(self.why_not_marked(threads, &others).await?);
        }
        Ok(marks)
    }

    async fn why_not_marked(&self, threads: &Mapping, receipts: &[&Receipt]) -> Result<HashMap<ThreadId, Mark>, DbErr> {
        let wanted: Vec<_> = receipts.iter().map(|receipt| receipt.thread_id.clone()).collect();
        let ids = wanted.iter().map(ThreadId::as_str);
        let select = self.select_rows(threads, None).and_where(is_one_of(threads, ids)).to_owned();
        let rows = rows_of(&self.db.query_all(&select).await?, &wanted)?;
        let why = |receipt: &&Receipt| {
            let mark = match rows.threads.get(&receipt.thread_id) {
                None => Mark::NoRow,
                Some(row) if !row.closed => Mark::Reopened,
                Some(row) if row.marked => Mark::AlreadySet,
                Some(row) if row.close.written != receipt.close.written => Mark::Reopened,
                Some(_) => Mark::Busy,
            };
            (receipt.thread_id.clone(), mark)
        };
        Ok(receipts.iter().map(why).collect())
    }

    /// Sets the marks that receipts complete, of rows that are locked. Only the receipts of what is marked now stay.
    async fn mark_all(
        &self,
        threads: &Mapping,
        transaction: &DatabaseTransaction,
        receipts: &mut Vec<&Receipt>,
        at: DateTime<Utc>,
    ) -> Result<(), DbErr> {
        if receipts.is_empty() {
            return Ok(());
        }
        if let Some(volumes) = &threads.names.volumes {
            let marked = self.mark_volumes(threads, volumes, transaction, receipts, at).await?;
            receipts.retain(|receipt| marked.contains(&receipt.volume));
            return Ok(());
        }
        let ids: HashSet<_> = receipts.iter().map(|receipt| receipt.thread_id.as_str()).collect();
        let marked = self.set_marks(threads, transaction, ids.into_iter(), at).await?;
        receipts.retain(|receipt| marked.contains(receipt.thread_id.as_str()));
        Ok(())
    }

    /// Sets the marks of rows that are locked. Returns the ids of those that have one now, as text.
    async fn set_marks<'a>(
        &self,
        threads: &Mapping,
        transaction: &DatabaseTransaction,
        ids: impl Iterator<Item = &'a str>,
        at: DateTime<Utc>,
    ) -> Result<HashSet<String>, DbErr> {
        let ids: Vec<_> = ids.collect();
        if !transaction.support_returning() {
            // In UTC, as the connection is: as a literal, MariaDB 10 takes no time with a zone.
            let mut update = guarded_mark(threads, Expr::val(at.naive_utc()));
            update.and_where(is_one_of(threads, ids.iter().copied()));
            let update = transaction.get_database_backend().build(&update).to_string();
            transaction.execute_unprepared(&found_by_id(threads, &update)).await?;
            // They do not say which rows they changed; and a trigger may have undone it.
            let select = Query::select()
                .expr_as(id_as_text(threads), "thread_id_text")
                .from(threads.table())
                .and_where(is_one_of(threads, ids.iter().copied()))
                .and_where(has_mark(threads))
                .to_owned();
            return ids_of(&transaction.query_all(&select).await?);
        }
        let mut update = guarded_mark(threads, mark_value(threads, at));
        update.and_where(is_one_of(threads, ids.iter().copied()));
        let returned = [(id_as_text(threads), "thread_id_text"), (has_mark(threads), "has_mark")];
        update.returning(
            Query::returning().exprs(returned.map(|(value, name)| value.binary(BinOper::As, Expr::cust(name)))),
        );
        let mut marked = transaction.query_all(&update).await?;
        // A trigger may have undone it.
        marked.retain(|row| row.try_get("", "has_mark").unwrap_or(false));
        ids_of(&marked)
    }
}

/// The threads of marked receipts of which no receipt is left unmarked.
fn of_whole_threads<'a>(marked: &[&'a Receipt], complete: &[&'a Receipt]) -> impl Iterator<Item = &'a ThreadId> {
    let unmarked: HashSet<_> = if marked.len() == complete.len() {
        HashSet::new()
    } else {
        let volumes: HashSet<_> = marked.iter().map(|receipt| &receipt.volume).collect();
        let unmarked = complete.iter().filter(|receipt| !volumes.contains(&receipt.volume));
        unmarked.map(|receipt| &receipt.thread_id).collect()
    };
    marked.iter().map(|receipt| &receipt.thread_id).filter(move |thread| !unmarked.contains(thread))
}

/// A mark. One without a zone is by our own clock's UTC, and not by what the connection's zone makes of it.
pub(super) fn mark_value(threads: &Mapping, at: DateTime<Utc>) -> Expr {
    match threads.mark {
        MarkType::Zoned => Expr::val(at),
        MarkType::Naive => Expr::val(at.naive_utc()),
    }
}

/// Whether a row is marked.
pub(super) fn has_mark(threads: &Mapping) -> Expr {
    Expr::col(mark(threads)).is_not_null()
}

/// Marks rows that are closed and unmarked, and no others.
pub(super) fn guarded_mark(threads: &Mapping, at: Expr) -> UpdateStatement {
    Query::update().table(threads.table()).value(mark(threads), at).cond_where(threads.is_candidate()).to_owned()
}

/// An update of MySQL's that finds its rows by their ids. For a list the server may prefer to scan the table (MariaDB
/// 11.8 does, for 32 of 200 rows), and then waits for rows that others have locked.
fn found_by_id(threads: &Mapping, update: &str) -> String {
    let table = format!("UPDATE {}", threads.table_sql());
    match (&threads.id_key, update.strip_prefix(&table)) {
        (Some(key), Some(rest)) => format!("{table} FORCE INDEX ({}){rest}", threads.dialect.quoted(key)),
        (None, _) | (_, None) => update.to_owned(),
    }
}

fn ids_of(rows: &[QueryResult]) -> Result<HashSet<String>, DbErr> {
    rows.iter().map(|row| row.try_get("", "thread_id_text")).collect()
}

#[cfg(test)]
mod tests {
    use migrations::{Closed, IdType, MySql, ThreadsTable};
    use sea_orm::DbBackend;

    use super::*;

    #[test]
    fn on_mysql_locks_and_marks_name_the_index_by_which_their_rows_are_found() {
        let names = ThreadsTable { table: "Thread".to_owned(), ..ThreadsTable::default() };
        let mut threads = Mapping {
            dialect: &MySql,
            names,
            id: IdType::Text,
            id_key: Some("PRIMARY".to_owned()),
            closed: Closed::Text("closed".to_owned()),
            mark: MarkType::Naive,
            has_mark: true,
            status_is_unlimited: false,
        };
        let update = DbBackend::MySql.build(&guarded_mark(&threads, Expr::val(1))).to_string();
        let found = found_by_id(&threads, &update);
        assert!(found.starts_with("UPDATE `Thread` FORCE INDEX (`PRIMARY`) SET "), "{found}");
        let mut lock = Query::select().column("id").from(threads.table()).to_owned();
        threads.lock_free_rows(&mut lock);
        let lock = DbBackend::MySql.build(&lock).to_string();
        assert_eq!(lock, "SELECT `id` FROM `Thread` FORCE INDEX (`PRIMARY`) FOR UPDATE SKIP LOCKED");
        threads.id_key = None;
        assert_eq!(found_by_id(&threads, &update), update);
    }
}
