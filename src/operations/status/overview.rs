//! How things stand: what `status` says. A section that can't be read says why, and the others are shown all the same.

mod text;

use std::{collections::BTreeMap, fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    cleanup::Identity,
    cleanup::{Backlog, Pause, failing::Failing},
    failure::{Dependency, Failure},
    host::Host,
    operations::explain::words::times,
    queue::QueueCount,
    store::{PinnedDaemon, Removals, Sweeper},
    sweep::ThreadStates,
    terminal::{Plain, time},
};

/// What was found; an error is why it could not be.
#[derive(Debug)]
pub struct Facts {
    /// When that was.
    pub now: DateTime<Utc>,
    /// What the database says, if it answers at all.
    pub database: Result<Rows, Failure>,
    /// Our queues, if the broker answers at all.
    pub queues: Result<Vec<QueueCount>, Failure>,
    /// The Docker hosts.
    pub hosts: Vec<AskedHost>,
}

/// A Docker host.
#[derive(Debug)]
pub struct AskedHost {
    /// What it is called.
    pub name: crate::host::Host,
    /// Who the daemon is that answers.
    pub answering: Result<String, Failure>,
}

/// What the database says.
#[derive(Debug)]
pub struct Rows {
    /// What is left to do.
    pub backlog: Result<Backlog, Failure>,
    /// What was done.
    pub removals: Result<Removals, Failure>,
    /// What can't be done.
    pub failing: Result<FailingThreads, Failure>,
    /// What the latest sweeps left, if there were any.
    pub threads: Result<Option<ThreadStates>, Failure>,
    /// All removal is paused: on the only host, or on every one of several.
    pub pause: Result<Option<Pause>, Failure>,
    /// Removal is paused, everywhere or on one of several hosts, by host.
    pub pauses: Result<BTreeMap<String, Option<Pause>>, Failure>,
    /// Who sweeps, or swept last: the only host, or what is on none of several.
    pub sweeper: Result<Option<Sweeper>, Failure>,
    /// Who sweeps each of several hosts.
    pub sweepers: Result<BTreeMap<String, Option<Sweeper>>, Failure>,
    /// What is left to do, by the host that the rows name.
    pub unmarked_by_host: Result<BTreeMap<Option<String>, u64>, Failure>,
    /// The pinned daemons.
    pub daemons: Result<Vec<PinnedDaemon>, Failure>,
}

/// Threads whose clean-up fails.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailingThreads {
    /// How many.
    pub threads: u64,
    /// Those with the most attempts.
    pub worst: Vec<FailingThread>,
}

/// One of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailingThread {
    /// Its id.
    pub thread_id: String,
    /// How often, why, and when it is tried again.
    #[serde(flatten)]
    pub failing: Failing,
}

