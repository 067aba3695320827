//! The threads that are due, by pages, each with the list that shows what there is of their volumes.

use std::time::Duration;

use tokio::time::Instant;

use super::{PAGE_ROWS, Sweeper, deferred::Deferred, pages::Pages};
use crate::{
    cleanup::{Candidate, Database, Inventory, Volumes},
    failure::Failure,
};

/// How old a list may be when it is said to be what the daemon has: removals of the page before may take long.
const LIST_LASTS: Duration = Duration::from_secs(5);

/// Rows that are due, and a list that was asked for after they were read.
pub(super) struct DuePage {
    pub(super) rows: Vec<Candidate>,
    pub(super) inventory: Inventory,
    listed_at: Instant,
}

/// The pages of one sweep.
pub(super) struct DuePages<'a, V, T> {
    sweeper: &'a Sweeper<V, T>,
    rows: Pages<'a, T>,
    only_looks: bool,
    /// What is not due.
    pub(super) deferred: Deferred,
    /// How many rows were read.
    pub(super) read: u64,
}

impl<'a, V: Volumes, T: Database> DuePages<'a, V, T> {
    pub(super) fn new(sweeper: &'a Sweeper<V, T>, rows: Pages<'a, T>, only_looks: bool) -> Self {
        Self { sweeper, rows, only_looks, deferred: Deferred::default(), read: 0 }
    }

    /// The next page; none when there are no more rows, those included that were closed while pages were read.
    pub(super) async fn next(&mut self) -> Result<Option<DuePage>, Failure> {
        let (retention, clock) = (self.sweeper.cleaner.policy().retention, self.sweeper.cleaner.context.clock);
        let mut rows = Vec::new();
        while rows.len() < PAGE_ROWS {
            let Some(page) = self.rows.next().await? else { break };
            let found = page.len();
            self.read += found as u64;
            let mut due = self.deferred.take_from(page, retention, clock.now());
            self.sweeper.progress.advance(found - due.len());
            rows.append(&mut due);
        }
        if rows.is_empty() {
            return Ok(None);
        }
        // After the rows, never before: see the module's description.
        let listed_at = Instant::now();
        let inventory = self.sweeper.cleaner.inventory(self.only_looks).await?;
        Ok(Some(DuePage { rows, inventory, listed_at }))
    }

    /// A page with a list that is not old.
    pub(super) async fn listed_anew_if_old(&self, page: DuePage) -> Result<DuePage, Failure> {
        if page.listed_at.elapsed() <= LIST_LASTS {
            return Ok(page);
        }
        let listed_at = Instant::now();
        let inventory = self.sweeper.cleaner.inventory(self.only_looks).await?;
        Ok(DuePage { inventory, listed_at, ..page })
    }
}
