//! What the console does when it is told to. Who may is said first, then it is done as the commands do it, then it is
//! logged with who did it.

use axum::http::StatusCode;
use chrono::Utc;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{
    Console, OVER_HTTP,
    access::Person,
    bodies::{CleanRequested, HoldRequest, PauseRequest, ResumeRequest},
    problem::Problem,
};
use crate::{
    config::{Role, UnknownThreads},
    delivery::event::ThreadEvent,
    failure::Failure,
    operations::{
        holding::{self, HoldReleased, HoldSet},
        pausing::{self, PauseSet, Resumed},
    },
    queue::{Publisher, Queues},
    store::Act,
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

    /// Writes down what was done and how it went, and passes that on. What can't be written down was done all the same.
    pub(super) async fn noted<R>(
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
}

fn named(host: Option<&str>) -> Option<&str> {
    host.filter(|host| !host.is_empty())
}
