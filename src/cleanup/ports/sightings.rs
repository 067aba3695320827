//! What was seen of a host's volumes, as the clean-up needs it.

use chrono::{DateTime, Utc};

use crate::{failure::Failure, host::Host};

/// What the latest sweep that was believed found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// How many volumes of ours.
    pub volumes: u64,
    /// When they were asked for.
    pub at: DateTime<Utc>,
}

/// What is known of a host's volumes from before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The latest sweep that was believed; none on the first day, and after a person has resumed removal.
    pub latest: Option<Sighting>,
    /// Why the host is doubted, until a person resumes removal.
    pub doubt: Option<String>,
}

/// What was seen of the hosts.
pub trait Sightings: Send + Sync + 'static {
    /// What is known of this host's volumes from before.
    fn seen(&self, host: &Host) -> impl Future<Output = Result<Seen, Failure>> + Send;

    /// Remembers what a sweep found that is believed.
    fn saw(&self, host: &Host, sighting: &Sighting) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Pauses removal on this host, and all marks by its lists. Whether this call did it.
    fn doubt(&self, host: &Host, reason: &str) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Counts the volumes that were removed from this host since, and those of which it is not known from where.
    fn removed_since(&self, host: &Host, since: DateTime<Utc>) -> impl Future<Output = Result<u64, Failure>> + Send;
}
