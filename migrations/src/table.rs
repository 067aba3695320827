//! The threads table as the database's catalogue has it, and whether it fits the configuration.
//!
//! What does not fit is refused with what was found instead: nothing of ours is made in place of what was misspelt.

use sea_orm_migration::prelude::*;

use crate::{
    Dialect, ThreadsTable,
    bookkeeping::{query, texts},
    mapping::{Closed, IdType, Mapping, MarkType},
    refused,
};

/// At most so many names of what was found are listed.
const NAMES_SHOWN: usize = 20;
/// What names the column of the mark.
pub(crate) const THREADS_MARK: &str = "VOLUME_REAPER_THREADS_MARK_COLUMN";

/// A table, as the catalogue has it.
pub(crate) struct Table {
    dialect: &'static dyn Dialect,
    /// For people.
    name: String,
    kind: String,
    columns: Vec<Column>,
}

/// A column of that table.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as the database writes it.
    pub type_name: String,
    /// What kind of values it takes.
    pub takes: Takes,
    /// A text of any length. Looked at on MySQL only.
    pub is_unlimited: bool,
    /// It may be null.
    pub is_nullable: bool,
    /// No two rows have the same.
    pub is_unique: bool,
    /// The unique index over this column alone. Looked at on MySQL only.
    pub own_key: Option<String>,
    /// The database itself puts a value in, when a row is made or changed.
    pub fills_itself: bool,
}

/// What kind of values a column takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Texts.
    Text,
    /// Texts whose trailing blanks do not count.
    Blanked,
    /// Uuids.
    Uuid,
    /// Whole numbers.
    Integer,
    /// Whole numbers without a sign, which only MySQL has.
    Unsigned,
    /// True and false.
    Boolean,
    /// Moments.
    Zoned,
    /// Dates with a time, without a zone.
    Naive,
    /// One of these labels.
    Enum(Vec<String>),
    /// Whatever one puts in, as only SQLite does.
    Anything,
    /// Nothing that we use.
    Other,
}

