//! The schema of Volume Reaper: one file per change, each additive and reversible.
//!
//! The threads table belongs to the platform. We add one column, one index and one trigger to it; with a table of
//! volumes the threads get only the trigger. Only where there is no threads table, and the names are the default ones,
//! is it created. The other tables are ours: `volume_removals`, which is for everybody to read, and those whose names
//! begin with `volume_reaper_`.

mod bookkeeping;
mod change;
mod dialect;
mod found;
mod history;
mod m20261126_000001_bookkeeping;
mod m20261126_000002_threads;
mod m20261126_000003_tables;
mod m20261126_000004_mark;
mod m20261126_000005_unmarked_index;
mod m20261126_000006_reopen_trigger;
mod mapping;
mod mysql;
mod postgres;
mod sqlite;
mod table;
mod values;
mod volumes;

pub use bookkeeping::Bookkeeping;
pub use change::Change;
use change::Executed;
pub use dialect::{Dialect, Parts};
pub use found::Found;
pub use mapping::{Closed, IdType, Mapping, MarkType};
pub use mysql::MySql;
pub use postgres::Postgres;
use sea_orm_migration::prelude::*;
pub use sea_orm_migration::{MigrationStatus as Status, MigratorTraitSelf};
pub use sqlite::Sqlite;
pub use table::{Column, Takes};
pub use values::Values;
pub use volumes::VolumesTable;

/// The index over closed and unmarked rows.
pub const UNMARKED_INDEX: &str = "volume_reaper_unmarked_threads";
/// The index over the marked rows of a table of volumes, by thread: what reopening a thread reads.
pub const MARKED_INDEX: &str = "volume_reaper_marked_volumes";
/// The trigger that clears the mark of a row that is not closed, and its function on PostgreSQL.
pub const REOPEN_TRIGGER: &str = "volume_reaper_clear_mark";

/// The migrations that were applied. Our own table: the platform may use sea-orm's migrations too, under their default
/// name.
pub const BOOKKEEPING_TABLE: &str = "volume_reaper_migrations";
/// What else of the database is ours, and whose threads table it was made for: only what is ours is taken away again.
pub const ADDITIONS_TABLE: &str = "volume_reaper_additions";
/// The receipts.
pub const RECEIPTS_TABLE: &str = "volume_removals";
/// All tables of ours but those of the bookkeeping.
pub const OUR_TABLES: [&str; 12] = [
    RECEIPTS_TABLE,
    "volume_reaper_daemons",
    "volume_reaper_leases",
    "volume_reaper_holds",
    "volume_reaper_pauses",
    "volume_reaper_failures",
    "volume_reaper_chains",
    "volume_reaper_sweeps",
    "volume_reaper_actions",
    "volume_reaper_stats",
    "volume_reaper_rollups",
    "volume_reaper_outbox",
];

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
    /// The table with its volumes, if there is one: that has the marks then.
    pub volumes: Option<VolumesTable>,
}

impl ThreadsTable {
    /// Whether these are the names of a table that may be ours to make. It can have a column for hosts.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        Self { host: None, ..self.clone() } == Self::default()
    }

    /// The table in SQL, with its schema if one is set.
    #[must_use]
    pub fn table_sql(&self, dialect: &dyn Dialect) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", dialect.quoted(schema), dialect.quoted(&self.table)),
            None => dialect.quoted(&self.table),
        }
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
            volumes: None,
        }
    }
}

impl std::fmt::Display for ThreadsTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema:?}.{:?}", self.table),
            None => write!(f, "{:?}", self.table),
        }
    }
}

/// The migrations, for a database as it was found.
pub struct Migrator {
    /// What was found.
    pub found: Found,
}

impl Migrator {
    /// What the migrations are called.
    pub(crate) fn names() -> Vec<String> {
        let unseen = Self { found: Found::unseen(&Postgres, &ThreadsTable::default()) };
        unseen.changes().iter().map(|change| change.name().to_owned()).collect()
    }

    /// What each migration does, in their order.
    #[must_use]
    pub fn changes(&self) -> Vec<Box<dyn Change>> {
        let found = || self.found.clone();
        vec![
            Box::new(m20261126_000001_bookkeeping::Migration(found())),
            Box::new(m20261126_000002_threads::Migration(found())),
            Box::new(m20261126_000003_tables::Migration(found())),
            Box::new(m20261126_000004_mark::Migration(found())),
            Box::new(m20261126_000005_unmarked_index::Migration(found())),
            Box::new(m20261126_000006_reopen_trigger::Migration(found())),
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

/// The condition that selects the receipts of volumes and containers that were there and are gone: what budgets count.
/// Constants in the statement, as in
/// [`Mapping::is_candidate`].
#[must_use]
pub fn is_removal() -> Expr {
    Expr::col("outcome").is_in(["removed", "container_removed"].map(|outcome| Expr::Constant(outcome.into())))
}

/// That the database can't be used as it is, and why.
pub(crate) fn refused<T>(why: impl Into<String>) -> Result<T, DbErr> {
    Err(DbErr::Migration(why.into()))
}
