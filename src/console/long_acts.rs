//! What the console does when it is told to, and may take longer than an answer: it goes on by itself, says how far it
//! is, can be stopped, and writes down how it ended.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::{
    Console,
    access::Person,
    bodies::{MessagesRequest, OrphansRequest, SweepRequest},
    operation::{self, Asking},
    problem::Problem,
};
use crate::{
    config::Role,
    operations::{
        how_far::HowFar,
        orphan_removal::{self, OrphansRemoved},
        parking::{self, Purged, Replayed},
        sweeping,
    },
    sweep::{PlannedList, SweepReport},
};

/// How long a browser waits for the end before its page says how far it is.
const PATIENCE_OF_PEOPLE: Duration = Duration::from_millis(700);

impl Console {
    /// How long is waited for the end of what goes on by itself.
    fn patience(&self, person: &Person) -> Duration {
        if person.via == "console" { PATIENCE_OF_PEOPLE } else { self.limit() }
    }

    /// Sweeps, beside the service's own sweeps, whichever replica makes them: every mark is guarded by itself.
    pub(super) async fn sweep(
        self: &Arc<Self>,
        person: &Person,
        asked: &SweepRequest,
    ) -> Result<Option<SweepReport>, Problem> {
        self.check_may(person, if asked.dry_run { Role::Viewer } else { Role::Operator })?;
        let (console, by, dry_run) = (Arc::clone(self), person.clone(), asked.dry_run);
        info!(actor = person.name, dry_run, "a sweep was asked for over HTTP");
        let planned = dry_run.then(PlannedList::default);
        let asking =
            Asking { what: if dry_run { "dry run" } else { "sweep" }, who: &person.name, planned: planned.clone() };
        let work = |how_far: HowFar| async move {
            let shown = how_far.clone();
            let show = move |total, of_hosts| {
                shown.begin(total);
                let follow = sweeping::follow(of_hosts, move |done| shown.advance_to(done));
                AbortOnDropHandle::new(tokio::spawn(follow))
            };
            let sweep = sweeping::sweep_listing(&console.config, &by.name, planned, how_far.stopping(), show);
            let swept = Box::pin(sweep).await;
            let done = swept.map_err(Problem::from);
            if dry_run {
                return done;
            }
            let report = done.as_ref().ok().and_then(|report| serde_json::to_value(report).ok()).unwrap_or_default();
            console.noted(&by, "sweep", None, report, done).await
        };
        let swept = self.operations.run(self.patience(person), asking, work, operation::swept).await?;
        swept.transpose()
    }

    pub(super) async fn replay(
        self: &Arc<Self>,
        person: &Person,
        asked: &MessagesRequest,
    ) -> Result<Option<Replayed>, Problem> {
        self.check_may(person, Role::Operator)?;
        let (filter, limit) = asked.selection()?;
        let (console, by, asked) = (Arc::clone(self), person.clone(), asked.clone());
        info!(actor = person.name, ?filter, "a replay of dead letters was asked for over HTTP");
        let work = |how_far| async move {
            let done = parking::replay_once(&console.config, filter, limit, asked.expected, how_far).await;
            console.parked.forget();
            let messages = done.as_ref().ok().map(|done| done.replayed);
            let details = asked.details(messages);
            console.noted(&by, "dead-letters replay", None, details, done.map_err(Problem::from)).await
        };
        let asking = Asking { what: "replay of dead letters", who: &person.name, planned: None };
        let replayed = self.operations.run(self.patience(person), asking, work, operation::replayed).await?;
        replayed.transpose()
    }

