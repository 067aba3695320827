//! What the API answers when it is asked.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Console, answer,
    problem::Problem,
    queries::{
        DeadLettersQuery, HoldsPage, OrphansPage, OrphansQuery, PageQuery, RemovalsPage, RemovalsQuery, ThreadsQuery,
    },
};
use crate::{
    cleanup::Threads,
    delivery::dead_letter::{Filter, reasons},
    operations::{
        doctor::findings::Report as DoctorReport,
        explain::{self, explanation::Explanation},
        finding::Orphan,
        fleet_view::Hosts,
        orphan_removal,
        parked::{Parked, ParkedPage},
        receipt_pages,
        status::overview::Report as StatusReport,
        waiting_list::{self, WaitingFilter, WaitingPage},
    },
    store::{ReceiptFilter, ReceiptPlace},
    volume_name::ThreadId,
};

/// What every answer is made from.
pub(super) type Shared = State<Arc<Console>>;
/// An answer, or why there is none.
pub(super) type Answer = Result<Response, Problem>;

/// How things stand: what `status --json` prints.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = StatusReport)))]
pub(super) async fn status(State(console): Shared, headers: HeaderMap) -> Answer {
    Ok(answer::report(&headers, &*console.report().await?))
}

/// What is silently wrong, and how to fix it: what `doctor --json` prints.
#[utoipa::path(get, path = "/api/v1/doctor", responses((status = 200, body = DoctorReport)))]
pub(super) async fn doctor(State(console): Shared, headers: HeaderMap) -> Answer {
    Ok(answer::report(&headers, &*console.findings().await?))
}

/// The Docker hosts: what `hosts list --json` prints.
#[utoipa::path(get, path = "/api/v1/hosts", responses((status = 200, body = Hosts)))]
pub(super) async fn hosts(State(console): Shared, headers: HeaderMap) -> Answer {
    Ok(answer::json(&headers, &console.hosts().await?))
}

/// Volumes without a thread: what `orphans --json` prints, page by page.
#[utoipa::path(get, path = "/api/v1/orphans", params(OrphansQuery), responses((status = 200, body = OrphansPage)))]
pub(super) async fn orphans(State(console): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    let query: OrphansQuery = answer::query(&uri)?;
    Ok(answer::json(&headers, &orphans_page(&console, &query).await?))
}

pub(super) async fn orphans_page(console: &Console, query: &OrphansQuery) -> Result<OrphansPage, Problem> {
    let older_than = answer::duration("older_than", query.older_than.as_deref())?;
    let limit = answer::limit(query.limit)?;
    let found = console.orphans().await?;
    let now = Utc::now();
    let is_meant = |orphan: &&Orphan| older_than.is_none_or(|older_than| orphan.is_removable(older_than, now));
    let meant: Vec<_> = found.orphans.iter().filter(is_meant).collect();
    let begin = match query.after.as_deref() {
        None => 0,
        Some(after) => after.parse().map_err(|_| not_an_after())?,
    };
    let orphans: Vec<_> = meant.iter().skip(begin).take(limit).map(|orphan| (*orphan).clone()).collect();
    let end = begin.saturating_add(orphans.len());
    let next = (end < meant.len()).then(|| end.to_string());
    let (volumes, foreign, matching) = (found.volumes, found.foreign, meant.len());
    let seen = orphan_removal::seen(meant.into_iter());
    Ok(OrphansPage { volumes, foreign, matching, seen, orphans, next })
}

/// Closed threads that are not marked, by their ids.
#[utoipa::path(get, path = "/api/v1/threads", params(ThreadsQuery), responses((status = 200, body = WaitingPage)))]
pub(super) async fn threads(State(console): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    let query: ThreadsQuery = answer::query(&uri)?;
    Ok(answer::json(&headers, &threads_page(&console, &query).await?))
}

pub(super) async fn threads_page(console: &Console, query: &ThreadsQuery) -> Result<WaitingPage, Problem> {
    let limit = answer::limit(query.limit)?;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let filter = WaitingFilter {
        waits_for: query.waits_for,
        host: given(&query.host),
        closed_before: ago(answer::duration("older_than", query.older_than.as_deref())?),
        prefix: given(&query.prefix),
    };
    let store = console.store().await?;
    let after = given(&query.after);
    Ok(waiting_list::page(store, &console.config, &filter, after.as_deref(), limit).await?)
}

/// Why a thread's volume is still there, or when it went: what `explain --json` prints.
#[utoipa::path(
    get,
    path = "/api/v1/threads/{id}",
    params(("id" = String, Path, description = "The thread")),
    responses((status = 200, body = Explanation))
)]
pub(super) async fn thread(State(console): Shared, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let explanation = explained(&console, thread_id(&id)?).await?;
    Ok(answer::report(&headers, &explanation))
}

pub(super) async fn explained(console: &Console, id: ThreadId) -> Result<Explanation, Problem> {
    let explained = explain::explain(&console.config, id);
    tokio::time::timeout(console.limit(), explained).await.map_err(|_| Problem::not_yet())
}

impl Console {
    /// The thread that a person means: by its id, or by the name of its volume.
    pub(super) async fn thread_meant_by(&self, text: &str) -> Result<ThreadId, Problem> {
        let names = &self.config.volume_names;
        if names.are_in_rows()
            && let Ok(volume) = names.check(text)
            && let Some((_, Some((thread, _)))) = self.store().await?.owners(&[volume]).await?.into_iter().next()
        {
            return Ok(thread);
        }
        names.thread_of(text).map_or_else(|| thread_id(text), Ok)
    }
}

