//! What is downloaded: tables for other programs.

use std::{future::ready, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderName, StatusCode, Uri, header},
    response::IntoResponse,
};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::{Page, records::RemovalsForm};
use crate::{
    console::{
        Console, answer,
        problem::Problem,
        reading::{Shared, receipt_filter},
    },
    failure::Failure,
    operations::{
        audit_trail::{ReceiptTable, unwritable},
        receipt_pages,
    },
    sweep::Planned,
};

/// Receipts that are read at once for a download.
const DOWNLOADED_AT_ONCE: usize = 1000;
/// Lines of a dry run's list that are written at once.
const LINES_AT_ONCE: usize = 1000;

/// All receipts that the filters mean, as a table. They are read as fast as they are taken.
pub(super) async fn removals(State(console): Shared, uri: Uri) -> Page {
    let form: RemovalsForm = answer::query(&uri)?;
    let filter = receipt_filter(&form.query()?);
    let turn = turn(&console)?;
    let store = console.shared_store().await?;
    let table = ReceiptTable::default();
    let pages = stream::try_unfold(Some((store, table, None, turn)), move |reading| {
        let filter = filter.clone();
        async move {
            let Some((store, mut table, after, turn)) = reading else { return Ok::<_, Failure>(None) };
            let (page, next) = receipt_pages::page(&store, &filter, after, DOWNLOADED_AT_ONCE).await?;
            let text = table.page(&page)?;
            Ok(Some((text, next.map(|next| (store, table, Some(next), turn)))))
        }
    });
    Ok((headers("attachment; filename=\"removals.csv\""), Body::from_stream(pages)).into_response())
}

/// What the latest dry run would have done, volume by volume.
pub(super) async fn planned(State(console): Shared) -> Page {
    let latest = console.operations.latest().filter(|operation| operation.ended.is_some());
    let Some(planned) = latest.and_then(|operation| operation.planned) else {
        let detail = "there is no list: the latest that was asked for here is no dry run, or is not done yet";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail).into());
    };
    let turn = turn(&console)?;
    let pages = stream::try_unfold(Some((0, turn)), move |reading| {
        let written = reading.map(|(from, turn)| {
            let lines = planned.lines(from, LINES_AT_ONCE);
            let next = (lines.len() == LINES_AT_ONCE).then_some((from + lines.len(), turn));
            table_of(&lines, from == 0).map(|text| (text, next))
        });
        ready(written.transpose())
    });
    Ok((headers("attachment; filename=\"dry-run.csv\""), Body::from_stream(pages)).into_response())
}

/// These lines as a table, whose first line may say what each column is.
fn table_of(lines: &[Planned], with_head: bool) -> Result<Vec<u8>, Failure> {
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    let head = if with_head { csv.write_record(["host", "thread_id", "volume", "would"]) } else { Ok(()) };
    let rows = lines.iter().try_for_each(|line| csv.serialize(line));
    head.and(rows).map_err(|error| unwritable(&error))?;
    csv.into_inner().map_err(|error| unwritable(&error))
}

/// The turn of somebody who downloads, until all is sent: each holds a connection, and what is read for it.
fn turn(console: &Console) -> Result<OwnedSemaphorePermit, Problem> {
    let detail = "others download at this moment: try again when they are done";
    let turn = Arc::clone(&console.downloads).try_acquire_owned();
    turn.map_err(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}

fn headers(disposition: &'static str) -> [(HeaderName, &'static str); 2] {
    [(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::CONTENT_DISPOSITION, disposition)]
}
