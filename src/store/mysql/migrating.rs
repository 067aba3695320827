//! The lock under which MySQL is migrated.
//!
//! The lock belongs to a connection, which our transaction keeps to itself, and what is set for the connection counts
//! for all that is done on it; a change of the schema ends the transaction, and not the lock.

use migrations::{MySql, ThreadsTable};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, prelude::async_trait::async_trait};

use crate::store::{Pool, engine::Migrating, pool::is_true};

/// The lock's name. Names are the whole server's, and have at most 64 characters.
const LOCK: &str = "CONCAT('volume-reaper migrates ', LEFT(SHA2(DATABASE(), 256), 40))";

#[async_trait]
impl Migrating for MySql {
    async fn try_lock(&self, db: &Pool) -> Result<Option<DatabaseTransaction>, DbErr> {
        let lock = db.begin().await?;
        if is_true(&lock, &format!("SELECT GET_LOCK({LOCK}, 0) = 1 AS answer")).await? {
            return Ok(Some(lock));
        }
        lock.rollback().await?;
        Ok(None)
    }

    /// The connection goes back to the pool. If it is gone, so is the lock.
    async fn unlock(&self, lock: &DatabaseTransaction) {
        let _ = lock.execute_unprepared("SET SESSION lock_wait_timeout = DEFAULT").await;
        let _ = is_true(lock, &format!("SELECT RELEASE_LOCK({LOCK}) AS answer")).await;
    }

    /// The server does not say who holds such a lock, unless it was set up to: only who has a transaction open, and to
    /// whom it may. Those who wait with us have none yet. Since when is in the server's zone, and so left out.
    fn lock_holders(&self, _names: &ThreadsTable) -> Option<String> {
        Some(
            "SELECT CONCAT('maybe process ', id, ' of ', user, ', in a transaction') AS holder \
             FROM information_schema.innodb_trx JOIN information_schema.processlist \
             ON id = trx_mysql_thread_id WHERE id <> CONNECTION_ID() ORDER BY trx_started LIMIT 3"
                .to_owned(),
        )
    }
}
