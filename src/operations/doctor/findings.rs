//! What can silently be wrong: the verdicts of `doctor`.
//!
//! The adapters look and return facts ([`crate::queue::inspect`], [`Store::inspect`], [`Docker::inspect`]); here,
//! pure functions turn facts into checks, each with why it is so and how to fix it. Nothing is changed on the way:
//! no migration, no pinning, no declaring, not even a file of SQLite's. What could not be looked at, because what it
//! needs is not there, is named once in the check that failed, and is no check of its own.

use std::fmt;

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde::Serialize;
use utoipa::ToSchema;

use super::{broker_checks, database_checks, docker_checks, settings_checks};
use crate::{
    clock::ClockReading,
    config::Config,
    docker::Docker,
    queue::{self, Queues},
    store::{self, PinnedDaemon, Store},
};

/// Clocks that differ by more than this are reported: events and rows then bear times that are plainly wrong.
const TOLERATED_SKEW: TimeDelta = TimeDelta::seconds(5);

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CheckStatus)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but somebody should look at it.
    Warn,
    /// It does not work, or not safely.
    Fail,
}

impl Status {
    /// The status in the report.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    /// What it is about, such as `broker.login`; it stays the same from version to version.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// Why, in one line without secrets.
    pub why: String,
    /// What to do about it; none if it is as it should be.
    pub fix: Option<String>,
}

impl Check {
    pub(super) fn ok(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Ok, why: one_line(why), fix: None }
    }

    pub(super) fn warn(name: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Warn, why: one_line(why), fix: Some(one_line(fix)) }
    }

    pub(super) fn fail(name: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Fail, why: one_line(why), fix: Some(one_line(fix)) }
    }
}

impl Check {
    /// The check of one of several hosts: `docker.version` becomes `docker[a].version`.
    fn of(self, host: &str) -> Self {
        let name = self.name.replacen("docker.", &format!("docker[{host}]."), 1);
        Self { name, ..self }
    }
}

/// Servers' texts may have several lines.
fn one_line(text: impl Into<String>) -> String {
    let text = text.into();
    if text.contains(char::is_control) { text.split_whitespace().collect::<Vec<_>>().join(" ") } else { text }
}

/// All checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DoctorReport)]
pub struct Report {
    /// Whether no check failed; warnings do not count.
    pub ok: bool,
    /// The checks: settings, broker, database, Docker.
    pub checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        Self { ok: checks.iter().all(|check| check.status != Status::Fail), checks }
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for Check { name, status, why, fix } in &self.checks {
            write!(f, "{:<4}  {name:<width$}  {why}", status.as_str())?;
            match fix {
                Some(fix) => writeln!(f, " -> {fix}")?,
                None => writeln!(f)?,
            }
        }
        let (ok, warn, fail) = (self.count(Status::Ok), self.count(Status::Warn), self.count(Status::Fail));
        writeln!(f, "{ok} ok, {warn} to look at, {fail} failed")
    }
}

/// Looks at broker, database and daemons at once and judges what it finds. `dockers` are the configuration's hosts,
/// in its order. Takes some twenty seconds at most, however dead they are.
pub async fn examine(config: &Config, dockers: &[Docker]) -> Report {
    let queues = Queues::new(config);
    let removes_containers = config.policy.exited.is_some();
    let inspections = dockers.iter().map(|docker| docker.inspect(&config.volume_names, removes_containers));
    let (broker, database, found) =
        tokio::join!(Box::pin(queue::inspect(&queues)), Box::pin(database(config)), Box::pin(join_all(inspections)));
    let mut checks = settings_checks::verdicts(config);
    checks.extend(broker_checks::verdicts(&queues, &broker));
    checks.extend(database_checks::verdicts(config, &database));
    let pinned = database.ok().and_then(|database| database.schema?.pinned.ok());
    for (host, found) in config.docker_hosts.iter().zip(found) {
        let is_this = |daemon: &&PinnedDaemon| daemon.name == host.name.key();
        let pinned = pinned.as_ref().map(|all| all.iter().find(is_this).map(|daemon| daemon.identity.as_str()));
        let verdicts = docker_checks::verdicts(&host.endpoint, &found, pinned);
        checks.extend(verdicts.into_iter().map(|check| match host.name.name() {
            None => check,
            Some(name) => check.of(name),
        }));
    }
    Report::new(checks)
}

