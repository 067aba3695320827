//! `migrate`: the schema, by hand.

use std::process::ExitCode;

use super::output::say;
use crate::{cli::Direction, config::Config, failure::Failure, operations, store::Store};

pub(super) async fn run(config: &Config, direction: Option<Direction>) -> Result<ExitCode, Failure> {
    let store = operations::store(config).await?;
    match direction.unwrap_or(Direction::Up { dry_run: false }) {
        Direction::Up { dry_run: true } => {
            for line in store.plan_migrate_up().await? {
                say(line)?;
            }
            store.close().await?;
            return Ok(ExitCode::SUCCESS);
        }
        Direction::Up { dry_run: false } => {
            store.migrate_up().await?;
            store.check_threads().await?;
        }
        Direction::Down { steps, all } => store.migrate_down((!all).then_some(steps)).await?,
        Direction::Status => {}
    }
    print_status(&store).await?;
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

async fn print_status(store: &Store) -> Result<(), Failure> {
    for migration in store.migration_status().await? {
        say(format!("{}  {}", if migration.applied { "applied" } else { "pending" }, migration.name))?;
    }
    Ok(())
}
