//! The leases, as guarded statements: each changes a row only if it is still as it was thought to be.
//!
//! All replicas go by the database's clock: by their own, one that is hours ahead would leave a lease behind that
//! nobody could take for hours. SQLite has no clock but the machine's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ActiveValue::Set, ColumnTrait, Condition, DbErr, EntityTrait, ExprTrait, QueryFilter, sea_query::Expr};

use super::{
    ROW_TIMEOUT, Store,
    entities::lease::{ActiveModel, Column, Entity},
};
use crate::failure::Failure;

/// A lease that was acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Counts the holders; only the latest one's is valid.
    pub epoch: i64,
}

impl Store {
    /// Takes the lease if nobody holds it, or its holder's time is over. `None` if somebody else holds it.
    pub async fn acquire_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>, Failure> {
        self.bounded(ROW_TIMEOUT, async {
            if !self.take_over(name, holder, ttl).await? {
                // Held, or never taken yet. An insert that updates instead could do all at once, were it not that MySQL
                // knows no condition in it.
                self.insert_free_lease(name).await?;
                if !self.take_over(name, holder, ttl).await? {
                    return Ok(None);
                }
            }
            let row = Entity::find_by_id(name).filter(Column::Holder.eq(holder)).one(&self.db).await?;
            Ok(row.map(|row| Lease { epoch: row.epoch }))
        })
        .await
    }

    async fn take_over(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, DbErr> {
        let now = self.common_time().await?;
        let is_over = Condition::any()
            .add(Column::ExpiresAt.lt(now))
            // Nobody's is good for so long: the clock was wrong by which it was written.
            .add(Column::ExpiresAt.gt(now + 2 * ttl));
        let update = Entity::update_many()
            .col_expr(Column::Holder, Expr::value(holder))
            .col_expr(Column::Epoch, Expr::col(Column::Epoch).add(1))
            .col_expr(Column::ExpiresAt, Expr::value(now + ttl))
            .filter(Column::Name.eq(name))
            .filter(is_over);
        Ok(update.exec(&self.db).await?.rows_affected == 1)
    }

    /// A lease that nobody has held yet, unless there is one of that name. Whether there was is not known: MySQL counts
    /// a row in both cases.
    async fn insert_free_lease(&self, name: &str) -> Result<(), DbErr> {
        let free = ActiveModel {
            name: Set(name.to_owned()),
            holder: Set(String::new()),
            epoch: Set(0),
            expires_at: Set(DateTime::UNIX_EPOCH),
        };
        Entity::insert(free).on_conflict_do_nothing_on([Column::Name]).exec_without_returning(&self.db).await?;
        Ok(())
    }

    /// Renews the lease. `false` if it is no longer this holder's.
    pub async fn renew_lease(&self, name: &str, holder: &str, lease: Lease, ttl: Duration) -> Result<bool, Failure> {
        self.bounded(ROW_TIMEOUT, async {
            let until = self.common_time().await? + ttl;
            self.set_expiry(name, holder, lease, until).await
        })
        .await
    }

    /// Gives the lease up, so that nobody has to wait for its end.
    pub async fn release_lease(&self, name: &str, holder: &str, lease: Lease) -> Result<bool, Failure> {
        self.bounded(ROW_TIMEOUT, self.set_expiry(name, holder, lease, DateTime::UNIX_EPOCH)).await
    }

    async fn set_expiry(&self, name: &str, holder: &str, lease: Lease, at: DateTime<Utc>) -> Result<bool, DbErr> {
        let update = Entity::update_many()
            .col_expr(Column::ExpiresAt, Expr::value(at))
            .filter(Column::Name.eq(name))
            .filter(Column::Holder.eq(holder))
            .filter(Column::Epoch.eq(lease.epoch));
        Ok(update.exec(&self.db).await?.rows_affected == 1)
    }

    /// What time it is for all replicas.
    async fn common_time(&self) -> Result<DateTime<Utc>, DbErr> {
        Ok(self.said_time().await?.unwrap_or_else(Utc::now))
    }
}
