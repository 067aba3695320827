//! The leases, as guarded statements: each changes a row only if it is still as it was thought to be.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, ExprTrait, QueryFilter,
    sea_query::{Expr, OnConflict},
};

use super::{
    ROW_TIMEOUT, Store,
    entities::lease::{ActiveModel, Column, Entity},
};
use crate::{failure::Failure, lease::Lease};

impl Store {
    /// Takes the lease if nobody holds it, or its holder's time is over. `None` if somebody else holds it.
    pub async fn acquire_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>, Failure> {
        let now = Utc::now();
        let first = ActiveModel {
            name: Set(name.to_owned()),
            holder: Set(holder.to_owned()),
            epoch: Set(1),
            expires_at: Set(now + ttl),
        };
        let take_over = OnConflict::column(Column::Name)
            .update_columns([Column::Holder, Column::ExpiresAt])
            .value(Column::Epoch, Expr::col((Entity, Column::Epoch)).add(1))
            .action_and_where(Expr::col((Entity, Column::ExpiresAt)).lt(now))
            .to_owned();
        self.bounded(ROW_TIMEOUT, async {
            let changed = Entity::insert(first).on_conflict(take_over).exec_without_returning(&self.db).await?;
            if changed == 0 {
                return Ok(None);
            }
            let row = Entity::find_by_id(name).filter(Column::Holder.eq(holder)).one(&self.db).await?;
            Ok(row.map(|row| Lease { epoch: row.epoch }))
        })
        .await
    }

    /// Renews the lease. `false` if it is no longer this holder's.
    pub async fn renew_lease(&self, name: &str, holder: &str, lease: Lease, ttl: Duration) -> Result<bool, Failure> {
        self.set_expiry(name, holder, lease, Utc::now() + ttl).await
    }

    /// Gives the lease up, so that nobody has to wait for its end.
    pub async fn release_lease(&self, name: &str, holder: &str, lease: Lease) -> Result<bool, Failure> {
        self.set_expiry(name, holder, lease, DateTime::UNIX_EPOCH).await
    }

    async fn set_expiry(&self, name: &str, holder: &str, lease: Lease, at: DateTime<Utc>) -> Result<bool, Failure> {
        self.bounded(ROW_TIMEOUT, async {
            let update = Entity::update_many()
                .col_expr(Column::ExpiresAt, Expr::value(at))
                .filter(Column::Name.eq(name))
                .filter(Column::Holder.eq(holder))
                .filter(Column::Epoch.eq(lease.epoch));
            Ok(update.exec(&self.db).await?.rows_affected == 1)
        })
        .await
    }
}
