//! How statements address the threads table: by the names that the configuration gives it, and with values of the types
//! that its columns have.

use sea_orm_migration::{
    prelude::*,
    sea_query::extension::mysql::{IndexHintScope, MySqlSelectStatementExt},
};

use crate::{Dialect, ThreadsTable};

/// The type of the ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdType {
    /// Text of any length.
    Text,
    /// PostgreSQL's `character(n)`, whose trailing blanks do not count.
    Blanked,
    /// PostgreSQL's and MariaDB's `uuid`.
    Uuid,
    /// A whole number of up to 64 bits.
    Integer,
    /// A whole number of MySQL's without a sign.
    Unsigned,
}

/// The status that means closed, as a value of its column's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A text, or a label of an enum.
    Text(String),
    /// A boolean.
    Boolean(bool),
    /// A whole number; SQLite's and MySQL's booleans are such.
    Integer(i64),
}

/// The type of the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkType {
    /// A moment; on MySQL in UTC, as the connection's zone is.
    Zoned,
    /// Date and time without a zone: UTC.
    Naive,
}

/// The threads table: its names, and the types that the catalogue says its columns have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Whose SQL it is.
    pub dialect: &'static dyn Dialect,
    /// What table and columns are called.
    pub names: ThreadsTable,
    /// The type of the ids.
    pub id: IdType,
    /// The unique index over the ids alone, where a statement may have to name it: on MySQL.
    pub id_key: Option<String>,
    /// The status that means closed.
    pub closed: Closed,
    /// The type of the mark.
    pub mark: MarkType,
    /// Whether the column for the mark is there; if not, nothing is marked.
    pub has_mark: bool,
    /// The status may be of any length, so that MySQL can't take it into a key whole.
    pub status_is_unlimited: bool,
}

impl Mapping {
    /// The table that we make ourselves.
    pub(crate) fn of_ours(dialect: &'static dyn Dialect, names: &ThreadsTable) -> Self {
        Self {
            dialect,
            names: names.clone(),
            id: IdType::Text,
            id_key: None,
            closed: Closed::Text(names.closed_value.clone()),
            mark: MarkType::Zoned,
            has_mark: true,
            status_is_unlimited: false,
        }
    }

    /// The table in a statement.
    #[must_use]
    pub fn table(&self) -> TableRef {
        self.names.table_ref()
    }

    /// The table in SQL.
    #[must_use]
    pub fn table_sql(&self) -> String {
        self.names.table_sql(self.dialect)
    }

    /// The column with the ids, where others have that name too.
    #[must_use]
    pub fn qualified_id(&self) -> Expr {
        self.qualified(&self.names.id)
    }

    /// One of its columns, where others have that name too.
    #[must_use]
    pub fn qualified(&self, column: &str) -> Expr {
        let (table, column) = (Alias::new(&self.names.table), Alias::new(column));
        match &self.names.schema {
            Some(schema) => Expr::col((Alias::new(schema), table, column)),
            None => Expr::col((table, column)),
        }
    }

    /// The column with the ids as a text; one that has texts as it is, so that the column's own index serves.
    #[must_use]
    pub fn qualified_id_as_text(&self) -> Expr {
        match self.id {
            IdType::Text => self.qualified_id(),
            IdType::Blanked | IdType::Uuid | IdType::Integer | IdType::Unsigned => self.as_text(self.qualified_id()),
        }
    }

    /// An expression as text.
    #[must_use]
    pub fn as_text(&self, expression: Expr) -> Expr {
        expression.cast_as(self.dialect.text_type())
    }

    /// The condition that selects the row with an id; `None` if no row can have it.
    ///
    /// Found by the column's index, as its collation has it, a text is then compared byte by byte where collations may
    /// take others for equal.
    #[must_use]
    pub fn is_thread(&self, id: &str) -> Option<Condition> {
        let found = Condition::all().add(Expr::col(Alias::new(&self.names.id)).eq(self.id_value(id)?));
        let is_exactly = (self.id == IdType::Text).then(|| self.dialect.is_exactly(&self.names.id, id)).flatten();
        Some(found.add_option(is_exactly))
    }

    /// The condition that a column has this text, byte by byte, whatever its collation takes for equal.
    #[must_use]
    pub fn is_text(&self, column: &str, text: &str) -> Expr {
        self.dialect.is_text(column, text)
    }

    /// An id as a value of its column's type, so that the column's own index finds it; `None` if no row can have that
    /// id.
    ///
    /// Only the spelling that the database itself gives is an id: others may name other volumes.
    #[must_use]
    pub fn id_value(&self, id: &str) -> Option<Expr> {
        match self.id {
            IdType::Text => Some(Expr::val(id)),
            // The inner cast says how the parameter is sent, the outer one what it becomes. Without a length, which
            // would cut it.
            IdType::Blanked => Some(Expr::val(id).cast_as("text").cast_as("bpchar")),
            IdType::Uuid => is_uuid(id).then(|| self.dialect.uuid_value(id)),
            // Never narrower than the column: the cast of a number that does not fit is an error.
            IdType::Integer => id.parse().ok().filter(|number: &i64| number.to_string() == id).map(Expr::val),
            IdType::Unsigned => id.parse().ok().filter(|number: &u64| number.to_string() == id).map(Expr::val),
        }
    }

