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
    /// Containers use the volume; the row is as it was.
    Referenced {
        /// Ids of the containers, as far as the daemon named them.
        containers: Vec<String>,
    },
    /// Somebody else has locked the row: this thread alone comes again shortly. Nothing was asked of Docker.
    Busy,
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
    /// A person holds the thread; nothing was asked of Docker.
    Held,
    /// All removal is paused; nothing was asked of Docker.
    Paused,
    /// The volume is still being removed, for longer than its row stays locked. The row is marked when it is gone.
    Removing,
    /// This daemon does not have the volume, but another one may: nothing was marked.
    NotHere,
    /// Nothing was removed or marked, since that needs a host that is down or busy: its sweep cleans up.
    Deferred,
    /// The thread's row names another host; nothing was asked of this one.
    Elsewhere {
        /// That host.
        host: String,
    },
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
            Self::Busy => "busy",
            Self::Elsewhere { .. } => "elsewhere",
        }
    }
}

/// How a volume came to be gone: the `outcome` of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was there, and we removed it.
    Removed,
    /// It was proven absent.
    NotFound,
}

impl Gone {
    /// The name in receipts, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::NotFound => "not_found",
        }
    }

    /// The receipt's `outcome` as a value, if it is one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Removed, Self::NotFound].into_iter().find(|gone| gone.as_str() == text)
    }
}

impl From<Gone> for Outcome {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Removed => Self::Removed,
            Gone::NotFound => Self::NotFound,
        }
    }
}

/// Who asks for a clean-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An event; the id of its message, if it had one.
    Event(Option<String>),
    /// A sweep.
    Sweep,
    /// Docker: a container that used the volume ended.
    Docker,
    /// A person, about a volume without a thread.
    Orphan,
    /// A person, about the threads of a host that is gone.
    Retired,
}

impl Origin {
    /// The origin that a receipt's `source` and `event_id` name, if it is one of ours.
    #[must_use]
    pub fn parse(source: &str, event_id: Option<String>) -> Option<Self> {
        [Self::Event(event_id), Self::Sweep, Self::Docker, Self::Orphan, Self::Retired]
            .into_iter()
            .find(|origin| origin.as_str() == source)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_called_as_receipts_logs_and_metrics_have_always_called_them() {
        let due_never = Outcome::NotDue { due_at: None };
        let elsewhere = Outcome::Elsewhere { host: "a".to_owned() };
        for (outcome, name) in [
            (Outcome::Removed, "removed"),
            (Outcome::NotFound, "not_found"),
            (Outcome::Referenced { containers: vec![] }, "referenced"),
            (Outcome::AlreadyClean, "already_clean"),
            (Outcome::NotClosed, "not_closed"),
            (Outcome::UnknownThread, "unknown_thread"),
            (Outcome::Reopened, "reopened"),
            (due_never, "not_due"),
            (Outcome::Held, "held"),
            (Outcome::Paused, "paused"),
            (Outcome::Removing, "removing"),
            (Outcome::NotHere, "not_here"),
            (Outcome::Deferred, "deferred"),
            (Outcome::Busy, "busy"),
            (elsewhere, "elsewhere"),
        ] {
            assert_eq!(outcome.as_str(), name);
        }
        assert_eq!([Gone::Removed, Gone::NotFound].map(Gone::as_str), ["removed", "not_found"]);
    }
}
