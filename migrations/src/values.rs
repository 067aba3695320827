//! Rows that are written by their columns: what is the same in all of them is sent once.

use sea_orm_migration::{prelude::*, sea_orm::Value, sea_query::ArrayType};

/// What a column gets, row by row.
#[derive(Clone, Debug)]
pub struct Values {
    /// The column's name.
    pub column: &'static str,
    /// Their type, which nulls have too.
    pub kind: ArrayType,
    /// One for each row.
    pub values: Vec<Value>,
}

impl Values {
    /// What every row gets, if it is the same.
    fn common(&self) -> Option<&Value> {
        let first = self.values.first()?;
        self.values.iter().all(|value| value == first).then_some(first)
    }

    /// Whether some rows get a null, and others do not.
    pub(crate) fn has_some_nulls(&self) -> bool {
        self.common().is_none() && self.values.iter().any(|value| *value == value.as_null())
    }
}

/// Columns whose values differ, of which there is one at least, and the others with the value that every row gets.
pub(crate) fn apart(columns: Vec<Values>) -> (Vec<Values>, Vec<(&'static str, Value)>) {
    let (mut differ, mut common) = (Vec::new(), Vec::new());
    for column in columns {
        match column.common().filter(|_| !differ.is_empty()) {
            Some(value) => common.push((column.column, value.clone())),
            None => differ.push(column),
        }
    }
    (differ, common)
}

/// Inserts rows with a parameter for each value.
pub(crate) fn insert_each(table: &str, columns: Vec<Values>) -> Result<InsertStatement, DbErr> {
    let mut insert = Query::insert();
    insert.into_table(Alias::new(table)).columns(columns.iter().map(|column| Alias::new(column.column)));
    for row in rows(columns) {
        insert.values(row.into_iter().map(Expr::val)).map_err(|error| DbErr::Custom(error.to_string()))?;
    }
    Ok(insert)
}

/// Their rows, one after the other.
pub(crate) fn rows(columns: Vec<Values>) -> impl Iterator<Item = Vec<Value>> {
    let rows = columns.first().map_or(0, |column| column.values.len());
    let mut columns: Vec<_> = columns.into_iter().map(|column| column.values.into_iter()).collect();
    (0..rows).map(move |_| columns.iter_mut().filter_map(Iterator::next).collect())
}

/// Inserts what a select gives for the columns that differ, and for the others what every row gets.
pub(crate) fn insert(
    table: &str,
    differ: Vec<&'static str>,
    common: Vec<(&'static str, Value)>,
    mut select: SelectStatement,
) -> Result<InsertStatement, DbErr> {
    let (names, common): (Vec<_>, Vec<_>) = common.into_iter().unzip();
    select.exprs(common.into_iter().map(Expr::val));
    let mut insert = Query::insert();
    insert.into_table(Alias::new(table)).columns(differ.into_iter().chain(names).map(Alias::new));
    insert.select_from(select).map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok(insert)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dialect, MySql, Postgres, Sqlite};

    fn texts(column: &'static str, values: &[&str]) -> Values {
        Values { column, kind: ArrayType::String, values: values.iter().map(|text| Value::from(*text)).collect() }
    }

    fn sql(dialect: &dyn Dialect, columns: Vec<Values>) -> String {
        let insert = dialect.insert_columns("receipts", columns).expect("as many values as columns");
        dialect.backend().build(&insert).to_string()
    }

    #[test]
    fn what_is_the_same_in_many_rows_is_sent_once() {
        let ids: Vec<_> = (0..100).map(|number| number.to_string()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        let columns = vec![texts("id", &ids), texts("replica", &["r1"; 100])];
        let sent = |dialect: &dyn Dialect| sql(dialect, columns.clone()).matches("r1").count();
        assert_eq!(sent(&Postgres), 1);
        assert_eq!(sent(&Sqlite), 1);
        assert_eq!(sent(&MySql), 100);
    }

    #[test]
    fn each_database_is_given_its_own_statement() {
        let columns = vec![texts("id", &["1", "2"]), texts("host", &["a", "b"]), texts("replica", &["r1", "r1"])];
        assert_eq!(
            sql(&Sqlite, columns.clone()),
            "INSERT INTO \"receipts\" (\"id\", \"host\", \"replica\") SELECT \"column1\", \"column2\", 'r1' FROM \
             (VALUES ('1', 'a'), ('2', 'b')) AS \"rows\""
        );
        for dialect in [&Postgres as &dyn Dialect, &MySql] {
            let insert = sql(dialect, columns.clone()).replace('`', "\"");
            let rows = "('1', 'a', 'r1'), ('2', 'b', 'r1')";
            assert_eq!(insert, format!(r#"INSERT INTO "receipts" ("id", "host", "replica") VALUES {rows}"#));
        }
    }

    #[test]
    fn on_postgres_many_rows_are_arrays_unless_one_has_a_null() {
        let ids: Vec<_> = (0..100).map(|number| number.to_string()).collect();
        let mut columns =
            vec![texts("id", &ids.iter().map(String::as_str).collect::<Vec<_>>()), texts("by", &["r1"; 100])];
        let arrays = "INSERT INTO \"receipts\" (\"id\", \"by\") SELECT unnest(ARRAY ['0','1',";
        let insert = sql(&Postgres, columns.clone());
        assert!(insert.starts_with(arrays) && insert.ends_with("'99']), 'r1'"), "{insert}");
        columns[1].values[7] = Value::String(None);
        let insert = sql(&Postgres, columns);
        assert!(insert.contains("VALUES ('0', 'r1'), ") && insert.contains("('7', NULL), "), "{insert}");
    }

    #[test]
    fn rows_that_are_all_the_same_have_a_column_of_their_own() {
        assert_eq!(
            sql(&Sqlite, vec![texts("id", &["1", "1"]), texts("replica", &["r1", "r1"])]),
            r#"INSERT INTO "receipts" ("id", "replica") SELECT "column1", 'r1' FROM (VALUES ('1'), ('1')) AS "rows""#
        );
    }
}
