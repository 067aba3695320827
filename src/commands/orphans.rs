//! `orphans`: volumes of ours that belong to no thread.

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, Utc};
use humantime::format_duration;
use serde_json::json;

use super::{
    acting::{act, noted},
    output::{self, confirm, require_terminal, say},
};
use crate::{
    cleanup::fleet::{Fleet, HostWorker},
    cli::OrphansAction,
    config::Config,
    docker::Docker,
    failure::Failure,
    health::Health,
    operations::{
        finding::{self, Fate, Orphan, Orphans, Worker, find},
        fleet,
        how_far::HowFar,
        orphan_removal::{Due, OrphansRemoved, check_not_paused, due_of, remove_due},
        read_only_fleet, require_schema,
    },
    store::Store,
    volume_name::VolumeName,
};

pub(super) async fn run(config: &Config, action: Option<OrphansAction>, as_json: bool) -> Result<ExitCode, Failure> {
    finding::check_known(config)?;
    if matches!(action, Some(OrphansAction::Remove { yes: false, .. })) {
        require_terminal("volumes are removed with all that is in them")?;
    }
    let health = Health::of_hosts(config.host_names());
    let fleet = if action.is_none() { read_only_fleet(config, &health).await? } else { fleet(config, &health).await? };
    let store = fleet.threads();
    require_schema(store, config).await?;
    let all_done = match action {
        None if as_json => {
            let found = find(&fleet, config).await?;
            let by_host = found.iter().map(|(worker, orphans)| (&worker.cleaner.host, orphans));
            say(output::json(&Orphans::of_hosts(by_host)))?;
            true
        }
        None => {
            for (worker, orphans) in find(&fleet, config).await? {
                say_host(worker)?;
                print(&orphans)?;
            }
            true
        }
        Some(OrphansAction::Remove { older_than, yes }) => remove(&fleet, config, older_than, yes).await?,
    };
    store.close().await?;
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say_host(worker: &Worker) -> Result<(), Failure> {
    worker.cleaner.host.name().map_or(Ok(()), |name| say(format!("host {name}")))
}

fn print(Orphans { volumes, foreign, orphans }: &Orphans) -> Result<(), Failure> {
    orphans.iter().try_for_each(|orphan| output::list(&(line_of(orphan) + "\n")))?;
    say_counts(orphans.len(), *volumes, *foreign)
}

/// Says how many there are.
pub(super) fn say_counts(orphans: usize, volumes: usize, foreign: usize) -> Result<(), Failure> {
    say(format!("{orphans} of {volumes} volumes belong to no thread"))?;
    if foreign == 0 {
        return Ok(());
    }
    say(format!("{foreign} others are somebody else's: after the prefix, their names have what is no thread's id"))
}

fn line_of(Orphan { volume, created_at, users, .. }: &Orphan) -> String {
    line(volume, *created_at, !users.is_empty())
}

/// A volume in the list.
pub(super) fn line(volume: &impl std::fmt::Display, created_at: Option<DateTime<Utc>>, is_used: bool) -> String {
    let age = created_at.and_then(|created_at| (Utc::now() - created_at).to_std().ok());
    let age = age.map_or("unknown".to_owned(), |age| format_duration(Duration::from_secs(age.as_secs())).to_string());
    let in_use = if is_used { "  in use" } else { "" };
    format!("{volume}  age {age}{in_use}")
}

/// Removes what is old enough and not in use. Whether nothing failed, and nothing was left since removal is paused.
async fn remove(
    fleet: &Fleet<Docker, Store>,
    config: &Config,
    older_than: Duration,
    yes: bool,
) -> Result<bool, Failure> {
    let mut due = show_due(find(fleet, config).await?, older_than)?;
    check_not_paused(fleet.threads(), &due).await?;
    while !yes && !due.is_empty() {
        confirm(&format!("This removes {} volumes with all that is in them", due.len()), due.len()).await?;
        // What was shown may be no longer true.
        let now = due_of(find(fleet, config).await?, older_than);
        if names(&now) == names(&due) {
            break;
        }
        say("meanwhile these have changed:")?;
        due = show_due(find(fleet, config).await?, older_than)?;
    }
    let how_far = HowFar::default();
    let removing = remove_due(config, &due, &how_far, |HostWorker { cleaner, .. }, orphan, fate| {
        let volume = &orphan.volume;
        say(match fate {
            Ok(Fate::Removed) => format!("{volume}  removed"),
            Ok(Fate::Gone) => format!("{volume}  is gone already"),
            Ok(Fate::Referenced) => format!("{volume}  kept: a container uses it now"),
            Ok(Fate::HasThread) => format!("{volume}  kept: it has a thread now"),
            Ok(Fate::Held) => format!("{volume}  kept: its thread is held"),
            Ok(Fate::Paused) => {
                format!("{volume}  kept: removal is paused ({})", cleaner.pause_reason().unwrap_or_default())
            }
            Err(failure) => format!("{volume}  failed: {failure}"),
        })
    });
    let OrphansRemoved { removed, failed, .. } = removing.await?;
    let details = json!({
        "older_than_seconds": older_than.as_secs(), "selected": due.len(), "removed": removed, "failed": failed,
    });
    noted(fleet.threads(), &act("orphans remove", None, details), Ok(failed == 0)).await
}

fn names<'a>(due: &'a Due<'_>) -> Vec<(&'a str, &'a VolumeName)> {
    due.iter().map(|(worker, orphan)| (worker.cleaner.host.key(), &orphan.volume)).collect()
}

/// Shows by host what would be removed.
fn show_due(found: Vec<(&Worker, Orphans)>, older_than: Duration) -> Result<Due<'_>, Failure> {
    let mut all = Vec::new();
    for (worker, found) in found {
        say_host(worker)?;
        let (volumes, orphans) = (found.volumes, found.orphans.len());
        let due = due_of(vec![(worker, found)], older_than);
        say(format!(
            "{orphans} of {volumes} volumes belong to no thread; {} of them are older than {} and held by no container",
            due.len(),
            format_duration(older_than)
        ))?;
        due.iter().try_for_each(|(_, orphan)| say(line_of(orphan)))?;
        all.extend(due);
    }
    Ok(all)
}
