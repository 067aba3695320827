//! `--server`: what commands ask a running service for, in place of broker, database and daemon. It prints what they
//! print.

mod exchange;
mod letters;

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    hold, hosts, orphans,
    output::{json as in_json, list, say, write},
    pause, receipts,
};
use crate::{
    cli::{Command, DeadLettersAction, HostsAction, ReceiptsSelection},
    config::Server,
    failure::Failure,
    operations::{
        fleet_view::Hosts,
        holding::{HoldReleased, HoldSet},
        pausing::{PauseSet, Resumed},
    },
    store::{ListedReceipt, ReceiptPlace},
    terminal::Plain,
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
            done(list(&hosts::listing(&found)))
        }
        Command::Orphans { action: None, json } => done(list_orphans(server, json).await),
        Command::DeadLetters { action: DeadLettersAction::List { selection } } => {
            done(letters::list(server, &selection).await)
        }
        Command::DeadLetters { action: DeadLettersAction::Replay { selection } } => {
            done(letters::replay(server, &selection).await)
        }
        Command::DeadLetters { action: DeadLettersAction::Purge { selection, yes } } => {
            done(letters::purge(server, &selection, yes).await)
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
        | Command::DeadLetters { action: DeadLettersAction::Show { .. } }
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
        list(&(orphans::line(&Plain(orphan["volume"].as_str().unwrap_or_default()), created_at, is_used) + "\n"))?;
    }
    orphans::say_counts(orphans.len(), volumes, foreign)
}

#[derive(Deserialize)]
struct ReceiptsPage {
    removals: Vec<ListedReceipt>,
    next: Option<String>,
}

fn unknown_place(next: &str) -> Failure {
    Failure::permanent(format!("the service says {next:?} for where its next receipts begin, which is no such place"))
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
        let ReceiptsPage { removals, next } = server.get("removals", &query).await?;
        let next = next.map(|next| next.parse().map_err(|_| unknown_place(&next))).transpose()?;
        Ok((removals, next))
    })
    .await
}
