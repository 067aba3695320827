//! The program: reads the command line, runs the command, and turns an error into one line and an exit code.

use std::process::ExitCode;

use volume_reaper::{cli, commands, logging};

/// Exit code for settings that can't be used, as clap has it for a command line that can't.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let invocation = match cli::read() {
        Ok(invocation) => invocation,
        Err(error) => {
            eprintln!("volume-reaper: {error}");
            return ExitCode::from(USAGE);
        }
    };
    logging::install(&invocation.config);
    match Box::pin(commands::run(invocation)).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("volume-reaper: {error}");
            ExitCode::FAILURE
        }
    }
}
