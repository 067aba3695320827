//! What there is in a database before it is changed: the threads table, what of it is ours, and what else is.

use sea_orm_migration::prelude::*;

use crate::{
    Bookkeeping, Dialect, Mapping, MarkType, ThreadsTable,
    bookkeeping::{query, texts},
    refused,
    table::{THREADS_MARK, Table, no_such_table},
    volumes::{VOLUMES_MARK, VolumesTable, no_such_volumes},
};

/// The threads table and what of ours is there.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Found {
    /// How to address the table.
    pub mapping: Mapping,
    /// What is noted as ours.
    pub bookkeeping: Bookkeeping,
    /// The table is there.
    pub has_table: bool,
    /// It, or the table of volumes, has the column for the mark.
    pub has_mark: bool,
    /// That column was added by us, and may be taken away.
    pub mark_is_ours: bool,
    /// It has the trigger that clears the mark. Looked at only where that can't be dropped without having looked.
    pub has_trigger: bool,
    /// A table of volumes has an index by thread of its own. Looked at only where a second one could not be taken away.
    pub has_index_by_thread: bool,
    /// Indexes of ours that have to be dropped by a statement of its own before they are made.
    pub indexes_in_the_way: Vec<String>,
}

impl Found {
    /// What is known without having looked: enough to list the migrations.
    #[must_use]
    pub fn unseen(dialect: &'static dyn Dialect, names: &ThreadsTable) -> Self {
        Self {
            mapping: Mapping::of_ours(dialect, names),
            bookkeeping: Bookkeeping::default(),
            has_table: false,
            has_mark: false,
            mark_is_ours: false,
            has_trigger: false,
            has_index_by_thread: false,
            indexes_in_the_way: Vec::new(),
        }
    }

    /// Looks before `up`. Fails if there is no such table that we could use, unless it is ours to make, or if what we
    /// would make can't be.
    pub async fn to_add(
        db: &impl ConnectionTrait,
        dialect: &'static dyn Dialect,
        names: &ThreadsTable,
    ) -> Result<Self, DbErr> {
        let bookkeeping = Bookkeeping::read(db, dialect, names).await?;
        bookkeeping.check_places()?;
        let table = Table::read(db, dialect, names).await?;
        // Other names than ours mean a table of the platform's: one that is not there is misspelt, not missing.
        if table.is_none() && !names.is_ours() {
            return Err(no_such_table(db, dialect, names).await?);
        }
        if table.is_none() {
            check_elsewhere(db, dialect, names).await?;
        }
        let mut against = obstacles(db, dialect, dialect.obstacles(names)).await?;
        against.extend(obstacles(db, dialect, dialect.lacks(names)).await?);
        let fit = table.as_ref().map_or_else(|| Ok(Mapping::of_ours(dialect, names)), |table| table.fit(names));
        let mapping = unless(names, &against, fit)?;
        let volumes = match &names.volumes {
            None => None,
            Some(volumes) => Some(read_volumes(db, volumes, &mapping, dialect.lacks(&volumes.as_table())).await?),
        };
        let (mark, marked) = match &volumes {
            None => (mapping.mark, table.as_ref()),
            Some((mark, volumes)) => (*mark, Some(volumes)),
        };
        // What follows is made of the column that will be there.
        let mapping = Mapping { has_mark: true, mark, ..mapping };
        Self::with(db, bookkeeping, mapping, table.is_some(), marked).await
    }

    /// Looks before `down`, which also works on a table that does not fit any more, or is gone.
    pub async fn to_take_away(
        db: &impl ConnectionTrait,
        dialect: &'static dyn Dialect,
        names: &ThreadsTable,
    ) -> Result<Self, DbErr> {
        let bookkeeping = Bookkeeping::read(db, dialect, names).await?;
        let table = Table::read(db, dialect, names).await?;
        let mapping = table.as_ref().and_then(|table| table.fit(names).ok());
        let mapping = mapping.unwrap_or_else(|| Mapping::of_ours(dialect, names));
        let volumes = match &names.volumes {
            None => None,
            Some(volumes) => Table::read(db, dialect, &volumes.as_table()).await?,
        };
        let marked = if names.volumes.is_some() { volumes.as_ref() } else { table.as_ref() };
        Self::with(db, bookkeeping, mapping, table.is_some(), marked).await
    }

