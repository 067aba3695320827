//! The removal of volumes without a thread, when a person says so: as many as were seen, and the same ones.

use std::time::Duration;

use chrono::Utc;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use super::{
    Refusal,
    finding::{self, Fate, Orphan, Orphans, Worker, check_known, find},
    fleet_for,
    how_far::HowFar,
    require_schema,
};
use crate::{
    cleanup::{Pause, Pauses, fleet::Fleet, fleet::HostWorker},
    config::Config,
    delivery::dead_letter::short_hex,
    docker::Docker,
    failure::Failure,
    health::Health,
    store::Store,
};

/// What became of the volumes that were to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct OrphansRemoved {
    /// Removed, each with a receipt.
    pub removed: u64,
    /// Left as they are: gone already, in use, with a thread or a hold by now, or removal is paused.
    pub kept: u64,
    /// That could not be removed.
    pub failed: u64,
}

/// Volumes that are to be removed, each with its host.
pub(crate) type Due<'a> = Vec<(&'a Worker, Orphan)>;

/// What is old enough, and nothing uses it.
pub(crate) fn due_of(found: Vec<(&Worker, Orphans)>, older_than: Duration) -> Due<'_> {
    let is_due = |orphan: &Orphan| orphan.is_removable(older_than, Utc::now());
    let of_host = |(worker, orphans): (_, Orphans)| orphans.orphans.into_iter().map(move |orphan| (worker, orphan));
    found.into_iter().flat_map(of_host).filter(|(_, orphan)| is_due(orphan)).collect()
}

/// Fails where removal is paused on one of their hosts.
pub(crate) async fn check_not_paused(store: &Store, due: &Due<'_>) -> Result<(), Failure> {
    for (worker, _) in due {
        if let Some(Pause { reason, .. }) = store.pause(worker.cleaner.host.name()).await? {
            let what = format!("removal is paused ({reason}): `volume-reaper resume` first");
            return Err(Failure::permanent(what));
        }
    }
    Ok(())
}

/// Removes them one after the other, within the budget of a sweep, and says of each what became of it.
pub(crate) async fn remove_due(
    config: &Config,
    due: &Due<'_>,
    how_far: &HowFar,
    mut told: impl FnMut(&Worker, &Orphan, &Result<Fate, Failure>) -> Result<(), Failure>,
) -> Result<OrphansRemoved, Failure> {
    let budget = config.policy.budgets.per_sweep.unwrap_or(u64::MAX);
    let mut done = OrphansRemoved::default();
    how_far.begin(due.len() as u64);
    for (worker, orphan) in due {
        if how_far.is_stopped() {
            break;
        }
        let HostWorker { cleaner, .. } = worker;
        if done.removed == budget {
            cleaner.pause(&format!("the budget of {budget} removals per sweep is used up")).await?;
        }
        let fate = finding::remove(cleaner, orphan).await;
        match &fate {
            Ok(Fate::Removed) => done.removed += 1,
            Ok(Fate::Gone | Fate::Referenced | Fate::HasThread | Fate::Held) => done.kept += 1,
            Ok(Fate::Paused) | Err(_) => done.failed += 1,
        }
        how_far.advance();
        told(worker, orphan, &fate)?;
    }
    Ok(done)
}

/// What names exactly these volumes, whatever their order: 16 digits of a hash.
#[must_use]
pub fn seen<'a>(orphans: impl Iterator<Item = &'a Orphan>) -> String {
    let mut names: Vec<_> =
        orphans.map(|orphan| format!("{}\0{}", orphan.host.as_deref().unwrap_or_default(), orphan.volume)).collect();
    names.sort_unstable();
    let digest = digest(&SHA256, names.join("\0\0").as_bytes());
    short_hex(digest.as_ref())
}

/// Removes the volumes without a thread that are so old, for this person; refuses if they are not as many as
/// `expected`, or others than those that were `seen`, where that is said.
pub async fn remove_orphans(
    config: &Config,
    person: &str,
    older_than: Duration,
    (expected, seen_before): (u64, Option<&str>),
    how_far: &HowFar,
) -> Result<OrphansRemoved, Refusal> {
    check_known(config)?;
    let fleet = fleet_for(config, &Health::of_hosts(config.host_names()), person.to_owned()).await?;
    require_schema(fleet.threads(), config).await?;
    let done = remove_on(&fleet, config, older_than, (expected, seen_before), how_far).await;
    let _ = fleet.threads().close().await;
    done
}

async fn remove_on(
    fleet: &Fleet<Docker, Store>,
    config: &Config,
    older_than: Duration,
    (expected, seen_before): (u64, Option<&str>),
    how_far: &HowFar,
) -> Result<OrphansRemoved, Refusal> {
    let due = due_of(find(fleet, config).await?, older_than);
    let there = due.len() as u64;
    if there != expected {
        return Err(Refusal::Conflict(format!(
            "{there} volumes without a thread are so old now, and {expected} were expected: look again at what is there"
        )));
    }
    let named = due
        .iter()
        .map(|(worker, orphan)| Orphan { host: worker.cleaner.host.name().map(str::to_owned), ..orphan.clone() });
    let named: Vec<_> = named.collect();
    if seen_before.is_some_and(|seen_before| seen_before != seen(named.iter())) {
        let what = "these volumes are others than those that were shown: look again at what is there";
        return Err(Refusal::Conflict(what.to_owned()));
    }
    check_not_paused(fleet.threads(), &due).await.map_err(|paused| Refusal::Conflict(paused.message))?;
    let log = |worker: &Worker, orphan: &Orphan, fate: &Result<Fate, Failure>| {
        if let Err(error) = fate {
            let (host, volume) = (worker.cleaner.host.key(), orphan.volume.as_str());
            warn!(host, volume.name = volume, %error, "can't remove a volume without a thread");
        }
        Ok(())
    };
    Ok(remove_due(config, &due, how_far, log).await?)
}