/// The receipts, the latest first.
#[utoipa::path(get, path = "/api/v1/removals", params(RemovalsQuery), responses((status = 200, body = RemovalsPage)))]
pub(super) async fn removals(State(console): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    let query: RemovalsQuery = answer::query(&uri)?;
    Ok(answer::json(&headers, &removals_page(&console, &query).await?))
}

pub(super) async fn removals_page(console: &Console, query: &RemovalsQuery) -> Result<RemovalsPage, Problem> {
    let limit = answer::limit(query.limit)?;
    let before = receipts_after(query)?;
    let (removals, next) = receipt_pages::page(console.store().await?, &receipt_filter(query), before, limit).await?;
    Ok(RemovalsPage { removals, next: next.as_ref().map(ToString::to_string) })
}

/// The place behind which the page begins.
pub(super) fn receipts_after(query: &RemovalsQuery) -> Result<Option<ReceiptPlace>, Problem> {
    let after = query.after.as_deref().filter(|after| !after.is_empty());
    after.map(str::parse).transpose().map_err(|_| not_an_after())
}

/// Which receipts are meant. What is empty says nothing.
pub(super) fn receipt_filter(query: &RemovalsQuery) -> ReceiptFilter {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    ReceiptFilter {
        thread: given(&query.thread),
        outcome: given(&query.outcome),
        host: given(&query.host),
        since: query.since,
        until: query.until,
    }
}

/// The holds.
#[utoipa::path(get, path = "/api/v1/holds", params(PageQuery), responses((status = 200, body = HoldsPage)))]
pub(super) async fn holds(State(console): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    let query: PageQuery = answer::query(&uri)?;
    Ok(answer::json(&headers, &holds_page(&console, &query).await?))
}

pub(super) async fn holds_page(console: &Console, query: &PageQuery) -> Result<HoldsPage, Problem> {
    let limit = answer::limit(query.limit)?;
    let holds = console.store().await?.hold_page(query.after.as_deref(), limit as u64 + 1).await?;
    let (holds, has_more) = cut(holds, limit);
    let next = holds.last().filter(|_| has_more).map(|last| last.thread_id.clone());
    Ok(HoldsPage { holds, next })
}

/// What is in the dead-letter queue: what `dead-letters list --json` prints, with groups, page by page. It is looked
/// at once in ten seconds for all who ask, since a look takes the messages for a moment.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters",
    params(DeadLettersQuery),
    responses((status = 200, body = ParkedPage))
)]
pub(super) async fn dead_letters(State(console): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    let query: DeadLettersQuery = answer::query(&uri)?;
    Ok(answer::json(&headers, &parked_page(&console, &query).await?))
}

async fn parked_page(console: &Console, query: &DeadLettersQuery) -> Result<ParkedPage, Problem> {
    let parked = console.parked().await?;
    page_of(&parked, query)
}

/// The page that is asked for, of what was in the queue.
pub(super) fn page_of(parked: &Parked, query: &DeadLettersQuery) -> Result<ParkedPage, Problem> {
    let limit = answer::limit(query.limit)?;
    let DeadLettersQuery { reason, group, thread, older_than, newer_than, after, .. } = query;
    let [reason, group, thread] = [reason, group, thread].map(Option::as_deref);
    let filter = message_filter((reason, group), thread, older_than.as_deref(), newer_than.as_deref())?;
    let begin = after.as_deref().filter(|after| !after.is_empty());
    let begin = begin.map(str::parse).transpose().map_err(|_| not_an_after())?;
    Ok(parked.page(&filter, begin.unwrap_or(0), limit))
}

/// Which messages of the dead-letter queue are meant. What is empty says nothing.
pub(super) fn message_filter(
    (reason, group): (Option<&str>, Option<&str>),
    thread: Option<&str>,
    older_than: Option<&str>,
    newer_than: Option<&str>,
) -> Result<Filter, Problem> {
    let reason = reason.filter(|reason| !reason.is_empty());
    if let Some(reason) = reason
        && !reasons().any(|known| known == reason)
    {
        let known = reasons().collect::<Vec<_>>().join(", ");
        return Err(Problem::invalid(format!("there is no reason {reason:?}; there are {known}")));
    }
    let group = group.filter(|group| !group.is_empty());
    if group.is_some_and(|group| group.len() != 16 || !group.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(Problem::invalid("group must be the id of a group in the list of dead letters"));
    }
    Ok(Filter {
        reason: reason.map(str::to_owned),
        group: group.map(str::to_owned),
        thread: thread.filter(|thread| !thread.is_empty()).map(thread_id).transpose()?,
        before: ago(answer::duration("older_than", older_than)?),
        after: ago(answer::duration("newer_than", newer_than)?),
    })
}

/// The thread that a path names.
pub(super) fn thread_id(text: &str) -> Result<ThreadId, Problem> {
    ThreadId::parse(text).map_err(|error| Problem::invalid(format!("thread id {text:?}: {error}")))
}

fn ago(age: Option<std::time::Duration>) -> Option<DateTime<Utc>> {
    let before = |age| TimeDelta::from_std(age).ok().and_then(|age| Utc::now().checked_sub_signed(age));
    age.map(|age| before(age).unwrap_or(DateTime::<Utc>::MIN_UTC))
}

fn not_an_after() -> Problem {
    Problem::invalid("after must be what the page before called next")
}

/// A page out of one item more than fits, and whether there are more.
pub(super) fn cut<T>(mut items: Vec<T>, limit: usize) -> (Vec<T>, bool) {
    let has_more = items.len() > limit;
    items.truncate(limit);
    (items, has_more)
}
