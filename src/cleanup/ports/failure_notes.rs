//! The failed clean-ups, as the clean-up needs them.

use std::collections::HashMap;

use super::super::failing::FailedCleanup;
use crate::{failure::Failure, volume_name::ThreadId};

/// The failed clean-ups.
pub trait Failures: Send + Sync + 'static {
    /// Notes that a clean-up failed, so that sweeps leave the thread alone for a while.
    fn note_failure(&self, thread: &ThreadId, error: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Of these threads, those whose clean-up failed.
    fn failed(
        &self,
        threads: &[ThreadId],
    ) -> impl Future<Output = Result<HashMap<ThreadId, FailedCleanup>, Failure>> + Send;

    /// Forgets the failures of threads that are no longer closed and unmarked.
    fn forget_failures(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}
