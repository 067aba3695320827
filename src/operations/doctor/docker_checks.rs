//! What the facts about the Docker daemon mean.

use super::findings::{Check, Pinned, clock_verdict, is_loopback, major_minor};
use crate::{
    cleanup::{Identity, Likeness, OTHER_ROOT},
    config::Endpoint,
    docker::{Inspection, RemovalRefused},
    failure::Failure,
};

/// The oldest engine that our tests ran on.
const OLDEST_ENGINE: (u32, u32) = (20, 10);

pub(super) fn verdicts(endpoint: &Endpoint, found: &Result<Inspection, Failure>, pinned: Pinned<'_>) -> Vec<Check> {
    let found = match found {
        Err(failure) => return vec![unreachable(failure)],
        Ok(found) => found,
    };
    let product = if found.is_podman { "Podman" } else { "Docker Engine" };
    let at = format!("{product} {} at {endpoint}", found.version);
    let mut checks = vec![Check::ok("docker.reachable", at)];
    checks.extend(transport(endpoint));
    checks.push(version(product, found));
    checks.extend(identity(found, pinned));
    checks.push(lists(found));
    checks.push(removal(found));
    checks.extend(found.may_remove_containers.as_ref().map(removal_of_containers));
    checks.extend(found.clock.map(|clock| clock_verdict(clock, "docker.clock", "the daemon's")));
    checks
}

fn unreachable(failure: &Failure) -> Check {
    let fix = if failure.message.contains("ermission denied") {
        "run this program in the group that the socket belongs to, often `docker`"
    } else {
        "start the daemon, or correct DOCKER_HOST; in a container, mount its socket"
    };
    let why = format!("{failure} (not checked: version, identity, rights on volumes)");
    Check::fail("docker.reachable", why, fix)
}

fn transport(endpoint: &Endpoint) -> Option<Check> {
    let address = match endpoint {
        Endpoint::Unix(_) => return None,
        Endpoint::Tls(..) => return Some(Check::ok("docker.tls", "encrypted, and both sides have shown who they are")),
        Endpoint::Ssh(_) => return Some(Check::ok("docker.tls", "through ssh")),
        Endpoint::Tcp(address) => address,
    };
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    Some(if is_loopback(host) {
        Check::ok("docker.tls", "not encrypted, and does not leave this host")
    } else {
        Check::warn(
            "docker.tls",
            format!("not encrypted: who can reach {address} is root on that host"),
            "use TLS (DOCKER_TLS_VERIFY), ssh://, or the daemon's socket",
        )
    })
}

fn version(product: &str, found: &Inspection) -> Check {
    let name = "docker.version";
    let why = format!("{product} {}, API {}", found.version, found.api_version);
    if found.is_podman {
        return Check::ok(name, format!("{why}, by its Docker-compatible API"));
    }
    match major_minor(&found.version) {
        Some(version) if version >= OLDEST_ENGINE => Check::ok(name, why),
        Some(_) | None => Check::warn(
            name,
            format!("{why}: older than 20.10, or unknown, and never tried"),
            "use Docker Engine 20.10 or later",
        ),
    }
}

fn identity(found: &Inspection, pinned: Pinned<'_>) -> Option<Check> {
    let name = "docker.identity";
    let answering = match &found.identity {
        Err(failure) => {
            let fix = "let it answer /info: without an identity none of its answers of \"no such volume\" counts";
            return Some(Check::fail(name, format!("the daemon does not say who it is: {failure}"), fix));
        }
        Ok(identity) if identity.as_str().is_empty() => {
            let fix = "look at the daemon: its identity is in its data directory, in the file engine-id";
            return Some(Check::fail(name, "the daemon does not say who it is (an empty ID)", fix));
        }
        Ok(identity) => identity,
    };
    Some(match pinned? {
        None => Check::warn(
            name,
            format!("{} answers, and none is pinned yet", answering.as_str()),
            "nothing, if this is the daemon with the volumes: the first `serve` or `sweep` pins it",
        ),
        Some(pinned) => match Identity::from_text(pinned.to_owned()).likeness(answering) {
            Likeness::Same | Likeness::SameId => Check::ok(name, format!("{} as pinned", answering.as_str())),
            Likeness::OtherRoot => Check::fail(
                name,
                format!("{pinned} is pinned, but {} answers; nothing is removed or marked", answering.as_str()),
                format!("{OTHER_ROOT}. If its volumes were moved there for good, run `volume-reaper hosts adopt`"),
            ),
            Likeness::Other => other_daemon(name, pinned, answering.as_str()),
        },
    })
}

fn other_daemon(name: &str, pinned: &str, answering: &str) -> Check {
    Check::fail(
        name,
        format!("{pinned} is pinned, but {answering} answers; nothing is removed or marked"),
        "correct DOCKER_HOST; if the daemon was replaced for good, run `volume-reaper hosts adopt`",
    )
}

fn lists(found: &Inspection) -> Check {
    let name = "docker.lists";
    match &found.lists {
        Ok(warnings) if warnings.is_empty() => Check::ok(name, "volumes and containers can be listed"),
        Ok(warnings) => Check::warn(
            name,
            format!("the list of volumes is incomplete: {}", warnings.join("; ")),
            "fix the volume driver that the daemon names: an incomplete list proves no volume absent",
        ),
        Err(failure) => Check::fail(
            name,
            format!("volumes and containers can't be listed: {failure}"),
            "allow GET /volumes and GET /containers/json in what stands before the daemon",
        ),
    }
}

fn removal(found: &Inspection) -> Check {
    let name = "docker.remove";
    match &found.may_remove {
        Ok(()) => {
            Check::ok(name, "volumes can be removed: one that can't be there was answered with \"no such volume\"")
        }
        Err(RemovalRefused::Forbidden(why)) => Check::fail(
            name,
            format!("volumes can't be removed: {why}"),
            "allow DELETE /volumes/* in the socket proxy or the authorization plugin before the daemon",
        ),
        Err(RemovalRefused::Other(why)) => Check::fail(
            name,
            format!("the removal of a volume that can't be there was not answered with \"no such volume\": {why}"),
            "see that DOCKER_HOST is a Docker daemon, and look into its log",
        ),
    }
}

/// Where containers that have exited are removed.
fn removal_of_containers(may_remove: &Result<(), RemovalRefused>) -> Check {
    let name = "docker.remove_containers";
    match may_remove {
        Ok(()) => Check::ok(
            name,
            "containers can be removed: one that can't be there was answered with \"no such container\"",
        ),
        Err(RemovalRefused::Forbidden(why)) => Check::fail(
            name,
            format!("containers can't be removed, as VOLUME_REAPER_EXITED_CONTAINERS says: {why}"),
            "allow DELETE /containers/* in the socket proxy (EXITED_CONTAINERS=remove) or the authorization plugin \
             before the daemon, or set VOLUME_REAPER_EXITED_CONTAINERS=off",
        ),
        Err(RemovalRefused::Other(why)) => Check::fail(
            name,
            format!(
                "the removal of a container that can't be there was not answered with \"no such container\": {why}"
            ),
            "see that DOCKER_HOST is a Docker daemon, and look into its log",
        ),
    }
}
