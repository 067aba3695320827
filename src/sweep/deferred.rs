//! The threads that a sweep finds closed and unmarked, and leaves alone: held, or not due yet.

use chrono::Utc;

use crate::{
    cleanup::{
        Candidate,
        retention::{Due, Retention},
    },
    volume_name::ThreadId,
};

/// Held and not due threads that are looked up in the list of the last step. More are only counted; their memory has to
/// be bounded, and whatever is left is seen when it is due.
const MAX_DEFERRED: usize = 100_000;

/// Closed and unmarked threads that are not to be cleaned now, as a sweep found them.
#[derive(Default)]
pub(super) struct Deferred {
    /// As many as may be kept in memory.
    pub(super) rows: Vec<Candidate>,
    pub(super) held: u64,
    pub(super) not_due: u64,
}

impl Deferred {
    /// Takes up what has to wait, and leaves what is due.
    pub(super) fn take_from(&mut self, page: Vec<Candidate>, retention: Retention) -> Vec<Candidate> {
        let now = Utc::now();
        let mut due = Vec::new();
        for candidate in page {
            match (candidate.held, retention.due(candidate.close.at, now)) {
                (false, Due::Now) => {
                    due.push(candidate);
                    continue;
                }
                (true, Due::Now | Due::At(_) | Due::Never) => self.held += 1,
                (false, Due::At(_) | Due::Never) => self.not_due += 1,
            }
            if self.rows.len() < MAX_DEFERRED && ThreadId::parse(&candidate.id).is_ok() {
                self.rows.push(candidate);
            }
        }
        due
    }
}
