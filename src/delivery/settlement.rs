//! What becomes of a delivery: the decision, a pure function of what the clean-up came to and of how often the
//! delivery was tried. The queue executes it, and nothing else decides.

use std::time::Duration;

use crate::{
    cleanup::Outcome,
    delivery::event::InvalidEvent,
    failure::{Dependency, Failure, Verdict},
};

/// How long an event whose row is locked waits where no retries are configured.
const BUSY_DELAY: Duration = Duration::from_secs(1);

/// Why a delivery went to the dead-letter queue; the header `volume-reaper-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The message is not a thread-closed event.
    Undecodable,
    /// The message is of a form that the client library can't read, such as a message id that is no UTF-8.
    Unreadable,
    /// The body is over the size limit.
    TooLarge,
    /// The thread id can't be part of a volume name.
    InvalidThreadId,
    /// No thread with this id appeared in the database while we waited.
    UnknownThread,
    /// The last attempt failed too. The row is still unmarked, so a sweep still cleans up.
    Exhausted,
    /// The error said that trying again will not help.
    Permanent,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Undecodable,
        Self::Unreadable,
        Self::TooLarge,
        Self::InvalidThreadId,
        Self::UnknownThread,
        Self::Exhausted,
        Self::Permanent,
    ];

    /// The name in the header, in logs and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::InvalidThreadId => "invalid_thread_id",
            Self::UnknownThread => "unknown_thread",
            Self::Exhausted => "exhausted",
            Self::Permanent => "permanent",
        }
    }
}

/// What is to be done with a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Acknowledge it: it had an outcome.
    Ack,
    /// Acknowledge it: the thread was not closed and did not become so while we waited.
    Stale,
    /// Try again after `delay`.
    Retry {
        /// How long to wait; one of the delay queues.
        delay: Duration,
        /// What went wrong this time.
        error: String,
    },
    /// Try again after `delay`, which counts as no attempt: somebody else has locked the thread's row.
    Busy {
        /// How long to wait; the first of the delay queues.
        delay: Duration,
    },
    /// Move it to the dead-letter queue.
    DeadLetter {
        /// Why, for machines.
        reason: Reason,
        /// Why, for people.
        error: String,
    },
    /// Give it back as it was: a dependency is down.
    HandBack {
        /// Which one.
        dependency: Dependency,
        /// What it said.
        error: String,
    },
}

impl Settlement {
    /// What kind of error it settles, and what that says, if there was one.
    #[must_use]
    pub fn error(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Ack | Self::Stale | Self::Busy { .. } => None,
            Self::Retry { error, .. } => Some((self.as_str(), error)),
            Self::DeadLetter { reason, error } => Some((reason.as_str(), error)),
            Self::HandBack { dependency, error } => Some((dependency.as_str(), error)),
        }
    }

    /// The name in logs and in `volume_reaper_settlements_total`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Stale => "stale",
            Self::Retry { .. } => "retry",
            Self::Busy { .. } => "busy",
            Self::DeadLetter { .. } => "dead_letter",
            Self::HandBack { .. } => "hand_back",
        }
    }
}