impl Table {
    /// The table, if there is one.
    pub(crate) async fn read(
        db: &impl ConnectionTrait,
        dialect: &'static dyn Dialect,
        names: &ThreadsTable,
    ) -> Result<Option<Self>, DbErr> {
        let rows = query(db, dialect, &dialect.columns(names)?).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let kind = first.try_get("", "kind")?;
        let columns = rows.iter().map(|row| dialect.column(row)).collect::<Result<_, _>>()?;
        Ok(Some(Self { dialect, name: names.to_string(), kind, columns }))
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(crate) fn needed(&self, name: &str, setting: &str) -> Result<&Column, DbErr> {
        let there = || listed(self.columns.iter().map(|column| column.name.clone()));
        self.column(name).ok_or_else(|| {
            DbErr::Migration(format!("table {} has no column {name:?} ({setting}); it has: {}", self.name, there()))
        })
    }

    /// How to address this table, if it can be used.
    pub(crate) fn fit(&self, names: &ThreadsTable) -> Result<Mapping, DbErr> {
        self.fit_kind("VOLUME_REAPER_THREADS_TABLE")?;
        self.fit_closed_at(names)?;
        self.fit_host(names.host.as_ref(), "VOLUME_REAPER_THREADS_HOST_COLUMN")?;
        let has_volumes = names.volumes.is_some();
        Ok(Mapping {
            dialect: self.dialect,
            id: self.fit_id(names)?,
            closed: self.fit_closed(names)?,
            // With a table of volumes these are that one's.
            mark: if has_volumes { MarkType::Zoned } else { self.fit_mark(&names.mark, THREADS_MARK)? },
            has_mark: !has_volumes && self.column(&names.mark).is_some(),
            status_is_unlimited: self.column(&names.status).is_some_and(|column| column.is_unlimited),
            id_key: self.column(&names.id).and_then(|column| column.own_key.clone()),
            names: names.clone(),
        })
    }

    pub(crate) fn fit_kind(&self, setting: &str) -> Result<(), DbErr> {
        match self.kind.as_str() {
            "r" | "table" | "BASE TABLE" => {}
            "p" => return refused(format!("table {} is partitioned, which is not supported", self.name)),
            "v" | "m" | "view" | "VIEW" => {
                return refused(format!("{} is a view: set {setting} to the table itself", self.name));
            }
            "other engine" => {
                return refused(format!(
                    "table {} is not InnoDB's, and elsewhere a mark and its receipt can't be written together: \
                     ALTER TABLE ... ENGINE=InnoDB",
                    self.name
                ));
            }
            _ => return refused(format!("{} is no ordinary table", self.name)),
        }
        Ok(())
    }

    fn fit_id(&self, names: &ThreadsTable) -> Result<IdType, DbErr> {
        let column = self.needed(&names.id, "VOLUME_REAPER_THREADS_ID_COLUMN")?;
        let id = match column.takes {
            Takes::Text | Takes::Anything => IdType::Text,
            Takes::Blanked => IdType::Blanked,
            Takes::Uuid => IdType::Uuid,
            Takes::Integer => IdType::Integer,
            Takes::Unsigned => IdType::Unsigned,
            Takes::Boolean | Takes::Zoned | Takes::Naive | Takes::Enum(_) | Takes::Other => {
                return self.misfit(column, "an id is text, a uuid or a whole number");
            }
        };
        if column.is_unique {
            Ok(id)
        } else {
            self.misfit(column, "an id is unique, and there is no index that says so")
        }
    }

    fn fit_closed(&self, names: &ThreadsTable) -> Result<Closed, DbErr> {
        let column = self.needed(&names.status, "VOLUME_REAPER_THREADS_STATUS_COLUMN")?;
        let value = &names.closed_value;
        let never = |others: &str| {
            self.misfit(column, &format!("it is never {value:?} (VOLUME_REAPER_THREADS_CLOSED_VALUE), but {others}"))
        };
        match (&column.takes, value.parse::<i64>(), value.parse::<bool>()) {
            (Takes::Text | Takes::Blanked | Takes::Anything, ..) => Ok(Closed::Text(value.clone())),
            (Takes::Enum(labels), ..) if labels.contains(value) => Ok(Closed::Text(value.clone())),
            (Takes::Enum(labels), ..) => never(&listed(labels.iter().cloned())),
            (Takes::Boolean, _, Ok(boolean)) => Ok(Closed::Boolean(boolean)),
            (Takes::Boolean, ..) => never("true or false"),
            (Takes::Integer | Takes::Unsigned, Ok(number), _) => Ok(Closed::Integer(number)),
            // The booleans of SQLite and MySQL are numbers; the latter's are `tinyint(1)`.
            (Takes::Integer, _, Ok(boolean))
                if column.type_name.to_uppercase().contains("BOOL") || column.type_name == "tinyint(1)" =>
            {
                Ok(Closed::Integer(boolean.into()))
            }
            (Takes::Integer | Takes::Unsigned, ..) => never("a whole number"),
            (Takes::Uuid | Takes::Zoned | Takes::Naive | Takes::Other, ..) => {
                self.misfit(column, "a status is text, an enum, a boolean or a whole number")
            }
        }
    }

    fn fit_closed_at(&self, names: &ThreadsTable) -> Result<(), DbErr> {
        let Some(name) = &names.closed_at else { return Ok(()) };
        let column = self.needed(name, "VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN, which may be empty")?;
        match self.dialect.keeps_times(&column.takes) {
            Some(_) => Ok(()),
            None => self.misfit(column, "the time of a close is a timestamp"),
        }
    }

    pub(crate) fn fit_host(&self, name: Option<&String>, setting: &str) -> Result<(), DbErr> {
        let Some(name) = name else { return Ok(()) };
        let column = self.needed(name, &format!("{setting}, which may be empty"))?;
        if matches!(column.takes, Takes::Text | Takes::Anything) {
            return Ok(());
        }
        self.misfit(column, "the name of a host is text")
    }

    /// The mark's type; if the column is not there yet, the one that we give it.
    pub(crate) fn fit_mark(&self, mark: &str, setting: &str) -> Result<MarkType, DbErr> {
        let Some(column) = self.column(mark) else { return self.fit_no_mark(mark, setting) };
        let Some(mark) = self.dialect.keeps_times(&column.takes) else {
            return self.misfit(column, "a mark is a timestamp");
        };
        if !column.is_nullable {
            return self.misfit(column, "a mark is null until the volume is gone");
        }
        if column.fills_itself {
            return self.misfit(column, "a mark is null until the volume is gone, and this column fills itself");
        }
        Ok(mark)
    }

    /// Not everywhere could our column stand beside one whose name differs from it in case.
    fn fit_no_mark(&self, mark: &str, setting: &str) -> Result<MarkType, DbErr> {
        let similar = self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(mark));
        match similar {
            Some(column) if !self.dialect.has_case_in_columns() => {
                refused(format!("table {} has a column {:?}: write {setting} in the same way", self.name, column.name))
            }
            Some(_) | None => Ok(MarkType::Zoned),
        }
    }

    pub(crate) fn misfit<T>(&self, column: &Column, why: &str) -> Result<T, DbErr> {
        refused(format!("column {:?} of table {} is {}: {why}", column.name, self.name, column.type_name))
    }
}

/// That there is no such table, and which there are.
pub(crate) async fn no_such_table(
    db: &impl ConnectionTrait,
    dialect: &dyn Dialect,
    names: &ThreadsTable,
) -> Result<DbErr, DbErr> {
    let there = texts(db, dialect, dialect.tables()).await?;
    let there = if there.is_empty() { "none".to_owned() } else { listed(there.into_iter()) };
    Ok(DbErr::Migration(format!(
        "there is no table {names} in this database (VOLUME_REAPER_THREADS_TABLE and _SCHEMA); there are: {there}"
    )))
}

/// The names, as far as they help.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let names = names.take(NAMES_SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}
