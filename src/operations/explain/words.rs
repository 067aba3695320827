//! The reasons in words.

use super::{
    testimony::HostTestimony,
    why::{Facts, Reason, users_may_go},
};
use crate::{
    cleanup::{
        Gone, Origin,
        exited::{Kept, MayGo},
        failing::Failing,
        retention::Due,
    },
    docker::{SeenVolume, VolumeUser},
    store::WrittenReceipt,
    terminal::{Plain, time},
    volume_name::VolumeName,
};

/// Containers that the answer itself names; the others are listed below it.
const NAMED_USERS: usize = 3;
/// As much of a container's id as Docker's own client shows, in characters.
const SHORT_ID: usize = 12;

impl Reason {
    /// The reason as a clause for people.
    pub(super) fn clause(self, facts: &Facts) -> String {
        let volume = &facts.volume;
        let rows = facts.database.as_ref().ok();
        match self {
            Self::UnknownThread => match &facts.docker {
                Ok(daemon) => match daemon.has_it() {
                    Some(true) => format!(
                        "there is no such thread, but a volume {volume}; a volume without a thread is never touched"
                    ),
                    Some(false) => format!("there is no such thread, and no volume {volume}"),
                    None => "there is no such thread".to_owned(),
                },
                Err(_) => "there is no such thread".to_owned(),
            },
            Self::NotClosed => not_closed(facts),
            Self::Gone => gone(facts),
            Self::Drift => format!(
                "its volume {volume} is there although the thread is marked; the next sweep withdraws the mark and \
                 cleans up again"
            ),
            Self::NotMarkedYet => {
                format!("its volume {volume} is not there, and the thread is not marked yet: the next sweep does it")
            }
            Self::Held => held(facts),
            Self::NotDue => not_due(facts),
            Self::Referenced => referenced(facts),
            Self::ExitedContainers => exited(facts),
            Self::Failing => failing(facts),
            Self::RefusedName => {
                let why = rows.and_then(|rows| rows.refused.as_deref()).unwrap_or_default();
                format!("a row names a volume of it that is refused, and never removed: {}", Plain(why))
            }
            Self::Paused => paused(facts),
            Self::Waiting => {
                format!("its volume {volume} is still there and nothing uses it: the next sweep removes it")
            }
            Self::NobodySweeps => "no replica sweeps now (is `volume-reaper serve` running?)".to_owned(),
            Self::OtherDaemon => format!(
                "another Docker daemon answers ({}) than the pinned one ({}): whether the volume {volume} is there \
                 is not known, and nothing is removed or marked",
                Plain(facts.docker.as_ref().map_or("", |daemon| &daemon.identity)),
                Plain(rows.and_then(|rows| rows.pinned.as_deref()).unwrap_or_default())
            ),
            Self::NoDaemonPinned => format!(
                "no Docker daemon is pinned yet, so whether the volume {volume} is there is not known: the first \
                 `serve` or `sweep` pins one"
            ),
            Self::DatabaseDown => format!("the database could not be read: {}", error(&facts.database)),
            Self::DockerDown => docker_down(facts),
        }
    }
}

fn error<T>(answer: &Result<T, String>) -> String {
    answer.as_ref().err().map(|error| Plain(error).to_string()).unwrap_or_default()
}

fn docker_down(facts: &Facts) -> String {
    let (who, volumes, errors) = match &facts.docker {
        Err(error) => ("Docker does not answer", vec![&facts.volume], error.clone()),
        Ok(daemon) => {
            let hosts = &daemon.hosts;
            ("a host does not answer", HostTestimony::not_known(hosts), HostTestimony::errors(hosts))
        }
    };
    let volumes: Vec<_> = volumes.into_iter().map(VolumeName::as_str).collect();
    let are = if volumes.len() == 1 { "is" } else { "are each" };
    format!("{who}, so whether the volume {} {are} there is not known: {}", volumes.join(", "), Plain(&errors))
}

