//! Writing receipts, each linked to its chain.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, SubsecRound, Utc};
use migrations::Values;
use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DbErr, EntityName, EntityTrait, ExprTrait, IdenStatic, IntoActiveModel,
    Iterable, ModelTrait, QueryTrait,
    sea_query::{Expr, InsertStatement, Query},
};

use super::{Store, chains::Linked, entities::volume_removal, history_entities::chain, rows::time};
use crate::{
    cleanup::{ContainerReceipt, Gone, Origin, Receipt},
    volume_name::{ThreadId, VolumeName},
};

/// Receipts that one statement writes, no fewer than a sweep marks at once: with their 16 columns, no more than 32,766
/// values, which is what SQLite takes ("Limits In SQLite"); MySQL takes 65,535.
const ROWS_A_STATEMENT: usize = 2000;

/// Receipts with their places in a chain.
pub(super) struct Unwritten<'a> {
    inserts: Vec<InsertStatement>,
    linked: Linked<'a>,
}

impl<'a> Unwritten<'a> {
    /// Whoever commits says so to their chain.
    pub(super) async fn write(self, db: &impl ConnectionTrait) -> Result<Linked<'a>, DbErr> {
        for insert in &self.inserts {
            db.execute(insert).await?;
        }
        Ok(self.linked)
    }

    /// They are never written, and the chain is as it was.
    pub(super) fn discard(self) {
        self.linked.withdrawn();
    }
}

impl Store {
    /// Writes receipts, but for those that are written already. Whoever commits says so to their chain.
    pub(super) async fn write_receipts<'a>(
        &self,
        db: &impl ConnectionTrait,
        receipts: impl IntoIterator<Item = &'a Receipt>,
    ) -> Result<Option<Linked<'_>>, DbErr> {
        let mut receipts: Vec<_> = receipts.into_iter().filter(|receipt| !receipt.is_written).collect();
        leave_out_removed(db, &mut receipts).await?;
        self.write_rows(db, receipts.into_iter().map(|receipt| self.row(receipt)).collect()).await
    }

    async fn write_rows(
        &self,
        db: &impl ConnectionTrait,
        rows: Vec<volume_removal::Model>,
    ) -> Result<Option<Linked<'_>>, DbErr> {
        match self.link_rows(rows)? {
            None => Ok(None),
            Some(unwritten) => unwritten.write(db).await.map(Some),
        }
    }

    /// Receipts as they are written, each with its hash, which takes some time and no database.
    pub(super) fn link_receipts(&self, receipts: &[Receipt]) -> Result<Option<Unwritten<'_>>, DbErr> {
        self.link_rows(receipts.iter().map(|receipt| self.row(receipt)).collect())
    }

    fn link_rows(&self, mut rows: Vec<volume_removal::Model>) -> Result<Option<Unwritten<'_>>, DbErr> {
        if rows.is_empty() {
            return Ok(None);
        }
        let linked = self.chains.link(&mut rows);
        let chain = linked.row_if_new(&self.replica, Utc::now().trunc_subsecs(3));
        let mut inserts: Vec<_> = chain.map(|chain| chain::Entity::insert(chain).into_query()).into_iter().collect();
        while !rows.is_empty() {
            let later = rows.split_off(rows.len().min(ROWS_A_STATEMENT));
            let columns = columns(std::mem::replace(&mut rows, later));
            inserts.push(self.engine.dialect().insert_columns(volume_removal::Entity.table_name(), columns)?);
        }
        Ok(Some(Unwritten { inserts, linked }))
    }

    /// Writes a receipt that has no mark.
    pub(super) async fn record_alone(&self, receipt: &Receipt) -> Result<(), DbErr> {
        self.write_alone(vec![self.row(receipt)]).await
    }

    /// Writes receipts of containers.
    pub(super) async fn write_container_receipts(&self, receipts: &[ContainerReceipt]) -> Result<(), DbErr> {
        let row = |receipt: &ContainerReceipt| volume_removal::Model {
            container_id: Some(receipt.container.to_string()),
            container_name: Some(receipt.name.clone()),
            ..self.row_of(ContainerReceipt::OUTCOME, &receipt.thread_id, &receipt.volume, &receipt.origin, receipt.at)
        };
        self.write_alone(receipts.iter().map(row).collect()).await
    }

    async fn write_alone(&self, rows: Vec<volume_removal::Model>) -> Result<(), DbErr> {
        let transaction = self.db.begin_write().await?;
        let linked = self.write_rows(&transaction, rows).await?;
        transaction.commit().await?;
        linked.into_iter().for_each(Linked::committed);
        Ok(())
    }

    fn row(&self, receipt: &Receipt) -> volume_removal::Model {
        let details = &receipt.details;
        volume_removal::Model {
            host: details.host.clone(),
            daemon: details.daemon.clone(),
            bytes: details.bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            duration_ms: details.duration.map(|took| i64::try_from(took.as_millis()).unwrap_or(i64::MAX)),
            ..self.row_of(receipt.gone.as_str(), &receipt.thread_id, &receipt.volume, &receipt.origin, receipt.at)
        }
    }

    /// What all receipts have; the place in a chain is missing, and the id, which the database gives.
    fn row_of(
        &self,
        outcome: &str,
        thread: &ThreadId,
        volume: &VolumeName,
        origin: &Origin,
        at: DateTime<Utc>,
    ) -> volume_removal::Model {
        let event_id = match origin {
            Origin::Event(id) => id.clone(),
            Origin::Sweep | Origin::Docker | Origin::Orphan | Origin::Retired => None,
        };
        let actor = match origin {
            Origin::Orphan | Origin::Retired => self.actor.clone(),
            Origin::Event(_) | Origin::Sweep | Origin::Docker => None,
        };
        volume_removal::Model {
            id: 0,
            thread_id: thread.to_string(),
            volume_name: volume.to_string(),
            outcome: outcome.to_owned(),
            source: origin.as_str().to_owned(),
            event_id,
            replica: self.replica.clone(),
            removed_at: at,
            host: None,
            daemon: None,
            bytes: None,
            duration_ms: None,
            actor,
            container_id: None,
            container_name: None,
            chain_id: None,
            chain_sequence: None,
            chain_hash: None,
        }
    }
}

/// Rows by their columns, but for the id.
fn columns(rows: Vec<volume_removal::Model>) -> Vec<Values> {
    use volume_removal::{Column, Model};
    let mut rows: Vec<_> = rows.into_iter().map(IntoActiveModel::into_active_model).collect();
    let is_written = |column: &Column| !matches!(column, Column::Id);
    let values = |column: Column| Values {
        column: column.as_str(),
        kind: Model::get_value_type(column),
        // Moved, not cloned: there may be thousands of rows.
        values: rows.iter_mut().filter_map(|row| row.take(column).into_value()).collect(),
    };
    Column::iter().filter(is_written).map(values).collect()
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
