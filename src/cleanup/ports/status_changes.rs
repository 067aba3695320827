//! What events say of the status of threads, as far as anybody writes it down.

use chrono::{DateTime, Utc};

use crate::{failure::Failure, volume_name::ThreadId};

/// The status that an event claims its thread to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimedStatus {
    /// When the thread was closed, by the platform's clock, if the event says so.
    pub closed_at: Option<DateTime<Utc>>,
    /// When it was reopened, likewise.
    pub reopened_at: Option<DateTime<Utc>>,
    /// The time that is there and that we can't read, by its field's name.
    pub unreadable: Option<&'static str>,
    /// The event was published as that of a thread that was reopened.
    pub came_as_reopened: bool,
}

/// A change of a thread's status, of which the database knows only by an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusChange {
    /// It was closed.
    Closed {
        /// When, if the event says so.
        at: Option<DateTime<Utc>>,
    },
    /// It was reopened.
    Reopened {
        /// When.
        at: DateTime<Utc>,
    },
}

/// A threads table of our own.
pub trait StatusChanges: Send + Sync + 'static {
    /// Writes a change into the thread's row, which need not be there, unless the row knows something later. Of a close
    /// and a reopening at the same time, the reopening counts.
    fn record_change(
        &self,
        thread: &ThreadId,
        change: &StatusChange,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}
