//! Volumes of ours that belong to no thread. Sweeps count them; only a person removes them.

use std::{collections::HashSet, slice, time::Duration};

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{prepare_docker, read_only_fleet, require_schema};
use crate::{
    cleanup::{
        Cleaner, Close, Details, Gone, Origin, Receipt, Receipts, Removal, Rows, Threads, Volumes,
        fleet::{Fleet, HostWorker},
    },
    config::{Config, UnknownThreads},
    docker::{Docker, VolumeFacts},
    failure::Failure,
    health::Health,
    host::Host,
    store::Store,
    volume_name::{ThreadId, VolumeName, VolumeNames},
};

/// Volumes a query.
const CHUNK: usize = 2000;

/// A volume whose name is that of a thread's volume, and there is no such thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Orphan {
    /// The volume.
    pub volume: VolumeName,
    /// The thread that it would belong to.
    pub thread_id: ThreadId,
    /// When it was created, if Docker says so.
    pub created_at: Option<DateTime<Utc>>,
    /// Its size in bytes; none unless Docker's list has it, which Docker Engine's has not: it would have to count.
    pub size_bytes: Option<u64>,
    /// The Docker host that it is on, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Ids of the containers that use it, stopped ones included.
    pub users: Vec<String>,
}

impl Orphan {
    /// Whether it was created at least `older_than` ago, which is not so if nobody knows when, and nothing uses it.
    #[must_use]
    pub fn is_removable(&self, older_than: Duration, now: DateTime<Utc>) -> bool {
        let age = self.created_at.and_then(|created_at| (now - created_at).to_std().ok());
        self.users.is_empty() && age.is_some_and(|age| age >= older_than)
    }
}

/// All volumes without a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Orphans {
    /// How many volumes bear one of our names, threads or not.
    pub volumes: usize,
    /// How many of them are somebody else's: no thread can have such an id.
    pub foreign: usize,
    /// Those without a thread, the oldest first.
    pub orphans: Vec<Orphan>,
}

impl Orphans {
    /// Those of several hosts together, in their order.
    pub fn of_hosts<'a>(hosts: impl Iterator<Item = (&'a Host, &'a Self)>) -> Self {
        let mut all = Self { volumes: 0, foreign: 0, orphans: Vec::new() };
        for (host, found) in hosts {
            all.volumes += found.volumes;
            all.foreign += found.foreign;
            let host = host.name().map(str::to_owned);
            all.orphans.extend(found.orphans.iter().map(|orphan| Orphan { host: host.clone(), ..orphan.clone() }));
        }
        all
    }
}

/// One Docker host, as the commands about orphans ask it.
pub(crate) type Worker = HostWorker<Docker, Store>;

/// Fails where nobody can say which volumes are orphans.
pub(crate) fn check_known(config: &Config) -> Result<(), Failure> {
    if config.unknown_threads == UnknownThreads::Record {
        return Err(Failure::permanent(
            "with VOLUME_REAPER_UNKNOWN_THREADS=record the database has only the threads that events reported: a \
             volume without one may be a workspace in use, so nobody can say which are orphans",
        ));
    }
    Ok(())
}

/// All volumes without a thread, on all hosts.
pub async fn orphans(config: &Config) -> Result<Orphans, Failure> {
    check_known(config)?;
    let fleet = read_only_fleet(config, &Health::of_hosts(config.host_names())).await?;
    require_schema(fleet.threads(), config).await?;
    let found = find(&fleet, config).await?;
    let orphans = Orphans::of_hosts(found.iter().map(|(worker, orphans)| (&worker.cleaner.host, orphans)));
    fleet.threads().close().await?;
    Ok(orphans)
}

/// The volumes without a thread, by host.
pub(crate) async fn find<'a>(
    fleet: &'a Fleet<Docker, Store>,
    config: &Config,
) -> Result<Vec<(&'a Worker, Orphans)>, Failure> {
    let mut found = Vec::new();
    for worker in fleet.workers() {
        prepare_docker(&worker.cleaner).await?;
        found.push((worker, find_on(&worker.cleaner.volumes, fleet.threads(), &config.volume_names).await?));
    }
    Ok(found)
}