    /// The condition that a column has one of these ids. What can't be an id is none of them.
    #[must_use]
    pub fn is_one_of<'a>(&self, column: Expr, ids: impl Iterator<Item = &'a str>) -> Expr {
        let (ids, values): (Vec<_>, Vec<_>) = ids.filter_map(|id| self.id_value(id).map(|value| (id, value))).unzip();
        let any = self.dialect.is_any_of(column.clone(), self.id, &ids);
        any.unwrap_or_else(|| column.is_in(values))
    }

    /// The status for people.
    #[must_use]
    pub fn status_as_text(&self) -> Expr {
        let status = Expr::col(Alias::new(&self.names.status));
        match self.closed {
            Closed::Boolean(_) => self.dialect.boolean_as_text(status),
            Closed::Text(_) | Closed::Integer(_) => self.as_text(status),
        }
    }

    /// The time of the close, where it is read: null where there is none, or none that can be read.
    #[must_use]
    pub fn read_closed_at(&self) -> Expr {
        let closed_at = self.names.closed_at.as_ref();
        closed_at.map_or_else(Expr::null, |name| self.dialect.readable_time(Expr::col(Alias::new(name))))
    }

    /// When the thread was marked, where that is read: null also where it can't be read.
    #[must_use]
    pub fn read_marked_at(&self) -> Expr {
        match &self.names.volumes {
            _ if !self.has_mark => Expr::null(),
            Some(volumes) => self.read_volumes_marked_at(volumes),
            None => self.dialect.readable_time(Expr::col(Alias::new(&self.names.mark))),
        }
    }

    /// The mark in a thread's own row, where it only matters whether there is one.
    pub(crate) fn read_mark(&self) -> Expr {
        if self.has_mark { Expr::col(Alias::new(&self.names.mark)) } else { Expr::null() }
    }

    /// The condition that selects closed and unmarked rows.
    ///
    /// The closed value stands in the statement itself and not as a parameter: only so can the planners of
    /// PostgreSQL and SQLite see that the partial index fits.
    #[must_use]
    pub fn is_candidate(&self) -> Condition {
        Condition::all().add(self.is_closed()).add(self.is_unmarked())
    }

    /// Has a statement that finds rows by their ids lock them, but for those that somebody else has locked. It looks at
    /// no other row where that would lock it for a moment: MariaDB may scan the table for half of its rows.
    pub fn lock_free_rows(&self, select: &mut SelectStatement) {
        if let Some(key) = &self.id_key {
            select.force_index(Alias::new(key), IndexHintScope::All);
        }
        self.dialect.lock_free_rows(select);
    }

    /// The condition that selects closed rows.
    #[must_use]
    pub fn is_closed(&self) -> Expr {
        let closed = match &self.closed {
            Closed::Text(text) => text.clone().into(),
            Closed::Boolean(boolean) => (*boolean).into(),
            Closed::Integer(number) => (*number).into(),
        };
        Expr::col(Alias::new(&self.names.status)).eq(Expr::Constant(closed))
    }

    /// The closed value in SQL.
    #[must_use]
    pub fn closed_sql(&self) -> String {
        match &self.closed {
            Closed::Text(text) => self.dialect.literal(text),
            Closed::Boolean(boolean) => boolean.to_string(),
            Closed::Integer(number) => number.to_string(),
        }
    }
}

/// Whether a text is a uuid as databases write it: in lower case, with its hyphens.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Postgres;

    fn mapping(id: IdType) -> Mapping {
        Mapping { id, ..Mapping::of_ours(&Postgres, &ThreadsTable::default()) }
    }

    #[test]
    fn only_the_databases_own_spelling_of_a_uuid_is_an_id() {
        let uuids = mapping(IdType::Uuid);
        assert!(uuids.id_value("7f1c2a30-9f55-4f0e-8a77-0f6f1f4f1b11").is_some());
        for other in ["7F1C2A30-9F55-4F0E-8A77-0F6F1F4F1B11", "7f1c2a309f554f0e8a770f6f1f4f1b11", "t-1", ""] {
            assert!(uuids.id_value(other).is_none(), "{other}");
        }
    }

    #[test]
    fn only_the_databases_own_spelling_of_a_number_is_an_id() {
        let numbers = mapping(IdType::Integer);
        assert!(numbers.id_value("7").is_some());
        for other in ["007", "+7", "7.0", "9223372036854775808", "t-1", ""] {
            assert!(numbers.id_value(other).is_none(), "{other}");
        }
        assert!(mapping(IdType::Unsigned).id_value("9223372036854775808").is_some());
        assert!(mapping(IdType::Unsigned).id_value("-7").is_none());
    }
}
