//! Docker, over its API: the volumes port of the coordinator.
//!
//! Requests carry no API version, so every daemon answers in its own. Volumes are removed without force, always: with
//! force a daemon answers 204 for a volume that is not there, and forgets one that its driver failed to delete.
//!
//! A daemon that does not have a volume proves nothing unless it is the daemon that the volume was on: a wrong
//! `DOCKER_HOST` has none of our volumes, and would have every thread marked. So an answer of "not there" counts only
//! from the daemon whose identity is pinned ([`Docker::pin`]).

mod holders;
mod inspection;
mod releases;
mod transport;

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bollard::{
    errors::Error,
    models::SystemInfo,
    query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions},
};

pub use holders::{FoundVolume, Holder};
pub use inspection::{Inspection, RemovalRefused, VolumeFacts};
pub use transport::Endpoint;

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{
    coordinator::{Inventory, Removal, Volumes},
    failure::{Dependency, Failure},
    metrics,
    volume_name::{VolumeName, VolumePrefix},
};

/// For every call but a removal: long enough for a list of many thousand volumes on a busy disk.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// After this a removal is taken to be stuck. The daemon goes on with it, if it ever can.
const LONGEST_REMOVAL: Duration = Duration::from_hours(1);
/// For the question whether the daemon is there at all, which it answers from memory.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Which daemon it is, as text that survives its restarts.
///
/// Docker keeps an id of its own (`Info.ID`). Podman invents a new one at every call, so there it is the host's name
/// with the storage root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    const PODMAN: &str = "podman:";

    fn of_docker(info: &SystemInfo) -> Self {
        Self(info.id.clone().unwrap_or_default())
    }

    fn of_podman(info: &SystemInfo) -> Self {
        let (name, root) = (info.name.as_deref(), info.docker_root_dir.as_deref());
        Self(format!("{}{}:{}", Self::PODMAN, name.unwrap_or_default(), root.unwrap_or_default()))
    }

    /// An identity as the database keeps it.
    #[must_use]
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The identity as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_that_of(&self, info: &SystemInfo) -> bool {
        let other = if self.0.starts_with(Self::PODMAN) { Self::of_podman(info) } else { Self::of_docker(info) };
        *self == other
    }
}

/// One Docker daemon.
pub struct Docker {
    endpoint: Endpoint,
    /// How often a daemon that takes long for a removal is asked whether it is still there.
    ping_interval: Duration,
    /// Whether a removal only looks what it would come to.
    only_looks: bool,
    /// What it is called, unless it is the only one.
    name: Option<String>,
    client: OnceLock<bollard::Docker>,
    pinned: RwLock<Option<Identity>>,
    /// The latest proof of identity; whoever makes one holds the lock meanwhile.
    proof: tokio::sync::Mutex<Proof>,
    proofs_begun: AtomicU64,
}

/// A question to the daemon who it is, and its answer.
struct Proof {
    /// Counts the proofs from 1, in the order in which they were begun.
    number: u64,
    result: Result<(), Failure>,
}

impl Docker {
    /// A daemon at `endpoint`, not contacted yet. While it takes long for a removal, it is asked every `ping_interval`
    /// whether it is still there.
    #[must_use]
    pub fn new(endpoint: Endpoint, ping_interval: Duration) -> Self {
        Self {
            endpoint,
            ping_interval,
            only_looks: false,
            name: None,
            client: OnceLock::new(),
            pinned: RwLock::new(None),
            proof: tokio::sync::Mutex::new(Proof { number: 0, result: Ok(()) }),
            proofs_begun: AtomicU64::new(0),
        }
    }

    /// The same daemon under a name, for metrics.
    #[must_use]
    pub fn named(self, name: String) -> Self {
        Self { name: Some(name), ..self }
    }

    /// The same daemon, of which nothing is removed: it is looked what a removal would come to.
    #[must_use]
    pub fn only_looking(self) -> Self {
        Self { only_looks: true, ..self }
    }

