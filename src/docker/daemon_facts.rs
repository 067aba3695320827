//! Looking at the daemon without changing anything on it: the facts that `doctor` judges.

use std::time::Duration;

use bollard::{
    errors::Error,
    models::SystemInfo,
    query_parameters::{
        ListContainersOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptions, RemoveVolumeOptions,
    },
};
use chrono::{DateTime, Utc};

use super::{
    Docker, Identity, PING_TIMEOUT,
    answers::{cause, is_no_such_container, refused_removal},
    inventory::name_filter,
};
use crate::{
    cleanup::Removal,
    clock::ClockReading,
    failure::Failure,
    volume_name::{ThreadId, VolumeName, VolumeNames},
};

/// For what a busy daemon may take long for.
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What was found of a daemon that answers.
#[derive(Debug)]
pub struct Inspection {
    /// Whether it is Podman.
    pub is_podman: bool,
    /// Its version.
    pub version: String,
    /// The newest API version that it speaks.
    pub api_version: String,
    /// Who it is; an empty text if it does not say.
    pub identity: Result<Identity, Failure>,
    /// Its clock; `None` if it does not say.
    pub clock: Option<ClockReading>,
    /// Warnings of the lists of volumes and containers, or why they can't be had.
    pub lists: Result<Vec<String>, Failure>,
    /// Whether it would remove a volume.
    pub may_remove: Result<(), RemovalRefused>,
    /// Whether it would remove a container; `None` if none is ever removed.
    pub may_remove_containers: Option<Result<(), RemovalRefused>>,
}

/// Why a removal would not be done, with the daemon's text.
#[derive(Debug)]
pub enum RemovalRefused {
    /// It is forbidden.
    Forbidden(String),
    /// Anything else.
    Other(String),
}

/// What the daemon's list says of one of our volumes.
#[derive(Debug)]
pub struct VolumeFacts {
    /// Its name.
    pub volume: VolumeName,
    /// The thread whose volume it is by its name; none if no thread can have such an id, where rows have the names.
    pub thread_id: Option<ThreadId>,
    /// When it was created.
    pub created_at: Option<DateTime<Utc>>,
    /// Its size in bytes, if it is known without counting.
    pub size_bytes: Option<u64>,
}

impl Docker {
    /// Lists our volumes with what is known of them.
    pub async fn volume_facts(&self, names: &VolumeNames) -> Result<Vec<VolumeFacts>, Failure> {
        let list = self.list_volumes(&self.link()?, names).await?;
        let facts = list.volumes.unwrap_or_default().into_iter().filter_map(|volume| {
            let created_at = volume.created_at.and_then(|time| DateTime::parse_from_rfc3339(&time).ok());
            Some(VolumeFacts {
                thread_id: names.thread_by_template(&volume.name),
                volume: names.find(&volume.name)?,
                created_at: created_at.map(|time| time.to_utc()),
                size_bytes: volume.usage_data.and_then(|usage| usage.size.try_into().ok()),
            })
        });
        Ok(facts.collect())
    }

    /// Looks at the daemon, and with `removes_containers` whether that is allowed. Takes less than twenty seconds, and
    /// changes nothing: what it is asked to remove is a volume, and a container, that can't be there.
    pub async fn inspect(&self, names: &VolumeNames, removes_containers: bool) -> Result<Inspection, Failure> {
        let version = {
            let link = self.link()?;
            self.call("version", PING_TIMEOUT, link.version()).await?
        };
        let is_podman = version.components.iter().flatten().any(|part| part.name.contains("Podman"));
        let may_remove_containers =
            async { if removes_containers { Some(self.may_remove_containers().await) } else { None } };
        let ((identity, clock), lists, may_remove, may_remove_containers) =
            tokio::join!(self.who(is_podman), self.lists(names), self.may_remove(names), may_remove_containers);
        let said = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
        Ok(Inspection {
            is_podman,
            version: said(version.version),
            api_version: said(version.api_version),
            identity,
            clock,
            lists,
            may_remove,
            may_remove_containers,
        })
    }

