//! Why a thread's volume is still there, or when and how it went: what `explain` says.
//!
//! The adapters find facts; [`why`] turns them into reasons and nothing else does. Whether an event is on its way can't
//! be known, so it is never a reason.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::testimony::HostTestimony;
use crate::{
    cleanup::{Identity, Pause, exited::MayGo, failing::Failing, retention::Due},
    docker::{SeenVolume, VolumeUser},
    store::{Hold, Sweeper, ThreadRow, WrittenReceipt},
    volume_name::{ThreadId, VolumeName},
};

/// What the database has of a thread.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Its row.
    pub row: Option<ThreadRow>,
    /// Its receipts, the latest first.
    pub receipts: Vec<WrittenReceipt>,
    /// A person holds it.
    pub hold: Option<Hold>,
    /// When its volume may go.
    pub due: Due,
    /// All removal is paused.
    pub pause: Option<Pause>,
    /// Its failed clean-ups, as long as it is closed and unmarked.
    pub failure: Option<Failing>,
    /// Why one of its unmarked volumes is refused, where rows name them.
    pub refused: Option<String>,
    /// Who the pinned daemon is.
    pub pinned: Option<String>,
    /// Who sweeps, or swept last.
    pub sweeper: Option<Sweeper>,
}

/// What the daemon has of it.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// What its host is called; none if there is only one.
    pub host: Option<String>,
    /// Who answers.
    pub identity: String,
    /// The thread's volumes, at least one; with those that other daemons have.
    pub volumes: Vec<SeenVolume>,
    /// What each host says that may have them, if not all answer.
    pub hosts: Vec<HostTestimony>,
}

impl Daemon {
    /// Whether the volume that says most about the thread is there; nothing if a host may have it that does not answer.
    pub(super) fn has_it(&self) -> Option<bool> {
        let is_found = SeenVolume::most_telling(&self.volumes).found.is_some();
        (is_found || HostTestimony::not_known(&self.hosts).is_empty()).then_some(is_found)
    }

    /// The containers that use the thread's volumes, each once.
    pub(super) fn users(&self) -> impl Iterator<Item = &VolumeUser> {
        let mut seen = HashSet::new();
        self.volumes.iter().flat_map(|volume| &volume.users).filter(move |user| seen.insert(&user.id))
    }
}

/// What was found; an error is why a dependency did not answer.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The thread.
    pub thread: ThreadId,
    /// The volume that says most about it.
    pub volume: VolumeName,
    /// When that was.
    pub now: DateTime<Utc>,
    /// What the database says.
    pub database: Result<Rows, String>,
    /// What Docker says.
    pub docker: Result<Daemon, String>,
}

/// Why a volume is as it is. The names in JSON stay the same from version to version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no such thread.
    UnknownThread,
    /// The thread is not closed.
    NotClosed,
    /// The volume is gone, and the thread marked.
    Gone,
    /// The thread is marked, but the volume is there.
    Drift,
    /// The volume is not there, and the thread not marked yet.
    NotMarkedYet,
    /// A person holds the thread.
    Held,
    /// Its retention is not over.
    NotDue,
    /// Containers use the volume.
    Referenced,
    /// All of them have exited or were never started, and are removed in their time.
    ExitedContainers,
    /// Cleaning up failed.
    Failing,
    /// A row names a volume that is not ours to remove.
    RefusedName,
    /// All removal is paused.
    Paused,
    /// Nothing uses the volume; the next sweep removes it.
    Waiting,
    /// Nobody sweeps.
    NobodySweeps,
    /// The daemon that answers is not the pinned one.
    OtherDaemon,
    /// No daemon is pinned yet.
    NoDaemonPinned,
    /// The database could not be read.
    DatabaseDown,
    /// Docker did not answer, or not on each host that may have a volume of the thread.
    DockerDown,
}

