//! What the API answers of what was done: sweeps, acts of people, counts.

use axum::{
    extract::State,
    http::{HeaderMap, Uri},
};
use chrono::{TimeDelta, Utc};

use super::{
    Console, answer,
    problem::Problem,
    queries::{ActionsPage, PageQuery, StatsQuery, SweepsPage},
    reading::{Answer, Shared, cut},
};
use crate::store::{Resolution, Stats};

/// The sweeps, the latest first.
#[utoipa::path(get, path = "/api/v1/sweeps", params(PageQuery), responses((status = 200, body = SweepsPage)))]
pub(super) async fn sweeps(State(console): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    Ok(answer::json(&headers, &sweeps_page(&console, &answer::query(&uri)?).await?))
}

pub(super) async fn sweeps_page(console: &Console, query: &PageQuery) -> Result<SweepsPage, Problem> {
    let limit = answer::limit(query.limit)?;
    let sweeps = console.store().await?.sweeps(query.after.as_deref(), limit as u64 + 1).await?;
    let (sweeps, has_more) = cut(sweeps, limit);
    let next = sweeps.last().filter(|_| has_more).map(|last| last.id.clone());
    Ok(SweepsPage { sweeps, next })
}

/// What people did by command line, API and console, the latest first.
#[utoipa::path(get, path = "/api/v1/actions", params(PageQuery), responses((status = 200, body = ActionsPage)))]
pub(super) async fn actions(State(console): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    Ok(answer::json(&headers, &actions_page(&console, &answer::query(&uri)?).await?))
}

pub(super) async fn actions_page(console: &Console, query: &PageQuery) -> Result<ActionsPage, Problem> {
    let limit = answer::limit(query.limit)?;
    let actions = console.store().await?.acts(query.after.as_deref(), limit as u64 + 1).await?;
    let (actions, has_more) = cut(actions, limit);
    let next = actions.last().filter(|_| has_more).map(|last| last.id.clone());
    Ok(ActionsPage { actions, next })
}

/// How many volumes went, by the minute, hour or day.
#[utoipa::path(get, path = "/api/v1/stats", params(StatsQuery), responses((status = 200, body = Stats)))]
pub(super) async fn stats(State(console): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    let query: StatsQuery = answer::query(&uri)?;
    let resolution = match query.by.as_deref() {
        Some("minute") => Resolution::Minute,
        None | Some("hour") => Resolution::Hour,
        Some("day") => Resolution::Day,
        Some(_) => return Err(Problem::invalid("by must be minute, hour or day")),
    };
    let since = query.since.unwrap_or_else(|| Utc::now() - TimeDelta::days(1));
    let stats = console.store().await?.stats(resolution, since).await?;
    Ok(answer::json(&headers, &stats))
}
