//! The pages: rendered here, readable and usable without a script.
//!
//! What comes from outside (ids, names, errors, reasons) is escaped by the templates, all of it. All links are
//! relative: a proxy may put any prefix before our paths.

mod assets;
mod chart;
mod downloads;
mod lists;
mod live;
mod looks;
mod places;
mod pressed;
mod records;
mod shown;
mod verdict;
mod viewer;

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, Uri},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};

use self::{
    looks::{Frame, Notice, OperationLine, PauseLine, Trouble},
    viewer::{Place, Viewer},
};
use super::{Console, problem::Problem, reading::Shared};

/// A page, or the page that says why there is none.
type Page = Result<Response, Failed>;

/// Why there is no page.
#[derive(Clone)]
struct Failed(Problem);

/// The pages and their forms.
pub(super) fn pages(console: &Arc<Console>) -> Router<Arc<Console>> {
    Router::new()
        .route("/", get(shown::overview))
        .route("/find", get(shown::find))
        .route("/threads", get(shown::waiting))
        .route("/threads/{id}", get(shown::thread))
        .route("/threads/{id}/hold", post(pressed::hold))
        .route("/threads/{id}/release", post(pressed::release))
        .route("/threads/{id}/clean", post(pressed::clean))
        .route("/dead-letters", get(shown::letters))
        .route("/dead-letters/replay", post(pressed::replay))
        .route("/dead-letters/purge", post(pressed::purge))
        .route("/removals", get(shown::removals))
        .route("/removals.csv", get(downloads::removals))
        .route("/sweeps", get(shown::sweeps).post(pressed::sweep))
        .route("/sweeps/planned.csv", get(downloads::planned))
        .route("/sweeps/{id}/stop", post(pressed::stop_sweep))
        .route("/operation/stop", post(pressed::stop))
        .route("/hosts", get(shown::hosts))
        .route("/orphans", get(shown::orphans))
        .route("/orphans/remove", post(pressed::remove_orphans))
        .route("/holds", get(shown::holds).post(pressed::hold_any))
        .route("/activity", get(shown::activity))
        .route("/health", get(shown::health))
        .route("/live", get(live::live))
        .route("/pause", post(pressed::pause))
        .route("/resume", post(pressed::resume))
        .fallback(no_such_page)
        .layer(middleware::from_fn_with_state(Arc::clone(console), known_only))
        // These are for who is not known yet.
        .route("/login", get(shown::log_in).post(pressed::log_in))
        .route("/logout", post(pressed::log_out))
        .route("/look", post(pressed::look))
        .layer(middleware::from_fn_with_state(Arc::clone(console), explained))
        .merge(assets::assets())
}

async fn no_such_page() -> Failed {
    Failed(Problem::new(StatusCode::NOT_FOUND, "there is no such page; the links above lead to those that there are"))
}

/// Lets in who may look, and tells what answers who it is.
async fn known_only(State(console): Shared, mut request: Request, next: Next) -> Response {
    match console.access.identify(request.headers()).await {
        Ok(person) => {
            let viewer = Viewer { person: person.clone(), place: Place::of(&request) };
            request.extensions_mut().insert(person);
            request.extensions_mut().insert(viewer.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(viewer);
            response
        }
        Err(problem) => Failed(problem).into_response(),
    }
}

/// Where there is no page, says why: in the frame of all pages to who is known, and to others with where to log in.
async fn explained(State(console): Shared, request: Request, next: Next) -> Response {
    let place = Place::of(&request);
    let mut response = next.run(request).await;
    let Some(Failed(problem)) = response.extensions_mut().remove() else { return response };
    let code = problem.code();
    let page = if let Some(viewer) = response.extensions_mut().remove::<Viewer>() {
        // The database is not asked whether removal is paused: it may be what is wrong.
        let frame = Frame { may_act: false, ..Frame::new(&viewer, console.only_looks, Vec::new()) };
        rendered(&Trouble { frame, title: problem.title, detail: problem.detail })
    } else {
        rendered(&Notice {
            root: place.root,
            look: place.look.as_str(),
            title: problem.title.to_owned(),
            detail: problem.detail,
            has_login: code == StatusCode::UNAUTHORIZED,
        })
    };
    (code, page).into_response()
}

/// The address without the fields of a form that were left empty.
fn without_empty(uri: &Uri) -> Result<Uri, Failed> {
    let given = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let given = given.filter(|(_, value)| !value.is_empty());
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
    format!("{}?{query}", uri.path()).parse().map_err(|_| Failed(Problem::invalid("this is no address")))
}

/// What every page has. That the database does not answer is said by the page itself.
async fn frame(console: &Console, viewer: &Viewer) -> Frame {
    let pauses = match console.store().await {
        Ok(store) => store.pauses_in_force(None).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    Frame::new(viewer, console.only_looks, pauses.iter().map(PauseLine::new).collect())
}

/// What was asked for at this replica, as this viewer sees it.
fn operation(console: &Console, viewer: &Viewer, frame: &Frame) -> Option<OperationLine> {
    console.operations.latest().map(|latest| OperationLine::new(latest, viewer, frame.may_act))
}

fn rendered(page: &impl Template) -> Response {
    match page.render() {
        Ok(page) => Html(page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let mut response = self.0.code().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
