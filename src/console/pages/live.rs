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
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    looks::Frame,
    operation,
    verdict::{Live, Now, pauses},
    viewer::Viewer,
};
use crate::console::{Console, answer, lately::Range, problem::Problem, reading::Shared};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(3);
/// How soon a browser asks again after its stream has ended.
const AGAIN: Duration = Duration::from_millis(500);

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
    viewer.place.here = query.at;
    let ends = Instant::now() + console.limit();
    let viewing = Viewing { console, viewer, range: query.range, sent: None, ends, _turn: turn };
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
            let news = self.look().await;
            if self.sent.as_ref() != Some(&news) {
                let event = Event::default().retry(AGAIN).data(&news);
                self.sent = Some(news);
                return Some((Ok(event), self));
            }
        }
    }

    /// What stands on the page now. What can't be found out in time leaves it as it is.
    async fn look(&self) -> String {
        let Ok(report) = self.console.report().await else { return String::new() };
        let now = match self.range {
            Some(range) => Some(Now::new(&report, &Box::pin(self.console.lately(range)).await, range)),
            None => None,
        };
        let frame = Frame::new(&self.viewer, self.console.only_looks, pauses(&report));
        let operation = operation(&self.console, &self.viewer, &frame);
        Live { frame, operation, now }.render().unwrap_or_default()
    }
}
