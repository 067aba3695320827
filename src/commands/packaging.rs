//! `completions`, `man` and `init --blank`: what packagers install beside the program.

use std::{path::Path, process::ExitCode};

use clap_complete::Shell;

use super::{
    output::{say, write},
    settings_file,
};
use crate::{cli, failure::Failure};

/// What the program is called.
const NAME: &str = "volume-reaper";

pub(super) fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), NAME, &mut script);
    write(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn blank_settings() -> Result<ExitCode, Failure> {
    write(&settings_file::commented(&Vec::new()))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(dir: &Path) -> Result<ExitCode, Failure> {
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(cli::command(), dir));
    written.map_err(|error| Failure::permanent(format!("{}: {error}", dir.display())))?;
    say(format!("{}: the manual pages, {NAME}.1 first", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
