//! What each host says of a thread's volumes, where not all that may have them answer.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use super::why::Daemon;
use crate::{docker::SeenVolume, terminal::Plain, volume_name::VolumeName};

/// What a host says, or why it says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HostTestimony {
    /// What it is called.
    pub host: String,
    /// The thread's volumes that it has.
    pub found: Vec<VolumeName>,
    /// Why it does not answer; then it may have any of the volumes that it was asked for.
    pub error: Option<String>,
    /// What it was asked for.
    #[serde(skip)]
    pub asked: Vec<VolumeName>,
}

impl HostTestimony {
    /// What `host` answered when it was asked for these volumes, or its error.
    #[must_use]
    pub fn new(host: &str, asked: &[VolumeName], answer: Result<&Daemon, &str>) -> Self {
        let is_there = |seen: &&SeenVolume| seen.found.is_some();
        Self {
            host: host.to_owned(),
            found: answer.map_or_else(
                |_| Vec::new(),
                |daemon| daemon.volumes.iter().filter(is_there).map(|seen| seen.volume.clone()).collect(),
            ),
            error: answer.err().map(str::to_owned),
            asked: asked.to_vec(),
        }
    }

    /// Volumes that nobody has who answers, and that one may have who does not.
    #[must_use]
    pub fn not_known(hosts: &[Self]) -> Vec<&VolumeName> {
        let is_found = |volume: &&VolumeName| hosts.iter().any(|host| host.found.contains(volume));
        let mut not_known: Vec<_> =
            hosts.iter().filter(|host| host.error.is_some()).flat_map(|host| &host.asked).collect();
        not_known.retain(|volume| !is_found(volume));
        not_known.sort_unstable();
        not_known.dedup();
        not_known
    }

    /// Why hosts do not answer.
    #[must_use]
    pub fn errors(hosts: &[Self]) -> String {
        let errors: Vec<_> = hosts.iter().filter_map(|host| host.error.as_deref()).collect();
        errors.join("; ")
    }
}

impl fmt::Display for HostTestimony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = Plain(&self.host);
        match &self.error {
            Some(error) => write!(f, "no answer: {}", Plain(error)),
            None if self.found.is_empty() => write!(f, "host {host} has no volume of it"),
            None => {
                let found: Vec<_> = self.found.iter().map(VolumeName::as_str).collect();
                write!(f, "host {host} has {}", found.join(", "))
            }
        }
    }
}