/// All sections; with `--json` written as it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatusReport)]
pub struct Report {
    /// Whether everything could be read.
    pub ok: bool,
    pub(crate) dependencies: BTreeMap<&'static str, Answering>,
    pub(crate) backlog: Option<LeftToDo>,
    pub(crate) removals: Option<Removals>,
    pub(crate) failing: Option<FailingThreads>,
    /// Closed and unmarked threads by why they were left, as of the latest sweeps.
    pub(crate) threads: Option<ThreadStates>,
    pub(crate) pause: Option<Pause>,
    pub(crate) sweeper: Option<Sweeping>,
    pub(crate) queues: Option<Vec<QueueCount>>,
    pub(crate) daemons: Option<Vec<KnownDaemon>>,
    /// Each of several hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<HostReport>,
    /// Closed and unmarked threads by the host that their rows name; an empty name for those that name none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unmarked_by_host: BTreeMap<String, u64>,
    /// Why a section is missing, by its name.
    pub(crate) errors: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answering {
    pub(crate) up: bool,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeftToDo {
    pub(crate) unmarked: u64,
    /// There are more, which were not counted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) and_more: bool,
    pub(crate) oldest_closed_at: Option<DateTime<Utc>>,
    pub(crate) oldest_seconds: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sweeping {
    #[serde(flatten)]
    pub(crate) sweeper: Sweeper,
    /// Whether its time is not over.
    pub(crate) current: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HostReport {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) answering: Answering,
    pub(crate) sweeper: Option<Sweeping>,
    pub(crate) pause: Option<Pause>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KnownDaemon {
    #[serde(flatten)]
    pub(crate) pinned: PinnedDaemon,
    /// Whether it is the one that answers now; none if nobody does.
    pub(crate) answers: Option<bool>,
}

impl Report {
    /// The report on these facts.
    #[must_use]
    pub fn new(facts: Facts) -> Self {
        let Facts { now, database, queues, hosts } = facts;
        let dependencies = [
            (Dependency::Broker, queues.as_ref().err()),
            (Dependency::Database, database.as_ref().err()),
            (Dependency::Docker, hosts.iter().find_map(|host| host.answering.as_ref().err())),
        ];
        let dependencies =
            dependencies.into_iter().map(|(dependency, down)| (dependency.as_str(), Answering::new(down)));
        let dependencies: BTreeMap<_, _> = dependencies.collect();
        let rows = database.unwrap_or_else(Rows::unread);

        let mut errors = BTreeMap::new();
        let backlog = section(&mut errors, "backlog", rows.backlog).map(|backlog| LeftToDo::new(backlog, now));
        let removals = section(&mut errors, "removals", rows.removals);
        let failing = section(&mut errors, "failing", rows.failing);
        let threads = section(&mut errors, "threads", rows.threads).flatten();
        let pause = section(&mut errors, "pause", rows.pause).flatten();
        let sweeper = section(&mut errors, "sweeper", rows.sweeper).flatten();
        let sweeper = sweeper.map(|sweeper| Sweeping::new(sweeper, now));
        let queues = section(&mut errors, "queues", queues);
        let daemons = section(&mut errors, "daemons", rows.daemons).map(|daemons| {
            let answering = |name: &str| hosts.iter().find(|host| host.name.key() == name)?.answering.as_ref().ok();
            let answers = |pinned: &PinnedDaemon| {
                let answering = Identity::from_text(answering(&pinned.name)?.clone());
                Some(Identity::from_text(pinned.identity.clone()).is_that_of(&answering))
            };
            daemons.into_iter().map(|pinned| KnownDaemon { answers: answers(&pinned), pinned }).collect()
        });
        let hosts: Vec<_> = hosts.into_iter().filter(|host| !host.name.is_only()).collect();
        let (mut sweepers, mut pauses, mut by_host) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        if !hosts.is_empty() {
            pauses = section(&mut errors, "pauses", rows.pauses).unwrap_or_default();
            sweepers = section(&mut errors, "sweepers", rows.sweepers).unwrap_or_default();
            by_host = section(&mut errors, "unmarked_by_host", rows.unmarked_by_host).unwrap_or_default();
        }
        let hosts: Vec<_> = hosts
            .into_iter()
            .map(|AskedHost { name, answering }| HostReport {
                answering: Answering::new(answering.as_ref().err()),
                pause: pauses.remove(name.key()).flatten(),
                sweeper: sweepers.remove(name.key()).flatten().map(|sweeper| Sweeping::new(sweeper, now)),
                name: name.key().to_owned(),
            })
            .collect();
        let unmarked_by_host = by_host.into_iter().map(|(host, threads)| (host.unwrap_or_default(), threads)).collect();
        let queues_are_known = queues.iter().flatten().all(|queue| queue.error.is_none());
        let ok = errors.is_empty() && queues_are_known && dependencies.values().all(|answering| answering.up);
        Self {
            ok,
            dependencies,
            backlog,
            removals,
            failing,
            threads,
            pause,
            sweeper,
            queues,
            daemons,
            hosts,
            unmarked_by_host,
            errors,
        }
    }
}

impl Report {
    /// The report, where no more than so many waiting threads were counted.
    #[must_use]
    pub(super) fn counted_to(mut self, most: u64) -> Self {
        if let Some(backlog) = self.backlog.as_mut().filter(|backlog| backlog.unmarked > most) {
            backlog.unmarked = most;
            backlog.and_more = true;
        }
        self
    }
}

impl Rows {
    /// What a database says that does not answer.
    fn unread(down: Failure) -> Self {
        Self {
            backlog: Err(down.clone()),
            removals: Err(down.clone()),
            failing: Err(down.clone()),
            threads: Err(down.clone()),
            pause: Err(down.clone()),
            pauses: Err(down.clone()),
            sweeper: Err(down.clone()),
            sweepers: Err(down.clone()),
            unmarked_by_host: Err(down.clone()),
            daemons: Err(down),
        }
    }
}

impl Answering {
    fn new(down: Option<&Failure>) -> Self {
        Self { up: down.is_none(), error: down.map(|failure| failure.message.clone()) }
    }
}

impl Sweeping {
    fn new(sweeper: Sweeper, now: DateTime<Utc>) -> Self {
        Self { current: sweeper.is_current(now), sweeper }
    }
}

impl LeftToDo {
    fn new(Backlog { unmarked, oldest_closed_at }: Backlog, now: DateTime<Utc>) -> Self {
        let oldest_seconds = oldest_closed_at.map(|at| (now - at).num_seconds().max(0).unsigned_abs());
        Self { unmarked, and_more: false, oldest_closed_at, oldest_seconds }
    }
}

fn section<T>(errors: &mut BTreeMap<&'static str, String>, name: &'static str, found: Result<T, Failure>) -> Option<T> {
    found.map_err(|failure| errors.insert(name, failure.message)).ok()
}

#[cfg(test)]
mod tests {
    use super::{text::age, *};

    #[test]
    fn an_age_is_told_the_coarser_the_longer() {
        for (seconds, text) in [(59, "59s"), (3661, "1h 1m"), (90_061, "1day 1h"), (694_861, "8days")] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_report_with_nothing_to_read_still_has_every_section() {
        let down = |dependency| Failure::unavailable(dependency, format!("{dependency} \x1b[2J"));
        let facts = Facts {
            now: Utc::now(),
            database: Err(down(Dependency::Database)),
            queues: Err(down(Dependency::Broker)),
            hosts: vec![AskedHost { name: Host::Only, answering: Err(down(Dependency::Docker)) }],
        };
        let report = Report::new(facts);
        assert!(!report.ok);
        let text = report.to_string();
        assert_eq!(text.lines().count(), 10, "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
    }

    fn ago(seconds: i64) -> DateTime<Utc> {
        now() - chrono::TimeDelta::seconds(seconds)
    }

    fn sweeper(holder: &str, expires_at: DateTime<Utc>) -> Sweeper {
        Sweeper { holder: holder.to_owned(), epoch: 3, expires_at }
    }

    fn pinned(name: &str, identity: &str) -> PinnedDaemon {
        PinnedDaemon { name: name.to_owned(), identity: identity.to_owned(), pinned_at: ago(1_000_000) }
    }

    fn queue(name: &str, messages: u32, consumers: u32) -> QueueCount {
        let name = format!("volume-reaper.{name}");
        QueueCount { name, messages: Some(messages), consumers: Some(consumers), error: None }
    }

    fn host(name: &str, answering: Result<&str, &str>) -> AskedHost {
        let down = |what| Failure::unavailable(Dependency::Docker, format!("docker at unix:///{name}.sock: {what}"));
        AskedHost { name: Host::from_key(name), answering: answering.map(str::to_owned).map_err(down) }
    }

    /// One host on which everything answers, and nothing is left to do.
    fn facts() -> Facts {
        let rows = Rows {
            backlog: Ok(Backlog { unmarked: 0, oldest_closed_at: None }),
            removals: Ok(Removals::default()),
            failing: Ok(FailingThreads { threads: 0, worst: Vec::new() }),
            threads: Ok(None),
            pause: Ok(None),
            pauses: Ok(BTreeMap::new()),
            sweeper: Ok(Some(sweeper("replica-1", now() + chrono::TimeDelta::seconds(20)))),
            sweepers: Ok(BTreeMap::new()),
            unmarked_by_host: Ok(BTreeMap::new()),
            daemons: Ok(vec![pinned(Host::Only.key(), "ID")]),
        };
        Facts {
            now: now(),
            database: Ok(rows),
            queues: Ok(vec![queue("thread-closed", 0, 2), queue("retry.1s", 0, 0), queue("dead-letter", 0, 0)]),
            hosts: vec![host(Host::Only.key(), Ok("ID"))],
        }
    }

    /// [`facts`] after `change` was made to what the database says.
    fn changed(change: impl FnOnce(&mut Rows)) -> Facts {
        let mut facts = facts();
        change(facts.database.as_mut().expect("it answers"));
        facts
    }

    fn failing_thread(thread_id: &str, attempts: u64, error: &str) -> FailingThread {
        let failed = crate::cleanup::failing::FailedCleanup {
            attempts,
            first_failed_at: ago(7200),
            failed_at: ago(60),
            error: error.to_owned(),
            replica: "replica-1".to_owned(),
        };
        let next_try_at = now() + chrono::TimeDelta::minutes(10);
        FailingThread { thread_id: thread_id.to_owned(), failing: Failing { failed, next_try_at } }
    }

    fn paused(reason: &str) -> Pause {
        Pause { paused_at: ago(600), reason: reason.to_owned(), paused_by: "ops".to_owned() }
    }

    #[test]
    fn the_report_of_a_quiet_service_reads_well() {
        insta::assert_snapshot!("quiet", Report::new(facts()));
    }

    #[test]
    fn the_report_of_a_busy_service_reads_well() {
        let counts =
            |removed, not_found| BTreeMap::from([("not_found".to_owned(), not_found), ("removed".to_owned(), removed)]);
        let mut busy = changed(|rows| {
            rows.backlog = Ok(Backlog { unmarked: 1204, oldest_closed_at: Some(ago(90_061)) });
            let reclaimed = |bytes, unsized_volumes| crate::store::Reclaimed { bytes, unsized_volumes };
            rows.removals = Ok(Removals {
                last_hour: counts(31, 2),
                last_day: counts(4012, 77),
                reclaimed_last_hour: reclaimed(5 << 30, 0),
                reclaimed_last_day: reclaimed(6 << 40, 12),
                at_least: true,
            });
            let worst = vec![failing_thread("t1", 12, "disk full"), failing_thread("t2", 1, "two\nlines")];
            rows.failing = Ok(FailingThreads { threads: 14, worst });
            rows.pause = Ok(Some(paused("the new release removes too much")));
            rows.sweeper = Ok(Some(sweeper("replica-2", ago(1))));
            rows.daemons = Ok(vec![pinned(Host::Only.key(), "ANOTHER"), pinned("old", "ID-OLD")]);
        });
        let forbidden = Some("access to queue refused".to_owned());
        let unknown = QueueCount { messages: None, consumers: None, error: forbidden, ..queue("dead-letter", 0, 0) };
        busy.queues = Ok(vec![queue("thread-closed", 512, 2), queue("retry.1s", 3, 0), unknown]);
        insta::assert_snapshot!("busy", Report::new(busy));
    }

    #[test]
    fn the_report_of_several_hosts_reads_well() {
        let mut several = changed(|rows| {
            rows.daemons = Ok(vec![pinned("a", "ID-A"), pinned("b", "ID-B")]);
            rows.pauses = Ok(BTreeMap::from([("b".to_owned(), Some(paused("its disk is looked at")))]));
            let current = sweeper("replica-1", now() + chrono::TimeDelta::seconds(20));
            rows.sweepers = Ok(BTreeMap::from([("a".to_owned(), Some(current)), ("b".to_owned(), None)]));
            let by_host = [(None, 3), (Some("a".to_owned()), 1), (Some("old".to_owned()), 2)];
            rows.unmarked_by_host = Ok(BTreeMap::from(by_host));
        });
        several.hosts = vec![host("a", Ok("ID-A")), host("b", Err("connection refused"))];
        insta::assert_snapshot!("several_hosts", Report::new(several));
    }

    #[test]
    fn the_report_of_what_does_not_answer_reads_well() {
        let down = |dependency: Dependency| Failure::unavailable(dependency, format!("{dependency} at x: refused"));
        let facts = Facts {
            now: now(),
            database: Err(down(Dependency::Database)),
            queues: Err(down(Dependency::Broker)),
            hosts: vec![host(Host::Only.key(), Err("connection refused"))],
        };
        insta::assert_snapshot!("nothing_answers", Report::new(facts));
        let mut unread = changed(|rows| rows.removals = Err(Failure::permanent("no right to read volume_removals")));
        unread.hosts.push(host("b", Ok("ID-B")));
        insta::assert_snapshot!("a_section_is_unread", Report::new(unread));
    }
}