/// The reasons, the most important first.
#[must_use]
pub fn why(facts: &Facts) -> Vec<Reason> {
    let docker = facts.docker.as_ref().ok();
    // Nothing follows from the answers of those that do not have it.
    let telling = docker.filter(|daemon| daemon.has_it().is_some());
    let mut reasons = match &facts.database {
        Err(_) => vec![Reason::DatabaseDown],
        Ok(rows) => match &rows.row {
            None => vec![Reason::UnknownThread],
            Some(row) if !row.closed => vec![Reason::NotClosed],
            Some(row) => {
                let refused = rows.refused.as_ref().map(|_| Reason::RefusedName);
                refused.into_iter().chain(of_closed(rows, row.marked, telling)).collect()
            }
        },
    };
    if docker.is_none_or(|daemon| !HostTestimony::not_known(&daemon.hosts).is_empty()) {
        reasons.push(Reason::DockerDown);
    }
    // Where it is a sweep that is waited for.
    let needs_sweep = [Reason::Drift, Reason::NotMarkedYet, Reason::Failing, Reason::Waiting, Reason::ExitedContainers];
    let is_swept = |rows: &Rows| rows.sweeper.as_ref().is_some_and(|sweeper| sweeper.is_current(facts.now));
    if reasons.iter().any(|reason| needs_sweep.contains(reason)) && !facts.database.as_ref().is_ok_and(is_swept) {
        reasons.push(Reason::NobodySweeps);
    }
    reasons
}

fn of_closed(rows: &Rows, is_marked: bool, docker: Option<&Daemon>) -> Vec<Reason> {
    let failing = rows.failure.as_ref().map(|_| Reason::Failing);
    let marked = is_marked.then_some(Reason::Gone);
    let Some(daemon) = docker else {
        return marked.or(failing).into_iter().collect();
    };
    let seen = SeenVolume::most_telling(&daemon.volumes);
    let other_daemon = match &rows.pinned {
        None => Some(Reason::NoDaemonPinned),
        Some(pinned) => {
            let (pinned, answering) = (pinned.clone(), daemon.identity.clone());
            let is_pinned = Identity::from_text(pinned).is_that_of(&Identity::from_text(answering));
            (!is_pinned).then_some(Reason::OtherDaemon)
        }
    };
    if let Some(other_daemon) = other_daemon {
        return marked.into_iter().chain([other_daemon]).collect();
    }
    let referenced = (!seen.users.is_empty()).then_some(Reason::Referenced);
    match (is_marked, &seen.found) {
        (true, None) => vec![Reason::Gone],
        (true, Some(_)) => [Reason::Drift].into_iter().chain(referenced).collect(),
        (false, None) => [Reason::NotMarkedYet].into_iter().chain(failing).collect(),
        (false, Some(_)) => {
            let held = rows.hold.as_ref().map(|_| Reason::Held);
            let not_due = (rows.due != Due::Now).then_some(Reason::NotDue);
            let paused = rows.pause.as_ref().map(|_| Reason::Paused);
            let is_stopped = held.or(paused).is_some() || rows.due == Due::Never;
            let exited = users_may_go(daemon).filter(|_| !is_stopped).map(|_| Reason::ExitedContainers);
            let reasons: Vec<_> = [held, not_due, referenced, exited, failing, paused].into_iter().flatten().collect();
            if reasons.is_empty() { vec![Reason::Waiting] } else { reasons }
        }
    }
}

