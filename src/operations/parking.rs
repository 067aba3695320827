//! The dead-letter queue: what is parked there, replayed when its cause is mended, deleted when nobody needs it.
//!
//! Each walks through the whole queue first and says how much of what is there; then it does what it is for.

use serde::Serialize;
use tokio::runtime::Handle;
use utoipa::ToSchema;

use super::{Refusal, how_far::HowFar};
use crate::{
    config::Config,
    delivery::dead_letter::{Counts, DeadLetter, Filter},
    failure::Failure,
    queue::{DeadLetters, Queues, Then, Unacked},
};

/// Messages of a list, unless a limit is given: a screen or three.
pub(crate) const LISTED: usize = 100;

/// What is parked.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Listed {
    /// How many there are.
    #[serde(flatten)]
    pub counts: Counts,
    /// Those that the filter means, the oldest first, as many as were asked for.
    pub messages: Vec<DeadLetter>,
}

/// What was replayed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// How many there were.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages that were published to the work queue again.
    pub replayed: u64,
    /// Messages that are no event and would come straight back: left alone, unless their reason or group is named.
    pub no_event: u64,
}

/// What was deleted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Purged {
    /// How many there were.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages that were deleted.
    pub purged: usize,
}

/// Opens the queue, hands each message to `seen`, and closes. Gives all back. Returns what was seen.
pub(crate) async fn look_through<T: Default + Send + 'static>(
    config: &Config,
    seen: fn(&mut T, DeadLetter),
) -> Result<(Counts, T), Failure> {
    with_letters(config, async move |letters| {
        let mut found = T::default();
        let counts =
            survey(letters, &Filter::default(), &HowFar::default(), |_, letter| seen(&mut found, letter)).await?;
        letters.give_back().await?;
        Ok((counts, found))
    })
    .await
}

/// Opens the queue, replays and closes. Fails if there are not as many as `expected`, where that is said.
pub async fn replay_once(
    config: &Config,
    filter: Filter,
    limit: u64,
    expected: Option<u64>,
    how_far: HowFar,
) -> Result<Replayed, Refusal> {
    let replayed = async move |letters: &DeadLetters| {
        let counts = survey(letters, &filter, &how_far, |_, _| {}).await?;
        letters.give_back().await?;
        check_expected(&counts, limit, expected)?;
        how_far.begin(counts.matching.min(limit));
        let (replayed, ended) = replay(letters, &filter, limit, counts, &how_far).await;
        ended?;
        letters.give_back().await?;
        Ok(replayed)
    };
    with_letters(config, replayed).await
}

/// Opens the queue, deletes and closes. Fails if there are not as many as `expected`.
pub async fn purge_once(
    config: &Config,
    filter: Filter,
    limit: u64,
    expected: u64,
    how_far: HowFar,
) -> Result<Purged, Refusal> {
    let purged = async move |letters: &DeadLetters| {
        let (counts, selected) = select(letters, &filter, limit, &how_far).await?;
        if let Err(refused) = check_expected(&counts, limit, Some(expected)) {
            letters.give_back().await?;
            return Err(refused);
        }
        if how_far.is_stopped() {
            letters.give_back().await?;
            return Ok(Purged { counts, purged: 0 });
        }
        how_far.begin(selected.len() as u64);
        remove(letters, &selected).await?;
        how_far.advance_to(selected.len() as u64);
        Ok(Purged { counts, purged: selected.len() })
    };
    with_letters(config, purged).await
}

/// Opens the queue, works and closes, on a thread of its own: a walk is a future that can't change threads, since its
/// visitor is an asynchronous closure (rust-lang/rust issue 110338).
async fn with_letters<R, E>(
    config: &Config,
    work: impl AsyncFnOnce(&DeadLetters) -> Result<R, E> + Send + 'static,
) -> Result<R, E>
where
    R: Send + 'static,
    E: From<Failure> + Send + 'static,
{
    let (queues, runtime) = (Queues::as_they_are(config), Handle::current());
    let walk = move || {
        runtime.block_on(async {
            let letters = DeadLetters::open(queues).await?;
            let done = work(&letters).await;
            letters.close().await;
            done
        })
    };
    let walked = tokio::task::spawn_blocking(walk).await;
    walked.unwrap_or_else(|error| Err(Failure::permanent(format!("a walk through the queue failed: {error}")).into()))
}

