//! What can silently be wrong, and how to fix it.

mod broker_checks;
mod database_checks;
mod docker_checks;
pub mod findings;
mod message_checks;
mod settings_checks;

use super::docker;
use crate::config::Config;

/// Looks at settings, broker, database and daemons. Takes some twenty seconds at most, however dead they are.
pub async fn examine(config: &Config) -> findings::Report {
    let dockers: Vec<_> = config.docker_hosts.iter().map(|host| docker(config, host)).collect();
    findings::examine(config, &dockers).await
}
