//! Docker, as the clean-up needs it.

use std::collections::{HashMap, HashSet};

use futures_util::{Stream, future::join_all};
use tokio::time::Instant;

use super::Containers;
use crate::{
    failure::Failure,
    volume_name::{VolumeName, VolumeNames},
};

/// What asking Docker to remove a volume came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It was there and is gone.
    Removed,
    /// The daemon that was asked does not have it. That it is the one that the volume was on is not proven yet: see
    /// [`Volumes::have`].
    Missing,
    /// The daemon that the volume was on does not have it: the one that is pinned, which said so itself.
    NotFound,
    /// A container or a mount uses it.
    Referenced {
        /// Ids of the containers, as far as the daemon named them.
        containers: Vec<String>,
    },
    /// It was not asked for: there was no time left for that when the daemon had said who it is.
    NotSent,
}

impl Removal {
    /// What the removal of a volume comes to that the daemon did not have, by its answer to whether it is there.
    pub(crate) fn of_missing(volume: &VolumeName, is_there: Result<bool, Failure>) -> Result<Self, Failure> {
        if is_there? {
            return Err(Failure::transient(format!(
                "the daemon did not have {volume} when it was to remove it, and has it now: somebody makes it anew, or \
                 two daemons answer"
            )));
        }
        Ok(Self::NotFound)
    }
}

/// What a daemon has of our volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The volumes that bear one of our names.
    pub present: HashSet<VolumeName>,
    /// Those that containers reference, with the containers' ids; stopped ones included.
    pub referenced: HashMap<VolumeName, Vec<String>>,
    /// Those of them whose containers have all exited, or were never started.
    pub exited: HashSet<VolumeName>,
    /// What the daemon warned of. If there is any, the list may lack volumes: absence proves nothing.
    pub warnings: Vec<String>,
    /// Why the host is doubted: too much of it has vanished. Then absence proves nothing either.
    pub doubt: Option<String>,
}

/// What ended at a daemon and may have freed a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freed {
    /// A container was removed; its id.
    Container(String),
    /// A volume was unmounted, which a container that is only stopped still references; its name.
    Volume(String),
}

/// Docker, as the clean-up needs it. What a wrong daemon lacks proves nothing: only the answers of the pinned one
/// count, and who implements this sees to that.
pub trait Volumes: Containers {
    /// Removes a volume, without force. The removal is not sent after `latest`: the thread's row may be unlocked soon
    /// after, and the thread be open again.
    fn remove_by(
        &self,
        volume: &VolumeName,
        latest: Option<Instant>,
    ) -> impl Future<Output = Result<Removal, Failure>> + Send;

    /// Removes a volume that nothing is locked for, without force, or proves that it is not there.
    fn remove(&self, volume: &VolumeName) -> impl Future<Output = Result<Removal, Failure>> + Send {
        async move {
            match self.remove_by(volume, None).await? {
                Removal::Missing => Removal::of_missing(volume, self.has(volume).await),
                other @ (Removal::Removed | Removal::NotFound | Removal::Referenced { .. } | Removal::NotSent) => {
                    Ok(other)
                }
            }
        }
    }

    /// Fails unless the daemon answers, whatever else it is busy with.
    fn probe(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether the volume is there. That it is not was said by the pinned daemon itself.
    fn has(&self, volume: &VolumeName) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Whether these volumes are there, an answer for each. That one is not was said by the pinned daemon itself, which
    /// may say for all of them together who it is.
    fn have(&self, volumes: &[VolumeName]) -> impl Future<Output = Vec<Result<bool, Failure>>> + Send {
        join_all(volumes.iter().map(|volume| self.has(volume)))
    }

    /// Lists our volumes and which of them are referenced, as the pinned daemon says.
    fn inventory(&self, names: &VolumeNames) -> impl Future<Output = Result<Inventory, Failure>> + Send;

    /// Whose answers count, for the audit trail.
    fn daemon(&self) -> Option<String> {
        None
    }

    /// What was in a volume that was removed, in bytes, when that was last measured. Only once: a volume that is made
    /// anew under the name is another one. Asks nobody.
    fn take_size(&self, _volume: &VolumeName) -> Option<u64> {
        None
    }
}

/// Docker's events, as far as they free volumes.
pub trait FreedVolumes {
    /// Everything that ends from now on. Ends itself only with a failure.
    fn freed(&self) -> impl Stream<Item = Result<Freed, Failure>> + Send;
}
