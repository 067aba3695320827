//! Applying the migrations: safe when several replicas start at once.

use std::time::Duration;

use migrations::{Bookkeeping, Change, Found, Migrator, MigratorTraitSelf};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr};
use tracing::warn;

use super::{
    ROW_TIMEOUT, Store,
    errors::{database_error, failure},
};
use crate::failure::Failure;

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
        if pending.is_empty() {
            // Nothing is made, so no right to make it is needed; the table has to fit all the same.
            return self.check_threads().await.map(|()| Vec::new());
        }
        let migrator = self.bounded(ROW_TIMEOUT, self.found(&self.db)).await?;
        let changes = migrator.changes();
        let changes = changes.iter().filter(|change| pending.iter().any(|pending| pending.name == change.name()));
        Ok(changes.flat_map(|change| self.plan(change.as_ref())).collect())
    }

    fn plan(&self, change: &dyn Change) -> Vec<String> {
        let statements = change.up().into_iter().map(|statement| format!("{statement};"));
        let is_transaction = self.engine.has_transactional_changes() && change.is_transaction() && statements.len() > 0;
        let around = |sql: &str| is_transaction.then(|| sql.to_owned());
        let title = Some(format!("-- {}", change.name()));
        title.into_iter().chain(around("BEGIN;")).chain(statements).chain(around("COMMIT;")).collect()
    }

    /// Takes back the last `steps` migrations, or all of them. The threads table stays, without our additions.
    pub async fn migrate_down(&self, steps: Option<u32>) -> Result<(), Failure> {
        if self.migration_status().await?.iter().all(|migration| !migration.applied) {
            return Ok(());
        }
        self.migrate(Direction::Down(steps)).await
    }

    /// Everything happens in `transaction`, if there is one.
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

    /// What is there, before it is changed. Fails with all that speaks against changing it.
    pub(super) async fn found(&self, db: &impl ConnectionTrait) -> Result<Migrator, DbErr> {
        Ok(Migrator { found: Found::to_add(db, self.engine.dialect(), &self.threads).await? })
    }

    async fn found_to_take_away(&self, db: &impl ConnectionTrait) -> Result<Migrator, DbErr> {
        Ok(Migrator { found: Found::to_take_away(db, self.engine.dialect(), &self.threads).await? })
    }

    /// All migrations, in their order.
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>, Failure> {
        let migrations = async {
            let transaction = self.db.begin().await?;
            Bookkeeping::read(&transaction, self.engine.dialect(), &self.threads).await?;
            let migrator = Migrator { found: Found::unseen(self.engine.dialect(), &self.threads) };
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
    async fn migrate(&self, direction: Direction) -> Result<(), Failure> {
        if self.db.is_behind_pooler() {
            return Err(Failure::permanent(format!(
                "database at {}: the schema can't be changed through a pooler: run `volume-reaper migrate` with a \
                 DATABASE_URL that leads to PostgreSQL itself",
                self.url
            )));
        }
        self.migrate_when_free(direction).await.map_err(|error| failure(self.engine, &self.url, &error))
    }

    /// Migrates, and tries again while the threads table is in use.
    async fn migrate_when_free(&self, direction: Direction) -> Result<(), DbErr> {
        let mut waits = LOCK_RETRIES.into_iter();
        while let Err(error) = self.try_to_migrate(direction).await {
            if !database_error(&error).is_some_and(|error| self.engine.is_lock_timeout(error)) {
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
        let done = self.apply(direction, self.engine.changes_within_lock().then_some(&lock)).await;
        // Whatever came of it.
        self.engine.unlock(&lock).await;
        done?;
        lock.commit().await
    }

    /// That the threads table could not be locked, and who was in the way: not those who only waited with us.
    async fn blocked(&self, error: DbErr) -> DbErr {
        let Some(holders) = self.engine.lock_holders(&self.threads) else { return error };
        let rows = self.db.rows(holders).await.unwrap_or_default();
        let holders: Vec<String> = rows.iter().filter_map(|row| row.try_get("", "holder").ok()).collect();
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
        loop {
            if let Some(lock) = self.engine.try_lock(&self.db).await? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_POLL_INTERVAL).await;
        }
    }
}
