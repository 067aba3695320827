//! What is asked of the lists, and their pages.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    operations::{finding::Orphan, waiting_list::WaitsFor},
    store::{ListedHold, ListedReceipt, LoggedAct, LoggedSweep},
};

/// Which waiting threads.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ThreadsQuery {
    /// Only those that wait for this.
    #[param(inline)]
    pub(super) waits_for: Option<WaitsFor>,
    /// Only those whose row names this Docker host.
    pub(super) host: Option<String>,
    /// Only those that were closed longer ago, such as `2h`.
    pub(super) older_than: Option<String>,
    /// Only those whose id begins so.
    pub(super) prefix: Option<String>,
    /// At most so many; 100 if it is not given, 1000 at most.
    pub(super) limit: Option<usize>,
    /// What the page before called `next`.
    pub(super) after: Option<String>,
}

/// Which receipts.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct RemovalsQuery {
    /// Only those of this thread.
    pub(super) thread: Option<String>,
    /// Only those with this outcome, `removed` or `not_found`.
    pub(super) outcome: Option<String>,
    /// Only those of this Docker host.
    pub(super) host: Option<String>,
    /// Only those from then on.
    pub(super) since: Option<DateTime<Utc>>,
    /// Only those before then.
    pub(super) until: Option<DateTime<Utc>>,
    /// At most so many; 100 if it is not given, 1000 at most.
    pub(super) limit: Option<usize>,
    /// What the page before called `next`.
    pub(super) after: Option<String>,
}

/// Which messages.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadLettersQuery {
    /// Only those that were parked for this reason.
    pub(super) reason: Option<String>,
    /// Only those that failed alike: the `id` of their group.
    pub(super) group: Option<String>,
    /// Only those about this thread.
    pub(super) thread: Option<String>,
    /// Only those that were parked longer ago, such as `2h`.
    pub(super) older_than: Option<String>,
    /// Only those that were parked more recently, such as `1d`.
    pub(super) newer_than: Option<String>,
    /// At most so many; 100 if it is not given, 1000 at most.
    pub(super) limit: Option<usize>,
    /// What the page before called `next`.
    pub(super) after: Option<String>,
}

/// Which volumes without a thread.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct OrphansQuery {
    /// Only those that nothing uses, and that were created longer ago, such as `30d`.
    pub(super) older_than: Option<String>,
    /// At most so many; 100 if it is not given, 1000 at most.
    pub(super) limit: Option<usize>,
    /// What the page before called `next`.
    pub(super) after: Option<String>,
}

/// Which part of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// At most so many; 100 if it is not given, 1000 at most.
    pub(super) limit: Option<usize>,
    /// What the page before called `next`.
    pub(super) after: Option<String>,
}

/// A page of receipts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RemovalsPage {
    /// The latest first.
    pub(super) removals: Vec<ListedReceipt>,
    /// Where the next page begins, if there may be one. A page can be short, or empty, and have a next one: what a
    /// filter leaves out is looked through a piece at a time.
    pub(super) next: Option<String>,
}

/// A page of holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct HoldsPage {
    /// By their threads' ids; those that have ended by themselves included, until they are released.
    pub(super) holds: Vec<ListedHold>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

/// A page of volumes without a thread.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct OrphansPage {
    /// How many volumes bear our prefix, threads or not.
    pub(super) volumes: usize,
    /// How many of them are somebody else's: no thread can have such an id.
    pub(super) foreign: usize,
    /// How many of those without a thread are meant.
    pub(super) matching: usize,
    /// Names exactly those, for who has them removed.
    pub(super) seen: String,
    /// Those without a thread, by host, the oldest first.
    pub(super) orphans: Vec<Orphan>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

/// What is counted.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct StatsQuery {
    /// How finely: `minute`, `hour` or `day`; by the hour if it is not given.
    pub(super) by: Option<String>,
    /// From then on; a day ago if it is not given.
    pub(super) since: Option<DateTime<Utc>>,
}

/// A page of sweeps.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct SweepsPage {
    /// The latest first.
    pub(super) sweeps: Vec<LoggedSweep>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

/// A page of what people did.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ActionsPage {
    /// The latest first.
    pub(super) actions: Vec<LoggedAct>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}
