//! What the console does when it is told to. Who may is said first, then it is done as the commands do it, then it is
//! logged with who did it.

use std::sync::Arc;

use axum::http::StatusCode;
use chrono::Utc;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Console, OVER_HTTP,
    access::Person,
    bodies::{CleanRequested, HoldRequest, MessagesRequest, PauseRequest, ResumeRequest, SweepRequest},
    operation,
    problem::Problem,
};
use crate::{
    config::{Role, UnknownThreads},
    delivery::event::ThreadEvent,
    failure::Failure,
    operations::{
        holding::{self, HoldReleased, HoldSet},
        parking::{self, Purged, Replayed},
        pausing::{self, PauseSet, Resumed},
        sweeping,
    },
    queue::{Publisher, Queues},
    store::Act,
    sweep::SweepReport,
    volume_name::ThreadId,
};

impl Console {
    /// Fails unless they may what this role may, and there is anything to change.
    pub(super) fn check_may(&self, person: &Person, role: Role) -> Result<(), Problem> {
        person.require(role)?;
        if self.only_looks {
            return Err(Problem::forbidden("this is a dry run, which changes nothing"));
        }
        Ok(())
    }

    pub(super) async fn hold(&self, person: &Person, id: &ThreadId, asked: &HoldRequest) -> Result<HoldSet, Problem> {
        self.check_may(person, Role::Operator)?;
        let until = asked.until.as_deref().filter(|until| !until.is_empty());
        let done = holding::hold(&self.store_of(person).await?, id, &asked.reason, until).await;
        let details = json!({ "reason": asked.reason, "until": until });
        let held = self.noted(person, "hold", Some(id.as_str()), details, done.map_err(Problem::from)).await?;
        info!(actor = person.name, thread.id = %id, reason = asked.reason, "held over HTTP");
        Ok(held)
    }

    pub(super) async fn release(&self, person: &Person, id: &ThreadId) -> Result<HoldReleased, Problem> {
        self.check_may(person, Role::Operator)?;
        let done = holding::release(&self.store_of(person).await?, id).await.map_err(Problem::from);
        let released = self.noted(person, "release", Some(id.as_str()), Value::Null, done).await?;
        info!(actor = person.name, thread.id = %id, "released over HTTP");
        Ok(released)
    }

    /// Publishes the thread's event again, as the platform would: it is tried at once, by whoever has its host.
    pub(super) async fn clean(&self, person: &Person, id: &ThreadId) -> Result<CleanRequested, Problem> {
        self.check_may(person, Role::Operator)?;
        let row = self.store().await?.look_up_thread(id).await?;
        let refused = |why: &str| Err(Problem::new(StatusCode::CONFLICT, format!("thread {id}: {why}")));
        let knows_all = self.config.unknown_threads == UnknownThreads::Reject;
        match &row {
            None if knows_all => return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no thread {id}"))),
            Some(row) if !row.closed => return refused("it is not closed"),
            Some(row) if row.marked => return refused("its volume is gone already"),
            None | Some(_) => {}
        }
        let closed_at = row.as_ref().and_then(|row| row.closed_at).or_else(|| Some(Utc::now()));
        let host = row.and_then(|row| row.host).or_else(|| self.config.host.clone());
        let event = ThreadEvent {
            thread_id: id.clone(),
            closed_at,
            reopened_at: None,
            unreadable: None,
            host,
            volumes: Vec::new(),
        };
        let publisher = Publisher::new(Queues::as_they_are(&self.config));
        let confirmed = publisher.publish_event(&event).await;
        publisher.close().await;
        self.noted(person, "publish", Some(id.as_str()), Value::Null, confirmed.map_err(Problem::from)).await?;
        info!(actor = person.name, thread.id = %id, "a clean-up was asked for over HTTP");
        Ok(CleanRequested { thread_id: id.clone(), published: true })
    }

    pub(super) async fn pause(&self, person: &Person, asked: &PauseRequest) -> Result<PauseSet, Problem> {
        self.check_may(person, Role::Operator)?;
        let store = self.store_of(person).await?;
        let host = named(asked.host.as_deref());
        let done = pausing::pause(&store, &self.config, &asked.reason, host).await.map_err(Problem::from);
        let set = self.noted(person, "pause", host, json!({ "reason": asked.reason }), done).await?;
        info!(actor = person.name, host = asked.host, reason = asked.reason, "paused over HTTP");
        self.status.forget();
        Ok(set)
    }

