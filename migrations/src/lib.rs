//! The schema of Volume Reaper: one file per change, each additive and reversible.
//!
//! The threads table belongs to the platform. We add one column, one index and one trigger to it; only where there is
//! no table of that name, and the names are the default ones, is it created. The other tables are ours.

mod m20261123_000001_threads;
mod m20261123_000002_mark;
mod m20261123_000003_unmarked_index;
mod m20261123_000004_reopen_trigger;
mod m20261123_000005_volume_removals;
mod m20261123_000006_docker_daemons;
mod m20261123_000007_leases;
mod m20261123_000008_holds;
mod m20261123_000009_removal_pause;
mod m20261123_000010_failures;

pub use sea_orm_migration::{MigrationStatus as Status, MigratorTraitSelf};
use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

/// The index over closed and unmarked rows.
pub use m20261123_000003_unmarked_index::NAME as UNMARKED_INDEX;
/// The trigger that clears the mark of a row that is not closed.
pub use m20261123_000004_reopen_trigger::NAME as REOPEN_TRIGGER;

/// Our own bookkeeping table: the platform may use sea-orm's migrations too, under their default name.
pub const BOOKKEEPING_TABLE: &str = "volume_reaper_migrations";

/// What the threads table and its columns are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadsTable {
    /// The table.
    pub table: String,
    /// The thread's id: the primary key, text.
    pub id: String,
    /// The thread's status, text.
    pub status: String,
    /// The status that means closed.
    pub closed_value: String,
    /// When the thread was closed; may be null.
    pub closed_at: String,
    /// When its volume was known to be gone: the mark, our column.
    pub mark: String,
}

impl Default for ThreadsTable {
    fn default() -> Self {
        Self {
            table: "threads".to_owned(),
            id: "id".to_owned(),
            status: "status".to_owned(),
            closed_value: "closed".to_owned(),
            closed_at: "closed_at".to_owned(),
            mark: "workspace_volume_removed_at".to_owned(),
        }
    }
}

impl ThreadsTable {
    /// The condition that selects closed and unmarked rows.
    ///
    /// The closed value stands in the statement itself and not as a parameter: only so can the planners of PostgreSQL
    /// and SQLite see that the partial index fits.
    #[must_use]
    pub fn is_candidate(&self) -> Condition {
        Condition::all().add(self.is_closed()).add(Expr::col(Alias::new(&self.mark)).is_null())
    }

    /// The condition that selects closed rows.
    #[must_use]
    pub fn is_closed(&self) -> Expr {
        Expr::col(Alias::new(&self.status)).eq(Expr::Constant(self.closed_value.clone().into()))
    }
}

/// The migrations, for a threads table of these names.
pub struct Migrator {
    /// What the threads table and its columns are called.
    pub threads: ThreadsTable,
}

#[async_trait::async_trait]
impl MigratorTraitSelf for Migrator {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        let threads = || self.threads.clone();
        vec![
            Box::new(m20261123_000001_threads::Migration(threads())),
            Box::new(m20261123_000002_mark::Migration(threads())),
            Box::new(m20261123_000003_unmarked_index::Migration(threads())),
            Box::new(m20261123_000004_reopen_trigger::Migration(threads())),
            Box::new(m20261123_000005_volume_removals::Migration),
            Box::new(m20261123_000006_docker_daemons::Migration),
            Box::new(m20261123_000007_leases::Migration),
            Box::new(m20261123_000008_holds::Migration),
            Box::new(m20261123_000009_removal_pause::Migration),
            Box::new(m20261123_000010_failures::Migration),
        ]
    }

    fn migration_table_name(&self) -> DynIden {
        Alias::new(BOOKKEEPING_TABLE).into_iden()
    }
}

/// The condition that selects the receipts of volumes that were there and are gone; a constant in the statement, as in
/// [`ThreadsTable::is_candidate`].
#[must_use]
pub fn is_removal() -> Expr {
    Expr::col("outcome").eq(Expr::Constant("removed".into()))
}

/// A concurrent build that was interrupted leaves an invalid index, which `IF NOT EXISTS` would take for a good one.
async fn drop_if_invalid(manager: &SchemaManager<'_>, index: &str) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let invalid = format!(
        "SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
         WHERE relname = {} AND NOT indisvalid AND pg_table_is_visible(pg_class.oid)",
        literal(index)
    );
    let statement = sea_orm_migration::sea_orm::Statement::from_string(DbBackend::Postgres, invalid);
    if db.query_one_raw(statement).await?.is_some() {
        db.execute_unprepared(&format!("DROP INDEX CONCURRENTLY {index}")).await?;
    }
    Ok(())
}

fn is_mysql(manager: &SchemaManager<'_>) -> bool {
    manager.get_database_backend() == DbBackend::MySql
}

/// A table of ours. On MySQL texts are compared byte by byte, as the others do it: ids that differ in case differ.
fn our_table(manager: &SchemaManager<'_>, name: impl IntoTableRef) -> TableCreateStatement {
    let mut table = Table::create().table(name).if_not_exists().to_owned();
    if is_mysql(manager) {
        table.engine("InnoDB").character_set("utf8mb4").collate("utf8mb4_bin");
    }
    table
}

/// A column with a text that stands in a key: MySQL wants to know how long it gets there, and 255 is twice a thread's id.
fn key_text(manager: &SchemaManager<'_>, name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    if is_mysql(manager) {
        column.string_len(255)
    } else {
        column.text()
    };
    column
}

/// A column with a moment. On MySQL in UTC by agreement, with the milliseconds that we write: `TIMESTAMP` would end in
/// 2038, and on old servers change by itself with its row.
fn time(manager: &SchemaManager<'_>, name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    if is_mysql(manager) {
        column.custom("datetime(3)")
    } else {
        column.timestamp_with_time_zone()
    };
    column
}

/// MySQL itself can't say `IF EXISTS` here.
async fn drop_index(manager: &SchemaManager<'_>, table: &str, index: &str) -> Result<(), DbErr> {
    let mut drop = Index::drop().name(index).table(Alias::new(table)).to_owned();
    if !is_mysql(manager) {
        drop.if_exists();
    } else if !manager.has_index(table, index).await? {
        return Ok(());
    }
    manager.drop_index(drop).await
}

/// An identifier in backquotes, as MySQL has it.
#[must_use]
pub fn mysql_quoted(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}

/// A text in single quotes, as MySQL has it, where a backslash escapes.
#[must_use]
pub fn mysql_literal(text: &str) -> String {
    literal(&text.replace('\\', "\\\\"))
}

/// An identifier in double quotes, as PostgreSQL and SQLite have it.
#[must_use]
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A text in single quotes, as PostgreSQL and SQLite have it.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
