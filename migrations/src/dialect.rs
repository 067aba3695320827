//! What differs by database: how it quotes and casts, what its catalogue is asked, and the SQL of what we add to the
//! threads table. Each database has a folder of its own with the same names in it; which one it is is chosen once.

use std::fmt;

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, QueryResult},
};

use crate::{Column, Found, IdType, Mapping, MarkType, Takes, ThreadsTable, Values, VolumesTable, values};

/// The SQL of what we add to a database.
pub trait Parts {
    /// How to make the table with the receipts, which has these columns, and its indexes: by thread, of the removals
    /// alone for the budgets, and by time.
    fn create_receipts(&self, table: TableCreateStatement) -> Vec<String>;

    /// How to build the index over closed and unmarked rows.
    fn create_index(&self, found: &Found) -> Vec<String>;

    /// How to drop that index.
    fn drop_index(&self, found: &Found) -> Vec<String>;

    /// How to make the trigger that clears a mark. One that is there was dropped before.
    fn create_trigger(&self, mapping: &Mapping) -> Vec<String>;

    /// How to build the indexes over a table of volumes: of the unmarked rows for sweeps, of the marked ones for
    /// reopening, both by thread.
    fn create_volumes_indexes(&self, found: &Found, volumes: &VolumesTable) -> Vec<String>;

    /// How to drop those indexes.
    fn drop_volumes_indexes(&self, found: &Found, volumes: &VolumesTable) -> Vec<String>;

    /// How to make the trigger that clears the marks of a thread's volumes when it is reopened. What the platform marks
    /// itself while a thread is open stays.
    fn create_volumes_trigger(&self, threads: &Mapping, volumes: &VolumesTable) -> Vec<String>;

    /// How to drop either trigger.
    fn drop_trigger(&self, found: &Found) -> Vec<String>;
}

/// A database's own way to say what we say to all of them. What is written here is the standard's.
pub trait Dialect: Parts + fmt::Debug + Send + Sync {
    /// What the client libraries call it.
    fn backend(&self) -> DbBackend;

    // --- Words ---

    /// An identifier in quotes.
    fn quoted(&self, identifier: &str) -> String {
        format!("\"{}\"", identifier.replace('"', "\"\""))
    }

    /// A text in single quotes.
    fn literal(&self, text: &str) -> String {
        format!("'{}'", text.replace('\'', "''"))
    }

