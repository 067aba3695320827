//! Errors that carry their verdict: what is to be done about one is said where it is known, in the adapter, and read
//! everywhere else.

use std::fmt;

/// A part that we depend on and that can be down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// The message broker.
    Broker,
    /// The database.
    Database,
    /// The Docker daemon.
    Docker,
}

impl Dependency {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 3] = [Self::Broker, Self::Database, Self::Docker];

    /// The name in logs, metrics and `/readyz`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Database => "database",
            Self::Docker => "docker",
        }
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The dependency is down: nobody's fault, wait for it, count no attempt.
    Unavailable(Dependency),
    /// This one failed, later may work.
    Transient,
    /// Later will not help.
    Permanent,
}

impl Verdict {
    /// The name in traces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable(dependency) => dependency.as_str(),
            Self::Transient => "transient",
            Self::Permanent => "permanent",
        }
    }
}

/// A failed call to a dependency.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What is to be done about it.
    pub verdict: Verdict,
    /// What went wrong, for people; it never holds a secret.
    pub message: String,
}

impl Failure {
    /// The dependency is down.
    pub fn unavailable(dependency: Dependency, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unavailable(dependency), message: message.into() }
    }

    /// Later may work.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Transient, message: message.into() }
    }

    /// Later will not help.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Permanent, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_called_by_their_dependency_or_by_what_helps() {
        let verdicts = [Verdict::Unavailable(Dependency::Database), Verdict::Transient, Verdict::Permanent];
        assert_eq!(verdicts.map(Verdict::as_str), ["database", "transient", "permanent"]);
    }
}
