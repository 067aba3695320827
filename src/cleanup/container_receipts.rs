//! The receipts of containers: kept from the moment that a container is gone until they are written, whatever becomes
//! of its volume meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::warn;

use super::{Cleaner, ContainerReceipt, Database, Origin, Volumes};

/// Receipts that can be kept while the database is down, some hundred bytes each. Without a database nothing is
/// removed, so that these are only of what was under way.
const MOST_UNWRITTEN: usize = 10_000;

/// What the removals of containers leave to be done once no row is locked.
#[derive(Debug, Default)]
pub(super) struct ContainerReceipts {
    unwritten: Mutex<Vec<ContainerReceipt>>,
    /// Acquired by who writes them.
    writing: tokio::sync::Mutex<()>,
    /// How many containers sweeps have removed.
    by_sweeps: AtomicU64,
    /// One stayed since the budget of an hour is used up.
    is_over_budget: AtomicBool,
}

impl ContainerReceipts {
    /// A container is gone.
    pub(super) fn add(&self, receipt: ContainerReceipt) {
        if receipt.origin == Origin::Sweep {
            self.by_sweeps.fetch_add(1, Ordering::Relaxed);
        }
        let mut unwritten = self.unwritten.lock();
        if unwritten.len() < MOST_UNWRITTEN {
            unwritten.push(receipt);
        }
    }

    /// A container stays, since the budget of an hour is used up.
    pub(super) fn over_budget(&self) {
        self.is_over_budget.store(true, Ordering::Relaxed);
    }
}

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// How many containers sweeps of this process have removed.
    pub fn containers_swept(&self) -> u64 {
        self.container_receipts.by_sweeps.load(Ordering::Relaxed)
    }

    /// Writes the receipts of the containers that are gone, and pauses removal if that is due. What can't be written
    /// now is written with the next batch or sweep. Not while rows are locked: on SQLite, that locks out the receipts
    /// too.
    pub async fn settle_containers(&self) {
        let receipts = &self.container_receipts;
        if receipts.is_over_budget.swap(false, Ordering::Relaxed)
            && let Err(error) = self.breaker.trip_hour(self.threads(), &self.context.hour).await
        {
            // The next removal finds the budget used up as well.
            warn!(%error, "removal can't be paused");
        }
        if receipts.unwritten.lock().is_empty() {
            return;
        }
        let _writing = receipts.writing.lock().await;
        let unwritten = receipts.unwritten.lock().clone();
        match self.threads().record_containers(&unwritten).await {
            Ok(()) => drop(receipts.unwritten.lock().drain(..unwritten.len())),
            Err(error) => {
                warn!(%error, receipts = unwritten.len(), "receipts of removed containers wait to be written");
            }
        }
    }
}
