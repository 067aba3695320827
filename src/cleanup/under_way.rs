//! Removals that were sent, and go on by themselves when their batch no longer waits for them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::task::{JoinError, JoinHandle};

use super::{
    Database, Volumes,
    batch::{Job, Removed},
    cleaner::Cleaner,
};
use crate::{failure::Failure, metrics};

/// The removals of a thread that were sent, and whose end their batch waits for.
pub(super) struct UnderWay {
    job: Option<Job>,
    removal: JoinHandle<Vec<Removed>>,
}

impl Future for UnderWay {
    type Output = (Job, Vec<Removed>);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let joined = ready!(Pin::new(&mut this.removal).poll(context));
        let mut job = this.job.take().expect("a removal ends once");
        job.took = Some(job.began.elapsed());
        Poll::Ready((job, joined.unwrap_or_else(cut_off)))
    }
}

impl UnderWay {
    pub(super) fn new(job: Job, removal: JoinHandle<Vec<Removed>>) -> Self {
        Self { job: Some(job), removal }
    }

    /// Lets the removals continue by themselves.
    pub(super) fn detach<V: Volumes, T: Database>(mut self, cleaner: &Arc<Cleaner<V, T>>) {
        let Some(job) = self.job.take() else { return };
        let thread = job.request.thread.clone();
        cleaner.detached.lock().insert(thread.clone());
        if !cleaner.context.limits.locking.limit.is_zero() {
            metrics::lock_given_up();
        }
        let cleaner = Arc::clone(cleaner);
        let tasks = cleaner.context.tasks.clone();
        let removal = self.removal;
        let removed = async move { removal.await.unwrap_or_else(cut_off) };
        tasks.spawn(cleaner.finish_detached(job, removed));
    }
}

fn cut_off(error: JoinError) -> Vec<Removed> {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => vec![Err(Failure::transient(format!("the clean-up was cut off: {error}")))],
    }
}
