//! The pages that are looked at: each asks what the API answers, and shows it.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use futures_util::stream;
use serde::Deserialize;

use super::{
    Page, frame,
    lists::{Letters, Waiting},
    looks::{Notice, Thread},
    places::{HealthList, HoldList, HostList, OrphanList},
    records::{Activity, Removals, RemovalsForm, Sweeps},
    rendered,
    verdict::{Now, Overview},
    viewer::{Place, Viewer},
    without_empty,
};
use crate::{
    console::{
        answer,
        done::{actions_page, sweeps_page},
        lately::Range,
        problem::Problem,
        queries::{DeadLettersQuery, ThreadsQuery},
        reading::{
            Shared, explained, holds_page, orphans_page, parked_page, receipt_filter, removals_page, thread_id,
            threads_page,
        },
    },
    failure::Failure,
    operations::audit_trail::ReceiptTable,
    store::ListedReceipt,
};

/// Receipts that are read at once for a download.
const DOWNLOADED_AT_ONCE: u64 = 1000;

/// The range of the chart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverviewQuery {
    #[serde(default)]
    range: Range,
}

/// The thread that is looked for.
#[derive(Deserialize)]
struct Find {
    id: String,
}

pub(super) async fn log_in(place: Place) -> Response {
    let (title, detail) = ("Log in".to_owned(), String::new());
    let page = Notice { root: place.root, look: place.look.as_str(), title, detail, has_login: true };
    rendered(&page)
}

pub(super) async fn overview(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let OverviewQuery { range } = answer::query(&uri)?;
    let (report, lately) = tokio::join!(console.report(), console.lately(range));
    let report = report?;
    let now = Now::new(&report, &lately, range);
    Ok(rendered(&Overview { frame: frame(&console, &viewer).await, now }))
}

pub(super) async fn find(uri: Uri) -> Page {
    let Find { id } = answer::query(&uri)?;
    let thread = thread_id(id.trim())?;
    Ok(Redirect::to(&format!("./threads/{thread}")).into_response())
}

pub(super) async fn waiting(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let query: ThreadsQuery = answer::query(&without_empty(&uri)?)?;
    let page = threads_page(&console, &query).await?;
    Ok(rendered(&Waiting::new(frame(&console, &viewer).await, &query, page)))
}

pub(super) async fn thread(State(console): Shared, viewer: Viewer, Path(id): Path<String>) -> Page {
    let id = thread_id(&id)?;
    let explanation = explained(&console, id.clone()).await?;
    Ok(rendered(&Thread::new(frame(&console, &viewer).await, &id, &explanation)))
}

pub(super) async fn letters(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let query: DeadLettersQuery = answer::query(&without_empty(&uri)?)?;
    let page = parked_page(&console, &query).await?;
    let operation = console.operations.latest();
    Ok(rendered(&Letters::new(frame(&console, &viewer).await, operation, &query, page)))
}

pub(super) async fn removals(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let form: RemovalsForm = answer::query(&uri)?;
    let page = removals_page(&console, &form.query()?).await?;
    Ok(rendered(&Removals::new(frame(&console, &viewer).await, form, page)))
}

/// All receipts that the filters mean, as a table. They are read as fast as they are taken.
pub(super) async fn download(State(console): Shared, uri: Uri) -> Page {
    let form: RemovalsForm = answer::query(&uri)?;
    let filter = receipt_filter(&form.query()?);
    let Ok(turn) = Arc::clone(&console.downloads).try_acquire_owned() else {
        let detail = "others download at this moment: try again when they are done";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into());
    };
    let store = console.shared_store().await?;
    let table = ReceiptTable::default();
    let pages = stream::try_unfold(Some((store, table, None, turn)), move |reading| {
        let filter = filter.clone();
        async move {
            let Some((store, mut table, after, turn)) = reading else { return Ok::<_, Failure>(None) };
            let page = store.list_receipts(&filter, after, DOWNLOADED_AT_ONCE).await?;
            let text = table.page(&page)?;
            let is_last = (page.len() as u64) < DOWNLOADED_AT_ONCE;
            let after = page.last().map(ListedReceipt::place);
            Ok(Some((text, (!is_last).then_some((store, table, after, turn)))))
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"removals.csv\""),
    ];
    Ok((headers, Body::from_stream(pages)).into_response())
}

pub(super) async fn sweeps(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let page = sweeps_page(&console, &answer::query(&uri)?).await?;
    let operation = console.operations.latest();
    Ok(rendered(&Sweeps::new(frame(&console, &viewer).await, operation, page)))
}

pub(super) async fn hosts(State(console): Shared, viewer: Viewer) -> Page {
    let hosts = console.hosts().await?;
    Ok(rendered(&HostList::new(frame(&console, &viewer).await, &hosts)))
}

pub(super) async fn orphans(State(console): Shared, viewer: Viewer, uri: Uri) -> Page {
    let page = orphans_page(&console, &answer::query(&uri)?).await?;
    Ok(rendered(&OrphanList::new(frame(&console, &viewer).await, page)))
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
