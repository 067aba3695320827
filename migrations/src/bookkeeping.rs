//! What of a database is ours, whose threads table it was made for, and what has one of our names and is not ours.
//!
//! A table is ours if it is noted in [`ADDITIONS_TABLE`]. The two tables of the bookkeeping itself are known by their
//! columns. Whatever else has one of our names is left alone: it is refused before anything is made, and never dropped.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{QueryResult, Statement},
};

use crate::{ADDITIONS_TABLE, BOOKKEEPING_TABLE, Dialect, Found, Migrator, OUR_TABLES, ThreadsTable, refused};

/// Kind of a note: the threads table that all this is for.
pub(crate) const THREADS: &str = "threads";
/// Kind of a note: a table that we made.
pub(crate) const OWN_TABLE: &str = "table";
/// Kind of a note: the table of volumes that the mark, its index and its trigger are for.
pub(crate) const VOLUMES: &str = "volumes";
/// Kind of a note: a column that we added.
pub(crate) const COLUMN: &str = "column";

/// The columns by which the tables of the bookkeeping are known.
const BOOKKEEPING: [(&str, &str); 2] =
    [(BOOKKEEPING_TABLE, "version,applied_at"), (ADDITIONS_TABLE, "kind,table_name,column_name")];
/// The migration of the mark.
const MARK: &str = "m20261126_000004_mark";
/// How the migrations began that were there before the first release.
const BEFORE_THE_FIRST_RELEASE: &str = "m20261123_";

/// What is noted as ours.
#[derive(Clone, Debug, Default)]
pub struct Bookkeeping {
    /// The table with the notes is there.
    pub(crate) has_notes: bool,
    /// The threads table that everything is for, in SQL.
    pub(crate) threads: Option<String>,
    /// The table of volumes that has the marks, in SQL.
    pub(crate) volumes: Option<String>,
    /// Our tables, the bookkeeping's own left out.
    pub(crate) own_tables: Vec<String>,
    /// The columns that we added, each with its table in SQL.
    pub(crate) columns: Vec<(String, String)>,
    /// What has one of our names and is not ours.
    pub(crate) not_ours: Vec<String>,
}

impl Bookkeeping {
    /// Reads it. Fails if it is none, if this version can't continue from there, or if it was made for another threads
    /// table.
    pub async fn read(db: &impl ConnectionTrait, dialect: &dyn Dialect, names: &ThreadsTable) -> Result<Self, DbErr> {
        let all: Vec<_> = BOOKKEEPING.iter().map(|(name, _)| *name).chain(OUR_TABLES).collect();
        let mut found = Self::default();
        let mut has_versions = false;
        let mut there = Vec::new();
        for row in query(db, dialect, &dialect.relations(&all)).await? {
            let (name, columns): (String, String) = (row.try_get("", "name")?, row.try_get("", "columns")?);
            match BOOKKEEPING.iter().find(|(bookkeeping, _)| *bookkeeping == name) {
                Some((_, expected)) if *expected != columns => found.not_ours.push(name),
                Some((bookkeeping, _)) if *bookkeeping == BOOKKEEPING_TABLE => has_versions = true,
                Some(_) => found.has_notes = true,
                None => there.push(name),
            }
        }
        found.check_places()?;
        let mut has_mark = false;
        if has_versions {
            let versions = texts(db, dialect, &format!("SELECT version AS name FROM {BOOKKEEPING_TABLE}")).await?;
            check_versions(&versions)?;
            has_mark = versions.iter().any(|version| version == MARK);
        }
        if found.has_notes {
            found.read_notes(db, dialect).await?;
        }
        there.retain(|name| !found.own_tables.contains(name));
        found.not_ours.extend(there);
        found.check_threads(db, dialect, names).await?;
        if has_mark {
            found.check_volumes(db, dialect, names).await?;
        }
        Ok(found)
    }

    async fn read_notes(&mut self, db: &impl ConnectionTrait, dialect: &dyn Dialect) -> Result<(), DbErr> {
        let notes = format!("SELECT kind, table_name, column_name FROM {ADDITIONS_TABLE}");
        for row in query(db, dialect, &notes).await? {
            let (kind, table): (String, String) = (row.try_get("", "kind")?, row.try_get("", "table_name")?);
            match kind.as_str() {
                THREADS => self.threads = Some(table),
                VOLUMES => self.volumes = Some(table),
                OWN_TABLE => self.own_tables.push(table),
                _ => self.columns.push((table, row.try_get("", "column_name")?)),
            }
        }
        // In the order in which they are made.
        self.own_tables.sort_by_key(|table| OUR_TABLES.iter().position(|ours| ours == table));
        Ok(())
    }

