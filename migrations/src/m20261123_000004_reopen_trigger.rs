//! Reopening clears the mark. A trigger, because the platform writes that row and knows nothing of us.
//!
//! Closing clears it as well, if it was left from before: by whatever way a thread that is not closed came to its mark,
//! it says nothing of the volume that it has when it is closed.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{Found, change::Change, lock_timeout, quoted};

/// What it is called, and its function on PostgreSQL.
pub const NAME: &str = "volume_reaper_clear_mark";

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    fn up(&self, backend: DbBackend) -> Vec<String> {
        let names = &self.0.mapping.names;
        let (table, closed) = (names.table_sql(backend), self.0.mapping.closed_sql());
        let [id, status, mark] = [&names.id, &names.status, &names.mark].map(|name| quoted(backend, name));
        let mut statements = self.down(backend);
        statements.extend(match backend {
            DbBackend::Postgres => vec![
                format!(
                    "CREATE FUNCTION {NAME}() RETURNS trigger LANGUAGE plpgsql AS \
                     $$ BEGIN NEW.{mark} := NULL; RETURN NEW; END $$"
                ),
                format!(
                    "CREATE TRIGGER {NAME} BEFORE UPDATE ON {table} FOR EACH ROW \
                     WHEN (NEW.{mark} IS NOT NULL AND (NEW.{status} IS DISTINCT FROM {closed} \
                     OR (OLD.{status} IS DISTINCT FROM {closed} AND NEW.{mark} IS NOT DISTINCT FROM OLD.{mark}))) \
                     EXECUTE FUNCTION {NAME}()"
                ),
            ],
            // `<=>` is MySQL's equality that knows null.
            DbBackend::MySql => vec![format!(
                "CREATE TRIGGER {NAME} BEFORE UPDATE ON {table} FOR EACH ROW \
                 SET NEW.{mark} = IF(NEW.{status} <=> {closed} \
                 AND (OLD.{status} <=> {closed} OR NOT NEW.{mark} <=> OLD.{mark}), NEW.{mark}, NULL)"
            )],
            _ => vec![format!(
                "CREATE TRIGGER {NAME} AFTER UPDATE ON {table} FOR EACH ROW \
                 WHEN NEW.{mark} IS NOT NULL AND (NEW.{status} IS NOT {closed} \
                 OR (OLD.{status} IS NOT {closed} AND NEW.{mark} IS OLD.{mark})) \
                 BEGIN UPDATE {table} SET {mark} = NULL WHERE {id} = NEW.{id}; END"
            )],
        });
        statements
    }

    fn down(&self, backend: DbBackend) -> Vec<String> {
        let mut statements = lock_timeout(backend);
        if backend != DbBackend::Postgres {
            statements.push(format!("DROP TRIGGER IF EXISTS {NAME}"));
            return statements;
        }
        if self.0.has_trigger {
            statements.push(format!("DROP TRIGGER {NAME} ON {}", self.0.mapping.names.table_sql(backend)));
        }
        statements.push(format!("DROP FUNCTION IF EXISTS {NAME}()"));
        statements
    }
}
