//! Locking rows and marking them, as the dialects allow.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use migrations::{Mapping, MarkType};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryResult,
    sea_query::{BinOper, Expr, Query, UpdateStatement},
};

use super::{
    ROW_TIMEOUT, Store,
    entities::volume_removal,
    rows::time,
    threads::{close_written, id_as_text, is_one_of, mark, rows_of},
};
use crate::{
    cleanup::{Gone, Locked, Mark, Origin, Receipt, Rows},
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
    ) -> Result<Locked<DatabaseTransaction>, Failure> {
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
            threads.dialect.lock_free_rows(&mut select);
            let rows = lock.query_all(&select).await?;
            let may_write = rows.first().map(|row| row.try_get::<bool>("", "may_write")).transpose()?;
            let mut rows = rows_of(&rows, wanted)?;
            let mut busy = HashSet::new();
            if rows.threads.len() < wanted.len() {
                // Not there, not closed, marked, or locked by somebody else: the rows themselves say.
                let missing: Vec<_> = wanted.iter().filter(|id| !rows.threads.contains_key(id)).cloned().collect();
                let select = self.select_rows(threads, host).and_where(is_one_of(threads, ids())).to_owned();
                let Rows { threads: others, pause, unserved_host, .. } =
                    rows_of(&lock.query_all(&select).await?, &missing)?;
                busy.extend(others.iter().filter(|(_, row)| row.closed && !row.marked).map(|(id, _)| id.clone()));
                (rows.pause, rows.unserved_host) = (rows.pause.or(pause), rows.unserved_host.or(unserved_host));
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
        lock: DatabaseTransaction,
        receipts: &[Receipt],
    ) -> Result<HashSet<ThreadId>, DbErr> {
        let Some(first) = receipts.first() else {
            lock.rollback().await?;
            return Ok(HashSet::new());
        };
        let threads = self.mapping().await?;
        let complete: HashSet<_> =
            receipts.iter().filter(|receipt| receipt.completes).map(|receipt| &receipt.thread_id).collect();
        let ids = complete.iter().map(|id| id.as_str());
        let marked = self.set_marks(threads, &lock, ids, first.at).await?;
        self.write_receipts(&lock, receipts).await?;
        lock.commit().await?;
        Ok(complete.into_iter().filter(|id| marked.contains(id.as_str())).cloned().collect())
    }

    /// Marks what is still as it was read. What somebody else has locked is left alone.
    pub(super) async fn mark_unlocked(&self, receipts: &[Receipt]) -> Result<HashMap<ThreadId, Mark>, DbErr> {
        let Some(first) = receipts.first() else { return Ok(HashMap::new()) };
        let threads = self.mapping().await?;
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
        threads.dialect.lock_free_rows(&mut select);
        let mut unchanged = Vec::new();
        for row in transaction.query_all(&select).await? {
            let id: String = row.try_get("", "thread_id_text")?;
            let written: Option<String> = row.try_get("", "close_written")?;
            let receipts = by_id.get(id.as_str()).into_iter().flatten();
            unchanged.extend(receipts.filter(|receipt| receipt.close.written == written).copied());
        }
        let mut marks = HashMap::new();
        if !unchanged.is_empty() {
            let ids: HashSet<_> = unchanged.iter().map(|receipt| receipt.thread_id.as_str()).collect();
            let marked = self.set_marks(threads, &transaction, ids.into_iter(), first.at).await?;
            unchanged.retain(|receipt| marked.contains(receipt.thread_id.as_str()));
            marks.extend(unchanged.iter().map(|receipt| (receipt.thread_id.clone(), Mark::Set)));
        }
        // What does not mark is gone all the same, whatever became of its thread.
        self.write_receipts(&transaction, unchanged.into_iter().chain(incomplete)).await?;
        transaction.commit().await?;
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

    /// Sets the marks of rows that are locked. Returns the ids of those that have one now, as text.
    async fn set_marks<'a>(
        &self,
        threads: &Mapping,
        transaction: &DatabaseTransaction,
        ids: impl Iterator<Item = &'a str>,
        at: DateTime<Utc>,
    ) -> Result<HashSet<String>, DbErr> {
        let ids: Vec<_> = ids.collect();
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let has_mark = || Expr::col(mark(threads)).is_not_null();
        if !transaction.support_returning() {
            // Each by its key, and all sent at once: for a list the server may prefer to scan the table (MariaDB 11.8
            // does, for 32 of 200 rows), and then waits for rows that others have locked. In UTC, as the connection is:
            // a literal with a zone is refused by older ones.
            let each = ids.iter().map(|&id| {
                let mut update = guarded_mark(threads, Expr::val(at.naive_utc()));
                transaction.get_database_backend().build(update.and_where(is_one_of(threads, std::iter::once(id))))
            });
            let each: Vec<_> = each.map(|update| update.to_string()).collect();
            transaction.execute_unprepared(&each.join(";")).await?;
            // They do not say which rows they changed; and a trigger may have undone it.
            let select = Query::select()
                .expr_as(id_as_text(threads), "thread_id_text")
                .from(threads.table())
                .and_where(is_one_of(threads, ids.iter().copied()))
                .and_where(has_mark())
                .to_owned();
            return ids_of(&transaction.query_all(&select).await?);
        }
        // Without a zone: by our own clock's UTC, and not by what the connection's zone makes of it.
        let at = match threads.mark {
            MarkType::Zoned => Expr::val(at),
            MarkType::Naive => Expr::val(at.naive_utc()),
        };
        let mut update = guarded_mark(threads, at);
        update.and_where(is_one_of(threads, ids.iter().copied()));
        let returned = [(id_as_text(threads), "thread_id_text"), (has_mark(), "has_mark")];
        update.returning(
            Query::returning().exprs(returned.map(|(value, name)| value.binary(BinOper::As, Expr::cust(name)))),
        );
        let mut marked = transaction.query_all(&update).await?;
        // A trigger may have undone it.
        marked.retain(|row| row.try_get("", "has_mark").unwrap_or(false));
        ids_of(&marked)
    }

    /// Writes receipts, but for those that are written already.
    pub(super) async fn write_receipts<'a>(
        &self,
        db: &impl ConnectionTrait,
        receipts: impl IntoIterator<Item = &'a Receipt>,
    ) -> Result<(), DbErr> {
        let mut receipts: Vec<_> = receipts.into_iter().filter(|receipt| !receipt.is_written).collect();
        leave_out_removed(db, &mut receipts).await?;
        let rows: Vec<_> = receipts.into_iter().map(|receipt| self.row(receipt)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        volume_removal::Entity::insert_many(rows).exec_without_returning(db).await.map(drop)
    }

    fn row(&self, receipt: &Receipt) -> volume_removal::ActiveModel {
        let event_id = match &receipt.origin {
            Origin::Event(id) => id.clone(),
            Origin::Sweep | Origin::Docker | Origin::Orphan | Origin::Retired => None,
        };
        let actor = match receipt.origin {
            Origin::Orphan | Origin::Retired => self.actor.clone(),
            Origin::Event(_) | Origin::Sweep | Origin::Docker => None,
        };
        volume_removal::ActiveModel {
            id: NotSet,
            thread_id: Set(receipt.thread_id.to_string()),
            volume_name: Set(receipt.volume.to_string()),
            outcome: Set(receipt.gone.as_str().to_owned()),
            source: Set(receipt.origin.as_str().to_owned()),
            event_id: Set(event_id),
            replica: Set(self.replica.clone()),
            removed_at: Set(receipt.at),
            actor: Set(actor),
        }
    }
}

