//! What the daemon's answers mean.

use bollard::errors::Error;

use crate::{
    cleanup::{ContainerId, ContainerRemoval, Removal},
    config::Endpoint,
    failure::{Dependency, Failure},
    volume_name::VolumeName,
};

const NO_SUCH_VOLUME: &str = "no such volume";

/// What an answer other than 2xx to a removal means. Facts of moby (`daemon/volume`) and Podman, per status:
///
/// - 404 is a missing volume only if the message says so and names it, or says nothing else, as Podman 5 does (by
///   experiment, with 5.4.2); a missing driver, plugin or page is 404 too.
/// - 409 is a volume in use, by containers that the message lists; stopped ones count.
/// - 500 "has active mounts" is in use as well: a mount without a container.
/// - 500 "outside of the local volume root" will not change: the volume's directory is not where it belongs.
/// - 502, 503, 504 come from something in front of a daemon that is not there.
pub(super) fn refused_removal(
    status_code: u16,
    message: &str,
    volume: &VolumeName,
    endpoint: &Endpoint,
) -> Result<Removal, Failure> {
    let error = || format!("docker at {endpoint}: removing {volume}: {status_code} {message}");
    match status_code {
        404 if message.trim() == NO_SUCH_VOLUME
            || message.contains(volume.as_str()) && message.trim_end().ends_with(NO_SUCH_VOLUME) =>
        {
            Ok(Removal::Missing)
        }
        409 if message.contains("in use") || message.contains("being used") => {
            Ok(Removal::Referenced { containers: container_ids(message) })
        }
        500 if message.contains("has active mounts") => Ok(Removal::Referenced { containers: container_ids(message) }),
        500 if message.contains("outside of") && message.contains("volume root") => Err(Failure::permanent(error())),
        400 => Err(Failure::permanent(error())),
        502..=504 => Err(Failure::unavailable(Dependency::Docker, error())),
        _ => Err(Failure::transient(error())),
    }
}

/// What an answer other than 2xx to a container's removal means. Docker refuses one that runs, is paused or is being
/// removed with 409 (moby, `daemon/delete.go`); Podman with 500 and these words (`libpod/define/errors.go`), also one
/// that others depend on, as a pod's do.
pub(super) fn refused_container(
    status_code: u16,
    message: String,
    container: &ContainerId,
    endpoint: &Endpoint,
) -> Result<ContainerRemoval, Failure> {
    const PODMANS_REFUSALS: [&str; 4] =
        ["container state improper", "without force", "dependent containers", "infra container"];
    let error = || format!("docker at {endpoint}: removing container {container}: {status_code} {message}");
    match status_code {
        404 if is_no_such_container(&message) => Ok(ContainerRemoval::NotFound),
        409 => Ok(ContainerRemoval::Refused(message)),
        500 if PODMANS_REFUSALS.iter().any(|words| message.contains(words)) => Ok(ContainerRemoval::Refused(message)),
        400 => Err(Failure::permanent(error())),
        502..=504 => Err(Failure::unavailable(Dependency::Docker, error())),
        _ => Err(Failure::transient(error())),
    }
}

/// Whether a 404 says that there is no such container, in Docker's words or in Podman's.
pub(super) fn is_no_such_container(message: &str) -> bool {
    message.to_ascii_lowercase().contains("no such container")
}

/// The container ids in a message: runs of 64 hexadecimal digits, in Docker's wording and in Podman's.
fn container_ids(message: &str) -> Vec<String> {
    message
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit()))
        .map(str::to_owned)
        .collect()
}

/// The status label of a metric.
pub(super) fn status<R>(answer: &Result<R, Error>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(Error::DockerResponseServerError { status_code, .. }) => status_code.to_string(),
        Err(Error::RequestTimeoutError) => "timeout".to_owned(),
        Err(_) => "unreachable".to_owned(),
    }
}