    /// Asks the daemon who it is. Also the probe that tells whether it is there.
    pub async fn identify(&self) -> Result<Identity, Failure> {
        let client = self.client()?;
        let version = self.call("version", PING_TIMEOUT, client.version()).await?;
        let info = self.call("info", CALL_TIMEOUT, client.info()).await?;
        let is_podman = version.components.unwrap_or_default().iter().any(|part| part.name.contains("Podman"));
        let identity = if is_podman { Identity::of_podman(&info) } else { Identity::of_docker(&info) };
        if identity.as_str().is_empty() {
            return Err(self.down("it does not say who it is (an empty ID), so nothing it says can be relied on"));
        }
        Ok(identity)
    }

    /// From now on `identity` is the daemon whose word counts.
    pub fn pin(&self, identity: Identity) {
        *self.pinned.write() = Some(identity);
    }

    /// Whether the daemon that answers now is the pinned one.
    async fn ask_identity(&self) -> Result<(), Failure> {
        let info = self.call("info", CALL_TIMEOUT, self.client()?.info()).await?;
        let pinned = self.pinned.read().clone();
        match pinned {
            Some(pinned) if pinned.is_that_of(&info) => Ok(()),
            Some(_) => Err(self.down("another daemon answers than the one that is pinned in the database")),
            None => Err(self.down("its identity is not pinned yet")),
        }
    }

    fn client(&self) -> Result<&bollard::Docker, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Fails while there is no such socket, which is why the client is made at the first call that finds one.
        let client = self.endpoint.client().map_err(|what| self.down(&what))?;
        Ok(self.client.get_or_init(|| client))
    }

    fn down(&self, what: &str) -> Failure {
        Failure::unavailable(Dependency::Docker, format!("docker at {}: {what}", self.endpoint))
    }

    /// Makes a call that is not a removal. A call that takes too long means that the daemon is down.
    async fn call<R>(
        &self,
        operation: &'static str,
        limit: Duration,
        request: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Failure> {
        let answer = tokio::time::timeout(limit, request).await.unwrap_or(Err(Error::RequestTimeoutError));
        metrics::docker_request(self.name.as_deref(), operation, &status(&answer));
        answer.map_err(|error| match error {
            Error::DockerResponseServerError { status_code, message } => {
                Failure::transient(format!("docker at {}: {operation}: {status_code} {message}", self.endpoint))
            }
            other => self.down(&format!("{operation}: {}", cause(&other))),
        })
    }

    /// The same for a call that waits for the volume driver, which may be busy although the daemon is up.
    async fn list<R>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Failure> {
        match tokio::time::timeout(CALL_TIMEOUT, self.call(operation, LONGEST_REMOVAL, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timed_out(operation, CALL_TIMEOUT).await),
        }
    }

    /// Waits for a removal, however long it takes, as long as the daemon answers anything else: it goes on with it
    /// anyway, whether we wait or not.
    async fn while_it_answers<R>(&self, request: impl Future<Output = Result<R, Error>>) -> Result<R, Error> {
        let mut request = std::pin::pin!(request);
        let began = Instant::now();
        loop {
            match tokio::time::timeout(self.ping_interval, &mut request).await {
                Ok(answer) => return answer,
                Err(_) if began.elapsed() >= LONGEST_REMOVAL || self.probe().await.is_err() => {
                    return Err(Error::RequestTimeoutError);
                }
                Err(_) => {}
            }
        }
    }

    /// What to say of a call that got no answer in time: a daemon is busy while it deletes a large volume, and only
    /// one that does not answer anything is down.
    async fn timed_out(&self, what: &str, limit: Duration) -> Failure {
        let limit = humantime::format_duration(limit);
        if self.probe().await.is_ok() {
            Failure::transient(format!("docker at {}: {what} takes longer than {limit}", self.endpoint))
        } else {
            self.down(&format!("{what}: no answer within {limit}"))
        }
    }
}