    async fn who(&self, is_podman: bool) -> (Result<Identity, Failure>, Option<ClockReading>) {
        let asked = Utc::now();
        let info = async {
            let link = self.link()?;
            self.call("info", INSPECTION_TIMEOUT, link.info()).await
        };
        let info: Result<SystemInfo, Failure> = info.await;
        let answered = Utc::now();
        let said = info.as_ref().ok().and_then(|info| info.system_time.as_deref());
        let said = said.and_then(|time| DateTime::parse_from_rfc3339(time).ok());
        let clock = said.map(|said| ClockReading { asked, said: said.to_utc(), answered });
        (info.map(|info| super::proof::identity_of(&info, is_podman)), clock)
    }

    async fn lists(&self, names: &VolumeNames) -> Result<Vec<String>, Failure> {
        let (link, other) = (self.link()?, self.link()?);
        let filters = name_filter(names);
        let volumes = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let containers = ListContainersOptionsBuilder::default().all(true).limit(1).build();
        let volumes = self.call("list_volumes", INSPECTION_TIMEOUT, link.list_volumes(Some(volumes)));
        let containers = self.call("list_containers", INSPECTION_TIMEOUT, other.list_containers(Some(containers)));
        let (volumes, containers) = tokio::join!(volumes, containers);
        containers?;
        Ok(volumes?.warnings.unwrap_or_default())
    }

    async fn may_remove(&self, names: &VolumeNames) -> Result<(), RemovalRefused> {
        let other = |error: &dyn std::fmt::Display| RemovalRefused::Other(error.to_string());
        let nobodys = ThreadId::parse(&format!("doctor-{}", uuid::Uuid::new_v4())).map_err(|error| other(&error))?;
        let volume = names.volume_of(&nobodys);
        let link = self.link().map_err(|failure| other(&failure))?;
        // A removal does not open a connection.
        self.call("ping", PING_TIMEOUT, link.ping()).await.map_err(|failure| other(&failure))?;
        let request = link.remove_volume(volume.as_str(), None::<RemoveVolumeOptions>);
        let answer = tokio::time::timeout(INSPECTION_TIMEOUT, request).await;
        match answer.unwrap_or(Err(Error::RequestTimeoutError)) {
            Err(Error::DockerResponseServerError { status_code: status @ (401 | 403), message }) => {
                Err(RemovalRefused::Forbidden(format!("{status} {message}")))
            }
            Err(Error::DockerResponseServerError { status_code, message }) => {
                match refused_removal(status_code, &message, &volume, &self.endpoint) {
                    Ok(Removal::Missing) => Ok(()),
                    Ok(Removal::Removed | Removal::NotFound | Removal::Referenced { .. } | Removal::NotSent) => {
                        Err(other(&"it knows a volume that can't be"))
                    }
                    Err(failure) => Err(other(&failure)),
                }
            }
            Err(error) => Err(RemovalRefused::Other(cause(&error))),
            Ok(()) => Err(other(&"it said yes to the removal of a volume that can't be there")),
        }
    }

    async fn may_remove_containers(&self) -> Result<(), RemovalRefused> {
        let other = |error: &dyn std::fmt::Display| RemovalRefused::Other(error.to_string());
        // As long as ids are.
        let nobodys = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(|half| half.simple().to_string()).concat();
        let link = self.link().map_err(|failure| other(&failure))?;
        self.call("ping", PING_TIMEOUT, link.ping()).await.map_err(|failure| other(&failure))?;
        let request = link.remove_container(&nobodys, None::<RemoveContainerOptions>);
        match tokio::time::timeout(INSPECTION_TIMEOUT, request).await.unwrap_or(Err(Error::RequestTimeoutError)) {
            Err(Error::DockerResponseServerError { status_code: 404, message }) if is_no_such_container(&message) => {
                Ok(())
            }
            Err(Error::DockerResponseServerError { status_code: status @ (401 | 403), message }) => {
                Err(RemovalRefused::Forbidden(format!("{status} {message}")))
            }
            Err(error) => Err(RemovalRefused::Other(cause(&error))),
            Ok(()) => Err(other(&"it said yes to the removal of a container that can't be there")),
        }
    }
}
