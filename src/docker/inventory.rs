//! What a daemon has of our volumes, in one look, and whether a volume that the list lacks is absent.

use std::collections::{BTreeSet, HashMap, HashSet};

use bollard::{
    models::{ContainerSummaryStateEnum as State, Volume, VolumeListResponse},
    query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder},
};

use tokio::time::Instant;

use super::{CALL_TIMEOUT, Docker, links::Link, proof::Proves};
use crate::{
    cleanup::Inventory,
    failure::{Failure, Verdict},
    volume_name::{VolumeName, VolumeNames},
};

/// The filter for volumes that may be called so.
pub(super) fn name_filter(names: &VolumeNames) -> HashMap<&'static str, Vec<&str>> {
    let prefix = Some(names.common_prefix()).filter(|prefix| !prefix.is_empty());
    prefix.map(|prefix| ("name", vec![prefix])).into_iter().collect()
}

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

    /// The volumes whose name may be one of these: the daemon's own filter matches anywhere in a name, and only makes
    /// the answer shorter. Only what all of them begin with, since Podman takes several filters for all of them at
    /// once.
    pub(super) async fn list_volumes(
        &self,
        link: &Link<'_>,
        names: &VolumeNames,
    ) -> Result<VolumeListResponse, Failure> {
        let filters = name_filter(names);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        self.list("list_volumes", link.list_volumes(Some(options))).await
    }

    /// Volumes, containers, and then who said so, over one connection.
    pub(super) async fn look_at_all(&self, names: &VolumeNames) -> Result<Inventory, Failure> {
        let link = self.link()?;
        let volumes = self.list_volumes(&link, names).await?;
        let connection = link.connection();
        // Stopped containers use their volumes too.
        let containers = ListContainersOptionsBuilder::default().all(true).build();
        let containers = self.list("list_containers", link.list_containers(Some(containers))).await?;
        self.is_still(connection, &link)?;
        let info = self.prove(&link, Proves::One(connection)).await?;

        let (mut referenced, mut in_use) = (HashMap::<_, Vec<_>>::new(), HashSet::new());
        for container in containers {
            let is_over = matches!(container.state, Some(State::EXITED | State::CREATED));
            for mount in container.mounts.unwrap_or_default() {
                let name = mount.name.filter(|_| mount.typ.as_deref() == Some("volume"));
                if let Some(volume) = name.and_then(|name| names.find(&name)) {
                    if !is_over {
                        in_use.insert(volume.clone());
                    }
                    referenced.entry(volume).or_default().push(container.id.clone().unwrap_or_default());
                }
            }
        }
        let (mut warnings, volumes) = (volumes.warnings.unwrap_or_default(), volumes.volumes.unwrap_or_default());
        let ours: Vec<_> = volumes.iter().filter_map(|each| Some((names.find(&each.name)?, each))).collect();
        self.note_drivers(ours.iter().map(|(_, volume)| volume.driver.clone()).collect::<BTreeSet<_>>());
        let plugins = info.plugins.and_then(|plugins| plugins.volume);
        warnings.extend(self.missing_drivers(&plugins.unwrap_or_default()));
        Ok(Inventory {
            present: ours.into_iter().map(|(name, _)| name).collect(),
            exited: referenced.keys().filter(|volume| !in_use.contains(*volume)).cloned().collect(),
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
            self.prove(link, Proves::One(link.connection())).await?;
        }
        Ok(found)
    }

    /// Whether each of these is there. With absent ones the pinned daemon said so itself.
    pub(super) async fn look_for_each(&self, volumes: &[VolumeName]) -> Result<Vec<Result<bool, Failure>>, Failure> {
        match self.ask_for_each(volumes).await {
            // A connection that ended before the proof would cost an attempt of every thread that waits for it.
            Err(failure) if failure.verdict == Verdict::Transient => self.ask_for_each(volumes).await,
            answered => answered,
        }
    }

    /// Asks for all of them over one connection, and if some are absent, who says so.
    async fn ask_for_each(&self, volumes: &[VolumeName]) -> Result<Vec<Result<bool, Failure>>, Failure> {
        let (link, began) = (self.link()?, Instant::now());
        let (mut answers, mut connection) = (Vec::with_capacity(volumes.len()), None);
        for volume in volumes {
            let found = if began.elapsed() < CALL_TIMEOUT {
                self.ask_for(&link, volume).await
            } else {
                // A driver that answers late would keep all the others waiting.
                Err(Failure::transient(format!("docker at {}: it is slow to say what it has", self.endpoint)))
            };
            match found {
                Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => return Err(failure),
                found => answers.push(found.map(|found| found.is_some())),
            }
            connection.get_or_insert(link.connection());
        }
        let absent = answers.iter().filter(|answer| **answer == Ok(false)).count();
        match connection {
            Some(connection) if absent > 1 => drop(self.prove(&link, Proves::Several(connection)).await?),
            Some(connection) if absent == 1 => drop(self.prove(&link, Proves::One(connection)).await?),
            Some(_) | None => {}
        }
        Ok(answers)
    }
}