    pub(super) async fn purge(
        self: &Arc<Self>,
        person: &Person,
        asked: &MessagesRequest,
    ) -> Result<Option<Purged>, Problem> {
        self.check_may(person, Role::Admin)?;
        let (filter, limit) = asked.selection()?;
        let Some(expected) = asked.expected else {
            return Err(Problem::invalid("expected is missing: say how many messages are to be deleted"));
        };
        let (console, by, asked) = (Arc::clone(self), person.clone(), asked.clone());
        info!(actor = person.name, ?filter, expected, "a purge of dead letters was asked for over HTTP");
        let work = |how_far| async move {
            let done = parking::purge_once(&console.config, filter, limit, expected, how_far).await;
            console.parked.forget();
            let messages = done.as_ref().ok().map(|done| done.purged as u64);
            let details = asked.details(messages);
            console.noted(&by, "dead-letters purge", None, details, done.map_err(Problem::from)).await
        };
        let asking = Asking { what: "deletion of dead letters", who: &person.name, planned: None };
        let purged = self.operations.run(self.patience(person), asking, work, operation::purged).await?;
        purged.transpose()
    }

    /// Removes volumes without a thread, if they are as many as expected and those that were seen.
    pub(super) async fn remove_orphans(
        self: &Arc<Self>,
        person: &Person,
        asked: &OrphansRequest,
    ) -> Result<Option<OrphansRemoved>, Problem> {
        self.check_may(person, Role::Admin)?;
        let older_than = asked.age()?;
        let Some(expected) = asked.expected else {
            return Err(Problem::invalid("expected is missing: say how many volumes are to be removed"));
        };
        let (console, by, seen) = (Arc::clone(self), person.clone(), asked.seen.clone());
        info!(actor = person.name, ?older_than, expected, "a removal of orphans was asked for over HTTP");
        let work = |how_far| async move {
            let who = by.name.as_str();
            let expected_ones = (expected, seen.as_deref());
            let done = orphan_removal::remove_orphans(&console.config, who, older_than, expected_ones, &how_far).await;
            console.orphans.forget();
            let removed = done.as_ref().ok().map(|done| done.removed);
            let failed = done.as_ref().ok().map(|done| done.failed);
            let details = json!({
                "older_than_seconds": older_than.as_secs(), "selected": expected, "removed": removed, "failed": failed,
            });
            console.noted(&by, "orphans remove", None, details, done.map_err(Problem::from)).await
        };
        let asking = Asking { what: "removal of volumes without a thread", who: &person.name, planned: None };
        let removed = self.operations.run(self.patience(person), asking, work, operation::orphans_removed).await?;
        removed.transpose()
    }

    /// Ends what runs at this replica: what has begun is finished, nothing new is begun.
    pub(super) async fn stop_operation(&self, person: &Person) -> Result<(), Problem> {
        let running = self.operations.latest().filter(|operation| operation.ended.is_none());
        let Some(running) = running else {
            return Err(Problem::new(StatusCode::CONFLICT, "nothing runs that was asked for here"));
        };
        // Who may ask for a dry run may end one's own.
        let is_ones_own = running.planned.is_some() && running.who == person.name;
        self.check_may(person, if is_ones_own { Role::Viewer } else { Role::Operator })?;
        running.how_far.stop();
        self.noted(person, "stop", Some(running.what), Value::Null, Ok(())).await
    }

    /// Ends a sweep, whichever replica makes it: it hears of that within seconds.
    pub(super) async fn stop_sweep(&self, person: &Person, id: &str) -> Result<(), Problem> {
        self.check_may(person, Role::Operator)?;
        if uuid::Uuid::parse_str(id).is_err() {
            return Err(Problem::new(StatusCode::NOT_FOUND, "no sweep of the list is called so"));
        }
        let stopped = self.store_of(person).await?.stop_sweep(id, &person.name).await.map_err(Problem::from);
        let done = stopped.and_then(|is_running| {
            let over = || Problem::new(StatusCode::CONFLICT, "this sweep does not run any more");
            is_running.then_some(()).ok_or_else(over)
        });
        if done.is_ok() {
            info!(actor = person.name, sweep = id, "a sweep was stopped over HTTP");
        }
        self.noted(person, "stop sweep", Some(id), Value::Null, done).await
    }
}