    /// Resumes. What was paused otherwise than here, by the breaker above all, takes an administrator.
    pub(super) async fn resume(&self, person: &Person, asked: &ResumeRequest) -> Result<Resumed, Problem> {
        self.check_may(person, Role::Operator)?;
        let (store, host) = (self.store_of(person).await?, named(asked.host.as_deref()));
        let pauses = pausing::in_force(&store, host).await?;
        if pauses.iter().any(|pause| !pause.paused_by.ends_with(OVER_HTTP)) {
            self.check_may(person, Role::Admin)?;
        }
        let done = pausing::resume(&store, &self.config, host).await.map_err(Problem::from);
        let resumed = self.noted(person, "resume", host, Value::Null, done).await?;
        info!(actor = person.name, host = asked.host, "resumed over HTTP");
        self.status.forget();
        Ok(resumed)
    }

    /// Sweeps, beside the service's own sweeps, whichever replica makes them: every mark is guarded by itself.
    pub(super) async fn sweep(&self, person: &Person, asked: &SweepRequest) -> Result<Option<SweepReport>, Problem> {
        self.check_may(person, if asked.dry_run { Role::Viewer } else { Role::Operator })?;
        let (config, dry_run) = (Arc::clone(&self.config), asked.dry_run);
        info!(actor = person.name, dry_run, "a sweep was asked for over HTTP");
        let who = person.name.clone();
        let work = async move { sweeping::sweep(&config, &who, dry_run, &CancellationToken::new(), |_, _| ()).await };
        let what = (if dry_run { "dry run" } else { "sweep" }, person.name.as_str());
        let swept = self.operations.run(self.limit(), what, work, operation::swept).await;
        let done = swept.and_then(|swept| Ok(swept.transpose()?));
        if dry_run {
            return done;
        }
        let report = done.as_ref().ok().and_then(|report| serde_json::to_value(report).ok()).unwrap_or_default();
        self.noted(person, "sweep", None, report, done).await
    }

    /// Writes down what was done and how it went, and passes that on. What can't be written down was done all the same.
    async fn noted<R>(
        &self,
        person: &Person,
        action: &'static str,
        target: Option<&str>,
        details: Value,
        done: Result<R, Problem>,
    ) -> Result<R, Problem> {
        let act = Act { via: person.via, action, target: target.map(str::to_owned), details };
        let failure = done.as_ref().err().map(|problem| Failure::permanent(problem.detail.clone()));
        let noted = async {
            let store = self.store_of(person).await?;
            let noted = store.note_act(&person.name, &act, failure.as_ref()).await;
            let _ = store.close().await;
            noted.map_err(Problem::from)
        };
        if let Err(problem) = noted.await {
            warn!(error = problem.detail, action, "it can't be written down who did this");
        }
        done
    }

    pub(super) async fn replay(&self, person: &Person, asked: &MessagesRequest) -> Result<Option<Replayed>, Problem> {
        self.check_may(person, Role::Operator)?;
        let (filter, limit) = asked.selection()?;
        let (config, expected) = (Arc::clone(&self.config), asked.expected);
        info!(actor = person.name, ?filter, "a replay of dead letters was asked for over HTTP");
        let work = async move { parking::replay_once(&config, filter, limit, expected).await };
        let what = ("replay of dead letters", person.name.as_str());
        let replayed = self.operations.run(self.limit(), what, work, operation::replayed).await;
        self.parked.forget();
        let done = replayed.and_then(|replayed| Ok(replayed.transpose()?));
        let messages = done.as_ref().ok().and_then(|done| done.as_ref().map(|done| done.replayed));
        let details = asked.details(messages);
        self.noted(person, "dead-letters replay", None, details, done).await
    }

    pub(super) async fn purge(&self, person: &Person, asked: &MessagesRequest) -> Result<Option<Purged>, Problem> {
        self.check_may(person, Role::Admin)?;
        let (filter, limit) = asked.selection()?;
        let Some(expected) = asked.expected else {
            return Err(Problem::invalid("expected is missing: say how many messages are to be deleted"));
        };
        let config = Arc::clone(&self.config);
        info!(actor = person.name, ?filter, expected, "a purge of dead letters was asked for over HTTP");
        let work = async move { parking::purge_once(&config, filter, limit, expected).await };
        let what = ("deletion of dead letters", person.name.as_str());
        let purged = self.operations.run(self.limit(), what, work, operation::purged).await;
        self.parked.forget();
        let done = purged.and_then(|purged| Ok(purged.transpose()?));
        let messages = done.as_ref().ok().and_then(|done| done.as_ref().map(|done| done.purged as u64));
        self.noted(person, "dead-letters purge", None, asked.details(messages), done).await
    }
}

fn named(host: Option<&str>) -> Option<&str> {
    host.filter(|host| !host.is_empty())
}
