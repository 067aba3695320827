//! `doctor`: what can silently be wrong, and how to mend it.

use std::process::ExitCode;

use super::{
    docker,
    output::{json, say, write},
};
use crate::{config::Config, doctor, failure::Failure};

pub(super) async fn run(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let dockers: Vec<_> = config.docker_hosts.iter().map(|host| docker(config, host)).collect();
    let report = doctor::examine(config, &dockers).await;
    if as_json {
        say(json(&report))?;
    } else {
        write(&report.to_string())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