/// Finds the volumes of a host without a thread.
pub async fn find_on(docker: &Docker, store: &Store, names: &VolumeNames) -> Result<Orphans, Failure> {
    // The list before the rows: a thread that is opened in between is found among the rows.
    let mut inventory = docker.inventory(names).await?;
    let facts = docker.volume_facts(names).await?;
    let (mut orphans, mut foreign) = (Vec::new(), 0);
    for chunk in facts.chunks(CHUNK) {
        let owners = owners_of(store, names, chunk).await?;
        let threads: Vec<_> = chunk.iter().filter_map(|facts| facts.thread_id.clone()).collect();
        let rows = if owners.is_some() { Rows::default() } else { store.read(&threads, None).await? };
        for facts in chunk {
            if owners.as_ref().is_some_and(|owners| owners.contains(&facts.volume)) {
                continue;
            }
            match &facts.thread_id {
                Some(thread) if rows.threads.contains_key(thread) => {}
                Some(thread) if !rows.foreign.contains(thread) => orphans.push(Orphan {
                    volume: facts.volume.clone(),
                    thread_id: thread.clone(),
                    created_at: facts.created_at,
                    size_bytes: facts.size_bytes,
                    host: None,
                    users: inventory.referenced.remove(&facts.volume).unwrap_or_default(),
                }),
                Some(_) | None => foreign += 1,
            }
        }
    }
    orphans.sort_by(|a, b| a.created_at.cmp(&b.created_at).then_with(|| a.volume.cmp(&b.volume)));
    Ok(Orphans { volumes: facts.len(), foreign, orphans })
}

/// Which of these volumes rows name, where rows have the names.
async fn owners_of(
    store: &Store,
    names: &VolumeNames,
    facts: &[VolumeFacts],
) -> Result<Option<HashSet<VolumeName>>, Failure> {
    if !names.are_in_rows() {
        return Ok(None);
    }
    let volumes: Vec<_> = facts.iter().map(|facts| facts.volume.clone()).collect();
    Ok(Some(store.owners(&volumes).await?.into_keys().collect()))
}

/// What became of an orphan that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is removed, with a receipt.
    Removed,
    /// It was gone already.
    Gone,
    /// A container uses it now.
    Referenced,
    /// It has a thread now.
    HasThread,
    /// A person holds the thread that is to come.
    Held,
    /// Removal is paused, by a budget that is used up perhaps.
    Paused,
}

/// Removes an orphan, without force.
pub async fn remove(cleaner: &Cleaner<Docker, Store>, orphan: &Orphan) -> Result<Fate, Failure> {
    let store = cleaner.threads();
    // Right before the removal, as with every other volume.
    let has_thread = if cleaner.context.names.are_in_rows() {
        !store.owners(slice::from_ref(&orphan.volume)).await?.is_empty()
    } else {
        store.read(slice::from_ref(&orphan.thread_id), None).await?.threads.contains_key(&orphan.thread_id)
    };
    if has_thread {
        return Ok(Fate::HasThread);
    }
    if store.hold_of(&orphan.thread_id).await?.is_some_and(|hold| hold.is_in_force(Utc::now())) {
        return Ok(Fate::Held);
    }
    match Box::pin(cleaner.remove_orphan(&orphan.volume)).await? {
        Some(Removal::Removed) => {}
        Some(Removal::NotFound) => return Ok(Fate::Gone),
        Some(Removal::Referenced { .. }) => return Ok(Fate::Referenced),
        Some(Removal::NotSent | Removal::Missing) => {
            return Err(Failure::transient(format!("the removal of {} was not sent", orphan.volume)));
        }
        None => return Ok(Fate::Paused),
    }
    let receipt = Receipt {
        thread_id: orphan.thread_id.clone(),
        volume: orphan.volume.clone(),
        close: Close::default(),
        gone: Gone::Removed,
        origin: Origin::Orphan,
        at: Utc::now().trunc_subsecs(3),
        is_written: false,
        completes: false,
        details: Details { bytes: cleaner.volumes.take_size(&orphan.volume), ..cleaner.here() },
    };
    store.record(&receipt).await?;
    Ok(Fate::Removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_old_and_is_not_held_is_removable() {
        let now = Utc::now();
        let day = Duration::from_hours(24);
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let thread_id = ThreadId::parse("t1").expect("valid");
        let volume = names.volume_of(&thread_id);
        let orphan = |age: Option<Duration>, users: &[&str]| Orphan {
            volume: volume.clone(),
            thread_id: thread_id.clone(),
            created_at: age.map(|age| now - age),
            size_bytes: None,
            host: None,
            users: users.iter().map(|&user| user.to_owned()).collect(),
        };
        assert!(orphan(Some(day), &[]).is_removable(day, now));
        assert!(!orphan(Some(day / 2), &[]).is_removable(day, now));
        assert!(!orphan(None, &[]).is_removable(Duration::ZERO, now));
        assert!(!orphan(Some(day), &["c"]).is_removable(day, now));
    }
}