    /// The type that an expression is cast to, to become text.
    fn text_type(&self) -> &'static str {
        "text"
    }

    /// The type that an expression is cast to, to become a whole number of 64 bits.
    fn number_type(&self) -> &'static str {
        "bigint"
    }

    /// A condition without a table that is never true, after the list of a `SELECT`.
    fn no_row(&self) -> &'static str {
        "WHERE 1 = 0"
    }

    /// An object of ours that lies beside the threads table, in SQL.
    fn beside(&self, names: &ThreadsTable, object: &str) -> String;

    // --- Tables ---

    /// A table of ours, to be created.
    fn table(&self, name: &str) -> TableCreateStatement {
        Table::create().table(Alias::new(name)).if_not_exists().to_owned()
    }

    /// A column with a text that stands in a key.
    fn key_text(&self, name: &str) -> ColumnDef {
        ColumnDef::new(Alias::new(name)).text().to_owned()
    }

    /// A column with a moment.
    fn time(&self, name: &str) -> ColumnDef {
        ColumnDef::new(Alias::new(name)).timestamp_with_time_zone().to_owned()
    }

    /// The moment at which a row is made, in UTC.
    fn now(&self) -> Expr {
        Expr::current_timestamp()
    }

    // --- The threads table ---

    /// A change of the threads table waits so long for its lock, and no longer: whoever wants to write waits behind it.
    fn lock_timeout(&self) -> Vec<String>;

    // --- Values ---

    /// The condition that a column has this text, byte by byte, whatever its collation takes for equal.
    fn is_text(&self, column: &str, text: &str) -> Expr {
        Expr::col(Alias::new(column)).cast_as(self.text_type()).eq(text)
    }

    /// What has to be asked of a row that the index of the ids found for this text, if its collation may take others
    /// for equal.
    fn is_exactly(&self, _column: &str, _text: &str) -> Option<Expr> {
        None
    }

    /// A text that is a uuid as a value of that type.
    fn uuid_value(&self, uuid: &str) -> Expr {
        Expr::val(uuid)
    }

    /// The condition that a column has one of these ids, with all of them as one parameter, where there are arrays or
    /// lists: the statement is the same for one and for a thousand, and its plan is made once.
    fn is_any_of(&self, _column: Expr, _id: IdType, _ids: &[&str]) -> Option<Expr> {
        None
    }

    /// An insert of rows by their columns, of which there is one at least, with a parameter for each value or less.
    fn insert_columns(&self, table: &str, columns: Vec<Values>) -> Result<InsertStatement, DbErr> {
        values::insert_each(table, columns)
    }

    /// A boolean for people.
    fn boolean_as_text(&self, boolean: Expr) -> Expr {
        boolean.cast_as(self.text_type())
    }

    /// A column with times, of which those that the client library can't hold are read as null.
    fn readable_time(&self, column: Expr) -> Expr;

    /// Has a statement lock the rows that it selects, but for those that somebody else has locked: these it leaves out.
    fn lock_free_rows(&self, select: &mut SelectStatement);

    /// Whether this server, connection and transaction may write. A standby may not, nor one that is set so.
    fn may_write(&self) -> Expr;

    // --- The catalogue ---

    /// The query for the columns of the threads table: its rows are read by [`Dialect::column`], and have the `kind` of
    /// the table. None means that there is no such table.
    fn columns(&self, names: &ThreadsTable) -> Result<String, DbErr>;

    /// One row of [`Dialect::columns`].
    fn column(&self, row: &QueryResult) -> Result<Column, DbErr>;

    /// How a column that takes such values keeps moments; `None` if it can't.
    fn keeps_times(&self, takes: &Takes) -> Option<MarkType>;

    /// Whether a table can have two columns whose names differ in case only.
    fn has_case_in_columns(&self) -> bool {
        false
    }

    /// The query for the `name` of each table there is.
    fn tables(&self) -> &'static str;

    /// The query for the `name` of what is there under these names, where a table of ours would be, and its `columns`,
    /// by commas and in their order.
    fn relations(&self, names: &[&str]) -> String;

    /// The query for a row if both names in SQL are of one table; `None` if only equal ones are.
    fn is_same_table(&self, _one: &str, _other: &str) -> Option<String> {
        None
    }

    /// The query for a row if the threads table has our trigger; `None` if it can be dropped without having looked.
    fn trigger(&self, _names: &ThreadsTable) -> Option<String> {
        None
    }

    /// The query for the `name` of each index of ours that has to be dropped by its own statement before it is made:
    /// whose concurrent build was interrupted, or that is there where `IF EXISTS` is not known.
    fn indexes_in_the_way(&self, _names: &ThreadsTable) -> Option<String> {
        None
    }

    /// The query for a row if a table of volumes has an index of its own that finds rows by their thread; `None` if
    /// that makes no difference.
    fn index_by_thread(&self, _names: &ThreadsTable) -> Option<String> {
        None
    }

    /// The query for what speaks against using the threads table at all: each `name` continues the words "table ...".
    fn obstacles(&self, _names: &ThreadsTable) -> Option<String> {
        None
    }

    /// The query for what this user lacks to change the schema, in the same way.
    fn lacks(&self, _names: &ThreadsTable) -> Option<String> {
        None
    }

    /// The query for the `name` of each table that is called so and is not found, because it is elsewhere.
    fn elsewhere(&self, _names: &ThreadsTable) -> Option<String> {
        None
    }

    /// The query for the `name` of each trigger of somebody else's that runs before the threads table is updated.
    fn other_triggers(&self, names: &ThreadsTable) -> String;
}

impl PartialEq for dyn Dialect {
    fn eq(&self, other: &Self) -> bool {
        self.backend() == other.backend()
    }
}

impl Eq for dyn Dialect {}
