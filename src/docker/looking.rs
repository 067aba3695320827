//! A daemon that is only looked at: nothing is removed, and each removal says what it would have come to.

use std::collections::HashSet;

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Docker;
use crate::{
    cleanup::{Container, ContainerId, ContainerRemoval, Containers, Freed, FreedVolumes, Inventory, Removal, Volumes},
    failure::Failure,
    volume_name::{VolumeName, VolumeNames},
};

/// A daemon in a dry run.
pub struct Looking {
    docker: Docker,
    /// The containers that would have been removed.
    would_be_gone: Mutex<HashSet<ContainerId>>,
}

impl Looking {
    /// This daemon, which is only looked at.
    #[must_use]
    pub fn new(docker: Docker) -> Self {
        Self { docker, would_be_gone: Mutex::default() }
    }
}

impl AsRef<Docker> for Looking {
    fn as_ref(&self) -> &Docker {
        &self.docker
    }
}

impl Volumes for Looking {
    /// What it would come to. A volume that is mounted by something else than a container looks free.
    async fn remove_by(&self, volume: &VolumeName, _latest: Option<Instant>) -> Result<Removal, Failure> {
        if !self.docker.has(volume).await? {
            return Ok(Removal::NotFound);
        }
        let users = self.docker.users(volume).await?.into_iter().map(|user| user.id);
        let would_be_gone = self.would_be_gone.lock();
        let is_there = |user: &String| !ContainerId::parse(user).is_some_and(|id| would_be_gone.contains(&id));
        let containers: Vec<_> = users.filter(is_there).collect();
        Ok(if containers.is_empty() { Removal::Removed } else { Removal::Referenced { containers } })
    }

    async fn probe(&self) -> Result<(), Failure> {
        self.docker.probe().await
    }

    async fn has(&self, volume: &VolumeName) -> Result<bool, Failure> {
        self.docker.has(volume).await
    }

    async fn inventory(&self, names: &VolumeNames) -> Result<Inventory, Failure> {
        self.docker.inventory(names).await
    }

    fn daemon(&self) -> Option<String> {
        self.docker.daemon()
    }
}

impl Containers for Looking {
    async fn look_at(&self, container: &ContainerId) -> Result<Option<Container>, Failure> {
        self.docker.look_at(container).await
    }

    async fn remove_container_by(
        &self,
        container: &ContainerId,
        _latest: Instant,
    ) -> Result<ContainerRemoval, Failure> {
        self.would_be_gone.lock().insert(container.clone());
        Ok(ContainerRemoval::Removed)
    }
}

impl FreedVolumes for Looking {
    fn freed(&self) -> impl Stream<Item = Result<Freed, Failure>> + Send {
        self.docker.freed()
    }
}