/// Leaves out the absent volumes that were removed after the close of their thread, and have a receipt of that, when
/// another volume of the thread was still in use. A thread with one volume can have none such, and is not asked for.
async fn leave_out_removed(db: &impl ConnectionTrait, receipts: &mut Vec<&Receipt>) -> Result<(), DbErr> {
    use volume_removal::{Column, Entity};
    let mut volumes: HashMap<&ThreadId, usize> = HashMap::new();
    for receipt in receipts.iter() {
        *volumes.entry(&receipt.thread_id).or_default() += 1;
    }
    let is_in_question = |receipt: &&Receipt| {
        receipt.gone == Gone::NotFound && volumes.get(&receipt.thread_id).is_some_and(|it| *it > 1)
    };
    let threads: HashSet<_> = receipts.iter().copied().filter(is_in_question).map(|it| it.thread_id.as_str()).collect();
    if threads.is_empty() {
        return Ok(());
    }
    let select = Query::select()
        .columns([Column::ThreadId, Column::VolumeName])
        .expr_as(Expr::col(Column::RemovedAt).max(), "latest")
        .from(Entity)
        .and_where(Expr::col(Column::ThreadId).is_in(threads))
        .and_where(Expr::col(Column::Outcome).eq(Gone::Removed.as_str()))
        .group_by_columns([Column::ThreadId, Column::VolumeName])
        .to_owned();
    let mut removed: HashMap<(String, String), DateTime<Utc>> = HashMap::new();
    for row in db.query_all(&select).await? {
        let volume = (row.try_get("", "thread_id")?, row.try_get("", "volume_name")?);
        removed.extend(time(&row, "latest").map(|latest| (volume, latest)));
    }
    receipts.retain(|receipt| {
        let volume = (receipt.thread_id.to_string(), receipt.volume.to_string());
        let latest = removed.get(&volume).filter(|_| receipt.gone == Gone::NotFound);
        latest.is_none_or(|latest| receipt.close.at.is_none_or(|closed_at| *latest < closed_at))
    });
    Ok(())
}

/// Marks rows that are closed and unmarked, and no others.
fn guarded_mark(threads: &Mapping, at: Expr) -> UpdateStatement {
    Query::update().table(threads.table()).value(mark(threads), at).cond_where(threads.is_candidate()).to_owned()
}

fn ids_of(rows: &[QueryResult]) -> Result<HashSet<String>, DbErr> {
    rows.iter().map(|row| row.try_get("", "thread_id_text")).collect()
}
