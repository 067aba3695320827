//! What `doctor` asks MySQL.

use migrations::{Dialect, Mapping, MySql, REOPEN_TRIGGER, ThreadsTable, UNMARKED_INDEX};
use sea_orm::{DbErr, prelude::async_trait::async_trait};

use super::errors::number;
use crate::store::{
    Pool,
    engine::SchemaFacts,
    errors::database_error,
    schema_facts::{Part, is_for_this_status},
};

/// `ER_TRG_DOES_NOT_EXIST`.
const NO_SUCH_TRIGGER: u16 = 1360;
/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`: the trigger may be there, and is not for this user to see.
const MAY_NOT_SEE: u16 = 1227;

#[async_trait]
impl SchemaFacts for MySql {
    /// MariaDB says so itself in its version, MySQL does not.
    fn version(&self) -> &'static str {
        "SELECT if(version() LIKE '%MariaDB%', version(), concat('MySQL ', version())) AS version"
    }

    async fn is_encrypted(&self, db: &Pool) -> Result<Option<bool>, DbErr> {
        let rows = db.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await?;
        let cipher = rows.first().map(|row| row.try_get::<String>("", "Value")).transpose()?;
        Ok(cipher.map(|cipher| !cipher.is_empty()))
    }

    fn clock(&self) -> Option<&'static str> {
        Some("SELECT CAST(unix_timestamp(now(3)) * 1000 AS signed) AS millis")
    }

    async fn index(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr> {
        let rows = db.rows(format!(
            "SELECT CAST(column_name AS char) AS name FROM information_schema.statistics \
             WHERE {} AND index_name = '{UNMARKED_INDEX}' ORDER BY seq_in_index",
            is_threads(&threads.names.marked())
        ));
        let rows = rows.await?;
        let columns = rows.iter().map(|row| row.try_get("", "name")).collect::<Result<Vec<String>, _>>()?;
        let names = threads.names.marked();
        // The rest only spares reading the rows.
        let leading = match threads.names.volumes {
            None => vec![&names.status, &names.mark, &names.id],
            // The thread's, in the place of a status.
            Some(_) => vec![&names.mark, &names.status],
        };
        Ok(if columns.is_empty() {
            Part::Missing
        } else if columns.iter().take(leading.len()).eq(leading) {
            Part::AsOurs
        } else {
            Part::Broken(format!("it is over other columns: {}", columns.join(", ")))
        })
    }

    /// The migration drops it.
    fn before_index_again(&self) -> String {
        String::new()
    }

    async fn trigger(&self, db: &Pool, threads: &Mapping) -> Result<Part, DbErr> {
        let table = MySql.literal(&threads.names.table);
        let rows = db.rows(format!(
            "SELECT action_statement AS definition FROM information_schema.triggers WHERE trigger_schema = DATABASE() \
             AND event_object_schema = DATABASE() AND event_object_table = {table} AND trigger_name = \
             '{REOPEN_TRIGGER}'"
        ));
        let rows = rows.await?;
        let Some(row) = rows.first() else { return trigger_out_of_sight(db).await };
        // Who has rights to some columns only sees that the trigger is there, and not what it does.
        let definition: Option<String> = row.try_get("", "definition")?;
        Ok(definition.map_or(Part::AsOurs, |definition| is_for_this_status(threads, &definition)))
    }

    fn estimate(&self, threads: &Mapping) -> Option<String> {
        let is_threads = is_threads(&threads.names.marked());
        Some(format!("SELECT CAST(table_rows AS signed) AS estimate FROM information_schema.tables WHERE {is_threads}"))
    }

    async fn reads_whole(&self, db: &Pool, sweep: &str) -> Result<bool, DbErr> {
        let plan = db.rows(format!("EXPLAIN FORMAT=TRADITIONAL {sweep}")).await?;
        let key = plan.first().map(|row| row.try_get::<Option<String>>("", "key")).transpose()?.flatten();
        Ok(key.as_deref() != Some(UNMARKED_INDEX))
    }
}

/// The condition that selects what the catalogue says of the threads table.
fn is_threads(names: &ThreadsTable) -> String {
    format!("table_schema = DATABASE() AND table_name = {}", MySql.literal(&names.table))
}

/// The catalogue hides triggers from a user without the right to them. Asked for by name, the server says which it is;
/// to one who may not even know that, it is there until a sweep shows otherwise.
async fn trigger_out_of_sight(db: &Pool) -> Result<Part, DbErr> {
    match db.rows(format!("SHOW CREATE TRIGGER {REOPEN_TRIGGER}")).await {
        Err(error) => match database_error(&error).and_then(number) {
            Some(NO_SUCH_TRIGGER) => Ok(Part::Missing),
            Some(MAY_NOT_SEE) => Ok(Part::OutOfSight),
            Some(_) | None => Err(error),
        },
        Ok(_) => Ok(Part::Broken("it is on another table".to_owned())),
    }
}
