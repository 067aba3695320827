//! `--server`: what commands ask a running service for, in place of broker, database and daemon. It prints what they
//! print.

mod exchange;

use std::{collections::BTreeMap, process::ExitCode};

use chrono::{DateTime, Utc};
use humantime::format_duration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    dead_letters, hold, hosts, orphans,
    output::{json as in_json, say, write},
    pause, receipts,
};
use crate::{
    cli::{Command, DeadLettersAction, HostsAction, ReceiptsSelection, Selection, Server},
    failure::Failure,
    operations::{
        fleet_view::Hosts,
        holding::{HoldReleased, HoldSet},
        pausing::{PauseSet, Resumed},
    },
    store::{ListedReceipt, ReceiptPlace},
    terminal::Plain,
    volume_name::ThreadId,
};

/// What programs accept.
const JSON: &str = "application/json";
/// Items of a page of the API at most.
const PAGE: u64 = 1000;

/// Has a service do what the command says.
pub(super) async fn run(server: &Server, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Status { json } => report(server, "status", json, |report| report["ok"] == true).await,
        Command::Doctor { json } => report(server, "doctor", json, |report| report["ok"] == true).await,
        Command::Explain { thread_id, json } => {
            let path = format!("threads/{}", hold::thread_id(&thread_id)?);
            report(server, &path, json, |found| found["errors"] == json!({ "database": null, "docker": null })).await
        }
        Command::Hosts { action: HostsAction::List { json } } => {
            if json {
                return report(server, "hosts", true, |_| true).await;
            }
            let found: Hosts = server.get("hosts", &[]).await?;
            done(write(&hosts::listing(&found)))
        }
        Command::Orphans { action: None, json } => done(list_orphans(server, json).await),
        Command::DeadLetters { action: DeadLettersAction::List { selection } } => {
            done(list_dead_letters(server, &selection).await)
        }
        Command::Receipts { action: None, selection } => done(list_receipts(server, selection).await),
        Command::Hold { thread_id, reason, until } => {
            let path = format!("threads/{}/hold", hold::thread_id(&thread_id)?);
            let set: HoldSet = server.post(&path, &json!({ "reason": reason, "until": until })).await?;
            done(hold::say_set(set))
        }
        Command::Release { thread_id } => {
            let path = format!("threads/{}/release", hold::thread_id(&thread_id)?);
            let released: HoldReleased = server.post(&path, &json!({})).await?;
            done(hold::say_released(released))
        }
        Command::Pause { reason, on } => {
            let set: PauseSet = server.post("pause", &json!({ "reason": reason, "host": on })).await?;
            done(pause::say_set(set, on.as_deref()))
        }
        Command::Resume { on } => {
            let resumed: Resumed = server.post("resume", &json!({ "host": on })).await?;
            done(pause::say_resumed(&resumed))
        }
        Command::Serve { .. }
        | Command::Migrate { .. }
        | Command::Init { .. }
        | Command::Sweep { .. }
        | Command::Publish { .. }
        | Command::Health { .. }
        | Command::Orphans { action: Some(_), .. }
        | Command::DeadLetters { .. }
        | Command::Receipts { action: Some(_), .. }
        | Command::Hosts { .. }
        | Command::Completions { .. }
        | Command::Man { .. } => Err(Failure::permanent(
            "no service does this for --server (VOLUME_REAPER_SERVER): leave it out, and run it where broker, database \
             and Docker are",
        )),
    }
}

fn done(said: Result<(), Failure>) -> Result<ExitCode, Failure> {
    said.map(|()| ExitCode::SUCCESS)
}

/// Prints what the service found. Whether all of it could be found is the exit code.
async fn report(
    server: &Server,
    path: &str,
    as_json: bool,
    is_whole: impl Fn(&Value) -> bool,
) -> Result<ExitCode, Failure> {
    let text = server.get_text(path, &[], JSON).await?;
    let found: Value = server.read(text.as_bytes())?;
    if as_json {
        say(text)?;
    } else {
        write(&server.get_text(path, &[], "text/plain").await?)?;
    }
    Ok(if is_whole(&found) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Deserialize)]
struct OrphansPage {
    volumes: usize,
    foreign: usize,
    orphans: Vec<Value>,
    next: Option<String>,
}

async fn list_orphans(server: &Server, as_json: bool) -> Result<(), Failure> {
    let page = async |after: Option<String>| -> Result<OrphansPage, Failure> {
        let after = after.map(|after| ("after", after));
        let query: Vec<_> = [("limit", PAGE.to_string())].into_iter().chain(after).collect();
        server.get("orphans", &query).await
    };
    let OrphansPage { volumes, foreign, mut orphans, mut next } = page(None).await?;
    while let Some(after) = next {
        let more = page(Some(after)).await?;
        orphans.extend(more.orphans);
        next = more.next;
    }
    if as_json {
        return say(in_json(&json!({ "volumes": volumes, "foreign": foreign, "orphans": orphans })));
    }
    let mut host = &Value::Null;
    for orphan in &orphans {
        if orphan["host"] != *host {
            host = &orphan["host"];
            say(format!("host {}", Plain(host.as_str().unwrap_or_default())))?;
        }
        let created_at = orphan["created_at"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok());
        let is_used = orphan["users"].as_array().is_some_and(|users| !users.is_empty());
        say(orphans::line(&Plain(orphan["volume"].as_str().unwrap_or_default()), created_at, is_used))?;
    }
    orphans::say_counts(orphans.len(), volumes, foreign)
}

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

async fn list_dead_letters(server: &Server, selection: &Selection) -> Result<(), Failure> {
    let thread = selection.thread.as_ref().map(ToString::to_string);
    let age = |age: std::time::Duration| format_duration(age).to_string();
    let conditions = [
        ("reason", selection.reason.clone()),
        ("thread", thread),
        ("older_than", selection.older_than.map(age)),
        ("newer_than", selection.newer_than.map(age)),
        ("limit", selection.limit.map(|limit| limit.min(PAGE).to_string())),
    ];
    let query: Vec<_> = conditions.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
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

#[derive(Deserialize)]
struct ReceiptsPage {
    removals: Vec<ListedReceipt>,
}

async fn list_receipts(server: &Server, selection: ReceiptsSelection) -> Result<(), Failure> {
    receipts::list(selection, async |filter, after: Option<ReceiptPlace>, limit| {
        let time = |at: Option<DateTime<Utc>>| at.map(|at| at.to_rfc3339());
        let conditions = [
            ("thread", filter.thread.clone()),
            ("outcome", filter.outcome.clone()),
            ("host", filter.host.clone()),
            ("since", time(filter.since)),
            ("until", time(filter.until)),
            ("after", after.map(|after| after.to_string())),
            ("limit", Some(limit.to_string())),
        ];
        let query: Vec<_> = conditions.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let page: ReceiptsPage = server.get("removals", &query).await?;
        Ok(page.removals)
    })
    .await
}