fn not_closed(facts: &Facts) -> String {
    let row = facts.database.as_ref().ok().and_then(|rows| rows.row.as_ref());
    let status = row.and_then(|row| row.status.as_deref()).unwrap_or_default();
    let volume = &facts.volume;
    let consequence = match &facts.docker {
        Ok(daemon) if daemon.has_it() == Some(false) => format!("; there is no volume {volume}"),
        Ok(_) | Err(_) => format!(", so its volume {volume} stays"),
    };
    format!("it is not closed (its status is \"{}\"){consequence}", Plain(status))
}

fn gone(facts: &Facts) -> String {
    let Ok(rows) = &facts.database else { return String::new() };
    let volume = &facts.volume;
    let mut of_volumes = rows.receipts.iter().filter(|receipt| receipt.container_id.is_none());
    match of_volumes.clone().find(|receipt| receipt.volume_name == volume.as_str()).or_else(|| of_volumes.next()) {
        Some(receipt) => {
            let what = match Gone::parse(&receipt.outcome) {
                Some(Gone::Removed) => "was removed".to_owned(),
                Some(Gone::NotFound) => "was found to be gone".to_owned(),
                None => format!("is gone, in a way that this version does not know ({})", Plain(&receipt.outcome)),
            };
            format!("its volume {volume} {what} {}", of_receipt(receipt))
        }
        // Somebody else's hand, or a receipt that was thrown away.
        None => match rows.row.as_ref().and_then(|row| row.marked_at) {
            Some(at) => format!("its volume {volume} is marked as gone since {}, without a receipt", time(at)),
            None => format!("its volume {volume} is marked as gone, without a receipt"),
        },
    }
}

/// The container that a receipt is about, and a blank, if it is about one.
pub(super) fn of_container(receipt: &WrittenReceipt) -> String {
    match (&receipt.container_id, &receipt.container_name) {
        (None, None) => String::new(),
        (id, name) => format!(
            "{} ({}) ",
            Plain(name.as_deref().unwrap_or_default()),
            Plain(&id.iter().flat_map(|id| id.chars()).take(SHORT_ID).collect::<String>())
        ),
    }
}

pub(super) fn of_receipt(receipt: &WrittenReceipt) -> String {
    let (at, replica) = (time(receipt.removed_at), Plain(&receipt.replica));
    let how = match Origin::parse(&receipt.source, receipt.event_id.clone()) {
        Some(Origin::Event(Some(id))) => format!("for the event {}", Plain(&id)),
        Some(Origin::Event(None)) => "for an event".to_owned(),
        Some(Origin::Sweep) => "in a sweep".to_owned(),
        Some(Origin::Docker) => "when the container that used it ended".to_owned(),
        Some(Origin::Orphan) => "by hand, when it had no thread".to_owned(),
        Some(Origin::Retired) => "by hand, when its host was given up".to_owned(),
        None => format!("in a way that this version does not know ({})", Plain(&receipt.source)),
    };
    format!("at {at} by {replica} {how}")
}

fn held(facts: &Facts) -> String {
    let Some(hold) = facts.database.as_ref().ok().and_then(|rows| rows.hold.as_ref()) else { return String::new() };
    let until = hold.until.map_or_else(|| "until it is released".to_owned(), |until| format!("until {}", time(until)));
    format!(
        "its volume {} is still there: the thread is held since {} {until}: {}",
        facts.volume,
        time(hold.held_at),
        Plain(&hold.reason)
    )
}

fn not_due(facts: &Facts) -> String {
    let due = match facts.database.as_ref().map_or(Due::Now, |rows| rows.due) {
        Due::Now => return String::new(),
        Due::At(at) => format!("until {}", time(at)),
        Due::Never => "for ever, since nobody knows when the thread was closed".to_owned(),
    };
    format!("its volume {} is kept by the retention {due}", facts.volume)
}

