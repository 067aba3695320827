//! Applying the migrations: safe when several replicas start at once.

use std::time::Duration;

use migrations::{Change, Found, Migrator, MigratorTraitSelf, literal};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, RuntimeErr, Statement, sqlx};
use tracing::warn;

use super::{ROW_TIMEOUT, Store, failure, mysql_number};
use crate::failure::Failure;

/// Any number that nobody else uses as an advisory lock: the first bytes of "volume-reaper".
const ADVISORY_LOCK: i64 = 0x766f_6c75_6d65_2d72;
/// The lock's name on MySQL, where names are the whole server's, and have at most 64 characters.
const MYSQL_LOCK: &str = "CONCAT('volume-reaper migrates ', MD5(DATABASE()))";
/// How often a replica that waits asks whether another one has finished. Building the index of a large table takes
/// minutes; a quarter of a second more does not matter.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Waits before the further tries to change the threads table, whose lock each asks for no longer than two seconds:
/// behind a long transaction, everybody else who writes to the table would wait with us.
const LOCK_RETRIES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// A migration and whether it was applied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MigrationStatus {
    /// Its name, which begins with its date.
    pub name: String,
    /// Whether it was applied.
    pub applied: bool,
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    /// The last so many, or all.
    Down(Option<u32>),
}

impl Store {
    /// Applies what is pending. Needs no rights on the schema if nothing is.
    pub async fn migrate_up(&self) -> Result<(), Failure> {
        if self.migration_status().await?.iter().all(|migration| migration.applied) {
            return Ok(());
        }
        self.migrate(Direction::Up).await
    }