impl Volumes for Docker {
    async fn remove(&self, volume: &VolumeName) -> Result<Removal, Failure> {
        if self.only_looks {
            return self.look_before_removal(volume).await;
        }
        let request = self.client()?.remove_volume(volume.as_str(), None::<RemoveVolumeOptions>);
        let answer = self.while_it_answers(request).await;
        metrics::docker_request(self.name.as_deref(), "remove_volume", &status(&answer));
        match answer {
            Ok(()) => Ok(Removal::Removed),
            Err(Error::DockerResponseServerError { status_code, message }) => {
                refused_removal(status_code, &message, volume, &self.endpoint)
            }
            Err(Error::RequestTimeoutError) => {
                Err(self.timed_out(&format!("removing {volume}"), LONGEST_REMOVAL).await)
            }
            Err(other) => Err(self.down(&cause(&other))),
        }
    }

    async fn probe(&self) -> Result<(), Failure> {
        self.call("ping", PING_TIMEOUT, self.client()?.ping()).await.map(drop)
    }

    async fn has(&self, volume: &VolumeName) -> Result<bool, Failure> {
        Ok(self.find_volume(volume).await?.is_some())
    }

    async fn inventory(&self, prefix: &VolumePrefix) -> Result<Inventory, Failure> {
        let client = self.client()?;
        // The daemon's own filter matches anywhere in a name: it only makes the answer shorter.
        let filters = HashMap::from([("name", vec![prefix.as_str()])]);
        let volumes = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let volumes = self.list("list_volumes", client.list_volumes(Some(volumes))).await?;
        // Stopped containers hold their volumes too.
        let containers = ListContainersOptionsBuilder::default().all(true).build();
        let containers = self.list("list_containers", client.list_containers(Some(containers))).await?;

        let mut referenced: HashMap<_, Vec<_>> = HashMap::new();
        for container in containers {
            for mount in container.mounts.unwrap_or_default() {
                let name = mount.name.filter(|_| mount.typ.as_deref() == Some("volume"));
                if let Some(thread) = name.and_then(|name| prefix.thread_of(&name)) {
                    referenced.entry(thread).or_default().push(container.id.clone().unwrap_or_default());
                }
            }
        }
        Ok(Inventory {
            present: (volumes.volumes.unwrap_or_default().iter())
                .filter_map(|volume| prefix.thread_of(&volume.name))
                .collect(),
            referenced,
            warnings: volumes.warnings.unwrap_or_default(),
        })
    }

    /// A daemon takes some ten milliseconds to say who it is, so whoever waits while a proof is made shares the next
    /// one: what counts is that it was begun after they had the answer that it is to prove.
    async fn prove_identity(&self) -> Result<(), Failure> {
        let begun_before = self.proofs_begun.load(Ordering::SeqCst);
        let mut proof = self.proof.lock().await;
        if proof.number <= begun_before {
            proof.number = self.proofs_begun.fetch_add(1, Ordering::SeqCst) + 1;
            proof.result = self.ask_identity().await;
        }
        proof.result.clone()
    }
}

/// What an answer other than 2xx to a removal means. Facts of moby (`daemon/volume`) and Podman, per status:
///
/// - 404 is a missing volume only if the message says so and names it; a missing driver, plugin or page is 404 too.
/// - 409 is a volume in use, by containers that the message lists; stopped ones count.
/// - 500 "has active mounts" is in use as well: a mount without a container.
/// - 500 "outside of the local volume root" will not change: the volume's directory is not where it belongs.
/// - 502, 503, 504 come from something in front of a daemon that is not there.
fn refused_removal(
    status_code: u16,
    message: &str,
    volume: &VolumeName,
    endpoint: &Endpoint,
) -> Result<Removal, Failure> {
    let error = || format!("docker at {endpoint}: removing {volume}: {status_code} {message}");
    match status_code {
        404 if message.contains(volume.as_str()) && message.trim_end().ends_with("no such volume") => {
            Ok(Removal::NotFound)
        }
        409 if message.contains("in use") || message.contains("being used") => {
            Ok(Removal::Referenced { holders: container_ids(message) })
        }
        500 if message.contains("has active mounts") => Ok(Removal::Referenced { holders: container_ids(message) }),
        500 if message.contains("outside of") && message.contains("volume root") => Err(Failure::permanent(error())),
        400 => Err(Failure::permanent(error())),
        502..=504 => Err(Failure::unavailable(Dependency::Docker, error())),
        _ => Err(Failure::transient(error())),
    }
}

