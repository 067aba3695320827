//! Containers, as the clean-up needs them: only to remove those that have exited and still reference a volume.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::Instant;

use crate::failure::Failure;

/// A container's full id: 64 hexadecimal digits. Nothing else is ever put into a request: a name could lead elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ContainerId(String);

impl ContainerId {
    /// The id, if the text is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// It was never started.
    Created,
    /// It ran, and does not run now.
    Exited,
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// It is between its end and its next start.
    Restarting,
    /// Something else, in the daemon's word.
    Other(String),
}

/// When the daemon starts a container again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    No,
    /// Whenever it ends, and when the daemon starts, also if somebody has stopped it.
    Always,
    /// As `always`, but not if somebody has stopped it.
    UnlessStopped,
    /// When it ends with another exit code than 0.
    OnFailure {
        /// So many times at most; 0 is any number of times.
        most: i64,
    },
}

/// A container, as far as it matters whether it may be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the slash that the daemon writes before it.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
    /// Since when, as far as the daemon says.
    pub since: Option<DateTime<Utc>>,
    /// Its restart policy.
    pub restart: RestartPolicy,
    /// How often the daemon has started it again since somebody did.
    pub restarts: i64,
    /// What it ended with.
    pub exit_code: i64,
    /// The daemon could not start it when it last tried.
    pub has_failed_to_start: bool,
    /// Podman runs it.
    pub is_podmans: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Names of the volumes that it mounts, those included that nobody has named.
    pub volumes: Vec<String>,
}

/// What asking for the removal of a container came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerRemoval {
    /// It was there and is gone.
    Removed,
    /// It was gone already.
    NotFound,
    /// The daemon refuses, since it runs or is about to: why, in the daemon's words.
    Refused(String),
    /// It was not asked for: there was no time left for that.
    NotSent,
}

/// Containers of a daemon.
pub trait Containers: Send + Sync + 'static {
    /// The container as it is now; `None` if there is none.
    fn look_at(&self, container: &ContainerId) -> impl Future<Output = Result<Option<Container>, Failure>> + Send;

    /// Removes a container, without force and without its volumes. The removal is not sent after `latest`, as that of
    /// its volume.
    fn remove_container_by(
        &self,
        container: &ContainerId,
        latest: Instant,
    ) -> impl Future<Output = Result<ContainerRemoval, Failure>> + Send;
}
