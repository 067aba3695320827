//! Whether a container may be removed for the sake of a volume that is to go. Pure.
//!
//! A container that will never run again keeps a volume for ever, so the operator may allow its removal. It may go once
//! it has not run for the grace, unless anybody could still want it: it runs, something would start it again, its label
//! says so, or it mounts a volume of somebody else's. What Docker does about a restart policy is in moby
//! (`daemon/internal/restartmanager`, `daemon/daemon.go` at `restore`, `daemon/kill.go`):
//!
//! - `always` starts a container with the daemon, also one that was stopped by hand.
//! - `unless-stopped` starts at once what ends by itself; one that has exited was therefore stopped by hand, which the
//!   API does not say, or could not be started, which it says. Podman has no daemon that would do it at once, so there
//!   an exited one may be about to be started.
//! - `on-failure` starts what ended with an error, with the daemon also what was stopped by hand, until it has done so
//!   as often as it may.
//!
//! A policy counts for a container that was never started as for any other.

use std::{fmt, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Container, ContainerState, RestartPolicy};

/// A container with this label stays, whatever its value.
pub const KEEP_LABEL: &str = "volume-reaper.keep";

/// Labels of what something else starts, stops and removes: Compose, Swarm, Kubernetes, systemd.
const MANAGERS_LABELS: [&str; 6] = [
    "com.docker.compose.project",
    "io.podman.compose.project",
    "com.docker.swarm.service.id",
    "com.docker.swarm.task.id",
    "io.kubernetes.pod.uid",
    "PODMAN_SYSTEMD_UNIT",
];

/// Which containers may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitedRule {
    /// How long ago they have to have exited, or to have been created if they were never started.
    pub grace: Duration,
    /// Also those that Compose, Swarm, Kubernetes or systemd manage.
    pub managed: bool,
}

/// Whether a container may be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MayGo {
    /// From then on, if nothing changes.
    From(DateTime<Utc>),
    /// It stays.
    Kept(Kept),
}

/// Why a container stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// It is being started again.
    Restarting,
    /// It is in another state than those that are known to be over; which.
    State(String),
    /// It has the label [`KEEP_LABEL`].
    Label,
    /// Something else manages it; the label that says so.
    Managed(&'static str),
    /// This restart policy would start it.
    Restart(&'static str),
    /// It mounts a volume that is not the thread's; which.
    OtherVolume(String),
    /// It mounts none of the thread's volumes, as far as the daemon says.
    NoVolume,
    /// The daemon does not say since when it is in its state.
    SinceUnknown,
}

impl ExitedRule {
    /// Whether this container may be removed for the sake of a thread, by the names of whose volumes `is_the_threads`
    /// says that they are.
    #[must_use]
    pub fn may_go(self, container: &Container, is_the_threads: impl Fn(&str) -> bool) -> MayGo {
        let kept = kept_by_state(&container.state)
            .or_else(|| container.labels.contains_key(KEEP_LABEL).then_some(Kept::Label))
            .or_else(|| {
                let manager = MANAGERS_LABELS.into_iter().find(|label| container.labels.contains_key(*label));
                manager.filter(|_| !self.managed).map(Kept::Managed)
            })
            .or_else(|| starting_policy(container).map(Kept::Restart))
            .or_else(|| {
                let mut others = container.volumes.iter().filter(|name| !is_the_threads(name) && !is_anonymous(name));
                others.next().cloned().map(Kept::OtherVolume)
            })
            .or_else(|| (!container.volumes.iter().any(|name| is_the_threads(name))).then_some(Kept::NoVolume));
        match (kept, container.since) {
            (Some(kept), _) => MayGo::Kept(kept),
            (None, None) => MayGo::Kept(Kept::SinceUnknown),
            (None, Some(since)) => MayGo::From(later(since, self.grace)),
        }
    }
}

impl MayGo {
    /// Of several, all of which have to go: the first that stays, or the last time. Of none, nothing is in the way.
    #[must_use]
    pub fn all(each: impl IntoIterator<Item = Self>) -> Self {
        let both = |one: Self, other: Self| match (one, other) {
            (Self::From(one), Self::From(other)) => Self::From(one.max(other)),
            (kept @ Self::Kept(_), _) | (_, kept @ Self::Kept(_)) => kept,
        };
        each.into_iter().reduce(both).unwrap_or(Self::From(DateTime::<Utc>::MIN_UTC))
    }

    /// Whether it may be removed at `now`.
    #[must_use]
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        match self {
            Self::From(from) => *from <= now,
            Self::Kept(_) => false,
        }
    }
}

