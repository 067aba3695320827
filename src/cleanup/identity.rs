//! Which daemon it is, as text that survives its restarts.

/// Who a daemon is.
///
/// Docker keeps an id (`Info.ID`), which alone is not enough: the same id may come with another data root, when a disk
/// is not mounted or a host was cloned, and none of our volumes is there. So it is the id with the data root, as in
/// `8b1a9953@/var/lib/docker`. Podman invents a new id at every call, so there it is the host's name with the storage
/// root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(String);

/// How the identity that is pinned and the one that answers relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// They are one daemon's.
    Same,
    /// They have one id, and the pinned one is from when the data root was not looked at.
    SameId,
    /// They have one id, and two data roots.
    OtherRoot,
    /// They are two daemons'.
    Other,
}

impl Identity {
    const PODMAN: &str = "podman:";

    /// That of a Docker daemon with this id and data root. Who does not say who it is has none, whatever its data root.
    #[must_use]
    pub fn of_docker(id: Option<&str>, root: &str) -> Self {
        match id {
            None | Some("") => Self(String::new()),
            Some(id) => Self(format!("{id}@{root}")),
        }
    }

    /// That of a Podman on the host of this name, with this storage root.
    #[must_use]
    pub fn of_podman(host: &str, root: &str) -> Self {
        Self(format!("{}{host}:{root}", Self::PODMAN))
    }

    /// An identity as the database keeps it.
    #[must_use]
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The identity as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How this one, which is pinned, and the one that answers relate.
    #[must_use]
    pub fn likeness(&self, answering: &Self) -> Likeness {
        if self == answering {
            return Likeness::Same;
        }
        if self.is_podmans() || answering.is_podmans() {
            return Likeness::Other;
        }
        match (self.0.split_once('@'), answering.0.split_once('@')) {
            (None, Some((id, _))) if self.0 == id => Likeness::SameId,
            (Some((pinned, _)), Some((id, _))) if pinned == id => Likeness::OtherRoot,
            _ => Likeness::Other,
        }
    }

    /// Whether this one, which is pinned, is that of the daemon that answers.
    #[must_use]
    pub fn is_that_of(&self, answering: &Self) -> bool {
        matches!(self.likeness(answering), Likeness::Same | Likeness::SameId)
    }

    /// As it was pinned when the data root was not looked at: the id alone.
    #[must_use]
    pub fn id_alone(&self) -> Option<&str> {
        if self.is_podmans() { None } else { self.0.split_once('@').map(|(id, _)| id) }
    }

    /// Whether it is a Podman's.
    #[must_use]
    pub fn is_podmans(&self) -> bool {
        self.0.starts_with(Self::PODMAN)
    }
}

/// What an id with two data roots means, and what to do.
pub const OTHER_ROOT: &str = "the same Docker id with another data root: an unmounted disk, or a second daemon \
                                     of a cloned host. Mount the disk, or give the clone an id of its own (stop it, \
                                     delete `engine-id` in its data root, before version 23 /etc/docker/key.json, and \
                                     start it)";

#[cfg(test)]
mod tests {
    use super::*;

    fn docker(id: &str, root: &str) -> Identity {
        Identity::of_docker(Some(id), root)
    }

    #[test]
    fn podman_is_known_by_its_host_and_storage_since_its_id_changes() {
        let podman = || Identity::of_podman("host-a", "/var/lib/containers");
        assert_eq!(podman().likeness(&podman()), Likeness::Same);
        assert_eq!(podman().as_str(), "podman:host-a:/var/lib/containers");
        assert_eq!(podman().likeness(&docker("1", "/var/lib/containers")), Likeness::Other);
    }

    #[test]
    fn docker_is_known_by_its_id_and_its_data_root() {
        let pinned = docker("1", "/data");
        assert_eq!(pinned.as_str(), "1@/data");
        assert_eq!(pinned.likeness(&docker("1", "/data")), Likeness::Same);
        assert_eq!(pinned.likeness(&docker("1", "/var/lib/docker")), Likeness::OtherRoot);
        assert_eq!(pinned.likeness(&docker("2", "/data")), Likeness::Other);
        assert!(!pinned.is_that_of(&docker("1", "/var/lib/docker")));
    }

    #[test]
    fn an_id_that_was_pinned_alone_is_that_of_the_daemon_with_the_id() {
        let pinned = Identity::from_text("1".to_owned());
        assert_eq!(pinned.likeness(&docker("1", "/data")), Likeness::SameId);
        assert_eq!(pinned.likeness(&docker("2", "/data")), Likeness::Other);
        assert_eq!(pinned.likeness(&docker("", "/data")), Likeness::Other);
    }

    #[test]
    fn a_daemon_without_an_id_has_no_identity() {
        assert_eq!(docker("", "/data").as_str(), "");
    }
}
