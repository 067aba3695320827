//! Docker, over its API: the volumes port of the clean-up.
//!
//! Requests carry no API version, so every daemon answers in its own. Volumes are removed without force, always: with
//! force a daemon answers 204 for a volume that is not there, and forgets one that its driver failed to delete.
//!
//! A daemon that does not have a volume proves nothing unless it is the daemon that the volume was on: a wrong
//! `DOCKER_HOST` has none of our volumes, and would have every thread marked. So an answer of "not there" counts only
//! if the daemon said on the same connection, after it, that it is the pinned one ([`Docker::pin`]).

mod answers;
mod containers;
mod daemon_facts;
mod events;
#[cfg(fuzzing)]
pub mod fuzzed_answers;
mod inventory;
mod links;
mod looking;
mod proof;
mod sizes;
mod transport;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bollard::{errors::Error, query_parameters::RemoveVolumeOptions};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tracing::Instrument;

use self::{
    answers::{cause, refused_removal, status},
    links::{Link, Links},
    proof::{Contact, Proves},
};
pub use self::{
    containers::{FoundVolume, SeenVolume, VolumeUser},
    daemon_facts::{Inspection, RemovalRefused, VolumeFacts},
    looking::Looking,
};
use crate::{
    cleanup::{Identity, Inventory, Removal, Volumes},
    config::Endpoint,
    failure::{Dependency, Failure},
    metrics, traces,
    volume_name::{VolumeName, VolumeNames},
};

/// For every call but a removal: long enough for a list of many thousand volumes on a busy disk.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// After this a removal is taken to be stuck. The daemon continues with it, if it ever can.
const LONGEST_REMOVAL: Duration = Duration::from_hours(1);
/// For the question whether the daemon is there at all, which it answers from memory.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// A removal whose kept connection turns out to be closed is sent again only if that shows so soon: later, the thread
/// may have been reopened, and the volume be a new one.
const AT_ONCE: Duration = Duration::from_millis(200);

/// One Docker daemon.
pub struct Docker {
    endpoint: Endpoint,
    /// How often a daemon that takes long for a removal is asked whether it is still there.
    ping_interval: Duration,
    /// What it is called, unless it is the only one.
    name: Option<String>,
    links: Links,
    pinned: RwLock<Option<Identity>>,
    contact: Contact,
    drivers: Mutex<BTreeSet<String>>,
    /// Of our volumes, when they were last measured, in bytes.
    sizes: Mutex<HashMap<String, u64>>,
}

impl Docker {
    /// A daemon at `endpoint`, not contacted yet. While it takes long for a removal, it is asked every `ping_interval`
    /// whether it is still there.
    #[must_use]
    pub fn new(endpoint: Endpoint, ping_interval: Duration) -> Self {
        Self {
            links: Links::new(endpoint.clone()),
            endpoint,
            ping_interval,
            name: None,
            pinned: RwLock::default(),
            contact: Contact::default(),
            drivers: Mutex::default(),
            sizes: Mutex::default(),
        }
    }

    /// Gives the daemon a name, for metrics.
    #[must_use]
    pub fn named(self, name: String) -> Self {
        Self { name: Some(name), ..self }
    }

    /// From now on `identity` is the daemon whose answers count.
    pub fn pin(&self, identity: Identity) {
        let mut pinned = self.pinned.write();
        if pinned.as_ref().is_some_and(|before| *before != identity) {
            // What was proven over these was another's identity.
            self.links.close_idle();
        }
        *pinned = Some(identity);
    }

    fn pinned(&self) -> Option<Identity> {
        self.pinned.read().clone()
    }