    /// The names of the migrations that are still to be applied, in their order.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, Failure> {
        let all = self.migration_status().await?.into_iter();
        Ok(all.filter(|migration| !migration.applied).map(|migration| migration.name).collect())
    }

    /// The SQL that [`Store::migrate_up`] would execute now, the bookkeeping left out. Changes nothing.
    pub async fn plan_migrate_up(&self) -> Result<Vec<String>, Failure> {
        let pending: Vec<_> = self.migration_status().await?.into_iter().filter(|status| !status.applied).collect();
        let migrator = self.bounded(ROW_TIMEOUT, self.found(&self.db)).await?;
        let changes = migrator.changes();
        let changes = changes.iter().filter(|change| pending.iter().any(|pending| pending.name == change.name()));
        Ok(changes.flat_map(|change| self.plan(change.as_ref())).collect())
    }

    fn plan(&self, change: &dyn Change) -> Vec<String> {
        let backend = self.backend();
        let statements = change.up(backend).into_iter().map(|statement| format!("{statement};"));
        let is_transaction = backend == DbBackend::Postgres && change.is_transaction() && statements.len() > 0;
        let around = |sql: &str| is_transaction.then(|| sql.to_owned());
        let title = Some(format!("-- {}", change.name()));
        title.into_iter().chain(around("BEGIN;")).chain(statements).chain(around("COMMIT;")).collect()
    }

    /// Takes back the last `steps` migrations, or all of them. The threads table stays, without our additions.
    pub async fn migrate_down(&self, steps: Option<u32>) -> Result<(), Failure> {
        self.migrate(Direction::Down(steps)).await
    }

    /// Everything happens in `transaction`, except on PostgreSQL.
    async fn apply(&self, direction: Direction, transaction: Option<&DatabaseTransaction>) -> Result<(), DbErr> {
        match (direction, transaction) {
            (Direction::Up, Some(transaction)) => self.found(transaction).await?.up(transaction, None).await,
            (Direction::Up, None) => self.found(&self.db).await?.up(self.db.connections(), None).await,
            (Direction::Down(steps), Some(transaction)) => {
                self.found_to_take_away(transaction).await?.down(transaction, steps).await
            }
            (Direction::Down(steps), None) => {
                self.found_to_take_away(&self.db).await?.down(self.db.connections(), steps).await
            }
        }
    }

    async fn found(&self, db: &impl ConnectionTrait) -> Result<Migrator, DbErr> {
        Ok(Migrator { found: Found::to_add(db, &self.threads).await? })
    }

    async fn found_to_take_away(&self, db: &impl ConnectionTrait) -> Result<Migrator, DbErr> {
        Ok(Migrator { found: Found::to_take_away(db, &self.threads).await? })
    }

    /// All migrations, in their order.
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>, Failure> {
        let migrations = async {
            let transaction = self.db.begin().await?;
            let migrator = Migrator { found: Found::unseen(&self.threads, self.backend()) };
            migrator.get_migration_with_status_read_only(&transaction).await
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

    /// Migrates while no other replica does.
    ///
    /// On SQLite everything happens in the one transaction that holds the file's write lock, and is handed over. On
    /// PostgreSQL the lock is a transaction of its own, because the index is built outside of any. The lock is asked
    /// for and not waited for: a waiting statement holds a snapshot, and `CREATE INDEX CONCURRENTLY` waits for
    /// snapshots, so that both would wait for ever. MySQL's lock belongs to a connection, which our transaction keeps
    /// to itself, and what is set for the connection counts for all that is done on it; a change of the schema ends the
    /// transaction there, and not the lock.
    async fn migrate(&self, direction: Direction) -> Result<(), Failure> {
        if self.db.is_behind_pooler() {
            return Err(Failure::permanent(format!(
                "database at {}: the schema can't be changed through a pooler: run `volume-reaper migrate` with a \
                 DATABASE_URL that leads to PostgreSQL itself",
                self.url
            )));
        }
        self.migrate_when_free(direction).await.map_err(|error| failure(&self.url, &error))
    }

    /// Migrates, and tries again while the threads table is in use.
    async fn migrate_when_free(&self, direction: Direction) -> Result<(), DbErr> {
        let mut waits = LOCK_RETRIES.into_iter();
        while let Err(error) = self.try_to_migrate(direction).await {
            if !is_lock_timeout(&error) {
                return Err(error);
            }
            let Some(wait) = waits.next() else { return Err(self.blocked(error).await) };
            warn!(retry_in = ?wait, "the threads table is in use and could not be changed");
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    async fn try_to_migrate(&self, direction: Direction) -> Result<(), DbErr> {
        let lock = self.migration_lock().await?;
        let done = self.apply(direction, (self.backend() != DbBackend::Postgres).then_some(&lock)).await;
        if self.backend() == DbBackend::MySql {
            // Whatever came of it: the connection goes back to the pool. If it is gone, so is the lock.
            let _ = lock.execute_unprepared("SET SESSION lock_wait_timeout = DEFAULT").await;
            let _ = ask(&lock, &format!("SELECT RELEASE_LOCK({MYSQL_LOCK})")).await;
        }
        done?;
        lock.commit().await
    }

    /// That the threads table could not be locked, and who was in the way: not those who only waited with us.
    async fn blocked(&self, error: DbErr) -> DbErr {
        if self.backend() == DbBackend::Sqlite {
            return error;
        }
        let holders = format!(
            "SELECT 'process ' || pid || coalesce(' of ' || usename, '') || \
             coalesce(', in a transaction for ' || date_trunc('second', clock_timestamp() - xact_start), '') \
             FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE granted AND pid <> pg_backend_pid() \
             AND relation = to_regclass({}) AND database = datid \
             AND coalesce(xact_start < clock_timestamp() - interval '2s', true) ORDER BY xact_start LIMIT 3",
            literal(DbBackend::Postgres, &self.threads.table_sql(DbBackend::Postgres))
        );
        // MySQL does not say who holds such a lock, unless it was set up to: only who has a transaction open, and to
        // whom it may. Those who wait with us have none yet. Since when is in the server's zone, and so left out.
        let open = "SELECT CONCAT('maybe process ', id, ' of ', user, ', in a transaction') \
                    FROM information_schema.innodb_trx JOIN information_schema.processlist \
                    ON id = trx_mysql_thread_id WHERE id <> CONNECTION_ID() ORDER BY trx_started LIMIT 3";
        let backend = self.backend();
        let holders = if backend == DbBackend::MySql { open.to_owned() } else { holders };
        let rows = self.db.query_all_raw(Statement::from_string(backend, holders)).await;
        let holders: Vec<String> =
            rows.unwrap_or_default().iter().filter_map(|row| row.try_get_by_index(0).ok()).collect();
        DbErr::Migration(format!(
            "table {} could not be locked in {} tries of 2 s each; it is held by {}. Migrate again when that has ended",
            self.threads,
            LOCK_RETRIES.len() + 1,
            if holders.is_empty() {
                "somebody who is gone by now, or whom this user can't see".to_owned()
            } else {
                holders.join(" and ")
            },
        ))
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

/// Whether a lock was not given in time (PostgreSQL's manual, appendix A: `lock_not_available`; MySQL's error 1205;
/// SQLite's result code 5).
fn is_lock_timeout(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return false;
    };
    let sqlx::Error::Database(error) = error.as_ref() else { return false };
    error.code().is_some_and(|code| matches!(code.as_ref(), "55P03" | "5"))
        || mysql_number(error.as_ref()) == Some(1205)
}
