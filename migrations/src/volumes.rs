//! A table of volumes: where the platform has a row for each, which names it and has its mark. The threads table then
//! gets no column and no index of ours, and is never written.

use sea_orm_migration::prelude::*;

use crate::{
    Dialect, Mapping, MarkType, Takes, ThreadsTable,
    mapping::IdType,
    refused,
    table::{Column, Table},
};

/// What names the column of a volume's mark.
pub(crate) const VOLUMES_MARK: &str = "VOLUME_REAPER_VOLUMES_MARK_COLUMN";

/// What the table of volumes and its columns are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumesTable {
    /// The schema that it is in; `None` for wherever PostgreSQL finds it along its search path.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// The volume's id.
    pub id: String,
    /// The id of its thread.
    pub thread: String,
    /// What Docker calls it.
    pub name: String,
    /// When it was known to be gone: its mark.
    pub mark: String,
    /// The name of the Docker host that it is on, where that may be another than its thread's.
    pub host: Option<String>,
}

impl VolumesTable {
    /// The table in SQL, with its schema if one is set.
    #[must_use]
    pub fn table_sql(&self, dialect: &dyn Dialect) -> String {
        self.as_table().table_sql(dialect)
    }

    /// What the catalogue is asked of any table: its id is the volume's name, its status the thread.
    pub(crate) fn as_table(&self) -> ThreadsTable {
        ThreadsTable {
            schema: self.schema.clone(),
            table: self.table.clone(),
            id: self.name.clone(),
            status: self.thread.clone(),
            closed_value: String::new(),
            closed_at: None,
            mark: self.mark.clone(),
            host: None,
            volumes: None,
        }
    }

    /// The table in a statement.
    #[must_use]
    pub fn table(&self) -> TableRef {
        self.as_table().table_ref()
    }

    /// One of its columns, where others have that name too.
    #[must_use]
    pub fn column(&self, name: &str) -> Expr {
        let (table, column) = (Alias::new(&self.table), Alias::new(name));
        match &self.schema {
            Some(schema) => Expr::col((Alias::new(schema), table, column)),
            None => Expr::col((table, column)),
        }
    }
}

impl ThreadsTable {
    /// The table in a statement.
    #[must_use]
    pub fn table_ref(&self) -> TableRef {
        let table = Alias::new(&self.table);
        match &self.schema {
            Some(schema) => (Alias::new(schema), table).into_table_ref(),
            None => table.into_table_ref(),
        }
    }

    /// The table whose rows are marked: that of the volumes, if there is one.
    #[must_use]
    pub fn marked(&self) -> Self {
        self.volumes.as_ref().map_or_else(|| self.clone(), VolumesTable::as_table)
    }
}

impl Mapping {
    /// The table whose rows are marked, in a statement.
    pub(crate) fn marked_table(&self) -> TableRef {
        self.names.volumes.as_ref().map_or_else(|| self.table(), VolumesTable::table)
    }

    /// The condition that a row of the volumes table has no mark.
    #[must_use]
    pub fn is_unmarked_volume(&self, volumes: &VolumesTable) -> Condition {
        let all = Condition::all();
        if self.has_mark { all.add(volumes.column(&volumes.mark).is_null()) } else { all }
    }

    /// The condition that a thread has an unmarked volume; `None` if its own row has the mark.
    fn has_unmarked_volume(&self) -> Option<Expr> {
        self.has_unmarked_volume_that(Condition::all())
    }

    /// The condition that a thread has an unmarked volume for whose row another one holds, in which a column is first
    /// one of that row's; `None` if its own row has the mark.
    #[must_use]
    pub fn has_unmarked_volume_that(&self, holds: Condition) -> Option<Expr> {
        let volumes = self.names.volumes.as_ref()?;
        let unmarked = Query::select()
            .expr(Expr::val(1))
            .from(volumes.table())
            .and_where(volumes.column(&volumes.thread).eq(self.qualified_id()))
            .cond_where(self.is_unmarked_volume(volumes))
            .cond_where(holds)
            .to_owned();
        Some(Expr::exists(unmarked))
    }

    /// Whether nothing is left of a thread, where a row is read.
    #[must_use]
    pub fn is_marked(&self) -> Expr {
        self.has_unmarked_volume().map_or_else(|| self.read_mark().is_not_null(), ExprTrait::not)
    }

    /// The condition that something is left of a thread.
    pub(crate) fn is_unmarked(&self) -> Expr {
        self.has_unmarked_volume().unwrap_or_else(|| self.read_mark().is_null())
    }

    /// When the last of a thread's volumes was marked.
    pub(crate) fn read_volumes_marked_at(&self, volumes: &VolumesTable) -> Expr {
        let latest = Query::select()
            .expr(Func::max(self.dialect.readable_time(volumes.column(&volumes.mark))))
            .from(volumes.table())
            .and_where(volumes.column(&volumes.thread).eq(self.qualified_id()))
            .to_owned();
        Expr::SubQuery(None, Box::new(latest.into()))
    }
}

impl Table {
    /// This table of volumes, as its names say, fits the threads: the type of its marks.
    pub(crate) fn fit_volumes(&self, volumes: &VolumesTable, threads: &Mapping) -> Result<MarkType, DbErr> {
        self.fit_kind("VOLUME_REAPER_VOLUMES_TABLE")?;
        self.needed(&volumes.id, "VOLUME_REAPER_VOLUMES_ID_COLUMN")?;
        let thread = self.needed(&volumes.thread, "VOLUME_REAPER_VOLUMES_THREAD_COLUMN")?;
        if id_type(thread) != Some(threads.id) {
            return self.misfit(thread, "the id of a thread has the type that the threads table gives it");
        }
        let name = self.needed(&volumes.name, "VOLUME_REAPER_VOLUMES_NAME_COLUMN")?;
        if !matches!(name.takes, Takes::Text | Takes::Anything) {
            return self.misfit(name, "the name of a volume is text");
        }
        if !name.is_unique {
            return self.misfit(
                name,
                "no two rows may name the same volume, and there is no unique index over this column alone",
            );
        }
        self.fit_host(volumes.host.as_ref(), "VOLUME_REAPER_VOLUMES_HOST_COLUMN")?;
        self.fit_mark(&volumes.mark, VOLUMES_MARK)
    }
}

fn id_type(column: &Column) -> Option<IdType> {
    match column.takes {
        Takes::Text | Takes::Anything => Some(IdType::Text),
        Takes::Blanked => Some(IdType::Blanked),
        Takes::Uuid => Some(IdType::Uuid),
        Takes::Integer => Some(IdType::Integer),
        Takes::Unsigned => Some(IdType::Unsigned),
        Takes::Boolean | Takes::Zoned | Takes::Naive | Takes::Enum(_) | Takes::Other => None,
    }
}

/// That there is no such table.
pub(crate) fn no_such_volumes<T>(volumes: &VolumesTable) -> Result<T, DbErr> {
    refused(format!(
        "there is no table {} in this database (VOLUME_REAPER_VOLUMES_TABLE and _SCHEMA)",
        volumes.as_table()
    ))
}
