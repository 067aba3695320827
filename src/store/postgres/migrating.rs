//! The lock under which PostgreSQL is migrated.
//!
//! The lock is a transaction of its own, because the index is built outside of any, and not the connection's, so that
//! it works through a pooler too. It is asked for and not waited for: a waiting statement holds a snapshot, and
//! `CREATE INDEX CONCURRENTLY` waits for snapshots, so that both would wait for ever.

use migrations::{Dialect, Postgres, ThreadsTable};
use sea_orm::{DatabaseTransaction, DbErr, prelude::async_trait::async_trait};

use crate::store::{Pool, engine::Migrating, pool::is_true};

/// Any number that nobody else uses as an advisory lock: the first bytes of "volume-reaper".
const ADVISORY_LOCK: i64 = 0x766f_6c75_6d65_2d72;

#[async_trait]
impl Migrating for Postgres {
    async fn try_lock(&self, db: &Pool) -> Result<Option<DatabaseTransaction>, DbErr> {
        let lock = db.begin().await?;
        if is_true(&lock, &format!("SELECT pg_try_advisory_xact_lock({ADVISORY_LOCK}) AS answer")).await? {
            return Ok(Some(lock));
        }
        lock.rollback().await?;
        Ok(None)
    }

    fn changes_within_lock(&self) -> bool {
        false
    }

    fn has_transactional_changes(&self) -> bool {
        true
    }

    /// Not those who only waited with us.
    fn lock_holders(&self, names: &ThreadsTable) -> Option<String> {
        Some(format!(
            "SELECT 'process ' || pid || coalesce(' of ' || usename, '') || \
             coalesce(', in a transaction for ' || date_trunc('second', clock_timestamp() - xact_start), '') AS holder \
             FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE granted AND pid <> pg_backend_pid() \
             AND relation = to_regclass({}) AND database = datid \
             AND coalesce(xact_start < clock_timestamp() - interval '2s', true) ORDER BY xact_start LIMIT 3",
            self.literal(&names.table_sql(self))
        ))
    }
}
