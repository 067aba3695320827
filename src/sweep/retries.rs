//! What a sweep tries again.

use chrono::{DateTime, Utc};

use crate::volume_name::ThreadId;

/// Threads that one sweep tries again at most, those that wait longest first.
const MAX_RETRIES: usize = 10_000;

/// Threads to be tried again at the end of a sweep, by the time from which they could have been.
#[derive(Default)]
pub(super) struct Retries(Vec<(DateTime<Utc>, ThreadId)>);

impl Retries {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ThreadId> {
        self.0.iter().map(|(_, thread)| thread)
    }

    /// The threads, those that wait longest first.
    pub(super) fn threads(self) -> Vec<ThreadId> {
        self.0.into_iter().map(|(_, thread)| thread).collect()
    }

    /// Adds threads and returns how many are too many.
    pub(super) fn add(&mut self, due: Vec<(DateTime<Utc>, ThreadId)>) -> usize {
        self.0.extend(due);
        self.0.sort_unstable();
        let too_many = self.0.len().saturating_sub(MAX_RETRIES);
        self.0.truncate(MAX_RETRIES);
        too_many
    }
}
