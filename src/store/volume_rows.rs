//! A table of volumes: its rows name a thread's volumes, and each has a mark of its own. What is locked is the thread's
//! row, which is never written, and the rows of its volumes beside it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use migrations::{Mapping, MarkType, VolumesTable};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbErr, ExprTrait, QueryResult,
    sea_query::{Alias, BinOper, Expr, JoinType, Query, SelectStatement, UpdateStatement},
};

use super::{
    PAGE_TIMEOUT, Store,
    threads::id,
    volume_hosts::{host_of, select_hosts},
};
use crate::{
    cleanup::{Receipt, Rows, Thread, VolumeRow},
    failure::Failure,
    volume_name::{ThreadId, VolumeName},
};

/// Marks that are set one by one, each by its name, where updates do not say which rows they changed: for a list the
/// server may prefer to scan the table, and then waits for rows that others have locked. A page of a sweep is too many.
const MOST_BY_NAME: usize = 64;

/// A volume that a row names, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedVolume {
    /// What the row says that Docker calls it: anything.
    pub name: String,
    /// Whether it is known to be gone.
    pub marked: bool,
    /// The Docker host that it is on, if its row or its thread's says so.
    pub host: Option<String>,
}

impl Store {
    /// The unmarked volumes of threads by the threads' ids; none if there is no table of volumes. With `locks`, those
    /// that somebody else has locked are left out, and the others are locked.
    pub(super) async fn unmarked_volumes<'a>(
        &self,
        db: &impl ConnectionTrait,
        ids: impl Iterator<Item = &'a str>,
        locks: bool,
    ) -> Result<Option<HashMap<String, Vec<VolumeRow>>>, DbErr> {
        let threads = self.mapping().await?;
        let Some(volumes) = &threads.names.volumes else { return Ok(None) };
        let mut by_thread: HashMap<String, Vec<VolumeRow>> = HashMap::new();
        let ids: Vec<_> = ids.collect();
        if ids.is_empty() {
            return Ok(Some(by_thread));
        }
        let mut select = select_volumes(threads, volumes);
        select
            .and_where(threads.is_one_of(threads.qualified_id(), ids.into_iter()))
            .cond_where(threads.is_unmarked_volume(volumes));
        if locks {
            threads.dialect.lock_free_rows(&mut select);
        }
        for row in db.query_all(&select).await? {
            let of_thread = by_thread.entry(row.try_get("", "thread_id_text")?).or_default();
            let (name, id, host) = (name_of(&row)?, row.try_get("", "volume_id_text")?, host_of(&row)?);
            of_thread.push(VolumeRow { name, id, host });
        }
        for rows in by_thread.values_mut() {
            rows.sort();
        }
        Ok(Some(by_thread))
    }

    /// Adds to rows the volumes that are unmarked.
    pub(super) async fn add_volumes(&self, db: &impl ConnectionTrait, rows: &mut Rows) -> Result<(), DbErr> {
        let unmarked = rows.threads.iter().filter(|(_, row)| !row.marked);
        let ids: Vec<_> = unmarked.map(|(thread, _)| thread.as_str()).collect();
        let Some(mut volumes) = self.unmarked_volumes(db, ids.into_iter(), false).await? else { return Ok(()) };
        for (thread, row) in &mut rows.threads {
            row.volumes = Some(volumes.remove(thread.as_str()).unwrap_or_default());
        }
        Ok(())
    }

    /// Marks the volumes of these receipts, whose threads are locked. Returns those that have a mark now.
    pub(super) async fn mark_volumes(
        &self,
        threads: &Mapping,
        volumes: &VolumesTable,
        transaction: &DatabaseTransaction,
        receipts: &[&Receipt],
        at: DateTime<Utc>,
    ) -> Result<HashSet<VolumeName>, DbErr> {
        let by_name: HashMap<&str, &Receipt> = receipts.iter().map(|it| (it.volume.as_str(), *it)).collect();
        let has_mark = || Expr::col(Alias::new(&volumes.mark)).is_not_null();
        let rows = if transaction.support_returning() {
            // As with the threads' own marks.
            let at = match threads.mark {
                MarkType::Zoned => Expr::val(at),
                MarkType::Naive => Expr::val(at.naive_utc()),
            };
            let mut update = guarded_mark(threads, volumes, at, receipts);
            let returned = [(as_name(threads, volumes), "volume_name_text"), (has_mark(), "has_mark")];
            update.returning(
                Query::returning().exprs(returned.map(|(value, name)| value.binary(BinOper::As, Expr::cust(name)))),
            );
            let mut marked = transaction.query_all(&update).await?;
            // A trigger may have undone it.
            marked.retain(|row| row.try_get("", "has_mark").unwrap_or(false));
            marked
        } else {
            let lists = receipts.chunks(if receipts.len() > MOST_BY_NAME { receipts.len() } else { 1 });
            let each: Vec<_> = lists
                .map(|list| {
                    let update = guarded_mark(threads, volumes, Expr::val(at.naive_utc()), list);
                    transaction.get_database_backend().build(&update).to_string()
                })
                .collect();
            transaction.execute_unprepared(&each.join(";")).await?;
            let select = Query::select()
                .expr_as(as_name(threads, volumes), "volume_name_text")
                .from(volumes.table())
                .and_where(is_named(volumes, by_name.keys().copied()))
                .and_where(has_mark())
                .to_owned();
            transaction.query_all(&select).await?
        };
        let names = rows.iter().map(name_of).collect::<Result<Vec<_>, _>>()?;
        Ok(names.iter().filter_map(|name| by_name.get(name.as_str())).map(|receipt| receipt.volume.clone()).collect())
    }

    /// Withdraws the mark of a volume whose thread is closed.
    pub(super) async fn withdraw_volume_mark(
        &self,
        threads: &Mapping,
        volumes: &VolumesTable,
        thread: &ThreadId,
        volume: &VolumeName,
    ) -> Result<bool, DbErr> {
        let Some(is_thread) = threads.is_thread(thread.as_str()) else { return Ok(false) };
        let closed = Query::select()
            .column(id(threads))
            .from(threads.table())
            .cond_where(is_thread)
            .cond_where(threads.is_closed())
            .to_owned();
        let update = Query::update()
            .table(volumes.table())
            .value(Alias::new(&volumes.mark), Expr::null())
            .and_where(is_named(volumes, [volume.as_str()].into_iter()))
            .and_where(Expr::col(Alias::new(&volumes.mark)).is_not_null())
            .and_where(Expr::col(Alias::new(&volumes.thread)).in_subquery(closed))
            .to_owned();
        Ok(self.db.execute(&update).await?.rows_affected() == 1)
    }

    pub(super) async fn select_owners(
        &self,
        volumes: &[VolumeName],
    ) -> Result<HashMap<VolumeName, Option<(ThreadId, Thread)>>, DbErr> {
        let threads = self.mapping().await?;
        let Some(table) = &threads.names.volumes else { return Ok(HashMap::new()) };
        let wanted: HashMap<&str, &VolumeName> = volumes.iter().map(|volume| (volume.as_str(), volume)).collect();
        let mut select = select_volumes(threads, table);
        select.and_where(table.column(&table.name).is_in(volumes.iter().map(VolumeName::as_str)));
        let mut found = Vec::new();
        for row in self.db.query_all(&select).await? {
            let (name, thread) = (name_of(&row)?, row.try_get::<String>("", "thread_id_text")?);
            // What a collation takes for the same name is another volume's.
            if let Some(volume) = wanted.get(name.as_str()) {
                let (marked, host) = (row.try_get("", "is_marked")?, host_of(&row)?);
                found.push(((*volume).clone(), ThreadId::parse(&thread).ok(), marked, host));
            }
        }
        let threads: HashSet<_> = found.iter().filter_map(|(_, thread, ..)| thread.clone()).collect();
        let threads: Vec<_> = threads.into_iter().collect();
        let rows = self.read_rows(&threads, None).await?.threads;
        let owner = |thread: Option<ThreadId>, marked: bool, host: Option<String>| {
            let thread = thread?;
            let row = rows.get(&thread).cloned().map(|row| Thread { marked, host, ..row });
            row.map(|row| (thread, row))
        };
        let owners = found.into_iter();
        Ok(owners.map(|(volume, thread, marked, host)| (volume, owner(thread, marked, host))).collect())
    }

    /// What rows name the volumes of a thread, marked ones too; none if there is no table of them.
    pub async fn named_volumes(&self, thread: &ThreadId) -> Result<Option<Vec<NamedVolume>>, Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let threads = self.mapping().await?;
            let Some(volumes) = &threads.names.volumes else { return Ok(None) };
            let Some(id) = threads.id_value(thread.as_str()) else { return Ok(Some(Vec::new())) };
            let mut select = select_volumes(threads, volumes);
            select.and_where(threads.qualified_id().eq(id));
            let mut rows = self.db.query_all(&select).await?;
            rows.retain(|row| row.try_get::<String>("", "thread_id_text").is_ok_and(|id| id == thread.as_str()));
            let read = |row: &QueryResult| {
                let (name, marked, host) = (name_of(row)?, row.try_get("", "is_marked")?, host_of(row)?);
                Ok(NamedVolume { name, marked, host })
            };
            let mut named = rows.iter().map(read).collect::<Result<Vec<_>, DbErr>>()?;
            named.sort_by(|one, other| (one.marked, &one.name).cmp(&(other.marked, &other.name)));
            Ok(Some(named))
        })
        .await
    }

    /// Whether a batch's locked rows have volumes: those without are busy, since somebody has locked these too.
    pub(super) async fn lock_volumes(
        &self,
        lock: &DatabaseTransaction,
        rows: &mut Rows,
        busy: &mut HashSet<ThreadId>,
    ) -> Result<(), DbErr> {
        let ids: Vec<_> = rows.threads.keys().map(ThreadId::as_str).collect();
        let Some(mut volumes) = self.unmarked_volumes(lock, ids.into_iter(), true).await? else { return Ok(()) };
        for (thread, row) in &mut rows.threads {
            let of_thread = volumes.remove(thread.as_str());
            if of_thread.is_none() {
                busy.insert(thread.clone());
            }
            row.volumes = Some(of_thread.unwrap_or_default());
        }
        Ok(())
    }
}

