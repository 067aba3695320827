//! Holds: threads that are not to be cleaned up.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Refusal;
use crate::{
    cleanup::{Thread, Threads},
    failure::Failure,
    store::{Hold, Store},
    volume_name::ThreadId,
};

/// The longest hold with an end. Without one it lasts until it is released.
const LONGEST: TimeDelta = TimeDelta::days(36_500);

/// A hold that was set.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct HoldSet {
    /// The thread.
    pub thread_id: ThreadId,
    /// The hold.
    pub hold: Hold,
    /// The hold in force that it replaces.
    pub before: Option<Hold>,
    /// What there is to hold.
    pub thread: HeldThread,
}

/// What there is of a thread that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeldThread {
    /// No row yet; it is held as soon as there is one.
    Unknown,
    /// Its volume is gone already.
    Gone,
    /// A volume that is kept now.
    Kept,
}

/// A hold that was ended.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct HoldReleased {
    /// The thread.
    pub thread_id: ThreadId,
    /// The hold that it had.
    pub hold: Option<Hold>,
}

/// Holds a thread, in place of any hold before. `until` is a time or a duration from now.
pub async fn hold(store: &Store, thread: &ThreadId, reason: &str, until: Option<&str>) -> Result<HoldSet, Refusal> {
    if reason.trim().is_empty() {
        return Err(Refusal::Invalid("the reason is empty: say why, for whoever finds the volume".to_owned()));
    }
    let until = until.map(|text| end(text, Utc::now())).transpose().map_err(Refusal::Invalid)?;
    let before = store.hold_of(thread).await?.filter(|hold| hold.is_in_force(Utc::now()));
    store.hold(thread, reason, until).await?;
    let hold = store.hold_of(thread).await?;
    // The hold came first: what is said of the row is still true when it counts.
    let row = store.read(std::slice::from_ref(thread), None).await?.threads.remove(thread);
    let thread_now = match row {
        None => HeldThread::Unknown,
        Some(Thread { marked: true, .. }) => HeldThread::Gone,
        Some(_) => HeldThread::Kept,
    };
    let hold = hold.ok_or_else(|| Failure::transient(format!("{thread} was released again meanwhile")))?;
    Ok(HoldSet { thread_id: thread.clone(), hold, before, thread: thread_now })
}

/// Ends the hold on a thread.
pub async fn release(store: &Store, thread: &ThreadId) -> Result<HoldReleased, Refusal> {
    let hold = store.hold_of(thread).await?;
    if !store.release(thread).await? {
        return Err(Refusal::NotThere(format!("{thread} is not held")));
    }
    Ok(HoldReleased { thread_id: thread.clone(), hold })
}

/// The end of a hold: a time, or a duration from `now`.
fn end(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let until = match (DateTime::parse_from_rfc3339(text), humantime::parse_duration(text)) {
        (Ok(time), _) => time.to_utc(),
        (Err(_), Ok(duration)) => {
            let duration = TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
            now.checked_add_signed(duration).unwrap_or(DateTime::<Utc>::MAX_UTC)
        }
        (Err(_), Err(_)) => {
            return Err(format!(
                "until {text:?}: is neither a time, as in 2026-12-24T18:00:00Z, nor a duration from now, as in 7d"
            ));
        }
    };
    if until <= now {
        return Err(format!("until {text:?}: is not in the future"));
    }
    if until - now > LONGEST {
        return Err(format!("until {text:?}: is too far away; leave it out for a hold until it is released"));
    }
    Ok(until.trunc_subsecs(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(text: &str) -> Result<String, String> {
        let now = "2026-11-23T12:00:00Z".parse().expect("a time");
        end(text, now).map(crate::terminal::time)
    }

    #[test]
    fn a_hold_ends_at_a_time_or_after_a_duration() {
        assert_eq!(ended("7d").as_deref(), Ok("2026-11-30T12:00:00Z"));
        assert_eq!(ended("2026-12-24T18:00:00+02:00").as_deref(), Ok("2026-12-24T16:00:00Z"));
    }

    #[test]
    fn an_end_that_can_not_be_meant_is_refused_with_what_to_write() {
        for (text, expected) in [
            ("7", "is neither a time, as in"),
            ("tomorrow", "is neither a time, as in"),
            ("", "is neither a time, as in"),
            ("0s", "is not in the future"),
            ("2026-11-23T12:00:00Z", "is not in the future"),
            ("2025-01-01T00:00:00Z", "is not in the future"),
            ("9000000d", "is too far away"),
            ("500000000000y", "is "),
        ] {
            let error = ended(text).expect_err(text);
            assert!(error.starts_with(&format!("until {text:?}: {expected}")), "{error}");
        }
    }
}
