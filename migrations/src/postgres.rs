//! PostgreSQL.

mod catalog;
mod parts;

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, QueryResult},
    sea_query::{ArrayType, LockBehavior, LockType, extension::postgres::PgFunc},
};

use crate::{Column, Dialect, IdType, MarkType, Takes, ThreadsTable, Values, values};

/// More than a batch of clean-ups has: its statements are few in kind, and have their plans.
const MANY_ROWS: usize = 100;

/// PostgreSQL.
#[derive(Debug)]
pub struct Postgres;

impl Dialect for Postgres {
    fn backend(&self) -> DbBackend {
        DbBackend::Postgres
    }

    fn beside(&self, names: &ThreadsTable, object: &str) -> String {
        match &names.schema {
            Some(schema) => format!("{}.{}", self.quoted(schema), self.quoted(object)),
            None => self.quoted(object),
        }
    }

    fn lock_timeout(&self) -> Vec<String> {
        vec!["SET LOCAL lock_timeout = '2s'".to_owned()]
    }

    /// The inner cast says how the parameter is sent, the outer one what it becomes.
    fn uuid_value(&self, uuid: &str) -> Expr {
        Expr::val(uuid).cast_as("text").cast_as("uuid")
    }

    fn is_any_of(&self, column: Expr, id: IdType, ids: &[&str]) -> Option<Expr> {
        let array = |kind, values: Vec<Value>| Expr::val(Value::Array(kind, Some(Box::new(values))));
        let texts = || array(ArrayType::String, ids.iter().map(|id| Value::from(*id)).collect());
        let ids = match id {
            IdType::Text => texts(),
            IdType::Blanked => texts().cast_as("text[]").cast_as("bpchar[]"),
            IdType::Uuid => texts().cast_as("text[]").cast_as("uuid[]"),
            IdType::Integer => {
                let numbers = ids.iter().filter_map(|id| id.parse().ok());
                array(ArrayType::BigInt, numbers.map(|number: i64| Value::from(number)).collect())
            }
            IdType::Unsigned => return None,
        };
        Some(column.eq(PgFunc::any(ids)))
    }

    fn insert_columns(&self, table: &str, columns: Vec<Values>) -> Result<InsertStatement, DbErr> {
        let has_few_rows = columns.first().is_none_or(|column| column.values.len() < MANY_ROWS);
        // The client library sends no array that has a null in it.
        if has_few_rows || columns.iter().any(Values::has_some_nulls) {
            return values::insert_each(table, columns);
        }
        let (differ, common) = values::apart(columns);
        let names = differ.iter().map(|column| column.column).collect();
        let arrays = differ.into_iter().map(|column| Value::Array(column.kind, Some(Box::new(column.values))));
        let rows = Query::select().exprs(arrays.map(|array| Func::cust("unnest").arg(Expr::val(array)))).to_owned();
        values::insert(table, names, common, rows)
    }

    /// Infinities and what lies outside of the calendar's four digits.
    fn readable_time(&self, column: Expr) -> Expr {
        let is_readable =
            column.clone().gte(Expr::cust("'0001-01-01'")).and(column.clone().lt(Expr::cust("'10000-01-01'")));
        CaseStatement::new().case(is_readable, column).finally(Expr::null()).into()
    }

    /// Whoever only inserts a row that refers to one of these does not wait.
    fn lock_free_rows(&self, select: &mut SelectStatement) {
        select.lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked);
    }

    fn may_write(&self) -> Expr {
        Expr::cust("NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'")
    }

    fn columns(&self, names: &ThreadsTable) -> Result<String, DbErr> {
        Ok(catalog::columns(self, names))
    }

    fn column(&self, row: &QueryResult) -> Result<Column, DbErr> {
        catalog::column(row)
    }

    fn keeps_times(&self, takes: &Takes) -> Option<MarkType> {
        match takes {
            Takes::Zoned => Some(MarkType::Zoned),
            Takes::Naive => Some(MarkType::Naive),
            Takes::Text
            | Takes::Blanked
            | Takes::Uuid
            | Takes::Integer
            | Takes::Unsigned
            | Takes::Boolean
            | Takes::Enum(_)
            | Takes::Anything
            | Takes::Other => None,
        }
    }

    fn has_case_in_columns(&self) -> bool {
        true
    }

    fn tables(&self) -> &'static str {
        catalog::TABLES
    }

    fn relations(&self, names: &[&str]) -> String {
        catalog::relations(self, names)
    }

    fn is_same_table(&self, one: &str, other: &str) -> Option<String> {
        Some(catalog::is_same_table(self, one, other))
    }

    fn trigger(&self, names: &ThreadsTable) -> Option<String> {
        Some(catalog::trigger(self, names))
    }

    fn indexes_in_the_way(&self, _names: &ThreadsTable) -> Option<String> {
        Some(catalog::INVALID_INDEXES.to_owned())
    }

    fn obstacles(&self, names: &ThreadsTable) -> Option<String> {
        Some(catalog::obstacles(self, names))
    }

    fn lacks(&self, names: &ThreadsTable) -> Option<String> {
        Some(catalog::lacks(self, names))
    }

    fn elsewhere(&self, names: &ThreadsTable) -> Option<String> {
        Some(catalog::elsewhere(self, names))
    }

    fn other_triggers(&self, names: &ThreadsTable) -> String {
        catalog::other_triggers(self, names)
    }
}
