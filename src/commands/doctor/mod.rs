//! `doctor`: what can silently be wrong, and how to fix it.

mod broker_checks;
mod database_checks;
mod docker_checks;
pub mod findings;
mod message_checks;
mod settings_checks;

use std::process::ExitCode;

use super::{
    docker,
    output::{json, say, write},
};
use crate::{config::Config, failure::Failure};

pub(super) async fn run(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let dockers: Vec<_> = config.docker_hosts.iter().map(|host| docker(config, host)).collect();
    let report = findings::examine(config, &dockers).await;
    if as_json {
        say(json(&report))?;
    } else {
        write(&report.to_string())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