/// The container ids in a message: runs of 64 hexadecimal digits, in Docker's wording and in Podman's.
fn container_ids(message: &str) -> Vec<String> {
    message
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit()))
        .map(str::to_owned)
        .collect()
}

/// The status label of a metric.
fn status<R>(answer: &Result<R, Error>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(Error::DockerResponseServerError { status_code, .. }) => status_code.to_string(),
        Err(Error::RequestTimeoutError) => "timeout".to_owned(),
        Err(_) => "unreachable".to_owned(),
    }
}

/// The innermost cause: the client's own messages stop at "client error (Connect)".
fn cause(error: &Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{failure::Verdict, volume_name::ThreadId};

    const ID: &str = "4f66ad9a0b2e0d1b5f4ac1d2f3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6";

    #[test]
    fn every_answer_to_a_removal_has_its_meaning() {
        let prefix = VolumePrefix::parse("ha_ws_").expect("valid");
        let volume = prefix.volume_of(&ThreadId::parse("t1").expect("valid"));
        let endpoint = Endpoint::Unix("/run/docker.sock".to_owned());
        let meaning = |status_code, message: &str| match refused_removal(status_code, message, &volume, &endpoint) {
            Ok(Removal::Removed) => "removed",
            Ok(Removal::NotFound) => "not_found",
            Ok(Removal::Referenced { holders }) if holders == [ID] => "referenced by ID",
            Ok(Removal::Referenced { .. }) => "referenced",
            Err(Failure { verdict: Verdict::Permanent, .. }) => "permanent",
            Err(Failure { verdict: Verdict::Transient, .. }) => "transient",
            Err(Failure { verdict: Verdict::Unavailable(_), .. }) => "unavailable",
        };
        // Trap numbers: D2 D3 D5 D7.
        for (status_code, message, expected) in [
            (404, "get ha_ws_t1: no such volume", "not_found"),
            (404, "no volume with name \"ha_ws_t1\" found: no such volume", "not_found"),
            (404, "get other: no such volume", "transient"),
            (404, "get ha_ws_t1: no such volume driver", "transient"),
            (404, "plugin \"nfs\" not found", "transient"),
            (404, "page not found", "transient"),
            (404, "", "transient"),
            (409, &format!("remove ha_ws_t1: volume is in use - [{ID}]"), "referenced by ID"),
            (409, &format!("volume ha_ws_t1 is being used by the following container(s): {ID}"), "referenced by ID"),
            (409, "a prune operation is already running", "transient"),
            (500, "remove ha_ws_t1: volume has active mounts", "referenced"),
            (500, "unable to remove a directory outside of the local volume root /var/lib/docker", "permanent"),
            (500, "error removing volume path '/x': device or resource busy", "transient"),
            (500, "", "transient"),
            (400, "bad parameter", "permanent"),
            (403, "forbidden", "transient"),
            (502, "bad gateway", "unavailable"),
            (503, "no backend", "unavailable"),
            (504, "gateway timeout", "unavailable"),
        ] {
            assert_eq!(meaning(status_code, message), expected, "{status_code} {message}");
        }
    }

    #[test]
    fn podman_is_known_by_its_host_and_storage_since_its_id_changes() {
        let info = |id: &str| SystemInfo {
            id: Some(id.to_owned()),
            name: Some("host-a".to_owned()),
            docker_root_dir: Some("/var/lib/containers".to_owned()),
            ..SystemInfo::default()
        };
        assert!(Identity::of_podman(&info("1")).is_that_of(&info("2")));
        assert!(!Identity::of_docker(&info("1")).is_that_of(&info("2")));
    }
}