fn kept_by_state(state: &ContainerState) -> Option<Kept> {
    match state {
        ContainerState::Created | ContainerState::Exited => None,
        ContainerState::Running => Some(Kept::Running),
        ContainerState::Paused => Some(Kept::Paused),
        ContainerState::Restarting => Some(Kept::Restarting),
        ContainerState::Other(word) => Some(Kept::State(word.clone())),
    }
}

/// The container's restart policy, if it would start it.
fn starting_policy(container: &Container) -> Option<&'static str> {
    let was_never_started = container.state == ContainerState::Created;
    match &container.restart {
        RestartPolicy::No => None,
        RestartPolicy::Always => Some("always"),
        RestartPolicy::UnlessStopped => {
            let is_unsure = container.is_podmans || container.has_failed_to_start || was_never_started;
            is_unsure.then_some("unless-stopped")
        }
        RestartPolicy::OnFailure { most } => {
            let may_again = *most == 0 || container.restarts < *most;
            let has_failed = container.exit_code != 0 || container.has_failed_to_start || was_never_started;
            (has_failed && may_again).then_some("on-failure")
        }
    }
}

/// Whether nobody has named this volume: then its name is 64 hexadecimal digits, and it stays behind without its
/// container.
fn is_anonymous(volume: &str) -> bool {
    volume.len() == 64 && volume.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn later(since: DateTime<Utc>, grace: Duration) -> DateTime<Utc> {
    let grace = TimeDelta::from_std(grace).unwrap_or(TimeDelta::MAX);
    since.checked_add_signed(grace).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

impl Kept {
    /// The reason's name for programs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::State(_) => "state",
            Self::Label => "label",
            Self::Managed(_) => "managed",
            Self::Restart(_) => "restart_policy",
            Self::OtherVolume(_) => "other_volume",
            Self::NoVolume => "no_volume",
            Self::SinceUnknown => "since_unknown",
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("it runs"),
            Self::Paused => f.write_str("it is paused"),
            Self::Restarting => f.write_str("it is being started again"),
            Self::State(word) => write!(f, "its state is {word:?}"),
            Self::Label => write!(f, "it has the label {KEEP_LABEL}"),
            Self::Managed(label) => write!(f, "something else manages it, by its label {label}"),
            Self::Restart(policy) => write!(f, "its restart policy {policy:?} may start it"),
            Self::OtherVolume(volume) => write!(f, "it mounts {volume:?} too, which is not this thread's"),
            Self::NoVolume => f.write_str("it mounts no volume of this thread"),
            Self::SinceUnknown => f.write_str("the daemon does not say since when it has not run"),
        }
    }
}

