//! The pages that are looked at: each asks what the API answers, and shows it.

use axum::{
    extract::{Path, State},
    http::Uri,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    Page, frame,
    lists::{Letters, Looking, Waiting},
    looks::{Notice, Thread},
    operation,
    places::{HealthList, HoldList, HostList, OrphanList},
    records::{Activity, Removals, RemovalsForm, Sweeps},
    rendered,
    verdict::{Now, Overview},
    viewer::{Place, Viewer},
    without_empty,
};
use crate::console::{
    answer,
    done::{actions_page, sweeps_page},
    lately::Range,
    queries::{DeadLettersQuery, OrphansQuery, RemovalsQuery, ThreadsQuery},
    reading::{Shared, explained, holds_page, orphans_page, page_of, removals_page, thread_id, threads_page},
};

/// Rows of a long list on a page: more than anybody reads, and few enough to be there at once.
const ROWS: usize = 50;

/// The range of the chart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverviewQuery {
    #[serde(default)]
    range: Range,
}

/// The thread that is looked for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Find {
    /// By a link of ours.
    id: String,
    /// By a person, who may know the name of its volume.
    what: String,
}

pub(super) async fn log_in(place: Place) -> Response {
    let (title, detail) = ("Log in".to_owned(), String::new());
    let page = Notice { root: place.root, look: place.look.as_str(), title, detail, has_login: true };
    rendered(&page)
}

pub(super) async fn overview(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let OverviewQuery { range } = answer::query(&uri)?;
    let (report, lately) = tokio::join!(console.report(), console.lately());
    let report = report?;
    let now = Now::new(&report, &lately, range, &console.config.policy);
    Ok(rendered(&Overview { frame: frame(&console, &viewer).await, now }))
}

pub(super) async fn find(State(console): Shared, uri: Uri) -> Page {
    let Find { id, what } = answer::query(&uri)?;
    let thread = match what.trim() {
        "" => thread_id(id.trim())?,
        what => console.thread_meant_by(what).await?,
    };
    Ok(Redirect::to(&format!("./threads/{thread}")).into_response())
}

pub(super) async fn waiting(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let mut query: ThreadsQuery = answer::query(&without_empty(&uri)?)?;
    query.limit = query.limit.or(Some(ROWS));
    let page = threads_page(&console, &query).await?;
    Ok(rendered(&Waiting::new(frame(&console, &viewer).await, &query, page)))
}

pub(super) async fn thread(State(console): Shared, viewer: Viewer, Path(id): Path<String>) -> Page {
    let id = thread_id(&id)?;
    let explanation = explained(&console, id.clone()).await?;
    Ok(rendered(&Thread::new(frame(&console, &viewer).await, &id, &explanation)))
}

pub(super) async fn letters(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let mut query: DeadLettersQuery = answer::query(&without_empty(&uri)?)?;
    query.limit = query.limit.or(Some(ROWS));
    let parked = console.parked_by_now().await?;
    let frame = frame(&console, &viewer).await;
    let operation = operation(&console, &viewer, &frame);
    Ok(match parked {
        Some(parked) => rendered(&Letters::new(frame, operation, &query, page_of(&parked, &query)?)),
        None => rendered(&Looking { frame, operation }),
    })
}

pub(super) async fn removals(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let form: RemovalsForm = answer::query(&uri)?;
    let query = RemovalsQuery { limit: Some(ROWS), ..form.query()? };
    let page = removals_page(&console, &query).await?;
    Ok(rendered(&Removals::new(frame(&console, &viewer).await, form, page)))
}

pub(super) async fn sweeps(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let page = sweeps_page(&console, &answer::query(&uri)?).await?;
    let frame = frame(&console, &viewer).await;
    let operation = operation(&console, &viewer, &frame);
    Ok(rendered(&Sweeps::new(frame, operation, page)))
}

pub(super) async fn hosts(State(console): Shared, viewer: Viewer) -> Page {
    let hosts = console.hosts().await?;
    Ok(rendered(&HostList::new(frame(&console, &viewer).await, &hosts)))
}

pub(super) async fn orphans(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let query: OrphansQuery = answer::query(&without_empty(&uri)?)?;
    let page = orphans_page(&console, &query).await?;
    let frame = frame(&console, &viewer).await;
    let operation = operation(&console, &viewer, &frame);
    Ok(rendered(&OrphanList::new(frame, operation, &query, page)))
}

pub(super) async fn holds(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let page = holds_page(&console, &answer::query(&uri)?).await?;
    Ok(rendered(&HoldList::new(frame(&console, &viewer).await, page)))
}

pub(super) async fn activity(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let page = actions_page(&console, &answer::query(&uri)?).await?;
    Ok(rendered(&Activity::new(frame(&console, &viewer).await, page)))
}

pub(super) async fn health(State(console): Shared, viewer: Viewer) -> Page {
    let report = console.findings().await?;
    Ok(rendered(&HealthList::new(frame(&console, &viewer).await, &report)))
}