/// Rows of volumes with the ids of their threads, as these are written there, and what both say of hosts.
pub(super) fn select_volumes(threads: &Mapping, volumes: &VolumesTable) -> SelectStatement {
    let mark = if threads.has_mark { volumes.column(&volumes.mark) } else { Expr::null() };
    let mut select = Query::select()
        .expr_as(threads.as_text(threads.qualified_id()), "thread_id_text")
        .expr_as(threads.as_text(volumes.column(&volumes.id)), "volume_id_text")
        .expr_as(threads.as_text(volumes.column(&volumes.name)), "volume_name_text")
        .expr_as(mark.is_not_null(), "is_marked")
        .from(volumes.table())
        .join(JoinType::InnerJoin, threads.table(), threads.qualified_id().eq(volumes.column(&volumes.thread)))
        .to_owned();
    select_hosts(threads, volumes, &mut select);
    select
}

/// Marks the volumes of receipts that have no mark, and whose rows are still those of their threads.
fn guarded_mark(threads: &Mapping, volumes: &VolumesTable, at: Expr, receipts: &[&Receipt]) -> UpdateStatement {
    let ids = receipts.iter().map(|receipt| receipt.thread_id.as_str());
    Query::update()
        .table(volumes.table())
        .value(Alias::new(&volumes.mark), at)
        .and_where(is_named(volumes, receipts.iter().map(|receipt| receipt.volume.as_str())))
        .and_where(threads.is_one_of(Expr::col(Alias::new(&volumes.thread)), ids))
        .and_where(Expr::col(Alias::new(&volumes.mark)).is_null())
        .to_owned()
}

fn is_named<'a>(volumes: &VolumesTable, names: impl Iterator<Item = &'a str>) -> Expr {
    Expr::col(Alias::new(&volumes.name)).is_in(names)
}

fn as_name(threads: &Mapping, volumes: &VolumesTable) -> Expr {
    threads.as_text(Expr::col(Alias::new(&volumes.name)))
}

/// A row without a name has an empty one, which no volume has.
fn name_of(row: &QueryResult) -> Result<String, DbErr> {
    Ok(row.try_get::<Option<String>>("", "volume_name_text")?.unwrap_or_default())
}
