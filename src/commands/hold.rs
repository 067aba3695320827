//! `hold` and `release`: threads that are not to be cleaned.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};

use serde_json::{Value, json};

use super::{
    acting::{act, noted},
    output::say,
    require_schema, store,
};
use crate::{
    cleanup::{Thread, Threads},
    config::Config,
    failure::Failure,
    store::Hold,
    volume_name::ThreadId,
};

/// The longest hold with an end. Without one it lasts until it is released.
const LONGEST: TimeDelta = TimeDelta::days(36_500);

pub(super) async fn hold(
    config: &Config,
    thread: &str,
    reason: &str,
    until: Option<&str>,
) -> Result<ExitCode, Failure> {
    let thread = thread_id(thread)?;
    if reason.trim().is_empty() {
        return Err(Failure::permanent("--reason is empty: say why, for whoever finds the volume"));
    }
    let until = until.map(|text| end(text, Utc::now())).transpose().map_err(Failure::permanent)?;
    let store = store(config).await?;
    require_schema(&store, config).await?;

    let before = store.hold_of(&thread).await?.filter(|hold| hold.is_in_force(Utc::now()));
    let done = store.hold(&thread, reason, until).await;
    let details = json!({ "reason": reason, "until": until });
    noted(&store, &act("hold", Some(thread.as_str()), details), done).await?;
    say(format!("{thread} is held until {}: {reason}", shown_end(until)))?;
    if let Some(Hold { reason, until, .. }) = before {
        say(format!("  in place of a hold until {}: {reason}", shown_end(until)))?;
    }
    // The hold came first: what is said of the row is still true when it counts.
    match store.read(std::slice::from_ref(&thread), None).await?.threads.remove(&thread) {
        None => say("  there is no such thread; it will be held as soon as there is")?,
        Some(Thread { marked: true, .. }) => say("  its volume is gone already")?,
        Some(_) => {}
    }
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn release(config: &Config, thread: &str) -> Result<ExitCode, Failure> {
    let thread = thread_id(thread)?;
    let store = store(config).await?;
    require_schema(&store, config).await?;
    let hold = store.hold_of(&thread).await?;
    let done = store.release(&thread).await;
    let done = done.and_then(|held| held.then_some(()).ok_or_else(|| not_held(&thread)));
    let done = noted(&store, &act("release", Some(thread.as_str()), Value::Null), done).await;
    store.close().await?;
    done?;
    match hold.filter(|hold| !hold.is_in_force(Utc::now())) {
        Some(Hold { until, .. }) => say(format!("{thread} is released; its hold had ended at {}", shown_end(until)))?,
        None => say(format!("{thread} is released"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn not_held(thread: &ThreadId) -> Failure {
    Failure::permanent(format!("{thread} is not held"))
}

fn thread_id(text: &str) -> Result<ThreadId, Failure> {
    ThreadId::parse(text).map_err(|error| Failure::permanent(format!("thread id {text:?}: {error}")))
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
                "--until {text:?}: is neither a time, as in 2026-12-24T18:00:00Z, nor a duration from now, as in 7d"
            ));
        }
    };
    if until <= now {
        return Err(format!("--until {text:?}: is not in the future"));
    }
    if until - now > LONGEST {
        return Err(format!("--until {text:?}: is too far away; leave it out for a hold until it is released"));
    }
    Ok(until.trunc_subsecs(3))
}

fn shown_end(until: Option<DateTime<Utc>>) -> String {
    until.map_or("it is released".to_owned(), |until| until.to_rfc3339_opts(SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(text: &str) -> Result<String, String> {
        let now = "2026-11-23T12:00:00Z".parse().expect("a time");
        end(text, now).map(|until| shown_end(Some(until)))
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
            assert!(error.starts_with(&format!("--until {text:?}: {expected}")), "{error}");
        }
    }
}