/// Decides on a delivery whose event was handled.
///
/// `failed_attempts` is how often the delivery was tried before this time; `delays` is the retry schedule: the first
/// failure waits `delays[0]`, and the one after the last step is final.
#[must_use]
pub fn decide(result: &Result<Outcome, Failure>, failed_attempts: usize, delays: &[Duration]) -> Settlement {
    let retry_or = |error: String, last: &dyn Fn(String) -> Settlement| match delays.get(failed_attempts) {
        Some(&delay) => Settlement::Retry { delay, error },
        None => last(error),
    };
    match result {
        Ok(
            Outcome::Removed
            | Outcome::NotFound
            | Outcome::Referenced { .. }
            | Outcome::AlreadyClean
            | Outcome::Reopened
            // The row stays unmarked, so a sweep cleans up.
            | Outcome::NotDue { .. }
            | Outcome::Held
            | Outcome::Paused
            | Outcome::Removing
            | Outcome::NotHere
            | Outcome::Deferred,
        ) => Settlement::Ack,
        Ok(Outcome::Busy) => Settlement::Busy { delay: delays.first().copied().unwrap_or(BUSY_DELAY) },
        Ok(Outcome::Elsewhere { host }) => retry_or(format!("the thread is on host {host:?}"), &|error| {
            Settlement::DeadLetter { reason: Reason::Exhausted, error }
        }),
        Ok(Outcome::NotClosed) => retry_or("the thread is not closed".to_owned(), &|_| Settlement::Stale),
        Ok(Outcome::UnknownThread) => retry_or("there is no such thread".to_owned(), &|error| Settlement::DeadLetter {
            reason: Reason::UnknownThread,
            error,
        }),
        Err(failure) => match failure.verdict {
            Verdict::Transient => {
                retry_or(failure.message.clone(), &|error| Settlement::DeadLetter { reason: Reason::Exhausted, error })
            }
            Verdict::Permanent => Settlement::DeadLetter { reason: Reason::Permanent, error: failure.message.clone() },
            Verdict::Unavailable(dependency) => Settlement::HandBack { dependency, error: failure.message.clone() },
        },
    }
}

