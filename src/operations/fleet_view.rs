//! The Docker hosts whose answers count: what is pinned, who answers, and what is left to do there.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{docker, read_only_store, require_schema, status::COUNTED};
use crate::{
    cleanup::{Identity, Volumes},
    config::{Config, DockerHost},
    failure::Failure,
    store::{PinnedDaemon, Store},
};

/// All hosts that the configuration, the database or a thread's row names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[schema(as = Hosts)]
pub struct Hosts {
    /// Those of the configuration first, in its order.
    pub hosts: Vec<HostView>,
    /// Closed and unmarked threads whose row names no host.
    pub unmarked_without_host: u64,
    /// There are too many to count them for a page.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_many_to_count: bool,
}

/// A Docker host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct HostView {
    /// What it is called.
    pub name: String,
    /// Where it is; none if it is no host of this configuration.
    pub endpoint: Option<String>,
    /// The pinned daemon, whose answers count.
    pub pinned: Option<String>,
    /// The daemon that answers now.
    pub answering: Option<String>,
    /// Volumes of ours that it has.
    pub volumes: Option<usize>,
    /// Closed and unmarked threads whose row names this host.
    pub unmarked: Option<u64>,
    /// Why it does not answer.
    pub error: Option<String>,
}

/// Opens the database, looks at all hosts for a page, and closes it.
pub async fn hosts_once(config: &Config) -> Result<Hosts, Failure> {
    let store = read_only_store(config).await?;
    require_schema(&store, config).await?;
    let hosts = at_a_glance(config, &store).await;
    // Everything is known; a database that does not say goodbye holds up nobody.
    let _ = store.close().await;
    hosts
}

/// Looks at all hosts.
pub async fn hosts(config: &Config, store: &Store) -> Result<Hosts, Failure> {
    let unmarked = store.unmarked_by_host().await?;
    view(config, store, Some(unmarked)).await
}

/// Looks at all hosts, without counting more threads than [`COUNTED`].
async fn at_a_glance(config: &Config, store: &Store) -> Result<Hosts, Failure> {
    let unmarked = store.unmarked_by_host_to(COUNTED).await?;
    view(config, store, unmarked).await
}

async fn view(
    config: &Config,
    store: &Store,
    unmarked: Option<BTreeMap<Option<String>, u64>>,
) -> Result<Hosts, Failure> {
    let is_counted = unmarked.is_some();
    let pinned = store.pinned_daemons().await?;
    let found = join_all(config.docker_hosts.iter().map(|host| look(config, host))).await;
    let hosts = Hosts::new(&config.docker_hosts, found, pinned, unmarked.unwrap_or_default());
    Ok(Hosts { too_many_to_count: !is_counted, ..hosts })
}

/// Who answers, and how many volumes of ours it has.
pub(crate) async fn look(config: &Config, host: &DockerHost) -> Result<(Identity, usize), Failure> {
    let docker = docker(config, host);
    let identity = docker.identify().await?;
    // Only for this look: what the database has pinned may be another one.
    docker.pin(identity.clone());
    Ok((identity, docker.inventory(&config.volume_names).await?.present.len()))
}

impl Hosts {
    /// The hosts of the configuration with what was found there, and then what only the database knows.
    #[must_use]
    pub fn new(
        configured: &[DockerHost],
        found: Vec<Result<(Identity, usize), Failure>>,
        pinned: Vec<PinnedDaemon>,
        mut unmarked: BTreeMap<Option<String>, u64>,
    ) -> Self {
        let mut pinned: BTreeMap<_, _> = pinned.into_iter().map(|daemon| (daemon.name, daemon.identity)).collect();
        let mut hosts = Vec::new();
        for (host, found) in configured.iter().zip(found) {
            let (found, error) = match found {
                Ok(found) => (Some(found), None),
                Err(failure) => (None, Some(failure.message)),
            };
            hosts.push(HostView {
                name: host.name.to_string(),
                endpoint: Some(host.endpoint.to_string()),
                pinned: pinned.remove(host.name.key()),
                answering: found.as_ref().map(|(identity, _)| identity.as_str().to_owned()),
                volumes: found.map(|(_, volumes)| volumes),
                unmarked: host.name.name().and_then(|name| unmarked.remove(&Some(name.to_owned()))),
                error,
            });
        }
        let unknown = |name: String, pinned, unmarked| HostView {
            name,
            endpoint: None,
            pinned,
            answering: None,
            volumes: None,
            unmarked,
            error: None,
        };
        for (name, identity) in pinned {
            let threads = unmarked.remove(&Some(name.clone()));
            hosts.push(unknown(name, Some(identity), threads));
        }
        let unmarked_without_host = unmarked.remove(&None).unwrap_or_default();
        for (name, threads) in unmarked.into_iter().filter(|(_, threads)| *threads > 0) {
            hosts.extend(name.map(|name| unknown(name, None, Some(threads))));
        }
        Self { hosts, unmarked_without_host, too_many_to_count: false }
    }
}
