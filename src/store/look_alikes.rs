//! Tables that look like the platform's threads, for who has not said yet which one it is.

use migrations::{Column, Takes, ThreadsTable};
use sea_orm::DbErr;

use super::{PAGE_TIMEOUT, Store};
use crate::failure::Failure;

/// More tables than these are not looked at.
const MOST_TABLES: usize = 500;
/// The rows of a table whose statuses are read; a status that only later rows have is a person's to name.
const ROWS_READ: u32 = 1000;

/// A table with what a thread has: an id, and a status that says whether it is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookAlike {
    /// Its name.
    pub table: String,
    /// Its column with the id.
    pub id: String,
    /// Its column with the status.
    pub status: String,
    /// The status that means closed, if one was found that may.
    pub closed_value: Option<String>,
    /// Its column with the time of the close, if there is one.
    pub closed_at: Option<String>,
    /// Its column with the Docker host, if there is one.
    pub host: Option<String>,
}

impl Store {
    /// The tables that look like it, the likeliest first. Changes nothing.
    pub async fn look_alikes(&self) -> Result<Vec<LookAlike>, Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let tables = self.db.rows(self.engine.dialect().tables()).await?;
            let mut found = Vec::new();
            for table in tables.iter().take(MOST_TABLES) {
                let name: String = table.try_get("", "name")?;
                if !name.starts_with("volume_re") {
                    found.extend(self.look_alike(name).await?);
                }
            }
            found.sort_by_key(unlikeliness);
            Ok(found)
        })
        .await
    }

    async fn look_alike(&self, table: String) -> Result<Option<LookAlike>, DbErr> {
        let dialect = self.engine.dialect();
        let names = ThreadsTable { table: table.clone(), ..ThreadsTable::default() };
        let rows = self.db.rows(dialect.columns(&names)?).await?;
        let columns: Vec<_> = rows.iter().map(|row| dialect.column(row)).collect::<Result<_, _>>()?;
        let Some((look_alike, takes)) = recognised(table, &columns) else { return Ok(None) };
        let closed_value = match takes {
            Takes::Boolean => Some("true".to_owned()),
            Takes::Enum(labels) => closed_among(&labels),
            Takes::Text | Takes::Blanked | Takes::Anything => closed_among(&self.statuses(&look_alike).await?),
            Takes::Uuid | Takes::Integer | Takes::Unsigned | Takes::Zoned | Takes::Naive | Takes::Other => None,
        };
        Ok(Some(LookAlike { closed_value, ..look_alike }))
    }

    /// The statuses of its first rows.
    async fn statuses(&self, LookAlike { table, status, .. }: &LookAlike) -> Result<Vec<String>, DbErr> {
        let dialect = self.engine.dialect();
        let (table, status) = (dialect.quoted(table), dialect.quoted(status));
        let text = dialect.text_type();
        let rows = self.db.rows(format!(
            "SELECT DISTINCT CAST({status} AS {text}) AS status FROM \
             (SELECT {status} FROM {table} WHERE {status} IS NOT NULL LIMIT {ROWS_READ}) AS first_rows"
        ));
        rows.await?.iter().map(|row| row.try_get("", "status")).collect()
    }
}

/// Letters and digits alone, in lower case: `closed_at` and `closedAt` are one.
fn bare(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// The table as one of threads, without the status that means closed, and what its status takes.
fn recognised(table: String, columns: &[Column]) -> Option<(LookAlike, Takes)> {
    let one_of = |names: &[&str], fits: fn(&Takes) -> bool| {
        let named = |name: &&str| columns.iter().find(|column| bare(&column.name) == **name && fits(&column.takes));
        names.iter().find_map(named)
    };
    let is_id = |takes: &Takes| !matches!(takes, Takes::Boolean | Takes::Zoned | Takes::Naive | Takes::Other);
    let is_moment = |takes: &Takes| matches!(takes, Takes::Zoned | Takes::Naive | Takes::Text | Takes::Anything);
    let own_id = format!("{}id", bare(&table).trim_end_matches('s'));
    let id = one_of(&["id", &own_id, "threadid", "uuid"], is_id)?;
    let status = one_of(
        &["status", "threadstatus", "state", "threadstate", "closed", "isclosed", "archived", "isarchived"],
        |takes| !matches!(takes, Takes::Zoned | Takes::Naive | Takes::Other | Takes::Uuid),
    )?;
    let closed_at = one_of(&["closedat", "archivedat", "endedat", "finishedat"], is_moment);
    let host = one_of(&["host", "dockerhost", "hostname", "node", "nodename"], |takes| {
        matches!(takes, Takes::Text | Takes::Blanked | Takes::Anything)
    });
    let name = |column: &Column| column.name.clone();
    let look_alike = LookAlike {
        table,
        id: name(id),
        status: name(status),
        closed_value: None,
        closed_at: closed_at.map(name),
        host: host.map(name),
    };
    Some((look_alike, status.takes.clone()))
}

/// The status that means closed.
fn closed_among(statuses: &[String]) -> Option<String> {
    let words = ["closed", "archived", "ended", "finished", "done"];
    words.iter().find_map(|word| statuses.iter().find(|status| bare(status) == *word)).cloned()
}

/// The smaller, the likelier: named as what it is, with a status that means closed, and a time of the close.
fn unlikeliness(table: &LookAlike) -> (usize, bool, bool) {
    let names = ["thread", "conversation", "session", "chat", "workspace"];
    let place = names.iter().position(|name| bare(&table.table).contains(name)).unwrap_or(names.len());
    (place, table.closed_value.is_none(), table.closed_at.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, takes: Takes) -> Column {
        Column {
            name: name.to_owned(),
            type_name: String::new(),
            takes,
            is_unlimited: false,
            is_nullable: true,
            is_unique: true,
            own_key: None,
            fills_itself: false,
        }
    }

    #[test]
    fn a_table_of_threads_is_recognised_by_other_spellings() {
        let columns = [
            column("id", Takes::Uuid),
            column("threadStatus", Takes::Enum(vec!["OPEN".to_owned(), "CLOSED".to_owned()])),
            column("closedAt", Takes::Naive),
            column("docker_host", Takes::Text),
        ];
        let (found, takes) = recognised("Thread".to_owned(), &columns).expect("recognised");
        assert_eq!((found.id.as_str(), found.status.as_str()), ("id", "threadStatus"));
        assert_eq!((found.closed_at.as_deref(), found.host.as_deref()), (Some("closedAt"), Some("docker_host")));
        let Takes::Enum(labels) = takes else { panic!("{takes:?}") };
        assert_eq!(closed_among(&labels).as_deref(), Some("CLOSED"));
    }

    #[test]
    fn a_table_without_a_status_is_none_of_threads() {
        assert_eq!(recognised("users".to_owned(), &[column("id", Takes::Uuid), column("name", Takes::Text)]), None);
        let moment = [column("id", Takes::Uuid), column("closed", Takes::Zoned)];
        assert_eq!(recognised("threads".to_owned(), &moment), None);
    }

    #[test]
    fn what_is_called_a_thread_comes_before_what_only_has_a_status() {
        let table = |name: &str, closed: Option<&str>| LookAlike {
            table: name.to_owned(),
            id: "id".to_owned(),
            status: "status".to_owned(),
            closed_value: closed.map(str::to_owned),
            closed_at: None,
            host: None,
        };
        let mut tables =
            [table("orders", Some("closed")), table("old_threads", None), table("threads", Some("closed"))];
        tables.sort_by_key(unlikeliness);
        assert_eq!(tables.map(|table| table.table), ["threads", "old_threads", "orders"]);
    }
}
