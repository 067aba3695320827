//! The lock under which SQLite is migrated: everything happens in the one transaction that holds the file's write lock.

use migrations::Sqlite;
use sea_orm::{DatabaseTransaction, DbErr, prelude::async_trait::async_trait};

use crate::store::{Pool, engine::Migrating};

#[async_trait]
impl Migrating for Sqlite {
    async fn try_lock(&self, db: &Pool) -> Result<Option<DatabaseTransaction>, DbErr> {
        db.begin_write().await.map(Some)
    }
}