    fn link(&self) -> Result<Link<'_>, Failure> {
        self.links.take().map_err(|error| self.down(&cause(&error)))
    }

    fn down(&self, what: &str) -> Failure {
        Failure::unavailable(Dependency::Docker, format!("docker at {}: {what}", self.endpoint))
    }

    /// The failure that no answer came: who answers next may be another daemon.
    fn lost(&self, what: &str) -> Failure {
        self.contact.lost();
        self.down(what)
    }

    /// Makes a call that is not a removal. A call that takes too long means that the daemon is down.
    async fn call<R>(
        &self,
        operation: &'static str,
        limit: Duration,
        request: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Failure> {
        self.answered_within(operation, limit, request).await.map_err(|error| self.failed(operation, &error))
    }

    /// The answer to a request, which is counted and traced.
    async fn answered_within<R>(
        &self,
        operation: &'static str,
        limit: Duration,
        request: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Error> {
        let request = async { tokio::time::timeout(limit, request).await.unwrap_or(Err(Error::RequestTimeoutError)) };
        self.observed(operation, request).await
    }

    async fn observed<R>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Error> {
        let span = traces::docker(operation);
        let answer = request.instrument(span.clone()).await;
        let status = status(&answer);
        traces::answered(&span, &status);
        metrics::docker_request(self.name.as_deref(), operation, &status);
        answer
    }

    /// What to say of a call that is not a removal and has failed.
    fn failed(&self, operation: &str, error: &Error) -> Failure {
        if let Error::DockerResponseServerError { status_code, message } = error {
            Failure::transient(format!("docker at {}: {operation}: {status_code} {message}", self.endpoint))
        } else {
            self.lost(&format!("{operation}: {}", cause(error)))
        }
    }

    /// Makes a call that waits for the volume driver, which may be busy although the daemon is up.
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

    /// Waits for a removal, however long it takes, as long as the daemon answers anything else: it continues with it
    /// anyway, whether we wait or not.
    async fn while_it_answers<R>(&self, request: impl Future<Output = Result<R, Error>>) -> Result<R, Error> {
        let mut request = std::pin::pin!(request);
        let began = Instant::now();
        loop {
            match tokio::time::timeout(self.ping_interval, &mut request).await {
                Ok(answer) => return answer,
                Err(_) if began.elapsed() >= LONGEST_REMOVAL || self.ping().await.is_err() => {
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
        if self.ping().await.is_ok() {
            Failure::transient(format!("docker at {}: {what} takes longer than {limit}", self.endpoint))
        } else {
            self.lost(&format!("{what}: no answer within {limit}"))
        }
    }

    async fn ping(&self) -> Result<(), Failure> {
        let link = self.link()?;
        self.call("ping", PING_TIMEOUT, link.ping()).await.map(drop)
    }
}

impl AsRef<Docker> for Docker {
    fn as_ref(&self) -> &Docker {
        self
    }
}

impl Volumes for Docker {
    async fn remove_by(&self, volume: &VolumeName, latest: Option<Instant>) -> Result<Removal, Failure> {
        let link = self.link()?;
        let mut was_sent_before = false;
        loop {
            if !(link.is_proven() && self.is_certain()) {
                self.prove(&link, Proves::TheNext).await?;
            }
            if latest.is_some_and(|latest| latest < Instant::now()) {
                return Ok(Removal::NotSent);
            }
            let began = Instant::now();
            let request = link.remove_volume(volume.as_str(), None::<RemoveVolumeOptions>);
            let answer = self.observed("remove_volume", Box::pin(self.while_it_answers(request))).await;
            return match answer {
                Ok(()) => {
                    metrics::removal(self.name.as_deref(), began.elapsed());
                    Ok(Removal::Removed)
                }
                Err(Error::DockerResponseServerError { status_code, message }) => {
                    refused_removal(status_code, &message, volume, &self.endpoint)
                }
                Err(Error::RequestTimeoutError) => {
                    Err(self.timed_out(&format!("removing {volume}"), LONGEST_REMOVAL).await)
                }
                // The daemon, or what stands before it, had closed the connection. If it did what it was asked
                // nevertheless, it does not find the volume now.
                Err(_) if !was_sent_before && began.elapsed() < AT_ONCE => {
                    was_sent_before = true;
                    continue;
                }
                Err(other) => Err(self.lost(&cause(&other))),
            };
        }
    }

    async fn probe(&self) -> Result<(), Failure> {
        self.ping().await?;
        if self.is_in_doubt() {
            return self.prove(&self.link()?, Proves::TheNext).await.map(drop);
        }
        Ok(())
    }

    async fn has(&self, volume: &VolumeName) -> Result<bool, Failure> {
        Ok(self.look_for(&self.link()?, volume).await?.is_some())
    }

    async fn have(&self, volumes: &[VolumeName]) -> Vec<Result<bool, Failure>> {
        self.look_for_each(volumes).await.unwrap_or_else(|failure| vec![Err(failure); volumes.len()])
    }

    async fn inventory(&self, names: &VolumeNames) -> Result<Inventory, Failure> {
        self.look_at_all(names).await
    }

    fn daemon(&self) -> Option<String> {
        self.pinned().map(|identity| identity.as_str().to_owned())
    }

    fn take_size(&self, volume: &VolumeName) -> Option<u64> {
        self.sizes.lock().remove(volume.as_str())
    }
}
