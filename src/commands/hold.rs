//! `hold` and `release`: threads that are not to be cleaned.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};

use serde_json::{Value, json};

use super::{
    acting::{act, noted},
    output::{require_reason, say},
};
use crate::{
    config::Config,
    failure::Failure,
    operations::{
        Refusal,
        holding::{self, HeldThread, HoldReleased, HoldSet},
        require_schema, store,
    },
    store::Hold,
    volume_name::ThreadId,
};

pub(super) async fn hold(
    config: &Config,
    thread: &str,
    reason: &str,
    until: Option<&str>,
) -> Result<ExitCode, Failure> {
    let thread = thread_id(thread)?;
    require_reason(reason, "volume")?;
    let store = store(config).await?;
    require_schema(&store, config).await?;
    let done = match holding::hold(&store, &thread, reason, until).await {
        Err(Refusal::Invalid(what)) => return Err(Failure::permanent(what)),
        done => done.map_err(Failure::from),
    };
    let details = json!({ "reason": reason, "until": done.as_ref().ok().and_then(|set| set.hold.until) });
    let set = noted(&store, &act("hold", Some(thread.as_str()), details), done).await?;
    say_set(set)?;
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

/// Says what came of a hold.
pub(super) fn say_set(set: HoldSet) -> Result<(), Failure> {
    say(format!("{} is held until {}: {}", set.thread_id, shown_end(set.hold.until), set.hold.reason))?;
    if let Some(Hold { reason, until, .. }) = set.before {
        say(format!("  in place of a hold until {}: {reason}", shown_end(until)))?;
    }
    match set.thread {
        HeldThread::Unknown => say("  there is no such thread; it will be held as soon as there is")?,
        HeldThread::Gone => say("  its volume is gone already")?,
        HeldThread::Kept => {}
    }
    Ok(())
}

pub(super) async fn release(config: &Config, thread: &str) -> Result<ExitCode, Failure> {
    let thread = thread_id(thread)?;
    let store = store(config).await?;
    require_schema(&store, config).await?;
    let done = holding::release(&store, &thread).await.map_err(Failure::from);
    let done = noted(&store, &act("release", Some(thread.as_str()), Value::Null), done).await;
    store.close().await?;
    say_released(done?)?;
    Ok(ExitCode::SUCCESS)
}

/// Says what came of a release.
pub(super) fn say_released(HoldReleased { thread_id, hold }: HoldReleased) -> Result<(), Failure> {
    match hold.filter(|hold| !hold.is_in_force(Utc::now())) {
        Some(Hold { until, .. }) => say(format!("{thread_id} is released; its hold had ended at {}", shown_end(until))),
        None => say(format!("{thread_id} is released")),
    }
}

pub(super) fn thread_id(text: &str) -> Result<ThreadId, Failure> {
    ThreadId::parse(text).map_err(|error| Failure::permanent(format!("thread id {text:?}: {error}")))
}

fn shown_end(until: Option<DateTime<Utc>>) -> String {
    until.map_or("it is released".to_owned(), |until| until.to_rfc3339_opts(SecondsFormat::Secs, true))
}
