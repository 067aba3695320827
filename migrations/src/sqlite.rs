//! SQLite.

mod catalog;
mod parts;

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, QueryResult},
};

use crate::{Column, Dialect, IdType, MarkType, Takes, ThreadsTable, Values, refused, values};

/// SQLite.
#[derive(Debug)]
pub struct Sqlite;

impl Dialect for Sqlite {
    fn backend(&self) -> DbBackend {
        DbBackend::Sqlite
    }

    fn beside(&self, _names: &ThreadsTable, object: &str) -> String {
        self.quoted(object)
    }

    /// The lock is the whole file's, which the migration holds already.
    fn lock_timeout(&self) -> Vec<String> {
        Vec::new()
    }

    fn is_any_of(&self, column: Expr, id: IdType, ids: &[&str]) -> Option<Expr> {
        let numbers = || ids.iter().filter_map(|id| id.parse().ok()).collect::<Vec<i64>>();
        let list = match id {
            IdType::Text | IdType::Uuid => serde_json::json!(ids),
            IdType::Integer => serde_json::json!(numbers()),
            IdType::Blanked | IdType::Unsigned => return None,
        };
        let each = Func::cust("json_each").arg(Expr::val(list.to_string()));
        let values = Query::select().column(Alias::new("value")).from_function(each, "ids").to_owned();
        Some(column.in_subquery(values))
    }

    fn insert_columns(&self, table: &str, columns: Vec<Values>) -> Result<InsertStatement, DbErr> {
        let (differ, common) = values::apart(columns);
        let names: Vec<_> = differ.iter().map(|column| column.column).collect();
        // So it calls them itself.
        let columns = (1..=names.len()).map(|number| Expr::col(Alias::new(format!("column{number}"))));
        let rows =
            Query::select().exprs(columns).from_values(values::rows(differ).map(ValueTuple::Many), "rows").to_owned();
        values::insert(table, names, common, rows)
    }

    /// Any value may stand in any column, and the client library says which it can't read.
    fn readable_time(&self, column: Expr) -> Expr {
        column
    }

    /// A transaction that writes has the whole file to itself.
    fn lock_free_rows(&self, _select: &mut SelectStatement) {}

    /// Only a transaction that begins to write can say.
    fn may_write(&self) -> Expr {
        Expr::cust("1 = 1")
    }

    fn columns(&self, names: &ThreadsTable) -> Result<String, DbErr> {
        match names.schema {
            None => Ok(catalog::columns(self, names)),
            Some(_) => refused("SQLite has no schemas: leave VOLUME_REAPER_THREADS_SCHEMA empty"),
        }
    }

    fn column(&self, row: &QueryResult) -> Result<Column, DbErr> {
        catalog::column(row)
    }

    /// Times are texts.
    fn keeps_times(&self, takes: &Takes) -> Option<MarkType> {
        matches!(takes, Takes::Text | Takes::Anything).then_some(MarkType::Zoned)
    }

    fn tables(&self) -> &'static str {
        catalog::TABLES
    }

    fn relations(&self, names: &[&str]) -> String {
        catalog::relations(self, names)
    }

    fn other_triggers(&self, names: &ThreadsTable) -> String {
        catalog::other_triggers(self, names)
    }
}
