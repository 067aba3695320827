//! What `explain` says: the reasons in words, and the facts that they rest on.

use std::{collections::HashSet, fmt};

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    testimony::HostTestimony,
    why::{Facts, Reason, why},
    words::{of_container, of_other, of_receipt, of_user, times},
};
use crate::{
    cleanup::{Pause, failing::Failing, retention::Due},
    docker::{FoundVolume, SeenVolume, VolumeUser},
    store::{Hold, Sweeper, ThreadRow, WrittenReceipt},
    terminal::{Plain, time},
    volume_name::{ThreadId, VolumeName},
};

/// The facts and what they come to; with `--json` written as it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    pub(crate) thread_id: ThreadId,
    pub(crate) volume: String,
    /// One sentence for people.
    pub(crate) answer: String,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) thread: Option<ThreadRow>,
    pub(crate) receipts: Option<Vec<WrittenReceipt>>,
    pub(crate) hold: Option<Hold>,
    pub(crate) due_at: Option<DateTime<Utc>>,
    pub(crate) pause: Option<Pause>,
    pub(crate) failure: Option<Failing>,
    pub(crate) volume_found: Option<FoundVolume>,
    pub(crate) users: Option<Vec<VolumeUser>>,
    /// All volumes of the thread, if it has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<SeenVolume>,
    pub(crate) daemon: DaemonIdentity,
    /// What each host says that may have a volume of the thread, if not all answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<HostTestimony>,
    pub(crate) sweeper: Option<Sweeper>,
    pub(crate) errors: Errors,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaemonIdentity {
    /// What its host is called; none if there is only one.
    host: Option<String>,
    pinned: Option<String>,
    answering: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Errors {
    pub(crate) database: Option<String>,
    pub(crate) docker: Option<String>,
}

impl Explanation {
    /// The answer to these facts.
    #[must_use]
    pub fn new(facts: Facts) -> Self {
        let reasons = why(&facts);
        let clauses: Vec<_> = reasons.iter().map(|reason| reason.clause(&facts)).collect();
        let answer = format!("thread {}: {}", facts.thread, clauses.join("; "));
        let (database, docker) = (facts.database, facts.docker);
        let hosts = docker.as_ref().map_or_else(|_| Vec::new(), |daemon| daemon.hosts.clone());
        let is_not_known = |volume: &VolumeName| HostTestimony::not_known(&hosts).contains(&volume);
        let errors = Errors {
            database: database.as_ref().err().cloned(),
            docker: match &docker {
                Err(error) => Some(error.clone()),
                Ok(_) if HostTestimony::not_known(&hosts).is_empty() => None,
                Ok(_) => Some(HostTestimony::errors(&hosts)),
            },
        };
        let (rows, docker) = (database.ok(), docker.ok());
        let daemon = DaemonIdentity {
            host: docker.as_ref().and_then(|daemon| daemon.host.clone()),
            pinned: rows.as_ref().and_then(|rows| rows.pinned.clone()),
            answering: docker.as_ref().map(|daemon| daemon.identity.clone()),
        };
        let volumes = docker.map_or_else(Vec::new, |daemon| daemon.volumes);
        let seen = volumes.iter().find(|seen| seen.volume == facts.volume);
        let seen = seen.filter(|seen| seen.found.is_some() || !is_not_known(&seen.volume));
        let (volume_found, users) = seen.map_or((None, None), |seen| (seen.found.clone(), Some(seen.users.clone())));
        let volumes = Some(volumes).filter(|volumes| volumes.len() > 1).unwrap_or_default();
        let mut explanation = Self {
            thread_id: facts.thread,
            volume: facts.volume.to_string(),
            answer,
            reasons,
            thread: None,
            receipts: None,
            hold: None,
            due_at: None,
            pause: None,
            failure: None,
            volume_found,
            users,
            volumes,
            daemon,
            hosts,
            sweeper: None,
            errors,
        };
        if let Some(rows) = rows {
            explanation.thread = rows.row;
            explanation.receipts = Some(rows.receipts);
            explanation.hold = rows.hold;
            explanation.due_at = if let Due::At(at) = rows.due { Some(at) } else { None };
            explanation.pause = rows.pause;
            explanation.failure = rows.failure;
            explanation.sweeper = rows.sweeper;
        }
        explanation
    }
}

impl fmt::Display for Explanation {
    /// The answer, and below it what it rests on, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.answer)?;
        if let Some(row) = &self.thread {
            let closed = row.closed_at.map(|at| format!(", closed at {}", time(at))).unwrap_or_default();
            let mark = match (row.marked, row.marked_at) {
                (true, Some(at)) => format!("marked at {}", time(at)),
                (true, None) => "marked".to_owned(),
                (false, _) => "not marked".to_owned(),
            };
            writeln!(f, "  thread   {}{closed}, {mark}", Plain(row.status.as_deref().unwrap_or("no status")))?;
        }
        if let Some(volume) = &self.volume_found {
            let created = volume.created_at.as_deref().unwrap_or("unknown");
            writeln!(f, "  volume   {}, driver {}, created {}", self.volume, Plain(&volume.driver), Plain(created))?;
        }
        for user in self.users.iter().flatten() {
            writeln!(f, "  used by  {}", of_user(user))?;
        }
        for other in self.volumes.iter().filter(|other| other.volume.as_str() != self.volume) {
            writeln!(f, "  also     {}", of_other(other))?;
        }
        if let Some(Failing { failed, next_try_at }) = &self.failure {
            let (attempts, at) = (times(failed.attempts), time(failed.failed_at));
            let (replica, next) = (Plain(&failed.replica), time(*next_try_at));
            writeln!(f, "  failed   {attempts}, last at {at} on {replica}, next try at {next}")?;
        }
        let mut told = HashSet::new();
        let receipts = || self.receipts.iter().flatten();
        let of_volumes = receipts().filter(|it| it.container_id.is_none() && told.insert(&it.volume_name));
        let of_volumes: Vec<_> = of_volumes.collect();
        for receipt in of_volumes.into_iter().chain(receipts().filter(|receipt| receipt.container_id.is_some())) {
            let of = if self.volumes.is_empty() { String::new() } else { format!("{} ", Plain(&receipt.volume_name)) };
            let (outcome, container) = (Plain(&receipt.outcome), of_container(receipt));
            writeln!(f, "  receipt  {of}{outcome} {container}{}", of_receipt(receipt))?;
        }
        let host = self.daemon.host.as_ref().map(|host| format!("host {host}, ")).unwrap_or_default();
        match (&self.daemon.answering, &self.daemon.pinned) {
            (Some(answering), Some(pinned)) if answering == pinned => {
                writeln!(f, "  docker   {host}{}, the pinned daemon", Plain(answering))?;
            }
            (Some(answering), _) => writeln!(f, "  docker   {host}{}, not the pinned daemon", Plain(answering))?,
            (None, _) => {}
        }
        for host in &self.hosts {
            writeln!(f, "  docker   {host}")?;
        }
        Ok(())
    }
}
