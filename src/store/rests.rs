//! Time in which a file that has one lock for everybody is left to others.
//!
//! Who finds SQLite's file locked asks again 1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50 milliseconds later, and then every
//! 100 ms (`sqliteDefaultBusyCallback` in its `main.c`). A rest that lasts from one question to the next is never
//! missed, however many transactions of ours follow each other. A shorter one is found by chance.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, sleep_until},
};

/// After so much work there is a rest: who has waited for all of it asks every 25 ms, and does so until 128 ms.
const LONGEST_WORK: Duration = Duration::from_millis(100);
/// What is shorter is no rest.
const SHORTEST_REST: Duration = Duration::from_millis(10);
/// A rest makes up for so many times as much work.
const WORK_FOR_REST: u32 = 4;

/// When our transactions take the lock, one after the other.
#[derive(Debug)]
pub(super) struct Rests {
    stretch: Arc<Mutex<Stretch>>,
}

/// Work since the last rest.
#[derive(Debug)]
struct Stretch {
    work: Duration,
    free_since: Instant,
}

/// The time in which one transaction has the lock: until this is dropped.
#[derive(Debug)]
pub(super) struct Work {
    stretch: OwnedMutexGuard<Stretch>,
    began: Instant,
}

impl Default for Rests {
    fn default() -> Self {
        Self { stretch: Arc::new(Mutex::new(Stretch { work: Duration::ZERO, free_since: Instant::now() })) }
    }
}

impl Rests {
    /// The next transaction's turn, after a rest if it is time for one.
    pub(super) async fn work(&self) -> Work {
        let mut stretch = Arc::clone(&self.stretch).lock_owned().await;
        // Not even a moment otherwise: a sleep takes what is left of a millisecond.
        if stretch.work >= LONGEST_WORK {
            sleep_until(stretch.free_since + rest_after(stretch.work)).await;
        }
        let rest = stretch.free_since.elapsed();
        if rest >= SHORTEST_REST {
            stretch.work = stretch.work.saturating_sub(rest * WORK_FOR_REST);
        }
        Work { stretch, began: Instant::now() }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.stretch.free_since = Instant::now();
        self.stretch.work += self.began.elapsed();
    }
}

/// The time between two questions of somebody who has waited for so long.
fn rest_after(work: Duration) -> Duration {
    Duration::from_millis(match work.as_millis() {
        ..128 => 25,
        128..228 => 50,
        228.. => 100,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Transactions of `each`, one after the other with `idle` between them: the rests that they were made to take.
    async fn rests(count: u32, each: u64, idle: u64) -> Vec<u128> {
        let (rests, mut taken) = (Rests::default(), Vec::new());
        for _ in 0..count {
            let asked = Instant::now();
            let work = rests.work().await;
            taken.push(asked.elapsed().as_millis());
            tokio::time::sleep(Duration::from_millis(each)).await;
            drop(work);
            tokio::time::sleep(Duration::from_millis(idle)).await;
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn work_without_an_idle_moment_rests_as_long_as_is_needed_to_be_found_free() {
        assert_eq!(rests(9, 25, 0).await, [0, 0, 0, 0, 25, 0, 0, 0, 25]);
        assert_eq!(rests(3, 150, 0).await, [0, 50, 50]);
        assert_eq!(rests(3, 400, 0).await, [0, 100, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_file_alone_for_long_enough_by_himself_rests_no_more() {
        assert_eq!(rests(50, 40, 10).await, [0; 50]);
        assert_eq!(rests(9, 25, 5).await, [0, 0, 0, 0, 20, 0, 0, 0, 20], "moments are no rest");
        assert_eq!(rests(3, 110, 20).await, [0, 5, 5], "what was idle already is part of the rest");
    }

    #[tokio::test(start_paused = true)]
    async fn one_has_the_lock_at_a_time_and_the_next_rests_for_all_that_wait() {
        let rests = Rests::default();
        let began = Instant::now();
        let work = async |each: u64| {
            let work = rests.work().await;
            tokio::time::sleep(Duration::from_millis(each)).await;
            drop(work);
            began.elapsed().as_millis()
        };
        assert_eq!(tokio::join!(work(60), work(60), work(10), work(10)), (60, 120, 155, 165));
    }
}
