//! The retention of receipts: the oldest go, and each chain says from where on it is kept.

use std::{collections::BTreeMap, time::Duration};

use chrono::{TimeDelta, Utc};
use sea_orm::{ColumnTrait, Condition, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};

use super::{
    PAGE_TIMEOUT, Store,
    entities::volume_removal::{Column, Entity},
    history_entities::chain,
    stats::counted,
};
use crate::failure::Failure;

/// Receipts that go in one transaction.
const STEP: u64 = 1000;

impl Store {
    /// Deletes receipts that are older than that and were counted. Returns how many.
    pub async fn forget_receipts(&self, kept: Duration) -> Result<u64, Failure> {
        let mut forgotten = 0;
        loop {
            let step = self.bounded(PAGE_TIMEOUT, self.forget_step(kept)).await?;
            forgotten += step;
            if step < STEP {
                return Ok(forgotten);
            }
        }
    }

    async fn forget_step(&self, kept: Duration) -> Result<u64, DbErr> {
        let kept = TimeDelta::from_std(kept).unwrap_or(TimeDelta::MAX);
        let Some(before) = Utc::now().checked_sub_signed(kept) else { return Ok(0) };
        let counted = counted(&self.db).await?;
        let transaction = self.db.begin_write().await?;
        let oldest = Entity::find()
            .filter(Column::RemovedAt.lt(before))
            .filter(Column::Id.lte(counted))
            .order_by_asc(Column::RemovedAt)
            .order_by_asc(Column::Id)
            .limit(STEP);
        let rows = oldest.all(&transaction).await?;
        // By chain, how many go, the last place of them, and its hash.
        let mut ends: BTreeMap<&str, (i64, i64, &str)> = BTreeMap::new();
        for row in &rows {
            if let (Some(chain), Some(sequence), Some(hash)) =
                (&row.chain_id, row.chain_sequence, row.chain_hash.as_deref())
            {
                let (rows, last, head) = ends.entry(chain).or_insert((0, sequence, hash));
                *rows += 1;
                if sequence > *last {
                    (*last, *head) = (sequence, hash);
                }
            }
        }
        let ids = rows.iter().map(|row| row.id);
        Entity::delete_many().filter(Column::Id.is_in(ids)).exec(&transaction).await?;
        for (id, (rows, last, head)) in ends {
            let before = chain::Entity::find_by_id(id).one(&transaction).await?.map_or(1, |chain| chain.kept_from);
            if rows < last + 1 - before {
                // A clock that was set back: what is before them in the chain goes too.
                let stragglers = Condition::all().add(Column::ChainId.eq(id)).add(Column::ChainSequence.lte(last));
                Entity::delete_many().filter(stragglers).exec(&transaction).await?;
            }
            let update = chain::Entity::update_many()
                .col_expr(chain::Column::KeptFrom, Expr::value(last + 1))
                .col_expr(chain::Column::KeptAfter, Expr::value(head))
                .filter(chain::Column::Id.eq(id))
                .filter(chain::Column::KeptFrom.lte(last));
            update.exec(&transaction).await?;
        }
        transaction.commit().await?;
        Ok(rows.len() as u64)
    }
}
