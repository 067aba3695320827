//! The threads that a sweep finds closed and unmarked, and leaves alone: held, or not due yet.

use chrono::Utc;

use super::Report;
use crate::{
    cleanup::{Candidate, Policy, retention::Due},
    volume_name::ThreadId,
};

/// Held and not due threads that are looked up in the list of the last step. More are only counted; their memory has to
/// be bounded, and whatever is left is seen when it is due.
const MAX_DEFERRED: usize = 100_000;

/// Closed and unmarked threads that are not to be cleaned now, as a sweep found them.
#[derive(Default)]
pub(super) struct Deferred {
    /// As many as may be kept in memory, with the rows that they were read from.
    pub(super) threads: Vec<(ThreadId, Candidate)>,
}

impl Deferred {
    /// Takes up what has to wait, and leaves what is due.
    pub(super) fn take_from(&mut self, page: Vec<Candidate>, policy: &Policy, report: &mut Report) -> Vec<Candidate> {
        let now = Utc::now();
        let mut due = Vec::new();
        for candidate in page {
            match (candidate.held, policy.retention.due(candidate.closed_at, now)) {
                (false, Due::Now) => {
                    due.push(candidate);
                    continue;
                }
                (true, Due::Now | Due::At(_) | Due::Never) => report.held += 1,
                (false, Due::At(_) | Due::Never) => report.not_due += 1,
            }
            if let Ok(thread) = ThreadId::parse(&candidate.id)
                && self.threads.len() < MAX_DEFERRED
            {
                self.threads.push((thread, candidate));
            }
        }
        due
    }
}
