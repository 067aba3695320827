//! Who answers: the proof that it is the pinned daemon, and that nobody else answers beside it.
//!
//! A connection leads to one daemon, unless something in front of two of them passes each request to either. So whoever
//! is met for the first time, or again after an outage or a contradiction, is asked often on one connection, and all
//! answers must agree; from then on once per connection, and once more after each answer that a volume is absent. One
//! question after several such answers is enough on a connection that was asked often itself.

use std::time::Duration;

use bollard::models::SystemInfo;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{CALL_TIMEOUT, Docker, PING_TIMEOUT, links::Link};
use crate::{
    cleanup::{Identity, Likeness, OTHER_ROOT},
    failure::Failure,
};

/// How often a daemon is asked who it is at the first contact. Of two that answer in turn or by chance, one is taken
/// for the only one once in 65,536 times at most.
const QUESTIONS: u32 = 16;
/// How often after a contradiction: then the question is asked for as long as it lasts.
const QUESTIONS_IN_DOUBT: u32 = 32;
/// After a contradiction the daemon is not asked again for so long.
const DOUBT: Duration = Duration::from_secs(1);
/// Another daemon so soon after the pinned one was there need not have taken its place: both may be there.
const LATELY: Duration = Duration::from_mins(1);

/// What is known of who answers at the address.
#[derive(Default)]
pub(super) struct Contact {
    state: Mutex<State>,
    /// Acquired by whoever asks often; the others wait for what comes of it.
    trial: tokio::sync::Mutex<()>,
}

/// Whose answers a proof is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proves {
    /// Whoever is at the link's other end from now on.
    TheNext,
    /// Who gave one answer over this connection.
    One(u64),
    /// Who gave several.
    Several(u64),
}

#[derive(Clone, Default)]
enum State {
    /// Nothing, or nothing since the daemon was down.
    #[default]
    Unknown,
    /// All answers were one daemon's.
    Agreed { identity: Identity, at: Instant },
    /// Another one answered.
    Doubted { since: Instant, failure: Failure },
}

impl Contact {
    /// The daemon was not there: who answers next may be another one.
    pub(super) fn lost(&self) {
        let mut state = self.state();
        if matches!(*state, State::Agreed { .. }) {
            *state = State::Unknown;
        }
    }

    fn agree(&self, identity: &Identity) {
        *self.state() = State::Agreed { identity: identity.clone(), at: Instant::now() };
    }

    fn has_agreed(&self, pinned: &Identity) -> bool {
        matches!(&*self.state(), State::Agreed { identity, .. } if pinned.is_that_of(identity))
    }

    fn is_doubted(&self) -> bool {
        matches!(*self.state(), State::Doubted { .. })
    }

