//! `pause` and `resume`: removal everywhere or on one host, by hand or after the breaker.

use std::process::ExitCode;

use chrono::SecondsFormat;

use serde_json::{Value, json};

use super::{
    acting::{act, noted},
    output::say,
    require_schema, store,
};
use crate::{
    cleanup::{Pause, Pauses},
    config::Config,
    failure::Failure,
    host::Host,
    store::Store,
};

pub(super) async fn pause(config: &Config, reason: &str, host: Option<&str>) -> Result<ExitCode, Failure> {
    if reason.trim().is_empty() {
        return Err(Failure::permanent("--reason is empty: say why, for whoever finds the volumes"));
    }
    let store = store(config).await?;
    require_schema(&store, config).await?;
    check_host(config, &store, host).await?;
    let done = store.pause_removal(host, reason).await;
    let is_new = noted(&store, &act("pause", host, json!({ "reason": reason })), done).await?;
    match (store.pause(host).await?, host) {
        (Some(pause), _) if !is_new => say(format!("removal was paused already, {}", shown(&pause)))?,
        (_, None) => say("removal is paused on all replicas; `volume-reaper resume` resumes it")?,
        (_, Some(host)) => {
            say(format!("removal on host {host} is paused; `volume-reaper resume --on {host}` resumes it"))?;
        }
    }
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(config: &Config, host: Option<&str>) -> Result<ExitCode, Failure> {
    let store = store(config).await?;
    require_schema(&store, config).await?;
    check_host(config, &store, host).await?;
    let done = store.resume_removal(host).await;
    let pauses = noted(&store, &act("resume", host, Value::Null), done).await?;
    for pause in &pauses {
        say(format!("removal resumed; it was paused {}", shown(pause)))?;
    }
    if pauses.is_empty() {
        say("removal was not paused")?;
    }
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

/// A pause of a host that is misspelt would stop nothing.
async fn check_host(config: &Config, store: &Store, host: Option<&str>) -> Result<(), Failure> {
    let Some(host) = host else { return Ok(()) };
    let is_known = !Host::from_key(host).is_only()
        && (config.docker_hosts.iter().any(|each| each.name.name() == Some(host))
            || store.pinned_daemon(host).await?.is_some());
    if is_known {
        return Ok(());
    }
    Err(Failure::permanent(format!("there is no host {host:?}: `volume-reaper hosts list` shows them")))
}

fn shown(pause: &Pause) -> String {
    let since = pause.paused_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("since {since} by {}: {}", pause.paused_by, pause.reason)
}
