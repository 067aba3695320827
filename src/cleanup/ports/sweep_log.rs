//! The list of sweeps, as they write it.

use crate::failure::Failure;

/// Why a sweep began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its time had come, by the interval or because something was to be looked at at once.
    Schedule,
    /// A person asked for it.
    Person,
}

impl Cause {
    /// The name in the list.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Person => "person",
        }
    }
}

/// What a sweep came to.
#[derive(Clone, Debug)]
pub struct SweepEnd {
    /// Its report, as JSON.
    pub report: String,
    /// Why it was not done, or not to its end.
    pub skipped_reason: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// The list of sweeps. Who keeps none leaves both as they are.
pub trait SweepLog: Send + Sync + 'static {
    /// Writes that a sweep of this host begins, or of what is on none of several. Returns its id in the list.
    fn sweep_began(
        &self,
        _host: Option<&str>,
        _cause: Cause,
    ) -> impl Future<Output = Result<Option<String>, Failure>> + Send {
        async { Ok(None) }
    }

    /// Writes what it came to.
    fn sweep_ended(&self, _id: &str, _end: SweepEnd) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Why the sweep that runs under this id is to end, if a person said so.
    fn sweep_stopped(&self, _id: &str) -> impl Future<Output = Result<Option<String>, Failure>> + Send {
        async { Ok(None) }
    }
}