fn paused(facts: &Facts) -> String {
    let Some(pause) = facts.database.as_ref().ok().and_then(|rows| rows.pause.as_ref()) else { return String::new() };
    format!(
        "all removal is paused since {} by {} ({}); `volume-reaper resume` resumes it",
        time(pause.paused_at),
        Plain(&pause.paused_by),
        Plain(&pause.reason)
    )
}

fn referenced(facts: &Facts) -> String {
    let users = facts.docker.as_ref().map_or(&[][..], |daemon| &SeenVolume::most_telling(&daemon.volumes).users);
    let named: Vec<_> = users.iter().take(NAMED_USERS).map(of_user).collect();
    let volume = &facts.volume;
    match users.len() {
        1 => format!("its volume {volume} is still there: container {} uses it", named.join("")),
        count if count <= NAMED_USERS => {
            format!("its volume {volume} is still there: containers {} use it", named.join(", "))
        }
        count => {
            let more = count - NAMED_USERS;
            format!("its volume {volume} is still there: containers {} and {more} more use it", named.join(", "))
        }
    }
}

fn exited(facts: &Facts) -> String {
    let Ok(daemon) = &facts.docker else { return String::new() };
    let Some(from) = users_may_go(daemon) else { return String::new() };
    let due_at = match facts.database.as_ref().map_or(Due::Now, |rows| rows.due) {
        Due::At(at) => at,
        Due::Now | Due::Never => from,
    };
    let at = from.max(due_at);
    let users: Vec<_> = daemon.users().collect();
    let named: Vec<_> = users.iter().take(NAMED_USERS).map(|user| Plain(&user.name).to_string()).collect();
    let more = users.len().saturating_sub(NAMED_USERS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let containers = if users.len() == 1 { "container" } else { "containers" };
    let when = if at > facts.now { format!("at {}", time(at)) } else { "with the next sweep".to_owned() };
    format!("{containers} \"{}\"{more} would be removed {when}, and then the volume", named.join("\", \""))
}

/// Another volume of the thread.
pub(super) fn of_other(SeenVolume { volume, found, users, host }: &SeenVolume) -> String {
    let on_host = host.as_ref().map(|host| format!(" on host {}", Plain(host))).unwrap_or_default();
    let volume = format!("{volume}{on_host}");
    match (found, users.as_slice()) {
        (None, _) => format!("{volume}, which is not there"),
        (Some(_), []) => format!("{volume}, which nothing uses"),
        (Some(_), users) => format!("{volume}, used by {}", users.iter().map(of_user).collect::<Vec<_>>().join(", ")),
    }
}

pub(super) fn of_user(user: &VolumeUser) -> String {
    let id: String = user.id.chars().take(SHORT_ID).collect();
    let since = user.since.map(|since| format!(" since {}", time(since))).unwrap_or_default();
    let (name, state, image) = (Plain(&user.name), Plain(&user.state), Plain(&user.image));
    let kept = match &user.exited {
        // Its state says so already.
        None | Some(MayGo::From(_) | MayGo::Kept(Kept::Running | Kept::Paused | Kept::Restarting | Kept::State(_))) => {
            String::new()
        }
        Some(MayGo::Kept(kept)) => format!(", kept since {}", Plain(&kept.to_string())),
    };
    format!("\"{name}\" ({}, {state}{since}, image {image}{kept})", Plain(&id))
}

fn failing(facts: &Facts) -> String {
    let Some(Failing { failed, next_try_at }) = facts.database.as_ref().ok().and_then(|rows| rows.failure.as_ref())
    else {
        return String::new();
    };
    let next =
        if *next_try_at > facts.now { format!("from {} on", time(*next_try_at)) } else { "next time".to_owned() };
    format!(
        "cleaning up failed {} since {}, at last with: {}; sweeps try it again {next}, an event at once",
        times(failed.attempts),
        time(failed.first_failed_at),
        Plain(&failed.error)
    )
}

/// A count of attempts for people.
pub(crate) fn times(attempts: u64) -> String {
    if attempts == 1 { "once".to_owned() } else { format!("{attempts} times") }
}
