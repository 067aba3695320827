//! What can be asked for in a body, and by whom at least.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{answer, problem::Problem, reading::message_filter};
use crate::{config::Role, delivery::dead_letter::Filter, volume_name::ThreadId};

/// A hold.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldRequest {
    /// Why, for whoever finds the volume.
    pub(super) reason: String,
    /// When it ends by itself: a time, or a duration from now, such as `7d`. Without it, when it is released.
    pub(super) until: Option<String>,
}

/// A pause.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseRequest {
    /// Why, for whoever finds the volumes.
    pub(super) reason: String,
    /// Only on this Docker host.
    pub(super) host: Option<String>,
}

/// The end of a pause.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ResumeRequest {
    /// Only on this Docker host; without it, everywhere and on each.
    pub(super) host: Option<String>,
}

/// A sweep.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SweepRequest {
    /// Only say what would be done.
    pub(super) dry_run: bool,
}

/// Messages of the dead-letter queue: those for which all that is given is true.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MessagesRequest {
    /// That were parked for this reason.
    pub(super) reason: Option<String>,
    /// That failed alike: the `id` of their group.
    pub(super) group: Option<String>,
    /// About this thread.
    pub(super) thread: Option<String>,
    /// That were parked longer ago, such as `2h`.
    pub(super) older_than: Option<String>,
    /// That were parked more recently, such as `1d`.
    pub(super) newer_than: Option<String>,
    /// At most so many of them.
    pub(super) limit: Option<u64>,
    /// How many they are taken to be: if they are not, nothing is done. To delete, it has to be said.
    pub(super) expected: Option<u64>,
}

/// Volumes without a thread that nothing uses.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OrphansRequest {
    /// That were created longer ago, such as `30d`.
    pub(super) older_than: Option<String>,
    /// How many they are taken to be: if they are not, nothing is done. It has to be said.
    pub(super) expected: Option<u64>,
    /// What the list called `seen`: if they are others, nothing is done.
    pub(super) seen: Option<String>,
}

/// What runs is to end.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct StopRequested {
    /// Always true: it ends as soon as what has begun is finished.
    pub(super) stopping: bool,
}

/// An event was published for a thread.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct CleanRequested {
    /// The thread.
    pub(super) thread_id: ThreadId,
    /// Always true: the broker has the event.
    pub(super) published: bool,
}

/// It takes longer than an answer may, and goes on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct GoesOn {
    /// Always true.
    pub(super) running: bool,
}

/// What is asked for in a body, and by whom at least.
pub(super) trait Request: DeserializeOwned {
    const ROLE: Role;
}

impl Request for HoldRequest {
    const ROLE: Role = Role::Operator;
}

impl Request for PauseRequest {
    const ROLE: Role = Role::Operator;
}

impl Request for ResumeRequest {
    const ROLE: Role = Role::Operator;
}

impl Request for SweepRequest {
    /// To do it takes more than to say what would be done.
    const ROLE: Role = Role::Viewer;
}

impl Request for MessagesRequest {
    /// To delete takes more than to replay.
    const ROLE: Role = Role::Operator;
}

impl Request for OrphansRequest {
    const ROLE: Role = Role::Admin;
}

impl OrphansRequest {
    /// How old they are at least.
    pub(super) fn age(&self) -> Result<Duration, Problem> {
        let given = answer::duration("older_than", self.older_than.as_deref())?;
        given.ok_or_else(|| Problem::invalid("older_than is missing: say how old the volumes are at least, as in 30d"))
    }
}

impl MessagesRequest {
    /// What was selected, and how many messages that came to.
    pub(super) fn details(&self, messages: Option<u64>) -> Value {
        let Self { reason, group, thread, older_than, newer_than, limit, .. } = self;
        json!({
            "reason": reason,
            "group": group,
            "thread": thread,
            "older_than": older_than,
            "newer_than": newer_than,
            "limit": limit,
            "messages": messages,
        })
    }

    pub(super) fn selection(&self) -> Result<(Filter, u64), Problem> {
        if self.limit.is_some_and(|limit| limit == 0 || i64::try_from(limit).is_err()) {
            return Err(Problem::invalid("limit must be at least 1, and below 2^63"));
        }
        let Self { reason, group, thread, older_than, newer_than, .. } = self;
        let [reason, group, thread] = [reason, group, thread].map(Option::as_deref);
        let filter = message_filter((reason, group), thread, older_than.as_deref(), newer_than.as_deref())?;
        Ok((filter, self.limit.unwrap_or(u64::MAX)))
    }
}
