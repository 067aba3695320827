//! Reopening clears the mark. A trigger, because the platform writes that row and knows nothing of us.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{ThreadsTable, literal, mysql_literal, mysql_quoted, quoted};

/// What it is called, and its function on PostgreSQL.
pub const NAME: &str = "volume_reaper_clear_mark";

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) ThreadsTable);

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        self.down(manager).await?;
        let threads = &self.0;
        let (table, id, status, mark) =
            (quoted(&threads.table), quoted(&threads.id), quoted(&threads.status), quoted(&threads.mark));
        let closed = literal(&threads.closed_value);
        let statements = match manager.get_database_backend() {
            DbBackend::Postgres => vec![
                format!(
                    "CREATE FUNCTION {NAME}() RETURNS trigger LANGUAGE plpgsql AS \
                     $$ BEGIN NEW.{mark} := NULL; RETURN NEW; END $$"
                ),
                format!(
                    "CREATE TRIGGER {NAME} BEFORE UPDATE ON {table} FOR EACH ROW \
                     WHEN (NEW.{status} IS DISTINCT FROM {closed} AND NEW.{mark} IS NOT NULL) \
                     EXECUTE FUNCTION {NAME}()"
                ),
            ],
            DbBackend::Sqlite => vec![format!(
                "CREATE TRIGGER {NAME} AFTER UPDATE ON {table} FOR EACH ROW \
                 WHEN NEW.{status} IS NOT {closed} AND NEW.{mark} IS NOT NULL \
                 BEGIN UPDATE {table} SET {mark} = NULL WHERE {id} = NEW.{id}; END"
            )],
            DbBackend::MySql => vec![on_mysql(threads)],
            other => return Err(DbErr::Migration(format!("{other:?} is not supported"))),
        };
        for statement in statements {
            manager.get_connection().execute_unprepared(&statement).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        if manager.get_database_backend() == DbBackend::Postgres {
            let table = quoted(&self.0.table);
            db.execute_unprepared(&format!("DROP TRIGGER IF EXISTS {NAME} ON {table}")).await?;
            db.execute_unprepared(&format!("DROP FUNCTION IF EXISTS {NAME}()")).await?;
        } else {
            db.execute_unprepared(&format!("DROP TRIGGER IF EXISTS {NAME}")).await?;
        }
        Ok(())
    }
}

/// `<=>` is MySQL's equality that knows null.
fn on_mysql(threads: &ThreadsTable) -> String {
    let (table, status, mark) =
        (mysql_quoted(&threads.table), mysql_quoted(&threads.status), mysql_quoted(&threads.mark));
    let closed = mysql_literal(&threads.closed_value);
    format!(
        "CREATE TRIGGER {NAME} BEFORE UPDATE ON {table} FOR EACH ROW \
         SET NEW.{mark} = IF(NEW.{status} <=> {closed}, NEW.{mark}, NULL)"
    )
}
