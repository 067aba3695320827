//! Looking at one volume and at the containers that use it, for `explain`.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    errors::Error,
    models::Volume,
    query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder},
};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde::Serialize;

use super::{
    CALL_TIMEOUT, Docker,
    answers::{cause, refused_removal, status},
    links::Link,
};
use crate::{cleanup::Removal, failure::Failure, metrics, volume_name::VolumeName};

/// Containers that are asked since when they are in their state; of others only the creation is known.
const MAX_INSPECTED: usize = 16;

/// A volume, as the daemon describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundVolume {
    /// Its driver, mostly `local`.
    pub driver: String,
    /// When it was made, in the daemon's words; Docker says it in RFC 3339.
    pub created_at: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume that was looked for, and who uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeenVolume {
    /// Its name.
    pub volume: VolumeName,
    /// The volume, if it is there.
    pub found: Option<FoundVolume>,
    /// The containers that reference it.
    pub users: Vec<VolumeUser>,
}

impl SeenVolume {
    /// Of a thread's volumes, at least one, that which says most about it: one in use, or else one that is there.
    #[must_use]
    pub fn most_telling(volumes: &[Self]) -> &Self {
        let in_use = volumes.iter().find(|seen| !seen.users.is_empty());
        in_use.or_else(|| volumes.iter().find(|seen| seen.found.is_some())).unwrap_or(&volumes[0])
    }
}

/// A container that references a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeUser {
    /// Its id.
    pub id: String,
    /// Its name, without the slash that the daemon writes before it.
    pub name: String,
    /// Such as `running`, `exited` or `created`.
    pub state: String,
    /// Since when it is in that state, as far as the daemon says.
    pub since: Option<DateTime<Utc>>,
    /// The image, as it was named when the container was made.
    pub image: String,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
}

impl Docker {
    /// The volume; `None` if this daemon does not have it, which alone proves nothing.
    pub async fn find_volume(&self, volume: &VolumeName) -> Result<Option<FoundVolume>, Failure> {
        let found = self.ask_for(&self.link()?, volume).await?;
        Ok(found.map(|found| FoundVolume {
            driver: found.driver,
            created_at: found.created_at,
            labels: found.labels.into_iter().collect(),
        }))
    }

    /// These volumes, each with its users.
    pub async fn look_at(&self, volumes: &[VolumeName]) -> Result<Vec<SeenVolume>, Failure> {
        let mut seen = Vec::new();
        for volume in volumes {
            let found = self.find_volume(volume).await?;
            seen.push(SeenVolume { volume: volume.clone(), found, users: self.users(volume).await? });
        }
        Ok(seen)
    }

    pub(super) async fn ask_for(&self, link: &Link<'_>, volume: &VolumeName) -> Result<Option<Volume>, Failure> {
        let request = link.inspect_volume(volume.as_str());
        let answer = tokio::time::timeout(CALL_TIMEOUT, request).await.unwrap_or(Err(Error::RequestTimeoutError));
        metrics::docker_request(self.name.as_deref(), "inspect_volume", &status(&answer));
        match answer {
            Ok(found) => Ok(Some(found)),
            // The words are those at a removal, so that not every 404 is a missing volume here either.
            Err(Error::DockerResponseServerError { status_code: 404, message }) => {
                match refused_removal(404, &message, volume, &self.endpoint)? {
                    Removal::NotFound => Ok(None),
                    Removal::Removed | Removal::Referenced { .. } | Removal::NotSent => {
                        Err(self.down(&format!("inspect {volume}: {message}")))
                    }
                }
            }
            Err(Error::DockerResponseServerError { status_code, message }) => Err(Failure::transient(format!(
                "docker at {}: inspect {volume}: {status_code} {message}",
                self.endpoint
            ))),
            Err(Error::RequestTimeoutError) => Err(self.timed_out(&format!("inspect {volume}"), CALL_TIMEOUT).await),
            Err(other) => Err(self.lost(&format!("inspect {volume}: {}", cause(&other)))),
        }
    }

    /// What removing the volume would come to. A mount without a container is not seen.
    pub(super) async fn look_before_removal(&self, volume: &VolumeName) -> Result<Removal, Failure> {
        if self.look_for(&self.link()?, volume).await?.is_none() {
            return Ok(Removal::NotFound);
        }
        let users: Vec<_> = self.users(volume).await?.into_iter().map(|user| user.id).collect();
        Ok(if users.is_empty() { Removal::Removed } else { Removal::Referenced { containers: users } })
    }

    /// The containers that reference the volume, stopped ones included.
    pub async fn users(&self, volume: &VolumeName) -> Result<Vec<VolumeUser>, Failure> {
        let link = self.link()?;
        let filters = HashMap::from([("volume", vec![volume.as_str()])]);
        let containers = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers = self.call("list_containers", CALL_TIMEOUT, link.list_containers(Some(containers))).await?;
        // The daemon's filter matches destinations too, and Podman's parts of names.
        let containers = containers.into_iter().filter(|container| {
            let mut mounts = container.mounts.iter().flatten();
            mounts.any(|mount| mount.typ.as_deref() == Some("volume") && mount.name.as_deref() == Some(volume.as_str()))
        });
        let mut users: Vec<_> = containers
            .map(|container| {
                let name = container.names.iter().flatten().next().map_or("", |name| name.trim_start_matches('/'));
                let state = container.state.map_or_else(String::new, |state| state.to_string());
                let created_at = container.created.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
                VolumeUser {
                    id: container.id.unwrap_or_default(),
                    name: name.to_owned(),
                    since: created_at.filter(|_| state == "created"),
                    state,
                    image: container.image.unwrap_or_default(),
                    created_at,
                }
            })
            .collect();
        join_all(users.iter_mut().take(MAX_INSPECTED).map(|user| self.look_since_when(user))).await;
        Ok(users)
    }

    /// The list says only "Up 3 hours". A container that is gone by now, or of which nothing is said, stays as it is.
    async fn look_since_when(&self, user: &mut VolumeUser) {
        let Ok(link) = self.link() else { return };
        let request = link.inspect_container(&user.id, None::<InspectContainerOptions>);
        let found = self.call("inspect_container", CALL_TIMEOUT, request).await;
        let Some(state) = found.ok().and_then(|found| found.state) else { return };
        let since = match user.state.as_str() {
            "running" | "paused" => state.started_at,
            "exited" | "dead" => state.finished_at,
            _ => None,
        };
        // What did not happen yet is the year 1.
        let since = since.and_then(|time| DateTime::parse_from_rfc3339(&time).ok()).map(|time| time.to_utc());
        user.since = since.filter(|time| time.timestamp() > 0).or(user.since);
    }
}
