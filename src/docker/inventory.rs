//! What a daemon has of our volumes, in one look, and whether a volume that the list lacks is absent.

use std::collections::{BTreeSet, HashMap, HashSet};

use bollard::{
    models::{ContainerSummaryStateEnum as State, Volume, VolumeListResponse},
    query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder},
};

use super::{Docker, links::Link};
use crate::{
    cleanup::Inventory,
    failure::Failure,
    volume_name::{VolumeName, VolumePrefix},
};

impl Docker {
    /// The drivers that our volumes were seen with, in the lists of this process or of one before.
    #[must_use]
    pub fn drivers(&self) -> BTreeSet<String> {
        self.drivers.lock().clone()
    }

    /// Notes drivers that our volumes were seen with by a process before this one.
    pub fn note_drivers(&self, drivers: impl IntoIterator<Item = String>) {
        self.drivers.lock().extend(drivers);
    }

    /// The volumes whose name may begin with `prefix`: the daemon's own filter matches anywhere in a name, and only
    /// makes the answer shorter.
    pub(super) async fn list_volumes(
        &self,
        link: &Link<'_>,
        prefix: &VolumePrefix,
    ) -> Result<VolumeListResponse, Failure> {
        let filters = HashMap::from([("name", vec![prefix.as_str()])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        self.list("list_volumes", link.list_volumes(Some(options))).await
    }

    /// Volumes, containers, and then who said so, over one connection.
    pub(super) async fn look_at_all(&self, prefix: &VolumePrefix) -> Result<Inventory, Failure> {
        let link = self.link()?;
        let volumes = self.list_volumes(&link, prefix).await?;
        let connection = link.connection();
        // Stopped containers use their volumes too.
        let containers = ListContainersOptionsBuilder::default().all(true).build();
        let containers = self.list("list_containers", link.list_containers(Some(containers))).await?;
        self.is_still(connection, &link)?;
        let info = self.prove(&link, Some(connection)).await?;

        let (mut referenced, mut in_use) = (HashMap::<_, Vec<_>>::new(), HashSet::new());
        for container in containers {
            let is_over = matches!(container.state, Some(State::EXITED | State::CREATED));
            for mount in container.mounts.unwrap_or_default() {
                let name = mount.name.filter(|_| mount.typ.as_deref() == Some("volume"));
                if let Some(thread) = name.and_then(|name| prefix.thread_of(&name)) {
                    if !is_over {
                        in_use.insert(thread.clone());
                    }
                    referenced.entry(thread).or_default().push(container.id.clone().unwrap_or_default());
                }
            }
        }
        let (mut warnings, volumes) = (volumes.warnings.unwrap_or_default(), volumes.volumes.unwrap_or_default());
        let ours: Vec<_> = volumes.iter().filter_map(|each| Some((prefix.thread_of(&each.name)?, each))).collect();
        self.note_drivers(ours.iter().map(|(_, volume)| volume.driver.clone()).collect::<BTreeSet<_>>());
        let plugins = info.plugins.and_then(|plugins| plugins.volume);
        warnings.extend(self.missing_drivers(&plugins.unwrap_or_default()));
        Ok(Inventory {
            present: ours.into_iter().map(|(thread, _)| thread).collect(),
            exited: referenced.keys().filter(|thread| !in_use.contains(thread)).cloned().collect(),
            referenced,
            warnings,
            doubt: None,
        })
    }

    /// A warning for each driver of our volumes that the daemon lacks: it says nothing of such a driver's volumes, and
    /// does not warn of that either.
    fn missing_drivers(&self, plugins: &[String]) -> Vec<String> {
        let missing = self.drivers().into_iter().filter(|driver| !plugins.contains(driver));
        let warning = |driver| {
            format!(
                "the volume driver {driver:?}, which had volumes of ours, is not among the daemon's: start its plugin, \
                 or restart this service if it is gone for good"
            )
        };
        missing.map(warning).collect()
    }

    /// The volume, asked for by name; `None` only if the pinned daemon says on the same connection that it is gone.
    pub(super) async fn look_for(&self, link: &Link<'_>, volume: &VolumeName) -> Result<Option<Volume>, Failure> {
        let found = self.ask_for(link, volume).await?;
        if found.is_none() {
            self.prove(link, Some(link.connection())).await?;
        }
        Ok(found)
    }
}
