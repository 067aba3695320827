//! Open pages are kept up to date by server-sent events. All of them are fed by the snapshots that every page is made
//! from; nobody looks, nothing is found out.

use std::{convert::Infallible, sync::Arc, time::Duration};

use askama::Template;
use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    looks::Frame,
    operation,
    records::SweepRow,
    verdict::{Live, Now, pauses},
    viewer::Viewer,
};
use crate::{
    console::{Console, answer, lately::Range, problem::Problem, reading::Shared},
    store::LoggedSweep,
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(3);
/// How soon a browser asks again after its stream has ended.
const AGAIN: Duration = Duration::from_millis(500);
/// The page whose list is kept up to date.
const SWEEPS: &str = "sweeps";

/// What is kept up to date.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LiveQuery {
    /// The overview, with the chart of this range; without it, only what all pages have.
    range: Option<Range>,
    /// The page that is open, from the overview on.
    at: String,
}

/// What a stream has sent.
struct Viewing {
    console: Arc<Console>,
    viewer: Viewer,
    range: Option<Range>,
    sent: Option<String>,
    /// The sweeps as they were sent: the list is long, and sent again only when there is something new in it.
    sweeps: Option<Arc<Vec<LoggedSweep>>>,
    /// Connections have an end; the browser asks again.
    ends: Instant,
    _turn: tokio::sync::OwnedSemaphorePermit,
}

/// The stream of a page that is open. It lives as long as a connection may.
pub(super) async fn live(State(console): Shared, mut viewer: Viewer, uri: Uri) -> Response {
    let query: LiveQuery = match answer::query(&uri) {
        Ok(query) => query,
        Err(problem) => return problem.into_response(),
    };
    let Ok(turn) = Arc::clone(&console.viewers).try_acquire_owned() else {
        let detail = "as many pages as can be are kept up to date already: reload this one";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    };
    viewer.place = viewer.place.of_open_page(query.at);
    let ends = Instant::now() + console.limit();
    let viewing = Viewing { console, viewer, range: query.range, sent: None, sweeps: None, ends, _turn: turn };
    Sse::new(stream::unfold(viewing, Viewing::next)).into_response()
}

impl Viewing {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        let closing = self.console.closing.clone();
        loop {
            if self.sent.is_some() {
                tokio::select! {
                    () = closing.cancelled() => return None,
                    () = sleep_until(self.ends) => return None,
                    () = sleep(INTERVAL) => {}
                }
            }
            // What is not found out by the end of the connection is told by the next one.
            let ends = self.ends;
            let news = timeout_at(ends, self.look()).await.ok()?;
            if self.sent.as_ref() != Some(&news) {
                let event = Event::default().retry(AGAIN).data(&news);
                self.sent = Some(news);
                return Some((Ok(event), self));
            }
        }
    }

    /// What stands on the page now. What can't be found out in time leaves it as it is.
    async fn look(&mut self) -> String {
        let console = Arc::clone(&self.console);
        let Ok(report) = console.report().await else { return String::new() };
        let now = match self.range {
            Some(range) => {
                let lately = Box::pin(console.lately()).await;
                Some(Now::new(&report, &lately, range, &console.config.policy))
            }
            None => None,
        };
        let frame = Frame::new(&self.viewer, console.only_looks, pauses(&report));
        let operation = operation(&console, &self.viewer, &frame);
        let sweeps = self.new_sweeps().await;
        Live { frame, operation, now, sweeps }.render().unwrap_or_default()
    }

    /// The rows of the list of sweeps, if that is the page and there is something new in it.
    async fn new_sweeps(&mut self) -> Option<Vec<SweepRow>> {
        if self.viewer.place.here != SWEEPS {
            return None;
        }
        let sweeps = self.console.latest_sweeps().await.ok()?;
        if self.sweeps.as_ref() == Some(&sweeps) {
            return None;
        }
        let rows = sweeps.iter().cloned().map(SweepRow::new).collect();
        self.sweeps = Some(sweeps);
        Some(rows)
    }
}