    async fn with(
        db: &impl ConnectionTrait,
        bookkeeping: Bookkeeping,
        mapping: Mapping,
        has_table: bool,
        marked: Option<&Table>,
    ) -> Result<Self, DbErr> {
        let (dialect, names) = (mapping.dialect, &mapping.names);
        let has_trigger = match dialect.trigger(names) {
            Some(sql) => !query(db, dialect, &sql).await?.is_empty(),
            None => false,
        };
        let marked_names = names.marked();
        let indexes_in_the_way = match dialect.indexes_in_the_way(&marked_names) {
            Some(sql) => texts(db, dialect, &sql).await?,
            None => Vec::new(),
        };
        let has_index_by_thread = match dialect.index_by_thread(&marked_names) {
            Some(sql) if names.volumes.is_some() => !query(db, dialect, &sql).await?.is_empty(),
            Some(_) | None => false,
        };
        Ok(Self {
            has_table,
            has_mark: marked.is_some_and(|table| table.column(&marked_names.mark).is_some()),
            // Of whichever table: there is one installation, which may have written its name in another way.
            mark_is_ours: bookkeeping.columns.iter().any(|(_, column)| *column == marked_names.mark),
            has_trigger,
            has_index_by_thread,
            indexes_in_the_way,
            bookkeeping,
            mapping,
        })
    }
}

impl Mapping {
    /// How to address the table, all of whose columns have to be there; the mark, and the bookkeeping, only if
    /// `needs_ours`.
    pub async fn detect(
        db: &impl ConnectionTrait,
        dialect: &'static dyn Dialect,
        names: &ThreadsTable,
        needs_ours: bool,
    ) -> Result<Self, DbErr> {
        if needs_ours {
            Bookkeeping::read(db, dialect, names).await?;
        }
        let Some(table) = Table::read(db, dialect, names).await? else {
            return Err(no_such_table(db, dialect, names).await?);
        };
        if needs_ours && names.volumes.is_none() {
            table.needed(&names.mark, THREADS_MARK)?;
        }
        let against = obstacles(db, dialect, dialect.obstacles(names)).await?;
        let mapping = unless(names, &against, table.fit(names))?;
        let Some(volumes) = &names.volumes else { return Ok(mapping) };
        let (mark, table) = read_volumes(db, volumes, &mapping, None).await?;
        if needs_ours {
            table.needed(&volumes.mark, VOLUMES_MARK)?;
        }
        Ok(Self { mark, has_mark: table.column(&volumes.mark).is_some(), ..mapping })
    }
}

/// The table of volumes and the type of its marks, if it can be used; what this user lacks speaks against that too.
async fn read_volumes(
    db: &impl ConnectionTrait,
    volumes: &VolumesTable,
    threads: &Mapping,
    lacks: Option<String>,
) -> Result<(MarkType, Table), DbErr> {
    let (dialect, names) = (threads.dialect, volumes.as_table());
    let Some(table) = Table::read(db, dialect, &names).await? else { return no_such_volumes(volumes) };
    let mut against = obstacles(db, dialect, dialect.obstacles(&names)).await?;
    against.extend(obstacles(db, dialect, lacks).await?);
    let mark = unless(&names, &against, table.fit_volumes(volumes, threads))?;
    Ok((mark, table))
}

/// The reasons that a query gives why the threads table can't be used.
async fn obstacles(
    db: &impl ConnectionTrait,
    dialect: &dyn Dialect,
    query: Option<String>,
) -> Result<Vec<String>, DbErr> {
    match query {
        None => Ok(Vec::new()),
        Some(query) => texts(db, dialect, &query).await,
    }
}

/// Fails with all that speaks against a table, so that nobody has to mend one thing to hear of the next.
fn unless<F>(names: &ThreadsTable, against: &[String], fit: Result<F, DbErr>) -> Result<F, DbErr> {
    if against.is_empty() {
        return fit;
    }
    let against = format!("table {names} {}", against.join("; it "));
    match fit {
        Ok(_) => refused(against),
        Err(DbErr::Migration(misfit)) => refused(format!("{against}; {misfit}")),
        Err(error) => Err(error),
    }
}

/// Fails if we would make a threads table beside one that is only not looked for where it is.
async fn check_elsewhere(db: &impl ConnectionTrait, dialect: &dyn Dialect, names: &ThreadsTable) -> Result<(), DbErr> {
    let Some(query) = dialect.elsewhere(names) else { return Ok(()) };
    match texts(db, dialect, &query).await?.first() {
        None => Ok(()),
        Some(other) => refused(format!(
            "there is no table {names} where this connection looks, but there is {other}: name its schema in \
             VOLUME_REAPER_THREADS_SCHEMA, or as ?schema= in DATABASE_URL. Nothing was changed"
        )),
    }
}
