//! What may take longer than an answer: a sweep, a walk through the dead letters, a removal of orphans. One
//! at a time; the latest one is remembered, so that whoever comes back finds out how it ended.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::problem::Problem;
use crate::{
    operations::{
        how_far::HowFar,
        orphan_removal::OrphansRemoved,
        parking::{Purged, Replayed},
    },
    sweep::{PlannedList, SweepReport},
    terminal::amount_of,
};

/// Something that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// What it is, such as `dry run`.
    pub(super) what: &'static str,
    /// Who asked for it.
    pub(super) who: String,
    pub(super) began_at: DateTime<Utc>,
    /// When it ended, and how; none while it runs.
    pub(super) ended: Option<(DateTime<Utc>, String)>,
    pub(super) how_far: HowFar,
    /// What a dry run would do.
    pub(super) planned: Option<PlannedList>,
}

/// What is asked for, and by whom.
pub(super) struct Asking<'a> {
    pub(super) what: &'static str,
    pub(super) who: &'a str,
    pub(super) planned: Option<PlannedList>,
}

/// What was asked for at this replica.
#[derive(Default)]
pub(super) struct Operations {
    turn: Arc<tokio::sync::Mutex<()>>,
    latest: Arc<Mutex<Option<Operation>>>,
    tasks: TaskTracker,
}

impl Operations {
    /// The latest one.
    pub(super) fn latest(&self) -> Option<Operation> {
        let is_over = self.turn.try_lock().is_ok();
        let mut latest = self.latest.lock().clone()?;
        if is_over && latest.ended.is_none() {
            latest.ended = Some((latest.began_at, "it ended without a result: the log says why".to_owned()));
        }
        Some(latest)
    }

    /// Does it, and says in words how it ended. Nothing if it is not done after `limit`; it goes on by itself.
    pub(super) async fn run<T, W>(
        &self,
        limit: Duration,
        asking: Asking<'_>,
        work: impl FnOnce(HowFar) -> W,
        in_words: fn(&T) -> String,
    ) -> Result<Option<T>, Problem>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            let detail = "something else that was asked for here is not done yet: see how far it is, or stop it";
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        };
        let Asking { what, who, planned } = asking;
        let how_far = HowFar::default();
        let (began_at, ended) = (Utc::now(), None);
        let began = Operation { what, who: who.to_owned(), began_at, ended, how_far: how_far.clone(), planned };
        *self.latest.lock() = Some(began.clone());
        let latest = Arc::clone(&self.latest);
        let working = work(how_far);
        let task = self.tasks.spawn(async move {
            let done = working.await;
            *latest.lock() = Some(Operation { ended: Some((Utc::now(), in_words(&done))), ..began });
            drop(turn);
            done
        });
        match tokio::time::timeout(limit, task).await {
            Ok(Ok(done)) => Ok(Some(done)),
            Ok(Err(error)) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
            Err(_) => Ok(None),
        }
    }
}

/// How a sweep ended.
pub(super) fn swept(done: &Result<SweepReport, Problem>) -> String {
    told(done, sweep_in_words)
}

/// How a replay ended.
pub(super) fn replayed(done: &Result<Replayed, Problem>) -> String {
    told(done, |done| match done.no_event {
        0 => format!("{} messages were published again", done.replayed),
        left => format!("{} messages were published again; {left} are no event and were left", done.replayed),
    })
}

/// How a purge ended.
pub(super) fn purged(done: &Result<Purged, Problem>) -> String {
    told(done, |done| format!("{} messages were deleted", done.purged))
}

/// How the removal of volumes without a thread ended.
pub(super) fn orphans_removed(done: &Result<OrphansRemoved, Problem>) -> String {
    told(done, |OrphansRemoved { removed, kept, failed }| {
        let others = [(kept, "kept, since things changed"), (failed, "not removed, which the log explains")];
        let others = others.iter().filter(|(count, _)| **count > 0).map(|(count, what)| format!("{count} {what}"));
        [format!("{removed} volumes were removed")].into_iter().chain(others).collect::<Vec<_>>().join("; ")
    })
}

fn told<R>(done: &Result<R, Problem>, in_words: impl Fn(&R) -> String) -> String {
    done.as_ref().map_or_else(|problem| format!("it was not done: {}", problem.detail), in_words)
}

/// What a sweep did, or would do; only what is not nothing.
pub(super) fn sweep_in_words(report: &SweepReport) -> String {
    let [removed, marked] = if report.dry_run {
        ["would be removed", "would be marked, since their volume is absent"]
    } else {
        ["removed", "marked, since their volume was absent"]
    };
    let size = amount_of(report.removed, report.bytes, report.unsized_volumes);
    let removed = format!("{removed}{size}");
    let counts = [
        (report.removed, removed.as_str()),
        (report.not_found, marked),
        (report.containers_removed, "exited containers first"),
        (report.referenced, "used by containers"),
        (report.held, "held"),
        (report.not_due, "within their retention"),
        (report.paused, "left, since removal is paused"),
        (report.removing, "still being removed"),
        (report.cooling_down, "to be tried later"),
        (report.failed, "failed"),
        (report.drift, "marks withdrawn, since the volume was there"),
        (report.orphans, "volumes without a thread"),
        (report.misplaced, "volumes on another host than their row says"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let mut words: Vec<_> = [format!("looked at {}", report.candidates)].into_iter().chain(counts).collect();
    words.extend(report.skipped_reason.as_ref().map(|why| format!("not to its end: {why}")));
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_than_an_answer_goes_on_alone_and_is_told_later() {
        let operations = Operations::default();
        let (finish, finished) = tokio::sync::oneshot::channel::<u32>();
        let limit = Duration::from_secs(1);
        let number = |number: &Result<u32, _>| format!("{}", number.clone().unwrap_or_default());
        let asking = |what, who| Asking { what, who, planned: None };
        let work = |how_far: HowFar| {
            how_far.begin(9);
            finished
        };
        let begun = operations.run(limit, asking("a sweep", "ann"), work, number).await;
        assert!(begun.expect("it began").is_none());
        let running = operations.latest().expect("one");
        assert_eq!((running.what, running.who.as_str(), running.ended.is_none()), ("a sweep", "ann", true));
        assert_eq!(running.how_far.counts(), Some((0, 9)));
        let refused = operations.run(limit, asking("a purge", "bob"), |_| async {}, |()| String::new()).await;
        assert_eq!(refused.expect_err("one at a time").code(), StatusCode::CONFLICT);
        finish.send(7).expect("it listens");
        operations.tasks.close();
        operations.tasks.wait().await;
        let ended = operations.latest().expect("one").ended.expect("it ended");
        assert_eq!(ended.1, "7");
    }

    #[test]
    fn a_sweep_is_told_without_what_did_not_happen() {
        let report = SweepReport { candidates: 9, removed: 5, referenced: 4, dry_run: true, ..SweepReport::default() };
        assert_eq!(sweep_in_words(&report), "looked at 9; 5 would be removed; 4 used by containers");
    }
}