fn check_expected(counts: &Counts, limit: u64, expected: Option<u64>) -> Result<(), Refusal> {
    let there = counts.matching.min(limit);
    match expected.filter(|expected| *expected != there) {
        None => Ok(()),
        Some(expected) => Err(Refusal::Conflict(format!(
            "{there} messages are selected now, and {expected} were expected: look again at what is there"
        ))),
    }
}

/// The oldest messages that the filter means. Gives all back.
pub(crate) async fn list(letters: &DeadLetters, filter: &Filter, limit: usize) -> Result<Listed, Failure> {
    let mut messages = Vec::new();
    let keep_oldest = |messages: &mut Vec<DeadLetter>| {
        messages.sort_by_key(|letter| letter.parked_at);
        messages.truncate(limit);
    };
    let counts = survey(letters, filter, &HowFar::default(), |_, letter| {
        messages.push(letter);
        if messages.len() >= limit.saturating_mul(2) {
            keep_oldest(&mut messages);
        }
    })
    .await?;
    keep_oldest(&mut messages);
    letters.give_back().await?;
    Ok(Listed { counts, messages })
}

/// Publishes to the work queue what the filter means, as many as were counted, until it is stopped. What was replayed
/// before an error stays replayed, so both are returned.
pub(crate) async fn replay(
    letters: &DeadLetters,
    filter: &Filter,
    limit: u64,
    counts: Counts,
    how_far: &HowFar,
) -> (Replayed, Result<(), Failure>) {
    let (mut replayed, mut no_event) = (0, 0);
    let walk = letters.walk(most(&counts), async |parked| {
        if how_far.is_stopped() {
            return Ok(Then::End);
        }
        let letter = parked.read();
        if !filter.matches(&letter) {
            return Ok(Then::Keep);
        }
        // It would come straight back; who names the reason knows that, or has a consumer that can read it.
        if letter.thread_id.is_none() && filter.reason.is_none() && filter.group.is_none() {
            no_event += 1;
            return Ok(Then::Keep);
        }
        letters.replay(parked).await?;
        replayed += 1;
        how_far.advance();
        Ok(if replayed < limit { Then::Settled } else { Then::End })
    });
    let mut ended = walk.await.map(drop);
    if ended.is_ok() {
        ended = letters.settled().await;
    }
    (Replayed { counts, replayed, no_event }, ended)
}

/// Takes what the filter means. All of the queue is unacked afterwards.
pub(crate) async fn select(
    letters: &DeadLetters,
    filter: &Filter,
    limit: u64,
    how_far: &HowFar,
) -> Result<(Counts, Vec<Unacked>), Failure> {
    let mut selected = Vec::new();
    let counts = survey(letters, filter, how_far, |unacked, _| {
        if (selected.len() as u64) < limit {
            selected.push(unacked);
        }
    })
    .await?;
    Ok((counts, selected))
}

/// Deletes what was selected, and gives the others back.
pub(crate) async fn remove(letters: &DeadLetters, selected: &[Unacked]) -> Result<(), Failure> {
    for unacked in selected {
        letters.remove(*unacked).await?;
    }
    letters.settled().await?;
    letters.give_back().await
}

/// Walks through the whole queue, counts, and hands over what the filter means. All of it is unacked afterwards.
pub(crate) async fn survey(
    letters: &DeadLetters,
    filter: &Filter,
    how_far: &HowFar,
    mut matching: impl FnMut(Unacked, DeadLetter),
) -> Result<Counts, Failure> {
    let size = letters.size().await?;
    how_far.begin(size.ready.into());
    let mut counts = Counts { other_readers: size.readers, ..Counts::default() };
    letters
        .walk(size.ready, async |parked| {
            how_far.advance();
            let letter = parked.read();
            let matches = filter.matches(&letter);
            counts.add(&letter, matches);
            if matches {
                matching(parked.unacked(), letter);
            }
            Ok(Then::Keep)
        })
        .await?;
    Ok(counts)
}

/// As many as were counted: what is parked meanwhile is left for the next time, a replay that came back included.
pub(crate) fn most(counts: &Counts) -> u32 {
    u32::try_from(counts.total).unwrap_or(u32::MAX)
}
