//! `pause` and `resume`: all removal, by hand or after the breaker.

use std::process::ExitCode;

use chrono::SecondsFormat;

use super::{output::say, prepare_database, store};
use crate::{breaker::Pause, config::Config, failure::Failure};

pub(super) async fn pause(config: &Config, reason: &str) -> Result<ExitCode, Failure> {
    if reason.trim().is_empty() {
        return Err(Failure::permanent("--reason is empty: say why, for whoever finds the volumes"));
    }
    let store = store(config).await?;
    prepare_database(&store, config).await?;
    let is_new = store.pause_removal(reason).await?;
    match store.pause().await? {
        Some(pause) if !is_new => say(format!("removal was paused already, {}", shown(&pause)))?,
        _ => say("removal is paused on all replicas; `volume-reaper resume` goes on")?,
    }
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(config: &Config) -> Result<ExitCode, Failure> {
    let store = store(config).await?;
    prepare_database(&store, config).await?;
    match store.resume_removal().await? {
        Some(pause) => say(format!("removal goes on; it was paused {}", shown(&pause)))?,
        None => say("removal was not paused")?,
    }
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn shown(pause: &Pause) -> String {
    let since = pause.paused_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("since {since} by {}: {}", pause.paused_by, pause.reason)
}
