//! `status`: how things stand.

use std::process::ExitCode;

use super::output::{json, say, write};
use crate::{config::Config, failure::Failure, operations::status};

pub(super) async fn run(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let report = status::status(config).await;
    if as_json {
        say(json(&report))?;
    } else {
        write(&report.to_string())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