    /// The failure that the latest contradiction was, while it is not asked again.
    fn doubt(&self) -> Result<(), Failure> {
        match &*self.state() {
            State::Doubted { since, failure } if since.elapsed() < DOUBT => Err(failure.clone()),
            State::Doubted { .. } | State::Agreed { .. } | State::Unknown => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Who a daemon says that it is.
pub(super) fn identity_of(info: &SystemInfo, is_podman: bool) -> Identity {
    let root = info.docker_root_dir.as_deref().unwrap_or_default();
    if is_podman {
        return Identity::of_podman(info.name.as_deref().unwrap_or_default(), root);
    }
    Identity::of_docker(info.id.as_deref(), root)
}

impl Docker {
    /// Asks the daemon who it is, often enough to know that there is only one.
    pub async fn identify(&self) -> Result<Identity, Failure> {
        let link = self.link()?;
        let version = self.call("version", PING_TIMEOUT, link.version()).await?;
        let is_podman = version.components.unwrap_or_default().iter().any(|part| part.name.contains("Podman"));
        let identity = identity_of(&self.info(&link).await?, is_podman);
        if identity.as_str().is_empty() {
            return Err(self.down("it does not say who it is (an empty ID), so nothing it says can be relied on"));
        }
        let connection = link.connection();
        for _ in 1..QUESTIONS {
            let again = identity_of(&self.info(&link).await?, is_podman);
            self.is_still(connection, &link)?;
            if again != identity {
                link.discard();
                return Err(self.doubt(&format!("{} and {}", identity.as_str(), again.as_str()), TWO));
            }
        }
        self.contact.agree(&identity);
        Ok(identity)
    }

    /// Whether it is known that the pinned daemon answers, and nobody beside it.
    pub(super) fn is_certain(&self) -> bool {
        self.pinned().is_some_and(|pinned| self.contact.has_agreed(&pinned))
    }

    /// Whether another daemon answered when last asked.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.contact.is_doubted()
    }

    /// Proves that the pinned daemon answers on this connection. Returns what the daemon says of itself.
    pub(super) async fn prove(&self, link: &Link<'_>, proves: Proves) -> Result<SystemInfo, Failure> {
        let Some(pinned) = self.pinned() else { return Err(self.down("its identity is not pinned yet")) };
        self.contact.doubt()?;
        let info = self.info(link).await?;
        let connection = match proves {
            Proves::TheNext => link.connection(),
            Proves::One(connection) | Proves::Several(connection) => connection,
        };
        self.is_still(connection, link)?;
        let is_pinned = |info: &SystemInfo| pinned.is_that_of(&identity_of(info, pinned.is_podmans()));
        let is_enough = |info: &SystemInfo| {
            let was_asked_often = match proves {
                Proves::TheNext | Proves::One(_) => true,
                Proves::Several(_) => link.was_asked_often(),
            };
            was_asked_often && is_pinned(info) && self.contact.has_agreed(&pinned)
        };
        if is_enough(&info) {
            link.set_proven();
            return Ok(info);
        }
        let _trial = self.contact.trial.lock().await;
        // Somebody else may have asked meanwhile.
        self.contact.doubt()?;
        if is_enough(&info) {
            link.set_proven();
            return Ok(info);
        }
        let questions = if self.contact.is_doubted() { QUESTIONS_IN_DOUBT } else { QUESTIONS };
        let (mut latest, mut other) = (info, None);
        let mut is_among_them = false;
        for question in 0..questions {
            if question > 0 {
                latest = self.info(link).await?;
                self.is_still(connection, link)?;
            }
            if is_pinned(&latest) {
                is_among_them = true;
            } else {
                other = Some(identity_of(&latest, pinned.is_podmans()));
            }
            if let (true, Some(other)) = (is_among_them, &other) {
                link.discard();
                return Err(self.doubt(&format!("{} and {}", pinned.as_str(), other.as_str()), TWO));
            }
        }
        let Some(other) = other else {
            self.contact.agree(&pinned);
            link.set_proven();
            link.set_asked_often();
            return Ok(latest);
        };
        link.discard();
        Err(self.refuse(&pinned, &other))
    }

    /// Fails if the link had to connect anew, so that another daemon may have answered since.
    pub(super) fn is_still(&self, connection: u64, link: &Link<'_>) -> Result<(), Failure> {
        if link.connection() == connection {
            return Ok(());
        }
        Err(Failure::transient(format!(
            "docker at {}: the connection ended before the daemon had said who it is. If this stays: what stands in \
             front of the daemon must keep connections open between requests",
            self.endpoint
        )))
    }

    /// The failure that the pinned daemon does not answer, but another.
    fn refuse(&self, pinned: &Identity, other: &Identity) -> Failure {
        let was_there_lately = match &*self.contact.state() {
            State::Agreed { identity, at } => pinned.is_that_of(identity) && at.elapsed() < LATELY,
            State::Unknown | State::Doubted { .. } => false,
        };
        let cause = match pinned.likeness(other) {
            Likeness::OtherRoot => OTHER_ROOT,
            Likeness::Same | Likeness::SameId | Likeness::Other if was_there_lately => {
                "another daemon answers than the one that is pinned in the database, which was there a moment ago: it \
                 was replaced, or two daemons seem to answer at this address"
            }
            Likeness::Same | Likeness::SameId | Likeness::Other => {
                "another daemon answers than the one that is pinned in the database"
            }
        };
        self.doubt(&format!("{} is pinned, {} answers", pinned.as_str(), other.as_str()), cause)
    }

    fn doubt(&self, who: &str, cause: &str) -> Failure {
        let failure = self.down(&format!("{cause} ({who})"));
        *self.contact.state() = State::Doubted { since: Instant::now(), failure: failure.clone() };
        failure
    }

    async fn info(&self, link: &Link<'_>) -> Result<SystemInfo, Failure> {
        self.call("info", CALL_TIMEOUT, link.info()).await
    }
}

const TWO: &str = "two daemons seem to answer at this address, and what one lacks the other may have";
