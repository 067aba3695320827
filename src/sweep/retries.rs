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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_longest_come_first_and_what_is_too_many_is_said() {
        let due = |numbers: std::ops::Range<usize>| {
            let thread = |number: usize| ThreadId::parse(&format!("t{number}")).expect("valid");
            let since = |number: usize| DateTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            numbers.map(|number| (since(number), thread(number))).collect::<Vec<_>>()
        };
        let mut retries = Retries::default();
        assert_eq!((retries.len(), retries.add(due(5..MAX_RETRIES)), retries.len()), (0, 0, MAX_RETRIES - 5));
        assert_eq!(retries.add(due(0..12)), 7);
        let listed: Vec<_> = retries.iter().take(6).map(ToString::to_string).collect();
        assert_eq!(listed, ["t0", "t1", "t2", "t3", "t4", "t5"]);
        let threads = retries.threads();
        assert_eq!((threads.len(), threads[0].as_str()), (MAX_RETRIES, "t0"));
    }
}
