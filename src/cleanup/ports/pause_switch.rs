//! The pause of removal, as the clean-up needs it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::failure::Failure;

/// A pause of all removal, or of that on one host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Pause {
    /// Since when.
    pub paused_at: DateTime<Utc>,
    /// Why, for people.
    pub reason: String,
    /// The replica that did it.
    pub paused_by: String,
}

/// The pauses.
pub trait Pauses: Send + Sync + 'static {
    /// The pause of all removal, or else that of removal on this host, if there is one.
    fn pause(&self, host: Option<&str>) -> impl Future<Output = Result<Option<Pause>, Failure>> + Send;

    /// Pauses removal on this host, or all, unless that is paused already. Whether this call did it.
    fn pause_removal(&self, host: Option<&str>, reason: &str) -> impl Future<Output = Result<bool, Failure>> + Send;
}
