//! The commands, each as a person types it.

mod acting;
mod dead_letters;
mod doctor;
mod explain;
mod healthcheck;
mod hold;
mod hosts;
mod init;
mod migrate;
mod orphans;
mod output;
mod packaging;
mod pause;
mod publish;
mod receipts;
mod remote;
pub mod serve;
mod settings_file;
mod status;
mod sweep;

use std::process::ExitCode;

use crate::{
    cli::{Command, Invocation},
    failure::Failure,
    progress,
};

/// Runs a command. An error is one line for standard error and exit code 1.
pub async fn run(Invocation { command, config }: Invocation) -> Result<ExitCode, Failure> {
    // `serve` says in its log what it does.
    let _waiting = (!matches!(command, Command::Serve { .. })).then(progress::wait);
    if let Some(server) = &config.server {
        return remote::run(server, command).await;
    }
    match command {
        Command::Serve { dry_run: false } => serve::run(config).await,
        Command::Serve { dry_run: true } => serve::dry_run(config).await,
        Command::Migrate { direction } => migrate::run(&config, direction).await,
        Command::Sweep { dry_run, json } => sweep::run(&config, dry_run, json).await,
        Command::Publish { thread_ids, reopened } => publish::run(&config, thread_ids, reopened).await,
        Command::Doctor { json } => doctor::run(&config, json).await,
        Command::Health { ready } => healthcheck::run(&config, ready).await,
        Command::Orphans { action, json } => orphans::run(&config, action, json).await,
        Command::DeadLetters { action } => dead_letters::run(&config, action).await,
        Command::Explain { thread_id, json } => explain::run(&config, &thread_id, json).await,
        Command::Status { json } => status::run(&config, json).await,
        Command::Receipts { action, selection } => receipts::run(&config, action, selection).await,
        Command::Init { blank: false } => init::run(&config).await,
        Command::Init { blank: true } => packaging::blank_settings(),
        Command::Completions { shell } => packaging::completions(shell),
        Command::Man { dir } => packaging::man(&dir),
        Command::Hosts { action } => hosts::run(&config, action).await,
        Command::Hold { thread_id, reason, until } => hold::hold(&config, &thread_id, &reason, until.as_deref()).await,
        Command::Release { thread_id } => hold::release(&config, &thread_id).await,
        Command::Pause { reason, on } => pause::pause(&config, &reason, on.as_deref()).await,
        Command::Resume { on } => pause::resume(&config, on.as_deref()).await,
    }
}
