//! A change of the schema as the SQL that makes it, so that it can be shown before it is executed.

use sea_orm_migration::{prelude::*, sea_orm::StatementBuilder};

use crate::Dialect;

/// What one migration does. Pure: what it depends on was looked up before.
pub trait Change: MigrationName + Send + Sync {
    /// Whether PostgreSQL does it in one transaction; an index that is built beside the platform's writes can't be.
    fn is_transaction(&self) -> bool {
        true
    }

    /// The statements that make it.
    fn up(&self) -> Vec<String>;

    /// The statements that take it back.
    fn down(&self) -> Vec<String>;
}

/// A change that the migration library executes.
pub(crate) struct Executed(pub(crate) Box<dyn Change>);

impl MigrationName for Executed {
    fn name(&self) -> &str {
        self.0.name()
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Executed {
    fn use_transaction(&self) -> Option<bool> {
        if self.0.is_transaction() { None } else { Some(false) }
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(manager, self.0.up()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(manager, self.0.down()).await
    }
}

async fn execute(manager: &SchemaManager<'_>, statements: Vec<String>) -> Result<(), DbErr> {
    for statement in statements {
        manager.get_connection().execute_unprepared(&statement).await?;
    }
    Ok(())
}

/// A statement in SQL.
pub(crate) fn sql(dialect: &dyn Dialect, statement: &impl StatementBuilder) -> String {
    statement.build(&dialect.backend()).to_string()
}