/// An object: `removable_from` is the time, or `kept` the reason's name and `because` the reason in words.
impl Serialize for MayGo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        match self {
            Self::From(from) => object.serialize_entry("removable_from", from)?,
            Self::Kept(kept) => {
                object.serialize_entry("kept", kept.as_str())?;
                object.serialize_entry("because", &kept.to_string())?;
            }
        }
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::ContainerId;

    const HOUR: Duration = Duration::from_hours(1);
    const RULE: ExitedRule = ExitedRule { grace: HOUR, managed: false };

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
    }

    /// A container that has exited at eight, and mounts the thread's volume.
    fn exited() -> Container {
        Container {
            id: ContainerId::parse(&"a".repeat(64)).expect("an id"),
            name: "agent".to_owned(),
            state: ContainerState::Exited,
            since: Some(at("2027-01-15T08:00:00Z")),
            restart: RestartPolicy::No,
            restarts: 0,
            exit_code: 0,
            has_failed_to_start: false,
            is_podmans: false,
            labels: [].into(),
            volumes: vec!["ha_ws_t1".to_owned()],
        }
    }

    fn may_go(rule: ExitedRule, change: impl FnOnce(&mut Container)) -> MayGo {
        let mut container = exited();
        change(&mut container);
        rule.may_go(&container, |volume| volume == "ha_ws_t1")
    }

    fn from(text: &str) -> MayGo {
        MayGo::From(at(text))
    }

    #[test]
    fn one_that_exited_or_was_never_started_may_go_after_the_grace() {
        let nine = from("2027-01-15T09:00:00Z");
        assert_eq!(may_go(RULE, |_| {}), nine);
        assert_eq!(may_go(RULE, |container| container.state = ContainerState::Created), nine);
        assert!(!nine.is_due(at("2027-01-15T08:59:59Z")) && nine.is_due(at("2027-01-15T09:00:00Z")));
        let at_once = ExitedRule { grace: Duration::ZERO, ..RULE };
        assert_eq!(may_go(at_once, |_| {}), from("2027-01-15T08:00:00Z"));
        let never = ExitedRule { grace: Duration::MAX, ..RULE };
        assert_eq!(may_go(never, |_| {}), MayGo::From(DateTime::<Utc>::MAX_UTC));
    }

    #[test]
    fn one_that_runs_or_is_in_no_known_state_stays() {
        for (state, kept) in [
            (ContainerState::Running, Kept::Running),
            (ContainerState::Paused, Kept::Paused),
            (ContainerState::Restarting, Kept::Restarting),
            (ContainerState::Other("dead".to_owned()), Kept::State("dead".to_owned())),
        ] {
            assert_eq!(may_go(RULE, |container| container.state = state), MayGo::Kept(kept));
        }
    }

    #[test]
    fn one_of_which_nobody_says_since_when_stays() {
        assert_eq!(may_go(RULE, |container| container.since = None), MayGo::Kept(Kept::SinceUnknown));
    }

    #[test]
    fn a_label_keeps_it_whatever_its_value() {
        for value in ["", "true", "false"] {
            let keep = [(KEEP_LABEL.to_owned(), value.to_owned())].into();
            assert_eq!(may_go(RULE, |container| container.labels = keep), MayGo::Kept(Kept::Label));
        }
    }

    #[test]
    fn what_something_else_manages_stays_unless_the_operator_says_so() {
        for label in MANAGERS_LABELS {
            let labels = [(label.to_owned(), "x".to_owned())];
            let managed = |container: &mut Container| container.labels = labels.clone().into();
            assert_eq!(may_go(RULE, managed), MayGo::Kept(Kept::Managed(label)));
            assert_eq!(may_go(ExitedRule { managed: true, ..RULE }, managed), from("2027-01-15T09:00:00Z"));
        }
    }

    #[test]
    fn one_that_its_restart_policy_would_start_stays() {
        let on_failure = |most| RestartPolicy::OnFailure { most };
        let stays = |change: &dyn Fn(&mut Container)| match may_go(RULE, change) {
            MayGo::Kept(Kept::Restart(_)) => true,
            MayGo::From(_) => false,
            MayGo::Kept(other) => panic!("{other:?}"),
        };
        assert!(stays(&|container| container.restart = RestartPolicy::Always));

        // It was stopped by hand, or it would run.
        assert!(!stays(&|container| container.restart = RestartPolicy::UnlessStopped));
        for change in [
            (|container| container.has_failed_to_start = true) as fn(&mut Container),
            |container| container.is_podmans = true,
            |container| container.state = ContainerState::Created,
        ] {
            assert!(stays(&|container| {
                container.restart = RestartPolicy::UnlessStopped;
                change(container);
            }));
        }

        let ended = |restart: RestartPolicy, exit_code, restarts| {
            stays(&|container| {
                (container.restart, container.exit_code, container.restarts) = (restart.clone(), exit_code, restarts);
            })
        };
        assert!(!ended(on_failure(0), 0, 0));
        assert!(ended(on_failure(0), 137, 7));
        assert!(ended(on_failure(3), 1, 2));
        assert!(!ended(on_failure(3), 1, 3));
    }

    #[test]
    fn one_that_mounts_a_volume_of_somebody_elses_stays() {
        let volumes = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            may_go(RULE, |container| container.volumes = names)
        };
        let other = MayGo::Kept(Kept::OtherVolume("ha_ws_t2".to_owned()));
        assert_eq!(volumes(&["ha_ws_t1", "ha_ws_t2"]), other);
        assert_eq!(volumes(&["ha_ws_t2"]), other);
        assert_eq!(volumes(&[]), MayGo::Kept(Kept::NoVolume));
        let unnamed = "0123456789abcdef".repeat(4);
        assert_eq!(volumes(&["ha_ws_t1", &unnamed]), from("2027-01-15T09:00:00Z"));
        assert_eq!(volumes(&[&unnamed]), MayGo::Kept(Kept::NoVolume));
    }

    #[test]
    fn of_several_the_last_decides_and_one_that_stays_keeps_all() {
        let (eight, nine) = (from("2027-01-15T08:00:00Z"), from("2027-01-15T09:00:00Z"));
        let kept = MayGo::Kept(Kept::Paused);
        assert_eq!(MayGo::all([nine.clone(), eight.clone()]), nine);
        assert_eq!(MayGo::all([nine.clone(), kept.clone(), eight]), kept);
        assert!(MayGo::all([]).is_due(at("2027-01-15T08:00:00Z")));
    }

    #[test]
    fn only_a_full_id_is_an_id() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(ContainerId::parse(&hex).is_some());
        for text in ["", "web", "../volumes/x", &hex[1..], &format!("{}/", &hex[1..])] {
            assert_eq!(ContainerId::parse(text), None, "{text}");
        }
    }
}
