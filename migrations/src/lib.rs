//! The schema of Volume Reaper: one file per change, each additive and reversible.
//!
//! The threads table belongs to the platform. We add one column, one index and one trigger to it; only where there is
//! no table of that name, and the names are the default ones, is it created. The other tables are ours.

mod catalog;
mod change;
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
mod mapping;

pub use catalog::Found;
pub use change::Change;
use change::Executed;
pub use mapping::{Closed, IdType, Mapping, MarkType};
pub use sea_orm_migration::{MigrationStatus as Status, MigratorTraitSelf};
use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

/// The index over closed and unmarked rows.
pub use m20261123_000003_unmarked_index::NAME as UNMARKED_INDEX;
/// The trigger that clears the mark of a row that is not closed.
pub use m20261123_000004_reopen_trigger::NAME as REOPEN_TRIGGER;

/// Our own bookkeeping table: the platform may use sea-orm's migrations too, under their default name.
pub const BOOKKEEPING_TABLE: &str = "volume_reaper_migrations";
/// The columns that we added to tables of the platform: only those are taken away again.
pub(crate) const ADDITIONS_TABLE: &str = "volume_reaper_additions";

/// What the threads table and its columns are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadsTable {
    /// The schema that it is in; `None` for wherever PostgreSQL finds it along its search path.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// The thread's id.
    pub id: String,
    /// The thread's status.
    pub status: String,
    /// The status that means closed.
    pub closed_value: String,
    /// When the thread was closed; may be null, or no column at all.
    pub closed_at: Option<String>,
    /// When its volume was known to be gone: the mark, our column.
    pub mark: String,
    /// The Docker host that its volume is on; may be null or empty, or no column at all.
    pub host: Option<String>,
}

impl ThreadsTable {
    /// Whether these are the names of a table that may be ours to make. It can have a column for hosts.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        Self { host: None, ..self.clone() } == Self::default()
    }
}

impl Default for ThreadsTable {
    fn default() -> Self {
        Self {
            schema: None,
            table: "threads".to_owned(),
            id: "id".to_owned(),
            status: "status".to_owned(),
            closed_value: "closed".to_owned(),
            closed_at: Some("closed_at".to_owned()),
            mark: "workspace_volume_removed_at".to_owned(),
            host: None,
        }
    }
}

/// The migrations, for a threads table as it was found.
pub struct Migrator {
    /// What was found.
    pub found: Found,
}

impl Migrator {
    /// What each migration does, in their order.
    #[must_use]
    pub fn changes(&self) -> Vec<Box<dyn Change>> {
        let found = || self.found.clone();
        vec![
            Box::new(m20261123_000001_threads::Migration(found())),
            Box::new(m20261123_000002_mark::Migration(found())),
            Box::new(m20261123_000003_unmarked_index::Migration(found())),
            Box::new(m20261123_000004_reopen_trigger::Migration(found())),
            Box::new(m20261123_000005_volume_removals::Migration),
            Box::new(m20261123_000006_docker_daemons::Migration),
            Box::new(m20261123_000007_leases::Migration),
            Box::new(m20261123_000008_holds::Migration),
            Box::new(m20261123_000009_removal_pause::Migration(found())),
            Box::new(m20261123_000010_failures::Migration),
        ]
    }
}

#[async_trait::async_trait]
impl MigratorTraitSelf for Migrator {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        self.changes().into_iter().map(|change| Box::new(Executed(change)) as Box<dyn MigrationTrait>).collect()
    }

    fn migration_table_name(&self) -> DynIden {
        Alias::new(BOOKKEEPING_TABLE).into_iden()
    }
}

/// The condition that selects the receipts of volumes that were there and are gone; a constant in the statement, as in
/// [`Mapping::is_candidate`].
#[must_use]
pub fn is_removal() -> Expr {
    Expr::col("outcome").eq(Expr::Constant("removed".into()))
}

/// A change of the threads table waits so long for its lock, and no longer: whoever wants to write waits behind it. On
/// MySQL that counts until it is set otherwise; SQLite's lock is the whole file's, which the migration holds already.
fn lock_timeout(backend: DbBackend) -> Vec<String> {
    match backend {
        DbBackend::Postgres => vec!["SET LOCAL lock_timeout = '2s'".to_owned()],
        DbBackend::MySql => vec!["SET SESSION lock_wait_timeout = 2".to_owned()],
        _ => Vec::new(),
    }
}

/// A table of ours, to be created. On MySQL with a collation that tells all ids apart, also those that differ in case.
fn our_table(backend: DbBackend, name: impl IntoTableRef) -> TableCreateStatement {
    let mut table = Table::create().table(name).if_not_exists().to_owned();
    if backend == DbBackend::MySql {
        table.engine("InnoDB").character_set("utf8mb4").collate("utf8mb4_bin");
    }
    table
}

/// A column with a text that stands in a key: MySQL wants to know how long it gets there, and 255 is twice a thread's id.
fn key_text(backend: DbBackend, name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    if backend == DbBackend::MySql {
        column.string_len(255)
    } else {
        column.text()
    };
    column
}

/// A column with a moment. On MySQL in UTC by agreement, with the milliseconds that we write: `TIMESTAMP` would end in
/// 2038, and on old servers change by itself with its row.
fn time(backend: DbBackend, name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    if backend == DbBackend::MySql {
        column.custom("datetime(3)")
    } else {
        column.timestamp_with_time_zone()
    };
    column
}

/// An identifier in quotes.
#[must_use]
pub fn quoted(backend: DbBackend, identifier: &str) -> String {
    if backend == DbBackend::MySql {
        format!("`{}`", identifier.replace('`', "``"))
    } else {
        format!("\"{}\"", identifier.replace('"', "\"\""))
    }
}

/// A text in single quotes. On MySQL a backslash escapes.
#[must_use]
pub fn literal(backend: DbBackend, text: &str) -> String {
    let text = if backend == DbBackend::MySql { text.replace('\\', "\\\\") } else { text.to_owned() };
    format!("'{}'", text.replace('\'', "''"))
}
