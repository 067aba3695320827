//! The dead letters of a service: listed, replayed and deleted there.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use humantime::format_duration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{JSON, PAGE};
use crate::{
    cli::Selection,
    commands::{
        dead_letters,
        output::{confirm, json as in_json, require_terminal, say},
    },
    config::Server,
    failure::Failure,
    volume_name::ThreadId,
};

#[derive(Deserialize)]
struct LettersPage {
    total: u64,
    matching: u64,
    by_reason: BTreeMap<String, u64>,
    messages: Vec<Letter>,
}

#[derive(Deserialize)]
struct Letter {
    reason: String,
    thread_id: Option<ThreadId>,
    attempts: usize,
    parked_at: Option<DateTime<Utc>>,
    error: Option<String>,
}

/// Lists them.
pub(super) async fn list(server: &Server, selection: &Selection) -> Result<(), Failure> {
    let limit = selection.limit.map(|limit| limit.min(PAGE));
    let query = conditions(selection, limit);
    let text = server.get_text("dead-letters", &query, JSON).await?;
    if selection.json {
        return say(text);
    }
    let page: LettersPage = server.read(text.as_bytes())?;
    dead_letters::say_counts(page.total, page.matching, page.by_reason.iter())?;
    let shown = page.messages.len() as u64;
    let lines = page.messages.iter().map(|letter| {
        let thread = letter.thread_id.as_ref().map_or("-", ThreadId::as_str);
        dead_letters::line(thread, &letter.reason, letter.attempts, letter.parked_at, letter.error.as_deref())
    });
    dead_letters::say_lines(lines, page.matching.saturating_sub(shown))
}

/// What came of a replay or a purge; nothing but `running` if it takes longer than an answer.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Done {
    running: bool,
    total: u64,
    matching: u64,
    by_reason: BTreeMap<String, u64>,
    replayed: u64,
    no_event: u64,
    purged: u64,
}

/// Has them published to the work queue again.
pub(super) async fn replay(server: &Server, selection: &Selection) -> Result<(), Failure> {
    let asked = asked(selection);
    let Some(Done { replayed, no_event, .. }) = told(server, "dead-letters/replay", &asked, selection.json).await?
    else {
        return Ok(());
    };
    dead_letters::say_replayed(replayed, no_event)
}

/// Has them deleted, as many as there were when a person was asked.
pub(super) async fn purge(server: &Server, selection: &Selection, yes: bool) -> Result<(), Failure> {
    if !yes {
        require_terminal("purge deletes messages for good")?;
    }
    let page: LettersPage = server.get("dead-letters", &conditions(selection, Some(1))).await?;
    let expected = page.matching.min(selection.limit.unwrap_or(u64::MAX));
    if expected > 0 && !yes {
        dead_letters::say_counts(page.total, page.matching, page.by_reason.iter())?;
        let count = usize::try_from(expected).unwrap_or(usize::MAX);
        confirm(&format!("This deletes {expected} messages for good"), count).await?;
    }
    let mut asked = asked(selection);
    asked["expected"] = expected.into();
    let Some(Done { purged, .. }) = told(server, "dead-letters/purge", &asked, selection.json).await? else {
        return Ok(());
    };
    dead_letters::say_purged(purged)
}

/// What came of it, with the counts said; none if all is said.
async fn told(server: &Server, path: &str, asked: &Value, as_json: bool) -> Result<Option<Done>, Failure> {
    let answer: Value = server.post(path, asked).await?;
    if as_json {
        say(in_json(&answer))?;
        return Ok(None);
    }
    let done: Done = server.read(answer.to_string().as_bytes())?;
    if done.running {
        say("it takes long and goes on at the service, whose page of dead letters says how it ends")?;
        return Ok(None);
    }
    dead_letters::say_counts(done.total, done.matching, done.by_reason.iter())?;
    Ok(Some(done))
}

/// A selection, as the API is asked for it.
fn conditions(selection: &Selection, limit: Option<u64>) -> Vec<(&'static str, String)> {
    let age = |age: std::time::Duration| format_duration(age).to_string();
    let conditions = [
        ("reason", selection.reason.clone()),
        ("thread", selection.thread.as_ref().map(ToString::to_string)),
        ("older_than", selection.older_than.map(age)),
        ("newer_than", selection.newer_than.map(age)),
        ("limit", limit.map(|limit| limit.to_string())),
    ];
    conditions.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn asked(selection: &Selection) -> Value {
    let mut asked = json!({ "limit": selection.limit });
    for (name, value) in conditions(selection, None) {
        asked[name] = value.into();
    }
    asked
}