/// From when on all containers that use the thread's volumes may be removed, if there are any and they may.
pub(super) fn users_may_go(daemon: &Daemon) -> Option<DateTime<Utc>> {
    let each: Option<Vec<_>> = daemon.users().map(|user| user.exited.clone()).collect();
    match MayGo::all(each.filter(|each| !each.is_empty())?) {
        MayGo::From(from) => Some(from),
        MayGo::Kept(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::explanation::Explanation, *};
    use crate::{cleanup::failing::FailedCleanup, docker::FoundVolume, volume_name::VolumeNames};

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
    }

    fn user(name: &str) -> VolumeUser {
        VolumeUser {
            id: "3f2a1b0c9d8e7f6a5b4c".to_owned(),
            name: name.to_owned(),
            state: "running".to_owned(),
            since: Some(now()),
            image: "agent:1".to_owned(),
            created_at: Some(now()),
            found: None,
            exited: None,
        }
    }

    fn failed() -> Failing {
        let failed = FailedCleanup {
            attempts: 3,
            first_failed_at: now(),
            failed_at: now(),
            error: "disk\nfull".to_owned(),
            replica: "r1".to_owned(),
        };
        Failing { failed, next_try_at: now() + chrono::TimeDelta::minutes(10) }
    }

    /// A closed and unmarked thread whose volume is there, on the pinned daemon, swept by somebody.
    fn facts() -> Facts {
        let thread = ThreadId::parse("t1").expect("valid");
        let volume = VolumeNames::of_prefix("ha_ws_").expect("valid").volume_of(&thread);
        let row = ThreadRow {
            status: Some("closed".to_owned()),
            closed: true,
            closed_at: Some(now()),
            marked: false,
            marked_at: None,
            host: None,
        };
        let expires_at = now() + chrono::TimeDelta::seconds(20);
        let rows = Rows {
            row: Some(row),
            receipts: Vec::new(),
            hold: None,
            due: Due::Now,
            pause: None,
            failure: None,
            refused: None,
            pinned: Some("ID".to_owned()),
            sweeper: Some(Sweeper { holder: "r1".to_owned(), epoch: 1, expires_at }),
        };
        let found = FoundVolume { driver: "local".to_owned(), created_at: None, labels: [].into() };
        let seen = SeenVolume { volume: volume.clone(), found: Some(found), users: Vec::new(), host: None };
        let daemon = Daemon { host: None, identity: "ID".to_owned(), volumes: vec![seen], hosts: Vec::new() };
        Facts { thread, volume, now: now(), database: Ok(rows), docker: Ok(daemon) }
    }

    /// [`facts`] after `change` was made to what database and daemon say.
    fn changed(change: impl FnOnce(&mut Rows, &mut Daemon)) -> Facts {
        let mut facts = facts();
        let (Ok(rows), Ok(daemon)) = (&mut facts.database, &mut facts.docker) else { unreachable!("both answer") };
        change(rows, daemon);
        facts
    }

    fn reasons(change: impl FnOnce(&mut Rows, &mut Daemon)) -> Vec<Reason> {
        why(&changed(change))
    }

    fn with_docker_down(change: impl FnOnce(&mut Rows, &mut Daemon)) -> Facts {
        Facts { docker: Err("down".to_owned()), ..changed(change) }
    }

    fn mark(rows: &mut Rows) {
        let row = rows.row.as_mut().expect("a row");
        (row.marked, row.marked_at) = (true, Some(now()));
    }

    #[test]
    fn a_closed_thread_whose_volume_is_there_is_held_failing_or_waiting() {
        assert_eq!(reasons(|_, _| {}), [Reason::Waiting]);
        assert_eq!(reasons(|_, daemon| daemon.volumes[0].users = vec![user("web")]), [Reason::Referenced]);
        assert_eq!(reasons(|rows, _| rows.failure = Some(failed())), [Reason::Failing]);
        let both = reasons(|rows, daemon| {
            rows.failure = Some(failed());
            daemon.volumes[0].users = vec![user("web")];
        });
        assert_eq!(both, [Reason::Referenced, Reason::Failing]);
    }

    #[test]
    fn what_somebody_or_something_keeps_is_told_with_who_and_until_when() {
        let hold = Hold { reason: "audit\n7".to_owned(), held_at: now(), until: None };
        let pause = Pause { paused_at: now(), reason: "too many".to_owned(), paused_by: "r2".to_owned() };
        let kept = changed(|rows, _| {
            rows.hold = Some(hold);
            rows.due = Due::At(now() + chrono::TimeDelta::hours(1));
            rows.pause = Some(pause);
        });
        assert_eq!(why(&kept), [Reason::Held, Reason::NotDue, Reason::Paused]);
        let answer = Explanation::new(kept).answer;
        for part in ["held since", "until it is released: audit", "kept by the retention until", "by r2 (too many)"] {
            assert!(answer.contains(part), "{answer}");
        }
        assert!(!answer.contains('\n'), "{answer}");
        assert_eq!(reasons(|rows, _| rows.due = Due::Never), [Reason::NotDue]);
    }

    #[test]
    fn what_waits_for_a_sweep_says_so_when_nobody_sweeps() {
        assert_eq!(reasons(|rows, _| rows.sweeper = None), [Reason::Waiting, Reason::NobodySweeps]);
        let expired = reasons(|rows, _| rows.sweeper.as_mut().expect("one").expires_at = now());
        assert_eq!(expired, [Reason::Waiting, Reason::NobodySweeps]);
        let referenced = reasons(|rows, daemon| {
            rows.sweeper = None;
            daemon.volumes[0].users = vec![user("web")];
        });
        assert_eq!(referenced, [Reason::Referenced]);
    }

    #[test]
    fn a_mark_and_a_volume_that_disagree_are_told() {
        assert_eq!(reasons(|_, daemon| daemon.volumes[0].found = None), [Reason::NotMarkedYet]);
        assert_eq!(reasons(|rows, _| mark(rows)), [Reason::Drift]);
        let gone = reasons(|rows, daemon| {
            mark(rows);
            daemon.volumes[0].found = None;
        });
        assert_eq!(gone, [Reason::Gone]);
    }

    #[test]
    fn a_thread_that_is_open_or_unknown_is_told_before_anything_about_docker() {
        let open = |rows: &mut Rows| rows.row.as_mut().expect("a row").closed = false;
        assert_eq!(reasons(|rows, _| open(rows)), [Reason::NotClosed]);
        assert_eq!(reasons(|rows, _| rows.row = None), [Reason::UnknownThread]);
        let docker_down = with_docker_down(|rows, _| open(rows));
        assert_eq!(why(&docker_down), [Reason::NotClosed, Reason::DockerDown]);
    }

    #[test]
    fn a_daemon_that_is_not_the_pinned_one_proves_nothing() {
        for (pinned, reason) in [(Some("other".to_owned()), Reason::OtherDaemon), (None, Reason::NoDaemonPinned)] {
            let absent = reasons(|rows, daemon| {
                rows.pinned = pinned;
                daemon.volumes[0].found = None;
            });
            assert_eq!(absent, [reason]);
        }
    }

    #[test]
    fn what_does_not_answer_is_named_and_the_rest_is_told() {
        assert_eq!(why(&with_docker_down(|_, _| {})), [Reason::DockerDown]);
        assert_eq!(why(&with_docker_down(|rows, _| mark(rows))), [Reason::Gone, Reason::DockerDown]);
        assert_eq!(why(&Facts { database: Err("down".to_owned()), ..facts() }), [Reason::DatabaseDown]);
        let both = Facts { database: Err("down".to_owned()), ..with_docker_down(|_, _| {}) };
        assert_eq!(why(&both), [Reason::DatabaseDown, Reason::DockerDown]);
    }

    /// The thread's volume may be on `a`, which answers, and on `b`, which does not.
    fn with_a_host_down(is_on_a: bool, change: impl FnOnce(&mut Rows)) -> Facts {
        changed(|rows, daemon| {
            change(rows);
            daemon.host = Some("a".to_owned());
            if !is_on_a {
                daemon.volumes[0].found = None;
            }
            let asked = [daemon.volumes[0].volume.clone()];
            daemon.hosts = vec![
                HostTestimony::new("a", &asked, Ok(daemon)),
                HostTestimony::new("b", &asked, Err("host b: connection refused")),
            ];
        })
    }

    #[test]
    fn what_one_host_has_is_told_though_another_does_not_answer_and_what_none_has_is_not_known() {
        let found = with_a_host_down(true, |_| {});
        assert_eq!(why(&found), [Reason::Waiting]);
        let explanation = Explanation::new(found);
        assert!(explanation.is_complete() && explanation.volume_found.is_some());

        for (change, reasons) in [
            ((|_| {}) as fn(&mut Rows), &[Reason::DockerDown][..]),
            (|rows| rows.failure = Some(failed()), &[Reason::Failing, Reason::DockerDown]),
            (|rows| mark(rows), &[Reason::Gone, Reason::DockerDown]),
            (|rows| rows.row = None, &[Reason::UnknownThread, Reason::DockerDown]),
        ] {
            assert_eq!(why(&with_a_host_down(false, change)), reasons);
        }
        let not_known = Explanation::new(with_a_host_down(false, |_| {}));
        assert!(!not_known.is_complete() && not_known.users.is_none());
        assert_eq!(not_known.errors.docker.as_deref(), Some("host b: connection refused"));
    }

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_a_command() {
        let facts = changed(|rows, daemon| {
            let evil = "\x1b]0;x\x07\n\u{9b}2J";
            let mut user = user(evil);
            (user.image, user.state) = (evil.to_owned(), evil.to_owned());
            daemon.volumes[0].users = vec![user];
            daemon.identity = evil.to_owned();
            rows.pinned = Some(evil.to_owned());
            let mut failing = failed();
            (failing.failed.error, failing.failed.replica) = (evil.to_owned(), evil.to_owned());
            rows.failure = Some(failing);
            rows.row.as_mut().expect("a row").status = Some(evil.to_owned());
            let found = FoundVolume { driver: evil.to_owned(), created_at: Some(evil.to_owned()), labels: [].into() };
            daemon.volumes[0].found = Some(found);
            let (outcome, source, replica) = (evil.to_owned(), "event".to_owned(), evil.to_owned());
            let event_id = Some(evil.to_owned());
            let (removed_at, volume_name) = (now(), String::new());
            let (container_id, container_name) = (Some(evil.to_owned()), Some(evil.to_owned()));
            rows.receipts = vec![WrittenReceipt {
                outcome,
                source,
                event_id,
                replica,
                removed_at,
                volume_name,
                container_id,
                container_name,
            }];
        });
        let text = Explanation::new(facts).to_string();
        assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text:?}");
        assert_eq!(text.lines().count(), 7, "{text}");
    }

    #[test]
    fn the_answer_is_one_straight_sentence() {
        let answer = |change: &dyn Fn(&mut Rows, &mut Daemon)| Explanation::new(changed(change)).answer;
        assert_eq!(
            answer(&|_, daemon| daemon.volumes[0].users = vec![user("web")]),
            "thread t1: its volume ha_ws_t1 is still there: container \"web\" (3f2a1b0c9d8e, running since \
             2027-01-15T08:00:00Z, image agent:1) uses it"
        );
        assert_eq!(
            answer(&|rows, _| rows.failure = Some(failed())),
            "thread t1: cleaning up failed 3 times since 2027-01-15T08:00:00Z, at last with: disk\\u{a}full; sweeps \
             try it again from 2027-01-15T08:10:00Z on, an event at once"
        );
        let four = answer(&|_, daemon| daemon.volumes[0].users = ["a", "b", "c", "d"].map(user).into());
        assert!(four.ends_with(" and 1 more use it"), "{four}");
    }

    fn receipt(outcome: &str, source: &str) -> WrittenReceipt {
        WrittenReceipt {
            outcome: outcome.to_owned(),
            source: source.to_owned(),
            event_id: (source == "event").then(|| "e1".to_owned()),
            replica: "r1".to_owned(),
            removed_at: now(),
            volume_name: "ha_ws_t1".to_owned(),
            container_id: None,
            container_name: None,
        }
    }

    /// What `explain` prints of a thread whose volume is there.
    fn text(change: impl FnOnce(&mut Rows, &mut Daemon)) -> String {
        Explanation::new(changed(change)).to_string()
    }

    /// What `explain` prints of a marked thread whose volume is not there.
    fn text_of_gone(change: impl FnOnce(&mut Rows)) -> String {
        text(|rows, daemon| {
            mark(rows);
            daemon.volumes[0].found = None;
            change(rows);
        })
    }

    #[test]
    fn the_answer_about_a_volume_that_is_there_reads_well() {
        let later = now() + chrono::TimeDelta::hours(1);
        let hold = |until| Hold { reason: "audit 7".to_owned(), held_at: now(), until };
        let answers = [
            text(|_, _| {}),
            text(|rows, _| rows.sweeper = None),
            text(|_, daemon| {
                daemon.host = Some("a".to_owned());
                daemon.volumes[0].users = vec![user("web")];
            }),
            text(|_, daemon| daemon.volumes[0].users = ["a", "b", "c", "d"].map(user).into()),
            text(|rows, _| rows.failure = Some(failed())),
            text(|rows, _| {
                rows.hold = Some(hold(None));
                rows.due = Due::At(later);
                let (reason, paused_by) = ("too many".to_owned(), "ops".to_owned());
                rows.pause = Some(Pause { paused_at: now(), reason, paused_by });
            }),
            text(|rows, _| {
                rows.hold = Some(hold(Some(later)));
                rows.due = Due::Never;
            }),
            text(|rows, _| mark(rows)),
            text(|rows, _| {
                let row = rows.row.as_mut().expect("a row");
                (row.closed, row.closed_at, row.status) = (false, None, Some("open".to_owned()));
            }),
            text(|rows, _| rows.row = None),
        ];
        insta::assert_snapshot!("volume_is_there", answers.join("\n"));
    }

    #[test]
    fn the_answer_about_a_volume_that_is_gone_reads_well() {
        let origins = ["event", "docker", "orphan", "sweep", "retired"].map(|source| receipt("removed", source));
        let mut answers: Vec<_> = origins.map(|it| text_of_gone(|rows| rows.receipts = vec![it])).into();
        answers.extend([
            text_of_gone(|rows| rows.receipts = vec![receipt("not_found", "sweep")]),
            text_of_gone(|_| {}),
            text_of_gone(|rows| rows.row.as_mut().expect("a row").marked_at = None),
            text(|_, daemon| daemon.volumes[0].found = None),
            text(|rows, daemon| {
                rows.row = None;
                daemon.volumes[0].found = None;
            }),
        ]);
        insta::assert_snapshot!("volume_is_gone", answers.join("\n"));
    }

    #[test]
    fn the_answer_about_what_can_not_be_known_reads_well() {
        let other = |pinned: Option<&str>| text(|rows, _| rows.pinned = pinned.map(str::to_owned));
        let database_down = || Err("database at postgres://db: connection refused".to_owned());
        let answers = [
            other(Some("ANOTHER")),
            other(None),
            Explanation::new(Facts { database: database_down(), ..facts() }).to_string(),
            Explanation::new(with_docker_down(|_, _| {})).to_string(),
            Explanation::new(with_a_host_down(true, |_| {})).to_string(),
            Explanation::new(with_a_host_down(false, |_| {})).to_string(),
            Explanation::new(with_a_host_down(false, |rows| rows.row = None)).to_string(),
            Explanation::new(Facts { database: database_down(), ..with_docker_down(|_, _| {}) }).to_string(),
        ];
        insta::assert_snapshot!("not_known", answers.join("\n"));
    }
}
