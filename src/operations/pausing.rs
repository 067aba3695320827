//! Pauses of removal, everywhere or on one host, by hand or after the breaker.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Refusal;
use crate::{
    cleanup::{Pause, Pauses},
    config::Config,
    failure::Failure,
    host::Host,
    store::Store,
};

/// What asking for a pause came to.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct PauseSet {
    /// Whether this call paused removal; if not, it was paused already.
    pub is_new: bool,
    /// The pause in force.
    pub pause: Option<Pause>,
}

/// What resuming came to.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Resumed {
    /// The pauses that were ended.
    pub pauses: Vec<Pause>,
}

/// Pauses removal on this host, or all.
pub async fn pause(store: &Store, config: &Config, reason: &str, host: Option<&str>) -> Result<PauseSet, Refusal> {
    if reason.trim().is_empty() {
        return Err(Refusal::Invalid("the reason is empty: say why, for whoever finds the volumes".to_owned()));
    }
    check_host(config, store, host).await?;
    let is_new = store.pause_removal(host, reason).await?;
    let pause = match host {
        Some(_) => store.pause(host).await?,
        // The doubt about a host is no pause of everything.
        None => store.pause_of_everything().await?,
    };
    Ok(PauseSet { is_new, pause })
}

/// Resumes removal on this host, or everywhere.
pub async fn resume(store: &Store, config: &Config, host: Option<&str>) -> Result<Resumed, Refusal> {
    check_host(config, store, host).await?;
    Ok(Resumed { pauses: store.resume_removal(host).await? })
}

/// A pause of a host that is misspelt would stop nothing.
async fn check_host(config: &Config, store: &Store, host: Option<&str>) -> Result<(), Refusal> {
    let Some(host) = host else { return Ok(()) };
    let is_known = !Host::from_key(host).is_only()
        && (config.docker_hosts.iter().any(|each| each.name.name() == Some(host))
            || store.pinned_daemon(host).await?.is_some());
    if is_known {
        return Ok(());
    }
    Err(Refusal::NotThere(format!("there is no host {host:?}: `volume-reaper hosts list` shows them")))
}

/// The pauses in force that resuming on this host, or everywhere, would end.
pub async fn in_force(store: &Store, host: Option<&str>) -> Result<Vec<Pause>, Failure> {
    store.pauses_in_force(host).await
}