    async fn check_threads(
        &self,
        db: &impl ConnectionTrait,
        dialect: &dyn Dialect,
        names: &ThreadsTable,
    ) -> Result<(), DbErr> {
        let (Some(noted), table) = (&self.threads, names.table_sql(dialect)) else { return Ok(()) };
        if *noted == table {
            return Ok(());
        }
        if let Some(is_same) = dialect.is_same_table(noted, &table)
            && !query(db, dialect, &is_same).await?.is_empty()
        {
            return Ok(());
        }
        let [from, to] = [noted, &table].map(|name| dialect.literal(name));
        refused(format!(
            "our tables here are those of a volume-reaper for the threads table {noted}, not {table}: give this one a \
             schema or a database of its own; or, if the table was only renamed: \
             UPDATE {ADDITIONS_TABLE} SET table_name = {to} WHERE table_name = {from}"
        ))
    }

    /// Fails if the marks are elsewhere than where the configuration has them now.
    async fn check_volumes(
        &self,
        db: &impl ConnectionTrait,
        dialect: &dyn Dialect,
        names: &ThreadsTable,
    ) -> Result<(), DbErr> {
        let table = names.volumes.as_ref().map(|volumes| volumes.table_sql(dialect));
        if self.volumes == table {
            return Ok(());
        }
        if let (Some(noted), Some(table)) = (&self.volumes, &table)
            && let Some(is_same) = dialect.is_same_table(noted, table)
            && !query(db, dialect, &is_same).await?.is_empty()
        {
            return Ok(());
        }
        let [noted, now] = [&self.volumes, &table].map(|table| match table {
            None => "the rows of threads".to_owned(),
            Some(table) => format!("the table of volumes {table}"),
        });
        refused(format!(
            "the marks here are in {noted}, and by VOLUME_REAPER_VOLUMES_TABLE they are in {now}: with the setting \
             from before, take them back with `volume-reaper migrate down --steps 3`, and then migrate with the new one"
        ))
    }

    /// Fails if there is something that is not ours in the place of what we would make.
    pub(crate) fn check_places(&self) -> Result<(), DbErr> {
        if self.not_ours.is_empty() {
            return Ok(());
        }
        refused(format!(
            "{} in this database was not made by volume-reaper, which needs that name: rename it, or give \
             volume-reaper a schema or a database of its own. Nothing was changed",
            self.not_ours.join(", ")
        ))
    }
}

impl Found {
    /// How to write down that something is ours.
    pub(crate) fn note(&self, kind: &str, table: &str, column: &str) -> String {
        let [table, column] = [table, column].map(|name| self.mapping.dialect.literal(name));
        format!("INSERT INTO {ADDITIONS_TABLE} (kind, table_name, column_name) VALUES ('{kind}', {table}, {column})")
    }
}

/// Fails unless all of these are migrations that this version has.
fn check_versions(versions: &[String]) -> Result<(), DbErr> {
    let ours = Migrator::names();
    let unknown: Vec<_> = versions.iter().filter(|version| !ours.contains(version)).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    if first.starts_with(BEFORE_THE_FIRST_RELEASE) {
        return refused(format!(
            "this database was migrated by a volume-reaper from before its first release ({first}): take that back \
             with `volume-reaper migrate down --all` of that version, or drop the tables volume_removals, \
             docker_daemons, leases, thread_holds, removal_pause, cleanup_failures, {ADDITIONS_TABLE} and \
             {BOOKKEEPING_TABLE} by hand, and migrate again. Nothing was changed"
        ));
    }
    refused(format!(
        "this database was migrated by a newer volume-reaper ({first}): use that version, or have it take that back \
         with `volume-reaper migrate down`"
    ))
}

/// The rows of a query.
pub(crate) async fn query(
    db: &impl ConnectionTrait,
    dialect: &dyn Dialect,
    sql: &str,
) -> Result<Vec<QueryResult>, DbErr> {
    db.query_all_raw(Statement::from_string(dialect.backend(), sql)).await
}

/// The `name` of each row of a query.
pub(crate) async fn texts(db: &impl ConnectionTrait, dialect: &dyn Dialect, sql: &str) -> Result<Vec<String>, DbErr> {
    query(db, dialect, sql).await?.iter().map(|row| row.try_get("", "name")).collect()
}
