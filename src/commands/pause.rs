//! `pause` and `resume`: removal everywhere or on one host, by hand or after the breaker.

use std::process::ExitCode;

use chrono::SecondsFormat;

use serde_json::{Value, json};

use super::{
    acting::{act, noted},
    output::{require_reason, say},
};
use crate::{
    cleanup::Pause,
    config::Config,
    failure::Failure,
    operations::{
        Refusal,
        pausing::{self, PauseSet, Resumed},
        require_schema, store,
    },
};

pub(super) async fn pause(config: &Config, reason: &str, host: Option<&str>) -> Result<ExitCode, Failure> {
    require_reason(reason, "volumes")?;
    let store = store(config).await?;
    require_schema(&store, config).await?;
    let done = asked(pausing::pause(&store, config, reason, host).await)?;
    let set = noted(&store, &act("pause", host, json!({ "reason": reason })), done).await?;
    say_set(set, host)?;
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

/// Says what came of a pause.
pub(super) fn say_set(set: PauseSet, host: Option<&str>) -> Result<(), Failure> {
    match (set.pause, host) {
        (Some(pause), _) if !set.is_new => say(format!("removal was paused already, {}", shown(&pause))),
        (_, None) => say("removal is paused on all replicas; `volume-reaper resume` resumes it"),
        (_, Some(host)) => {
            say(format!("removal on host {host} is paused; `volume-reaper resume --on {host}` resumes it"))
        }
    }
}

pub(super) async fn resume(config: &Config, host: Option<&str>) -> Result<ExitCode, Failure> {
    let store = store(config).await?;
    require_schema(&store, config).await?;
    let done = asked(pausing::resume(&store, config, host).await)?;
    let resumed = noted(&store, &act("resume", host, Value::Null), done).await?;
    say_resumed(&resumed)?;
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

/// Says what came of resuming.
pub(super) fn say_resumed(Resumed { pauses }: &Resumed) -> Result<(), Failure> {
    for pause in pauses {
        say(format!("removal resumed; it was paused {}", shown(pause)))?;
    }
    if pauses.is_empty() {
        say("removal was not paused")?;
    }
    Ok(())
}

/// What was done, or could not be. That it can't be meant so is no act, and ends the command.
fn asked<R>(done: Result<R, Refusal>) -> Result<Result<R, Failure>, Failure> {
    match done {
        Err(refused @ (Refusal::Invalid(_) | Refusal::NotThere(_))) => Err(refused.into()),
        done => Ok(done.map_err(Failure::from)),
    }
}

fn shown(pause: &Pause) -> String {
    let since = pause.paused_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("since {since} by {}: {}", pause.paused_by, pause.reason)
}
