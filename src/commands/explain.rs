//! `explain`: why a thread's volume is still there, or when it went. Looks, and changes nothing.

use std::process::ExitCode;

use chrono::Utc;

use super::{
    DAEMON, SWEEP_LEASE, docker,
    output::{json, say, write},
};
use crate::{
    config::Config,
    coordinator::Threads,
    docker::Docker,
    explain::{Daemon, Explanation, Facts, Rows},
    failed_cleanup::Failing,
    failure::Failure,
    store::Store,
    terminal::Plain,
    volume_name::{ThreadId, VolumeName},
};

/// Exit code for an id that can't be one, as for settings that can't be used.
const USAGE: u8 = 2;

pub(super) async fn run(config: &Config, thread_id: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let thread = match ThreadId::parse(thread_id) {
        Ok(thread) => thread,
        Err(error) => {
            eprintln!(
                "volume-reaper: thread id \"{}\": {error}; so it can't name a volume, and a row with it is never cleaned",
                Plain(thread_id)
            );
            return Ok(ExitCode::from(USAGE));
        }
    };
    let volume = config.volume_prefix.volume_of(&thread);
    let docker = docker(config);
    let (rows, daemon) = tokio::join!(rows(config, &thread), daemon(&docker, &volume));
    let facts = Facts {
        thread,
        volume,
        now: Utc::now(),
        database: rows.map_err(|failure| failure.message),
        docker: daemon.map_err(|failure| failure.message),
    };
    let is_complete = facts.database.is_ok() && facts.docker.is_ok();
    let explanation = Explanation::new(facts);
    if as_json {
        say(json(&explanation))?;
    } else {
        write(&explanation.to_string())?;
    }
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn rows(config: &Config, thread: &ThreadId) -> Result<Rows, Failure> {
    let store = super::store_to_look_at(config).await?;
    let rows = read_rows(&store, config, thread).await;
    // Everything is known; a database that does not say goodbye holds up nobody.
    let _ = store.close().await;
    rows
}

async fn read_rows(store: &Store, config: &Config, thread: &ThreadId) -> Result<Rows, Failure> {
    let row = store.look_up_thread(thread).await?;
    let is_candidate = row.as_ref().is_some_and(|row| row.closed && !row.marked);
    let failed = store.failed(std::slice::from_ref(thread)).await?.remove(thread);
    let now = Utc::now();
    Ok(Rows {
        due: config.policy.retention.due(row.as_ref().and_then(|row| row.closed_at), now),
        hold: store.hold_of(thread).await?.filter(|hold| hold.is_in_force(now)),
        pause: store.pause().await?,
        row,
        receipts: store.receipts(thread).await?,
        // Of any other it is history that the next sweep forgets.
        failure: failed.filter(|_| is_candidate).map(|failed| Failing::new(failed, config.reconcile_cooldown)),
        pinned: store.pinned_daemon(DAEMON).await?.map(|identity| identity.as_str().to_owned()),
        sweeper: store.look_up_lease(SWEEP_LEASE).await?,
    })
}

async fn daemon(docker: &Docker, volume: &VolumeName) -> Result<Daemon, Failure> {
    let found = docker.find_volume(volume).await?;
    let holders = docker.holders(volume).await?;
    // After what it is to prove.
    let identity = docker.identify().await?.as_str().to_owned();
    Ok(Daemon { identity, found, holders })
}