/// Decides on a delivery that is no event: parked at once, since trying again will not help.
#[must_use]
pub fn refuse(invalid: &InvalidEvent) -> Settlement {
    let reason = match invalid {
        InvalidEvent::TooLarge(_) => Reason::TooLarge,
        InvalidEvent::Undecodable(_) => Reason::Undecodable,
        InvalidEvent::InvalidThreadId(_) => Reason::InvalidThreadId,
    };
    Settlement::DeadLetter { reason, error: invalid.to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LADDER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

    fn decided(result: &Result<Outcome, Failure>, failed_attempts: usize) -> &'static str {
        match decide(result, failed_attempts, &LADDER) {
            Settlement::Retry { delay, .. } if delay == LADDER[0] => "retry 1s",
            Settlement::Retry { .. } => "retry 5s",
            Settlement::DeadLetter { reason, .. } => reason.as_str(),
            other @ (Settlement::Ack | Settlement::Stale | Settlement::Busy { .. } | Settlement::HandBack { .. }) => {
                other.as_str()
            }
        }
    }

    #[test]
    fn every_result_has_its_settlement_at_every_step_of_the_ladder() {
        let referenced = || Outcome::Referenced { containers: vec![] };
        for (result, settlements) in [
            (Ok(Outcome::Removed), ["ack", "ack", "ack"]),
            (Ok(Outcome::NotFound), ["ack", "ack", "ack"]),
            (Ok(referenced()), ["ack", "ack", "ack"]),
            (Ok(Outcome::AlreadyClean), ["ack", "ack", "ack"]),
            (Ok(Outcome::Reopened), ["ack", "ack", "ack"]),
            (Ok(Outcome::NotDue { due_at: None }), ["ack", "ack", "ack"]),
            (Ok(Outcome::Held), ["ack", "ack", "ack"]),
            (Ok(Outcome::Paused), ["ack", "ack", "ack"]),
            (Ok(Outcome::Removing), ["ack", "ack", "ack"]),
            (Ok(Outcome::NotHere), ["ack", "ack", "ack"]),
            (Ok(Outcome::Deferred), ["ack", "ack", "ack"]),
            (Ok(Outcome::Busy), ["busy", "busy", "busy"]),
            (Ok(Outcome::Elsewhere { host: "b".to_owned() }), ["retry 1s", "retry 5s", "exhausted"]),
            (Ok(Outcome::NotClosed), ["retry 1s", "retry 5s", "stale"]),
            (Ok(Outcome::UnknownThread), ["retry 1s", "retry 5s", "unknown_thread"]),
            (Err(Failure::transient("x")), ["retry 1s", "retry 5s", "exhausted"]),
            (Err(Failure::permanent("x")), ["permanent", "permanent", "permanent"]),
            (Err(Failure::unavailable(Dependency::Docker, "x")), ["hand_back", "hand_back", "hand_back"]),
        ] {
            for (failed_attempts, expected) in settlements.into_iter().enumerate() {
                assert_eq!(decided(&result, failed_attempts), expected, "{result:?}, {failed_attempts}");
            }
        }
    }

    #[test]
    fn a_settlement_says_what_kind_of_error_it_settles() {
        let error = || "x".to_owned();
        let dependency = Dependency::Docker;
        for (settlement, name, settled) in [
            (Settlement::Ack, "ack", None),
            (Settlement::Stale, "stale", None),
            (Settlement::Busy { delay: Duration::ZERO }, "busy", None),
            (Settlement::Retry { delay: Duration::ZERO, error: error() }, "retry", Some(("retry", "x"))),
            (
                Settlement::DeadLetter { reason: Reason::Permanent, error: error() },
                "dead_letter",
                Some(("permanent", "x")),
            ),
            (Settlement::HandBack { dependency, error: error() }, "hand_back", Some(("docker", "x"))),
        ] {
            assert_eq!((settlement.as_str(), settlement.error()), (name, settled));
        }
    }

    #[test]
    fn an_attempt_count_beyond_the_ladder_is_the_last_one() {
        assert_eq!(decided(&Err(Failure::transient("x")), usize::MAX), "exhausted");
    }

    fn results() -> impl Strategy<Value = Result<Outcome, Failure>> {
        let outcomes = prop::sample::select(vec![
            Outcome::Removed,
            Outcome::NotFound,
            Outcome::Referenced { containers: vec!["c".to_owned()] },
            Outcome::Busy,
            Outcome::AlreadyClean,
            Outcome::NotClosed,
            Outcome::UnknownThread,
            Outcome::Reopened,
            Outcome::NotDue { due_at: None },
            Outcome::Held,
            Outcome::Paused,
            Outcome::Removing,
            Outcome::NotHere,
            Outcome::Deferred,
            Outcome::Elsewhere { host: "b".to_owned() },
        ]);
        let verdicts = prop::sample::select(
            [Verdict::Transient, Verdict::Permanent]
                .into_iter()
                .chain(Dependency::ALL.map(Verdict::Unavailable))
                .collect::<Vec<_>>(),
        );
        let failures = (verdicts, ".{0,20}").prop_map(|(verdict, message)| Failure { verdict, message });
        prop_oneof![outcomes.prop_map(Ok), failures.prop_map(Err)]
    }

    proptest! {
        /// Of one result: it is decided at every attempt, waits as the schedule says, and once it is final it stays so.
        #[test]
        fn a_settlement_is_total_and_monotone_in_the_attempt(
            result in results(),
            seconds in prop::collection::vec(1u64..1000, 0..8),
            attempts in prop::collection::vec(any::<usize>(), 0..4),
        ) {
            let delays: Vec<_> = seconds.into_iter().map(Duration::from_secs).collect();
            let mut attempts: Vec<_> = (0..=delays.len()).chain(attempts).collect();
            attempts.sort_unstable();
            let mut last: Option<Settlement> = None;
            for attempt in attempts {
                let settlement = decide(&result, attempt, &delays);
                match (&settlement, &last) {
                    (Settlement::Retry { delay, .. }, before) => {
                        prop_assert_eq!(Some(delay), delays.get(attempt));
                        let was_retried = before.as_ref().is_none_or(|it| matches!(it, Settlement::Retry { .. }));
                        prop_assert!(was_retried, "{before:?}, and then a retry");
                    }
                    (other, Some(before)) if !matches!(before, Settlement::Retry { .. }) => {
                        prop_assert_eq!(other, before);
                    }
                    (_, Some(_)) => prop_assert!(attempt >= delays.len()),
                    (_, None) => {}
                }
                last = Some(settlement);
            }
        }

        /// Who acknowledges for good has an outcome; what failed is retried, parked or handed back.
        #[test]
        fn no_failure_is_acknowledged(result in results(), attempt in any::<usize>()) {
            let is_acknowledged = matches!(decide(&result, attempt, &LADDER), Settlement::Ack | Settlement::Stale);
            prop_assert!(!is_acknowledged || result.is_ok());
        }
    }
}
