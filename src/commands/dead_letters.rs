//! `dead-letters`: look at what could not be settled, replay it when its cause is fixed, delete what nobody needs.
//!
//! Each walks through the whole queue first and says how much of what is there; then it does what it is for.

mod shown_message;

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use self::shown_message::Message;
use super::{
    acting::{act, noted_if_there},
    output::{confirm, json, list as list_lines, require_terminal, say, write},
};
use crate::{
    cli::{DeadLettersAction, Selection},
    config::Config,
    delivery::dead_letter::{Counts, DeadLetter, Filter, printable},
    failure::Failure,
    operations::{
        how_far::HowFar,
        parking::{self, LISTED, Listed, Purged, most},
    },
    queue::{DeadLetters, Queues, Then},
};

/// Messages of `show`, unless a limit is given: each has up to 64 KiB or more.
const SHOWN: u64 = 10;
/// Of an error, in a line of `list`; `show` has all of it.
const ERROR_CHARACTERS: usize = 80;

pub(super) async fn run(config: &Config, action: DeadLettersAction) -> Result<ExitCode, Failure> {
    if matches!(action, DeadLettersAction::Purge { yes: false, .. }) {
        require_terminal("purge deletes messages for good")?;
    }
    let letters = DeadLetters::open(Queues::as_they_are(config)).await?;
    let done = match &action {
        DeadLettersAction::List { selection } => list(&letters, selection).await,
        DeadLettersAction::Show { selection } => show(&letters, selection).await,
        DeadLettersAction::Replay { selection } => {
            let done = replay(&letters, selection).await;
            let act = act("dead-letters replay", None, details(selection, done.as_ref().ok().copied()));
            noted_if_there(config, &act, done).await.map(drop)
        }
        DeadLettersAction::Purge { selection, yes } => {
            let done = purge(&letters, selection, *yes).await;
            let act = act("dead-letters purge", None, details(selection, done.as_ref().ok().copied()));
            noted_if_there(config, &act, done).await.map(drop)
        }
    };
    letters.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn list(letters: &DeadLetters, selection: &Selection) -> Result<(), Failure> {
    let limit = selection.limit.map_or(LISTED, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let found = parking::list(letters, &filter(selection), limit).await?;
    warn_of_readers(&found.counts);
    if selection.json {
        return say(json(&found));
    }
    let Listed { counts, messages: listed } = found;
    say_counts_of(&counts)?;
    let shown = listed.len() as u64;
    let lines = listed
        .iter()
        .map(|letter| line(thread(letter), letter.reason, letter.attempts, letter.parked_at, letter.error.as_deref()));
    say_lines(lines, counts.matching - shown)
}

/// A message in the list.
pub(super) fn line(
    thread: &str,
    reason: &str,
    attempts: usize,
    parked_at: Option<DateTime<Utc>>,
    error: Option<&str>,
) -> String {
    let error: String = error.unwrap_or("-").chars().take(ERROR_CHARACTERS).collect();
    let (age, error) = (age(parked_at), printable(&error.replace('\n', " ")));
    format!("{thread:<36}  {reason:<17}  {attempts:>8}  {age:>10}  {error}")
}

/// Says the list, and how many are not in it.
pub(super) fn say_lines(lines: impl ExactSizeIterator<Item = String>, more: u64) -> Result<(), Failure> {
    if lines.len() > 0 {
        list_lines(&format!("\n{:<36}  {:<17}  {:>8}  {:>10}  error\n", "thread", "reason", "attempts", "age"))?;
    }
    for line in lines {
        list_lines(&(line + "\n"))?;
    }
    match more {
        0 => Ok(()),
        more => say(format!("and {more} more; --limit says how many are listed")),
    }
}

async fn show(letters: &DeadLetters, selection: &Selection) -> Result<(), Failure> {
    let (filter, limit) = (filter(selection), selection.limit.unwrap_or(SHOWN));
    let counts = parking::survey(letters, &filter, &HowFar::default(), |_, _| {}).await?;
    warn_of_readers(&counts);
    letters.give_back().await?;
    if selection.json {
        // Written piece by piece: the bodies of all are more than fits into memory.
        let counts = json(&counts);
        let open = counts.strip_suffix('}').expect("an object");
        write(&format!("{open},\"messages\":["))?;
    } else {
        say_counts_of(&counts)?;
    }
    let mut shown = 0;
    letters
        .walk(most(&counts), async |parked| {
            let letter = parked.read();
            if !filter.matches(&letter) {
                return Ok(Then::Keep);
            }
            let message = Message::new(parked, letter);
            if selection.json {
                write(&format!("{}{}", if shown == 0 { "" } else { "," }, json(&message)))?;
            } else {
                message.say()?;
            }
            shown += 1;
            Ok(if shown < limit { Then::Keep } else { Then::End })
        })
        .await?;
    letters.give_back().await?;
    if selection.json { say("]}") } else { Ok(()) }
}

/// What was selected, and how many messages that came to.
fn details(selection: &Selection, messages: Option<u64>) -> serde_json::Value {
    let seconds = |age: Option<Duration>| age.map(|age| age.as_secs());
    serde_json::json!({
        "reason": selection.reason,
        "thread": selection.thread,
        "older_than_seconds": seconds(selection.older_than),
        "newer_than_seconds": seconds(selection.newer_than),
        "limit": selection.limit,
        "messages": messages,
    })
}

/// Returns how many messages were replayed.
async fn replay(letters: &DeadLetters, selection: &Selection) -> Result<u64, Failure> {
    let (filter, limit) = (filter(selection), selection.limit.unwrap_or(u64::MAX));
    let counts = parking::survey(letters, &filter, &HowFar::default(), |_, _| {}).await?;
    warn_of_readers(&counts);
    letters.give_back().await?;
    if !selection.json {
        say_counts_of(&counts)?;
    }
    let (replayed, ended) = parking::replay(letters, &filter, limit, counts, &HowFar::default()).await;
    // Said in any case: what was replayed before an error stays replayed.
    if selection.json {
        say(json(&replayed))?;
    } else {
        say_replayed(replayed.replayed, replayed.no_event)?;
    }
    ended?;
    letters.give_back().await?;
    Ok(replayed.replayed)
}

/// Returns how many messages were deleted.
async fn purge(letters: &DeadLetters, selection: &Selection, yes: bool) -> Result<u64, Failure> {
    let limit = selection.limit.unwrap_or(u64::MAX);
    let (counts, selected) = parking::select(letters, &filter(selection), limit, &HowFar::default()).await?;
    warn_of_readers(&counts);
    if !selection.json {
        say_counts_of(&counts)?;
    }
    // They stay unacked while we ask: what is deleted is what was counted.
    if !selected.is_empty() && !yes {
        confirm(&format!("This deletes {} messages for good", selected.len()), selected.len()).await?;
    }
    parking::remove(letters, &selected).await?;
    let purged = selected.len();
    if selection.json {
        say(json(&Purged { counts, purged }))?;
    } else {
        say_purged(purged as u64)?;
    }
    Ok(purged as u64)
}

/// Says what came of a replay.
pub(super) fn say_replayed(replayed: u64, no_event: u64) -> Result<(), Failure> {
    say(format!("\nreplayed {replayed} messages"))?;
    match no_event {
        0 => Ok(()),
        left => say(format!("left {left} that are no event and would come back; --reason replays them all the same")),
    }
}

/// Says what came of a purge.
pub(super) fn say_purged(purged: u64) -> Result<(), Failure> {
    say(format!("\npurged {purged} messages"))
}

fn warn_of_readers(counts: &Counts) {
    if counts.other_readers > 0 {
        eprintln!(
            "volume-reaper: another program reads from the dead-letter queue: what was delivered to it is not counted"
        );
    }
}

/// The ages become points in time once, so that nothing grows into the selection between counting and acting.
fn filter(selection: &Selection) -> Filter {
    let ago = |age: Duration| {
        let age = TimeDelta::from_std(age).ok();
        age.and_then(|age| Utc::now().checked_sub_signed(age)).unwrap_or(DateTime::<Utc>::MIN_UTC)
    };
    Filter {
        group: None,
        reason: selection.reason.clone(),
        thread: selection.thread.clone(),
        before: selection.older_than.map(ago),
        after: selection.newer_than.map(ago),
    }
}

fn thread(letter: &DeadLetter) -> &str {
    letter.thread_id.as_ref().map_or("-", |id| id.as_str())
}

/// How long ago, in the two largest units.
fn age(parked_at: Option<DateTime<Utc>>) -> String {
    let Some(parked_at) = parked_at else { return "-".to_owned() };
    let seconds = u64::try_from((Utc::now() - parked_at).num_seconds()).unwrap_or(0);
    let age = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    age.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn say_counts_of(counts: &Counts) -> Result<(), Failure> {
    say_counts(counts.total, counts.matching, counts.by_reason.iter())
}

/// Says how many there are.
pub(super) fn say_counts<'a>(
    total: u64,
    matching: u64,
    mut by_reason: impl Iterator<Item = (&'a (impl std::fmt::Display + 'a), &'a u64)>,
) -> Result<(), Failure> {
    say(format!("{total} messages are parked, {matching} of them are selected"))?;
    by_reason.try_for_each(|(reason, count)| say(format!("  {reason:<17}  {count}")))
}
