//! What a clean-up comes to, and who asks for it.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// What a clean-up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The volume was removed and the row is marked.
    Removed,
    /// The volume was proven absent and the row is marked.
    NotFound,
    /// The volume is held; the row is as it was.
    Referenced {
        /// Ids of the containers, as far as the daemon named them.
        holders: Vec<String>,
    },
    /// The row was marked before, or somebody else marked it in this moment.
    AlreadyClean,
    /// The thread is not closed; nothing was asked of Docker.
    NotClosed,
    /// There is no such thread; nothing was asked of Docker.
    UnknownThread,
    /// The thread was reopened, between the removal and the mark or by this event; the row is not marked.
    Reopened,
    /// The retention after the close is not over; nothing was asked of Docker.
    NotDue {
        /// When it will be; `None` if the row does not say when the thread was closed.
        due_at: Option<DateTime<Utc>>,
    },
    /// Somebody holds the thread; nothing was asked of Docker.
    Held,
    /// All removal is paused; nothing was asked of Docker.
    Paused,
    /// The volume is still being removed, for longer than a caller waits. The row is marked when it is gone.
    Removing,
    /// This daemon does not have the volume, but another one may: nothing was marked.
    NotHere,
    /// Nothing was removed or marked, since that needs a host that is down or busy: its sweep takes care of it.
    Deferred,
}

impl Outcome {
    /// The name in receipts, logs and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::NotFound => "not_found",
            Self::Referenced { .. } => "referenced",
            Self::AlreadyClean => "already_clean",
            Self::NotClosed => "not_closed",
            Self::UnknownThread => "unknown_thread",
            Self::Reopened => "reopened",
            Self::NotDue { .. } => "not_due",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::Removing => "removing",
            Self::NotHere => "not_here",
            Self::Deferred => "deferred",
        }
    }
}

/// Who asks for a clean-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An event; the id of its message, if it had one.
    Event(Option<String>),
    /// A pass of the reconciler.
    Sweep,
    /// Docker: a container that held the volume ended.
    Docker,
    /// A person, about a volume without a thread.
    Orphan,
    /// A person, about the threads of a host that is gone.
    Retired,
}

impl Origin {
    /// The name in receipts and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Event(_) => "event",
            Self::Sweep => "sweep",
            Self::Docker => "docker",
            Self::Orphan => "orphan",
            Self::Retired => "retired",
        }
    }
}
