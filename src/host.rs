//! A Docker host, as this process knows it: the only one, or one of several by its name.

use std::fmt;

use serde::{Serialize, Serializer};

/// What the only host is called where a name is needed: in rows of the database and in `/readyz`.
const ONLY: &str = "default";

/// A Docker host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// The only one that there is, so that every thread's volume can only be there.
    Only,
    /// One of several, by its name.
    Named(String),
}

impl Host {
    /// The host that a row of the database or a setting calls so.
    #[must_use]
    pub fn from_key(key: &str) -> Self {
        if key == ONLY { Self::Only } else { Self::Named(key.to_owned()) }
    }

    /// Its name, if it is one of several.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Only => None,
            Self::Named(name) => Some(name),
        }
    }

    /// What it is called in rows of the database, where the only one has a name too.
    #[must_use]
    pub fn key(&self) -> &str {
        self.name().unwrap_or(ONLY)
    }

    /// Whether there are no others.
    #[must_use]
    pub fn is_only(&self) -> bool {
        *self == Self::Only
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_again_by_its_key() {
        for host in [Host::Only, Host::Named("docker-1".to_owned())] {
            assert_eq!(Host::from_key(host.key()), host);
        }
        assert_eq!(Host::Only.name(), None);
    }
}