/// The innermost cause: the client's own messages stop at "client error (Connect)".
pub(super) fn cause(error: &Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        failure::Verdict,
        volume_name::{ThreadId, VolumeNames},
    };

    const ID: &str = "4f66ad9a0b2e0d1b5f4ac1d2f3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6";

    #[test]
    fn every_answer_to_a_containers_removal_has_its_meaning() {
        let container = ContainerId::parse(ID).expect("an id");
        let endpoint = Endpoint::Unix("/run/docker.sock".to_owned());
        let meaning = |status_code, message: &str| match refused_container(
            status_code,
            message.to_owned(),
            &container,
            &endpoint,
        ) {
            Ok(ContainerRemoval::Removed) => "removed",
            Ok(ContainerRemoval::NotFound) => "not_found",
            Ok(ContainerRemoval::Refused(_)) => "refused",
            Ok(ContainerRemoval::NotSent) => "not sent",
            Err(Failure { verdict: Verdict::Permanent, .. }) => "permanent",
            Err(Failure { verdict: Verdict::Transient, .. }) => "transient",
            Err(Failure { verdict: Verdict::Unavailable(_), .. }) => "unavailable",
        };
        for (status_code, message, expected) in [
            (404, &*format!("No such container: {ID}"), "not_found"),
            (404, &format!("no container with ID or name {ID:?} found: no such container"), "not_found"),
            (404, "page not found", "transient"),
            (409, &format!("You cannot remove a running container {ID}. Stop the container before"), "refused"),
            (409, &format!("removal of container {ID} is already in progress"), "refused"),
            (
                500,
                "cannot remove container x as it is running - running or paused containers cannot be removed without \
                 force: container state improper",
                "refused",
            ),
            (500, "container x has dependent containers which must be removed before it: y", "refused"),
            (500, "driver \"overlay2\" failed to remove root filesystem: device or resource busy", "transient"),
            (403, "forbidden", "transient"),
            (400, "bad parameter", "permanent"),
            (503, "no backend", "unavailable"),
        ] {
            assert_eq!(meaning(status_code, message), expected, "{status_code} {message}");
        }
    }

    #[test]
    fn every_answer_to_a_removal_has_its_meaning() {
        let prefix = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let volume = prefix.volume_of(&ThreadId::parse("t1").expect("valid"));
        let endpoint = Endpoint::Unix("/run/docker.sock".to_owned());
        let meaning = |status_code, message: &str| match refused_removal(status_code, message, &volume, &endpoint) {
            Ok(Removal::Removed) => "removed",
            Ok(Removal::Missing) => "missing",
            Ok(Removal::NotFound) => "not_found",
            Ok(Removal::Referenced { containers }) if containers == [ID] => "referenced by ID",
            Ok(Removal::Referenced { .. }) => "referenced",
            Ok(Removal::NotSent) => "not sent",
            Err(Failure { verdict: Verdict::Permanent, .. }) => "permanent",
            Err(Failure { verdict: Verdict::Transient, .. }) => "transient",
            Err(Failure { verdict: Verdict::Unavailable(_), .. }) => "unavailable",
        };
        for (status_code, message, expected) in [
            (404, "get ha_ws_t1: no such volume", "missing"),
            (404, "no volume with name \"ha_ws_t1\" found: no such volume", "missing"),
            (404, "no such volume", "missing"),
            (404, "get other: no such volume", "transient"),
            (404, "get ha_ws_t1: no such volume driver", "transient"),
            (404, "plugin \"nfs\" not found", "transient"),
            (404, "page not found", "transient"),
            (404, "", "transient"),
            (409, &format!("remove ha_ws_t1: volume is in use - [{ID}]"), "referenced by ID"),
            (409, &format!("volume ha_ws_t1 is being used by the following container(s): {ID}"), "referenced by ID"),
            (409, "a prune operation is already running", "transient"),
            (500, "remove ha_ws_t1: volume has active mounts", "referenced"),
            (500, "unable to remove a directory outside of the local volume root /var/lib/docker", "permanent"),
            (500, "outside of the hours of business", "transient"),
            (500, "error removing volume path '/x': device or resource busy", "transient"),
            (500, "", "transient"),
            (400, "bad parameter", "permanent"),
            (403, "forbidden", "transient"),
            (502, "bad gateway", "unavailable"),
            (503, "no backend", "unavailable"),
            (504, "gateway timeout", "unavailable"),
        ] {
            assert_eq!(meaning(status_code, message), expected, "{status_code} {message}");
        }
    }

    #[test]
    fn an_answer_has_its_status_and_an_error_its_innermost_cause() {
        let answered = |status_code| Error::DockerResponseServerError { status_code, message: String::new() };
        assert_eq!(status(&Ok(())), "ok");
        assert_eq!(status::<()>(&Err(answered(409))), "409");
        assert_eq!(status::<()>(&Err(Error::RequestTimeoutError)), "timeout");
        let inner = std::io::Error::other(std::io::Error::other("the pipe is broken"));
        let error = Error::IOError { err: std::io::Error::other(inner) };
        assert_eq!(status::<()>(&Err(Error::IOError { err: std::io::Error::other("x") })), "unreachable");
        assert_eq!(cause(&error), "the pipe is broken");
    }

    proptest! {
        /// Whatever a daemon answers: only a 404 that names the volume, or nothing, says that it is not there, and only
        /// 409 and "has active mounts" that it is in use.
        #[test]
        fn no_answer_but_its_own_404_says_that_a_volume_is_not_there(
            status_code in prop_oneof![Just(404u16), Just(409), Just(500), 100u16..600],
            message in prop_oneof![
                ".{0,60}",
                "(get )?(ha_ws_t1|x)?(: )?(no such volume|volume is in use|has active mounts|page not found)\\s?",
            ],
        ) {
            let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
            let volume = names.volume_of(&ThreadId::parse("t1").expect("valid"));
            let endpoint = Endpoint::Unix("/run/docker.sock".to_owned());
            match refused_removal(status_code, &message, &volume, &endpoint) {
                Ok(Removal::Missing) => {
                    prop_assert!(status_code == 404);
                    prop_assert!(message.contains("ha_ws_t1") || message.trim() == "no such volume", "{message}");
                }
                Ok(Removal::Referenced { .. }) => prop_assert!([409, 500].contains(&status_code)),
                Ok(Removal::Removed | Removal::NotFound | Removal::NotSent) => prop_assert!(false, "{message}"),
                Err(failure) => prop_assert!(failure.message.contains(&status_code.to_string())),
            }
        }
    }
}
