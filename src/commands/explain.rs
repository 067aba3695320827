//! `explain`: why a thread's volume is still there, or when it went.

use std::process::ExitCode;

use super::output::{json, say, write};
use crate::{config::Config, failure::Failure, operations::explain, terminal::Plain, volume_name::ThreadId};

/// Exit code for an id that can't be one, as for settings that can't be used.
const USAGE: u8 = 2;

pub(super) async fn run(config: &Config, thread_id: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let thread = match ThreadId::parse(thread_id) {
        Ok(thread) => thread,
        Err(error) => {
            eprintln!(
                "volume-reaper: thread id \"{}\": {error}; so it can't name a volume, and a row with it is never \
                 cleaned",
                Plain(thread_id)
            );
            return Ok(ExitCode::from(USAGE));
        }
    };
    let explanation = explain::explain(config, thread).await;
    if as_json {
        say(json(&explanation))?;
    } else {
        write(&explanation.to_string())?;
    }
    Ok(if explanation.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
