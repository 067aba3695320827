//! What can silently be wrong: the verdicts of `doctor`.
//!
//! The adapters look and return facts ([`crate::queue::inspect`], [`Store::inspect`], [`Docker::inspect`]); here,
//! pure functions turn facts into checks, each with why it is so and how to mend it. Nothing is changed on the way:
//! no migration, no pinning, no declaring, not even a file of SQLite's. What could not be looked at, because what it
//! needs is not there, is named once in the check that failed, and is no check of its own.

mod broker;
mod database;
mod docker;
mod messages;
mod settings;

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    config::Config,
    coordinator::ONLY_HOST,
    docker::Docker,
    queue::{self, Queues},
    store::{self, PinnedDaemon, Store},
};

/// Clocks that differ by more than this are told: events and rows then bear times that are plainly wrong.
const TOLERATED_SKEW: TimeDelta = TimeDelta::seconds(5);

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about, such as `broker.login`; it stays the same from version to version.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// Why, in one line without secrets.
    pub why: String,
    /// What to do about it; none if it is as it should be.
    pub mend: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Ok, why: one_line(why), mend: None }
    }

    fn warn(name: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Warn, why: one_line(why), mend: Some(one_line(mend)) }
    }

    fn fail(name: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Fail, why: one_line(why), mend: Some(one_line(mend)) }
    }
}

impl Check {
    /// The same of one of several hosts: `docker.version` becomes `docker[a].version`.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
        for Check { name, status, why, mend } in &self.checks {
            write!(f, "{:<4}  {name:<width$}  {why}", status.as_str())?;
            match mend {
                Some(mend) => writeln!(f, " -> {mend}")?,
                None => writeln!(f)?,
            }
        }
        let (ok, warn, fail) = (self.count(Status::Ok), self.count(Status::Warn), self.count(Status::Fail));
        writeln!(f, "{ok} ok, {warn} to look at, {fail} failed")
    }
}

/// Looks at broker, database and daemons at once and judges what it finds. `dockers` are the configuration's hosts, in its
/// order. Takes some twenty seconds at most, however dead they are.
pub async fn examine(config: &Config, dockers: &[Docker]) -> Report {
    let queues = Queues::new(config);
    let (broker, database, found) = tokio::join!(
        Box::pin(queue::inspect(&queues)),
        Box::pin(database(config)),
        Box::pin(join_all(dockers.iter().map(|docker| docker.inspect(&config.volume_prefix))))
    );
    let mut checks = settings::verdicts(config);
    checks.extend(broker::verdicts(&queues, &broker));
    checks.extend(database::verdicts(config, &database));
    let pinned = database.ok().and_then(|database| database.schema?.pinned.ok());
    for (host, found) in config.docker_hosts.iter().zip(found) {
        let is_this = |daemon: &&PinnedDaemon| daemon.name == host.name;
        let pinned = pinned.as_ref().map(|all| all.iter().find(is_this).map(|daemon| daemon.identity.as_str()));
        let verdicts = docker::verdicts(&host.endpoint, &found, pinned);
        checks.extend(
            verdicts.into_iter().map(|check| if host.name == ONLY_HOST { check } else { check.of(&host.name) }),
        );
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

/// What a server's clock said, between two looks at ours.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    /// Our clock when the server was asked.
    pub asked: DateTime<Utc>,
    /// The server's clock.
    pub said: DateTime<Utc>,
    /// Our clock when the answer was there.
    pub answered: DateTime<Utc>,
}

impl ClockReading {
    /// How far the server's clock is certainly ahead of ours; negative if it is behind.
    fn ahead(self) -> TimeDelta {
        if self.said < self.asked {
            self.said - self.asked
        } else if self.said > self.answered {
            self.said - self.answered
        } else {
            TimeDelta::zero()
        }
    }

    fn verdict(self, name: &str, whose: &str) -> Check {
        let ahead = self.ahead();
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
}

/// Whether traffic to `host` stays on this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Major and minor of a version such as `4.3.0-rc.1`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The pinned identity as `docker::verdicts` wants it: none if it is unknown, since the database could not be asked.
type Pinned<'a> = Option<Option<&'a str>>;

#[cfg(test)]
mod tests {
    use super::*;

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
            let check = ClockReading { asked: at(0), said: at(said), answered: at(10) }.verdict("clock", "its");
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
}
