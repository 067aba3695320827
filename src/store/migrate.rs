//! Applying the migrations: safe when several replicas start at once.

use std::time::Duration;

use migrations::{Migrator, MigratorTraitSelf};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement};

use super::{ROW_TIMEOUT, Store, failure};
use crate::failure::Failure;

/// Any number that nobody else uses as an advisory lock: the first bytes of "volume-reaper".
const ADVISORY_LOCK: i64 = 0x766f_6c75_6d65_2d72;
/// The lock's name on MySQL, where names are the whole server's, and have at most 64 characters.
const MYSQL_LOCK: &str = "CONCAT('volume-reaper migrates ', MD5(DATABASE()))";
/// How often a replica that waits asks whether another one has finished. Building the index of a large table takes
/// minutes; a quarter of a second more does not matter.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A migration and whether it was applied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MigrationStatus {
    /// Its name, which begins with its date.
    pub name: String,
    /// Whether it was applied.
    pub applied: bool,
}

impl Store {
    /// Applies what is pending. Needs no rights on the schema if nothing is.
    pub async fn migrate_up(&self) -> Result<(), Failure> {
        if self.migration_status().await?.iter().all(|migration| migration.applied) {
            return Ok(());
        }
        self.migrate(async |migrator, transaction| match transaction {
            Some(transaction) => migrator.up(transaction, None).await,
            None => migrator.up(self.db.connections(), None).await,
        })
        .await
    }

    /// Takes back the last `steps` migrations, or all of them. The threads table stays, without our additions.
    pub async fn migrate_down(&self, steps: Option<u32>) -> Result<(), Failure> {
        self.migrate(async |migrator, transaction| match transaction {
            Some(transaction) => migrator.down(transaction, steps).await,
            None => migrator.down(self.db.connections(), steps).await,
        })
        .await
    }

    /// All migrations, in their order.
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>, Failure> {
        let migrations = async {
            let transaction = self.db.begin().await?;
            self.migrator().get_migration_with_status_read_only(&transaction).await
        };
        let migrations = self.bounded(ROW_TIMEOUT, migrations).await?;
        Ok(migrations
            .iter()
            .map(|migration| MigrationStatus {
                name: migration.name().to_owned(),
                applied: migration.status() == migrations::Status::Applied,
            })
            .collect())
    }

    fn migrator(&self) -> Migrator {
        Migrator { threads: self.threads.clone() }
    }

    /// Runs `work` while no other replica does.
    ///
    /// On SQLite everything happens in the one transaction that holds the file's write lock, and is handed over. On
    /// PostgreSQL the lock is a transaction of its own, because the index is built outside of any. The lock is asked
    /// for and not waited for: a waiting statement holds a snapshot, and `CREATE INDEX CONCURRENTLY` waits for
    /// snapshots, so that both would wait for ever. MySQL's lock belongs to a connection, which our transaction keeps
    /// to itself; a change of the schema would end a lock that belongs to a transaction.
    async fn migrate(
        &self,
        work: impl AsyncFnOnce(Migrator, Option<&DatabaseTransaction>) -> Result<(), DbErr>,
    ) -> Result<(), Failure> {
        if self.db.is_behind_pooler() {
            return Err(Failure::permanent(format!(
                "database at {}: the schema can't be changed through a pooler: run `volume-reaper migrate` with a \
                 DATABASE_URL that leads to PostgreSQL itself",
                self.url
            )));
        }
        let migrate = async {
            let lock = self.migration_lock().await?;
            let done = work(self.migrator(), (self.backend() == DbBackend::Sqlite).then_some(&lock)).await;
            if self.backend() == DbBackend::MySql {
                // Whatever came of it: the connection goes back to the pool. If it is gone, so is the lock.
                let _ = ask(&lock, &format!("SELECT RELEASE_LOCK({MYSQL_LOCK})")).await;
            }
            done?;
            lock.commit().await
        };
        migrate.await.map_err(|error| failure(&self.url, &error))
    }

    async fn migration_lock(&self) -> Result<DatabaseTransaction, DbErr> {
        if self.backend() == DbBackend::Sqlite {
            return self.db.begin_write().await;
        }
        loop {
            // Bound to a transaction and not to a connection, so that it works through a pooler too.
            let lock = self.db.begin().await?;
            let try_lock = if self.backend() == DbBackend::MySql {
                format!("SELECT GET_LOCK({MYSQL_LOCK}, 0) = 1")
            } else {
                format!("SELECT pg_try_advisory_xact_lock({ADVISORY_LOCK})")
            };
            if ask(&lock, &try_lock).await? {
                return Ok(lock);
            }
            lock.rollback().await?;
            tokio::time::sleep(LOCK_POLL_INTERVAL).await;
        }
    }
}

/// The answer to a question that a lock is asked.
async fn ask(lock: &DatabaseTransaction, question: &str) -> Result<bool, DbErr> {
    let answer = lock.query_one_raw(Statement::from_string(lock.get_database_backend(), question)).await?;
    Ok(answer.is_some_and(|row| row.try_get_by_index(0).unwrap_or(false)))
}
