//! `orphans`: volumes of ours that belong to no thread.

pub mod finding;

use std::{process::ExitCode, time::Duration};

use chrono::Utc;
use humantime::format_duration;

use self::finding::{Fate, Orphan, Orphans};
use super::{
    fleet,
    output::{confirm, json, require_terminal, say},
    prepare_docker, read_only_fleet, require_schema,
};
use crate::{
    cleanup::{Pause, Pauses, fleet::HostWorker},
    cli::OrphansAction,
    config::{Config, UnknownThreads},
    docker::Docker,
    failure::Failure,
    health::Health,
    store::Store,
};

pub(super) async fn run(config: &Config, action: Option<OrphansAction>, as_json: bool) -> Result<ExitCode, Failure> {
    if config.unknown_threads == UnknownThreads::Record {
        return Err(Failure::permanent(
            "with VOLUME_REAPER_UNKNOWN_THREADS=record the database has only the threads that events reported: a \
             volume without one may be a workspace in use, so nobody can say which are orphans",
        ));
    }
    if matches!(action, Some(OrphansAction::Remove { yes: false, .. })) {
        require_terminal("volumes are removed with all that is in them")?;
    }
    let health = Health::of_hosts(config.host_names());
    let fleet = if action.is_none() { read_only_fleet(config, &health).await? } else { fleet(config, &health).await? };
    let store = fleet.threads();
    require_schema(store, config).await?;
    let mut found = Vec::new();
    for worker in fleet.workers() {
        prepare_docker(&worker.cleaner).await?;
        let orphans = finding::find(&worker.cleaner.volumes, store, &config.volume_prefix).await?;
        found.push((worker, orphans));
    }
    let mut all_done = true;
    if action.is_none() && as_json {
        say(json(&Orphans::of_hosts(found.iter().map(|(worker, orphans)| (&worker.cleaner.host, orphans)))))?;
    } else {
        for (HostWorker { cleaner, .. }, orphans) in &found {
            if let Some(name) = cleaner.host.name() {
                say(format!("host {name}"))?;
            }
            match action {
                None => print(orphans)?,
                Some(OrphansAction::Remove { older_than, yes }) => {
                    all_done &= remove(&cleaner.volumes, store, cleaner.host.name(), orphans, older_than, yes).await?;
                }
            }
        }
    }
    store.close().await?;
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(Orphans { volumes, orphans }: &Orphans) -> Result<(), Failure> {
    for Orphan { volume, created_at, users, .. } in orphans {
        let age = created_at.and_then(|created_at| (Utc::now() - created_at).to_std().ok());
        let age =
            age.map_or("unknown".to_owned(), |age| format_duration(Duration::from_secs(age.as_secs())).to_string());
        let held = if users.is_empty() { "" } else { "  in use" };
        say(format!("{volume}  age {age}{held}"))?;
    }
    say(format!("{} of {volumes} volumes belong to no thread", orphans.len()))
}

/// Removes what is old enough and not in use. Whether nothing failed.
async fn remove(
    docker: &Docker,
    store: &Store,
    host: Option<&str>,
    Orphans { volumes, orphans }: &Orphans,
    older_than: Duration,
    yes: bool,
) -> Result<bool, Failure> {
    let due: Vec<_> = orphans.iter().filter(|orphan| orphan.is_removable(older_than, Utc::now())).collect();
    say(format!(
        "{} of {volumes} volumes belong to no thread; {} of them are older than {} and used by no container",
        orphans.len(),
        due.len(),
        format_duration(older_than)
    ))?;
    if due.is_empty() {
        return Ok(true);
    }
    if let Some(Pause { reason, .. }) = store.pause(host).await? {
        let what = format!("removal is paused ({reason}): `volume-reaper resume` first");
        return Err(Failure::permanent(what));
    }
    if !yes {
        confirm(&format!("This removes {} volumes with all that is in them", due.len()), due.len()).await?;
    }
    let mut failed = 0;
    for orphan in due {
        let volume = &orphan.volume;
        match finding::remove(docker, store, orphan).await {
            Ok(Fate::Removed) => say(format!("{volume}  removed"))?,
            Ok(Fate::Gone) => say(format!("{volume}  is gone already"))?,
            Ok(Fate::Referenced) => say(format!("{volume}  kept: a container uses it now"))?,
            Ok(Fate::HasThread) => say(format!("{volume}  kept: it has a thread now"))?,
            Ok(Fate::Held) => say(format!("{volume}  kept: its thread is held"))?,
            Err(failure) => {
                say(format!("{volume}  failed: {failure}"))?;
                failed += 1;
            }
        }
    }
    Ok(failed == 0)
}