async fn database(config: &Config) -> Result<store::Inspection, store::Unreachable> {
    let store = Store::to_look_at(&config.database_url, config.threads.clone()).await?;
    let found = store.inspect().await;
    // Everything is known; a database that does not say goodbye holds up nobody.
    let _ = store.close().await;
    found
}

/// What is to be said of a server's clock.
pub(super) fn clock_verdict(reading: ClockReading, name: &str, whose: &str) -> Check {
    let ahead = reading.ahead();
    if ahead.abs() <= TOLERATED_SKEW {
        return Check::ok(name, format!("{whose} clock agrees with this host's"));
    }
    let side = if ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
    Check::warn(
        name,
        format!("{whose} clock is {} s {side} this host's", ahead.abs().num_seconds()),
        "run a time service such as chrony on both hosts",
    )
}

/// Whether traffic to `host` stays on this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Major and minor of a version such as `4.3.0-rc.1`.
pub(super) fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The pinned identity as `docker_checks::verdicts` wants it: none if it is unknown, since the database could not be
/// asked.
pub(super) type Pinned<'a> = Option<Option<&'a str>>;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use chrono::DateTime;

    use super::*;
    use crate::{
        cleanup::Identity,
        config::Endpoint,
        docker::{Inspection as DaemonFacts, RemovalRefused},
        failure::{Dependency, Failure},
        queue::{Answer, Contents, Counts, Hello, Inspection as BrokerFacts, LoginRefused, QueueFacts},
        store::{Inspection as DatabaseFacts, MigrationStatus, Part, Schema},
    };

    #[test]
    fn a_report_is_ok_unless_a_check_failed() {
        let warned = Check::warn("a", "why", "how");
        let failed = Check::fail("bb", "two\nlines", "how");
        assert!(Report::new(vec![warned.clone()]).ok);
        let report = Report::new(vec![warned, Check::ok("c", "fine"), failed]);
        assert!(!report.ok);
        let text = report.to_string();
        assert_eq!(
            text,
            "warn  a   why -> how\nok    c   fine\nfail  bb  two lines -> how\n1 ok, 1 to look at, 1 failed\n"
        );
    }

    #[test]
    fn a_clock_is_skewed_only_by_what_the_wait_does_not_explain() {
        let at = |seconds: i64| DateTime::from_timestamp(1_000_000 + seconds, 0).expect("valid");
        let verdict = |said: i64| {
            let reading = ClockReading { asked: at(0), said: at(said), answered: at(10) };
            let check = clock_verdict(reading, "clock", "its");
            (check.status, check.why)
        };
        for agreeing in [-5, 0, 7, 15] {
            assert_eq!(verdict(agreeing).0, Status::Ok, "{agreeing}");
        }
        assert_eq!(verdict(-6), (Status::Warn, "its clock is 6 s behind this host's".to_owned()));
        assert_eq!(verdict(16), (Status::Warn, "its clock is 6 s ahead of this host's".to_owned()));
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "127.0.0.1", "127.8.0.1", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["broker", "10.0.0.1", "localhost.example.org", "0.0.0.0"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_version_is_read_as_servers_write_it() {
        for (text, version) in [("3.10.8", (3, 10)), ("4.3.0-rc.1", (4, 3)), ("20.10.24+dfsg1", (20, 10))] {
            assert_eq!(major_minor(text), Some(version), "{text}");
        }
        for text in ["", "unknown", "4"] {
            assert_eq!(major_minor(text), None, "{text}");
        }
    }

    /// Settings whose servers are on other hosts, and whose connections to them are not encrypted.
    fn config(env: &[(&str, &str)]) -> Config {
        let servers = [
            ("AMQP_URL", "amqp://reaper:secret@broker/"),
            ("DATABASE_URL", "postgres://reaper:secret@db/platform"),
            ("DOCKER_HOST", "tcp://10.0.0.1:2375"),
        ];
        let env: HashMap<_, _> =
            servers.iter().chain(env).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Config::load(|_| None, &env, None).expect("valid")
    }

    fn clock(ahead_seconds: i64) -> ClockReading {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("valid");
        ClockReading { asked: now, said: now + TimeDelta::seconds(ahead_seconds), answered: now }
    }

    fn broker(queues: &Queues) -> BrokerFacts {
        let queue = |name: String, messages| QueueFacts {
            name,
            there: Answer::Yes(Counts { messages, consumers: 1 }),
            as_ours: Some(Answer::Yes(())),
        };
        let contents = Contents {
            policies: None,
            standing_still: None,
            takes_large: Answer::Differs("message size 2097152 is larger than configured max size 1048576".to_owned()),
            exchange: Answer::Yes(()),
            exchange_as_ours: Some(Answer::Yes(())),
            queues: vec![queue(queues.work(), 2), queue(queues.dead_letter(), 0)],
            may_bind: Some(Answer::Yes(())),
            may_consume: Some(Answer::Yes(())),
            may_publish: Answer::Yes(()),
        };
        let hello = Hello { product: "RabbitMQ".to_owned(), version: "4.3.6".to_owned() };
        BrokerFacts { hello, login: Ok(Ok(contents)) }
    }

    fn database() -> DatabaseFacts {
        let migration = |name: &str| MigrationStatus { name: name.to_owned(), applied: true };
        let schema = Schema {
            before_index_again: String::new(),
            other_triggers: Ok(Vec::new()),
            missing_columns: Ok(Some(Vec::new())),
            index: Ok(Part::AsOurs),
            reads_whole_table: Ok(Some(false)),
            trigger: Ok(Part::AsOurs),
            may_write: Ok(()),
            may_act: Ok(()),
            pinned: Ok(Vec::new()),
        };
        DatabaseFacts {
            verifying_parameter: "sslmode=verify-full",
            version: "PostgreSQL 17.6".to_owned(),
            encrypted: Some(true),
            clock: Some(clock(0)),
            migrations: Ok(["m1_threads", "m2_mark"].map(migration).into()),
            obstacles: None,
            schema: Some(schema),
        }
    }

    fn daemon() -> DaemonFacts {
        DaemonFacts {
            is_podman: false,
            version: "28.5.1".to_owned(),
            api_version: "1.51".to_owned(),
            identity: Ok(Identity::from_text("ID".to_owned())),
            clock: Some(clock(0)),
            lists: Ok(Vec::new()),
            may_remove: Ok(()),
            may_remove_containers: None,
        }
    }

    fn report(
        config: &Config,
        broker: impl FnOnce(&Queues) -> Result<BrokerFacts, queue::Unreachable>,
        database: &Result<DatabaseFacts, store::Unreachable>,
        docker: &Result<DaemonFacts, Failure>,
        pinned: Option<&str>,
    ) -> Report {
        let queues = Queues::new(config);
        let mut checks = settings_checks::verdicts(config);
        checks.extend(broker_checks::verdicts(&queues, &broker(&queues)));
        checks.extend(database_checks::verdicts(config, database));
        checks.extend(docker_checks::verdicts(&config.docker_hosts[0].endpoint, docker, Some(pinned)));
        Report::new(checks)
    }

    #[test]
    fn the_report_on_what_is_well_reads_well() {
        let encrypted = [("AMQP_URL", "amqps://reaper:secret@broker/"), ("DOCKER_HOST", "ssh://reaper@docker")];
        let config = config(&encrypted);
        insta::assert_snapshot!(
            "all_well",
            report(&config, |queues| Ok(broker(queues)), &Ok(database()), &Ok(daemon()), Some("ID"))
        );
    }

    #[test]
    fn the_report_on_what_is_to_be_looked_at_reads_well() {
        let config = config(&[("VOLUME_REAPER_DOCKER_TIMEOUT", "40m"), ("VOLUME_REAPER_TOPOLOGY", "check")]);
        let broker = |queues: &Queues| {
            let mut facts = broker(queues);
            "3.13.7".clone_into(&mut facts.hello.version);
            let contents = facts.login.as_mut().expect("logged in").as_mut().expect("known");
            contents.exchange_as_ours = Some(Answer::Forbidden("ACCESS_REFUSED".to_owned()));
            contents.queues[0].there = Answer::Yes(Counts { messages: 7, consumers: 0 });
            contents.queues[0].as_ours = Some(Answer::Differs("inequivalent arg 'x-delivery-limit'".to_owned()));
            contents.queues[1].there = Answer::Yes(Counts { messages: 3, consumers: 0 });
            contents.may_publish = Answer::Unknown("no answer within 5s".to_owned());
            Ok(facts)
        };
        let mut database = DatabaseFacts { encrypted: Some(false), clock: Some(clock(-65)), ..database() };
        database.schema.as_mut().expect("a schema").reads_whole_table = Ok(Some(true));
        let docker = DaemonFacts {
            version: "19.03.1".to_owned(),
            api_version: "1.40".to_owned(),
            lists: Ok(vec!["driver nfs: timed out".to_owned()]),
            clock: Some(clock(8)),
            ..daemon()
        };
        insta::assert_snapshot!("to_look_at", report(&config, broker, &Ok(database), &Ok(docker), None));
    }

    #[test]
    fn the_report_on_what_is_broken_reads_well() {
        let config = config(&[]);
        let broker = |queues: &Queues| {
            let mut facts = broker(queues);
            "3.9.1".clone_into(&mut facts.hello.version);
            let contents = facts.login.as_mut().expect("logged in").as_mut().expect("known");
            contents.exchange = Answer::Missing("NOT_FOUND".to_owned());
            contents.queues[0].as_ours = Some(Answer::Differs("inequivalent arg 'x-queue-type'".to_owned()));
            contents.queues[1].there = Answer::Forbidden("ACCESS_REFUSED".to_owned());
            contents.may_bind = Some(Answer::Forbidden("ACCESS_REFUSED".to_owned()));
            contents.may_consume = Some(Answer::Forbidden("ACCESS_REFUSED".to_owned()));
            contents.may_publish = Answer::Forbidden("ACCESS_REFUSED".to_owned());
            Ok(facts)
        };
        let mut database = database();
        let schema = database.schema.as_mut().expect("a schema");
        (schema.index, schema.trigger) = (Ok(Part::Missing), Ok(Part::Disabled));
        schema.may_write = Err(Failure::permanent("permission denied for table volume_removals"));
        let forbidden = Err(RemovalRefused::Forbidden("403 from the proxy".to_owned()));
        let lists = Err(Failure::permanent("403 from the proxy"));
        let may_remove_containers = Some(Err(RemovalRefused::Forbidden("403 from the proxy".to_owned())));
        let docker = DaemonFacts { may_remove: forbidden, may_remove_containers, lists, ..daemon() };
        insta::assert_snapshot!("broken", report(&config, broker, &Ok(database), &Ok(docker), Some("ANOTHER")));
    }

    #[test]
    fn the_report_on_a_new_installation_reads_well() {
        let config = config(&[]);
        let broker = |queues: &Queues| {
            let refused = LoginRefused::VirtualHost("NOT_ALLOWED - vhost not found".to_owned());
            Ok(BrokerFacts { login: Err(refused), ..broker(queues) })
        };
        let pending = vec![MigrationStatus { name: "m1_threads".to_owned(), applied: false }];
        let database = DatabaseFacts { migrations: Ok(pending), schema: None, ..database() };
        insta::assert_snapshot!("new_installation", report(&config, broker, &Ok(database), &Ok(daemon()), None));
    }

    #[test]
    fn the_report_on_what_does_not_answer_reads_well() {
        let config = config(&[]);
        let broker = |_: &Queues| Err(queue::Unreachable::NotAmqp("it closed the connection".to_owned()));
        let database = Err(store::Unreachable::Connect("database at postgres://db: connection refused".to_owned()));
        let docker =
            Failure::unavailable(Dependency::Docker, "docker at unix:///var/run/docker.sock: Permission denied");
        let mut checks = report(&config, broker, &database, &Err(docker), None).checks;
        let refused = Failure::unavailable(Dependency::Docker, "docker at tcp://10.0.0.2:2375: connection refused");
        let endpoint = Endpoint::Tcp("10.0.0.2:2375".to_owned());
        checks.extend(docker_checks::verdicts(&endpoint, &Err(refused), None).into_iter().map(|check| check.of("b")));
        insta::assert_snapshot!("nothing_answers", Report::new(checks));
    }
}
