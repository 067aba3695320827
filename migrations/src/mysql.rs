//! MySQL, which is MariaDB too.

mod catalog;
mod parts;

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, QueryResult},
    sea_query::{LockBehavior, LockType},
};

use crate::{Column, Dialect, MarkType, Takes, ThreadsTable, refused};

/// MySQL and MariaDB.
#[derive(Debug)]
pub struct MySql;

impl Dialect for MySql {
    fn backend(&self) -> DbBackend {
        DbBackend::MySql
    }

    fn quoted(&self, identifier: &str) -> String {
        format!("`{}`", identifier.replace('`', "``"))
    }

    /// A backslash escapes too.
    fn literal(&self, text: &str) -> String {
        format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    }

    fn text_type(&self) -> &'static str {
        "char"
    }

    fn number_type(&self) -> &'static str {
        "signed"
    }

    /// Older servers have no condition without a table.
    fn no_row(&self) -> &'static str {
        "FROM DUAL WHERE 1 = 0"
    }

    fn beside(&self, _names: &ThreadsTable, object: &str) -> String {
        self.quoted(object)
    }

    /// With a collation that tells all ids apart, also those that differ in case.
    fn table(&self, name: &str) -> TableCreateStatement {
        let mut table = Table::create().table(Alias::new(name)).if_not_exists().to_owned();
        table.engine("InnoDB").character_set("utf8mb4").collate("utf8mb4_bin").to_owned()
    }

    /// The server wants to know how long it gets in a key, and 255 is twice a thread's id.
    fn key_text(&self, name: &str) -> ColumnDef {
        ColumnDef::new(Alias::new(name)).string_len(255).to_owned()
    }

    /// In UTC by agreement, with the milliseconds that we write: `TIMESTAMP` would end in 2038, and on old servers
    /// change by itself with its row.
    fn time(&self, name: &str) -> ColumnDef {
        ColumnDef::new(Alias::new(name)).custom("datetime(3)").to_owned()
    }

    /// The current timestamp is in the time zone of the platform's session.
    fn now(&self) -> Expr {
        Expr::cust("(UTC_TIMESTAMP(3))")
    }

    /// Counts until it is set otherwise.
    fn lock_timeout(&self) -> Vec<String> {
        vec!["SET SESSION lock_wait_timeout = 2".to_owned()]
    }

    fn is_text(&self, column: &str, text: &str) -> Expr {
        let column = self.quoted(column);
        let bytes = format!("CAST(CONVERT({column} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)");
        Expr::cust_with_values(bytes, [text])
    }

    /// A collation may take ids for equal that are not, such as those that differ in case. Otherwise one thread's close
    /// would remove the volume of another.
    fn is_exactly(&self, column: &str, text: &str) -> Option<Expr> {
        Some(self.is_text(column, text))
    }

    /// The text of a bit is a byte.
    fn boolean_as_text(&self, boolean: Expr) -> Expr {
        boolean.add(0).cast_as(self.text_type())
    }

    /// Dates without a year, a month or a day.
    fn readable_time(&self, column: Expr) -> Expr {
        let part = |name: &'static str| Expr::from(Func::cust(name).arg(column.clone())).gt(0);
        let is_readable = part("year").and(part("month")).and(part("dayofmonth"));
        CaseStatement::new().case(is_readable, column.clone()).finally(Expr::null()).into()
    }

    fn lock_free_rows(&self, select: &mut SelectStatement) {
        select.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    }

    fn may_write(&self) -> Expr {
        Expr::cust("@@global.read_only = 0 AND @@global.innodb_read_only = 0")
    }

    fn columns(&self, names: &ThreadsTable) -> Result<String, DbErr> {
        match names.schema {
            None => Ok(catalog::columns(self, names)),
            Some(_) => refused(
                "MySQL's schemas are its databases: name it in DATABASE_URL, and leave VOLUME_REAPER_THREADS_SCHEMA \
                 empty",
            ),
        }
    }

    fn column(&self, row: &QueryResult) -> Result<Column, DbErr> {
        catalog::column(row)
    }

    /// Times are in UTC by agreement, and our connections in UTC too.
    fn keeps_times(&self, takes: &Takes) -> Option<MarkType> {
        matches!(takes, Takes::Naive).then_some(MarkType::Zoned)
    }

    fn tables(&self) -> &'static str {
        catalog::TABLES
    }

    fn relations(&self, names: &[&str]) -> String {
        catalog::relations(self, names)
    }

    fn indexes_in_the_way(&self, names: &ThreadsTable) -> Option<String> {
        Some(catalog::indexes(self, names))
    }

    fn index_by_thread(&self, names: &ThreadsTable) -> Option<String> {
        Some(catalog::index_by_thread(self, names))
    }

    fn obstacles(&self, names: &ThreadsTable) -> Option<String> {
        Some(catalog::obstacles(self, names))
    }

    fn other_triggers(&self, names: &ThreadsTable) -> String {
        catalog::other_triggers(self, names)
    }
}
