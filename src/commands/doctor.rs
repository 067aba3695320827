//! `doctor`: what can silently be wrong, and how to mend it.

use std::process::ExitCode;

use super::{DAEMON, docker};
use crate::{config::Config, doctor, failure::Failure};

pub(super) async fn run(config: &Config, json: bool) -> Result<ExitCode, Failure> {
    let report = doctor::examine(config, &docker(config), DAEMON).await;
    if json {
        println!("{}", serde_json::to_string(&report).expect("a report is always valid JSON"));
    } else {
        print!("{report}");
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
