//! Looking at one volume and at the containers that use it, for `explain`; and removing a container that has exited.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    errors::Error,
    models::{ContainerInspectResponse, ContainerStateStatusEnum as State, RestartPolicyNameEnum as Policy, Volume},
    query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptions},
};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    AT_ONCE, CALL_TIMEOUT, Docker, LONGEST_REMOVAL,
    answers::{cause, is_no_such_container, refused_container, refused_removal},
    links::Link,
    proof::Proves,
};
use crate::{
    cleanup::{
        Container, ContainerId, ContainerRemoval, ContainerState, Containers, Removal, RestartPolicy, exited::MayGo,
    },
    failure::Failure,
    volume_name::VolumeName,
};

/// Containers that are asked since when they are in their state; of others only the creation is known.
const MAX_INSPECTED: usize = 16;

/// A volume, as the daemon describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FoundVolume {
    /// Its driver, mostly `local`.
    pub driver: String,
    /// When it was made, in the daemon's words; Docker says it in RFC 3339.
    pub created_at: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume that was looked for, and who uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SeenVolume {
    /// Its name.
    pub volume: VolumeName,
    /// The volume, if it is there.
    pub found: Option<FoundVolume>,
    /// The containers that reference it.
    pub users: Vec<VolumeUser>,
    /// What the host is called where it was looked for; none if there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
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
    /// What else the daemon says of it.
    #[serde(skip)]
    pub found: Option<Container>,
    /// Whether it may be removed for the volume's sake, where such containers are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub exited: Option<MayGo>,
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
    pub async fn look_at_volumes(&self, volumes: &[VolumeName]) -> Result<Vec<SeenVolume>, Failure> {
        let mut seen = Vec::new();
        for volume in volumes {
            let found = self.find_volume(volume).await?;
            seen.push(SeenVolume { volume: volume.clone(), found, users: self.users(volume).await?, host: None });
        }
        Ok(seen)
    }

    pub(super) async fn ask_for(&self, link: &Link<'_>, volume: &VolumeName) -> Result<Option<Volume>, Failure> {
        let request = link.inspect_volume(volume.as_str());
        let answer = self.answered_within("inspect_volume", CALL_TIMEOUT, request).await;
        match answer {
            Ok(found) => Ok(Some(found)),
            // The words are those at a removal, so that not every 404 is a missing volume here either.
            Err(Error::DockerResponseServerError { status_code: 404, message }) => {
                match refused_removal(404, &message, volume, &self.endpoint)? {
                    Removal::Missing => Ok(None),
                    Removal::Removed | Removal::NotFound | Removal::Referenced { .. } | Removal::NotSent => {
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
                    found: None,
                    exited: None,
                }
            })
            .collect();
        join_all(users.iter_mut().take(MAX_INSPECTED).map(|user| self.look_since_when(user))).await;
        Ok(users)
    }

    /// The list says only "Up 3 hours". A container that is gone by now, or of which nothing is said, stays as it is.
    async fn look_since_when(&self, user: &mut VolumeUser) {
        let Some(id) = ContainerId::parse(&user.id) else { return };
        user.found = self.look_at(&id).await.ok().flatten();
        user.since = user.found.as_ref().and_then(|found| found.since).or(user.since);
    }
}

impl Containers for Docker {
    async fn look_at(&self, container: &ContainerId) -> Result<Option<Container>, Failure> {
        let link = self.link()?;
        let request = link.inspect_container(container.as_str(), None::<InspectContainerOptions>);
        let answer = self.answered_within("inspect_container", CALL_TIMEOUT, request).await;
        match answer {
            Ok(found) => {
                let is_podmans = self.pinned().is_some_and(|pinned| pinned.is_podmans());
                Ok(Some(container_of(container.clone(), found, is_podmans)))
            }
            Err(Error::DockerResponseServerError { status_code: 404, message }) if is_no_such_container(&message) => {
                Ok(None)
            }
            // Something about this one container that we can't read; the daemon is not down for that.
            Err(error @ (Error::JsonDataError { .. } | Error::JsonSerdeError { .. })) => {
                Err(Failure::transient(format!("docker at {}: inspecting {container}: {error}", self.endpoint)))
            }
            Err(error) => Err(self.failed("inspect_container", &error)),
        }
    }

    async fn remove_container_by(&self, container: &ContainerId, latest: Instant) -> Result<ContainerRemoval, Failure> {
        let link = self.link()?;
        let mut was_sent_before = false;
        loop {
            if !(link.is_proven() && self.is_certain()) {
                self.prove(&link, Proves::TheNext).await?;
            }
            if latest < Instant::now() {
                return Ok(ContainerRemoval::NotSent);
            }
            let began = Instant::now();
            // Without parameters: with `force` a running one is killed, with `v` its other volumes go along.
            let request = link.remove_container(container.as_str(), None::<RemoveContainerOptions>);
            let answer = self.observed("remove_container", Box::pin(self.while_it_answers(request))).await;
            return match answer {
                Ok(()) => Ok(ContainerRemoval::Removed),
                Err(Error::DockerResponseServerError { status_code, message }) => {
                    match refused_container(status_code, message, container, &self.endpoint)? {
                        // It was there a moment ago, and the daemon had closed the connection: it was our removal.
                        ContainerRemoval::NotFound if was_sent_before => Ok(ContainerRemoval::Removed),
                        removal @ (ContainerRemoval::Removed
                        | ContainerRemoval::NotFound
                        | ContainerRemoval::Refused(_)
                        | ContainerRemoval::NotSent) => Ok(removal),
                    }
                }
                Err(Error::RequestTimeoutError) => {
                    Err(self.timed_out(&format!("removing container {container}"), LONGEST_REMOVAL).await)
                }
                Err(_) if !was_sent_before && began.elapsed() < AT_ONCE => {
                    was_sent_before = true;
                    continue;
                }
                Err(other) => Err(self.lost(&cause(&other))),
            };
        }
    }
}

/// What the daemon says of a container. What did not happen yet is the year 1 there.
fn container_of(id: ContainerId, found: ContainerInspectResponse, is_podmans: bool) -> Container {
    let time = |text: Option<String>| {
        let time = text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok()).map(|time| time.to_utc());
        time.filter(|time| time.timestamp() > 0)
    };
    let state = found.state.unwrap_or_default();
    let (started_at, finished_at, created_at) = (time(state.started_at), time(state.finished_at), time(found.created));
    let (state_of, since) = match state.status {
        Some(State::RUNNING) => (ContainerState::Running, started_at),
        Some(State::PAUSED) => (ContainerState::Paused, started_at),
        Some(State::RESTARTING) => (ContainerState::Restarting, None),
        Some(State::EXITED) => (ContainerState::Exited, finished_at),
        // Somebody may have tried to start it.
        Some(State::CREATED) => (ContainerState::Created, created_at.max(finished_at)),
        Some(State::DEAD) => (ContainerState::Other("dead".to_owned()), finished_at),
        Some(other @ (State::EMPTY | State::REMOVING | State::STOPPING)) => {
            (ContainerState::Other(other.to_string()), None)
        }
        None => (ContainerState::Other(String::new()), None),
    };
    let restart = found.host_config.and_then(|host| host.restart_policy).unwrap_or_default();
    let mounts = found.mounts.unwrap_or_default().into_iter();
    Container {
        id,
        name: found.name.map_or_else(String::new, |name| name.trim_start_matches('/').to_owned()),
        state: state_of,
        since,
        restart: match restart.name {
            None | Some(Policy::EMPTY | Policy::NO) => RestartPolicy::No,
            Some(Policy::ALWAYS) => RestartPolicy::Always,
            Some(Policy::UNLESS_STOPPED) => RestartPolicy::UnlessStopped,
            Some(Policy::ON_FAILURE) => {
                RestartPolicy::OnFailure { most: restart.maximum_retry_count.unwrap_or_default() }
            }
        },
        restarts: found.restart_count.unwrap_or_default(),
        exit_code: state.exit_code.unwrap_or_default(),
        has_failed_to_start: state.error.is_some_and(|error| !error.is_empty()),
        is_podmans,
        labels: found.config.and_then(|config| config.labels).unwrap_or_default().into_iter().collect(),
        volumes: mounts
            // Those that are no volumes for sure.
            .filter(|mount| !matches!(mount.typ.as_deref(), Some("bind" | "tmpfs" | "npipe" | "image")))
            .map(|mount| mount.name.unwrap_or_default())
            .collect(),
    }
}
