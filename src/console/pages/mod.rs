//! The pages: rendered here, readable and usable without a script.
//!
//! What comes from outside (ids, names, errors, reasons) is escaped by the templates, all of it.

mod lists;
mod looks;
mod pressed;

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;

use self::{
    lists::{Letters, Waiting},
    looks::{Frame, Notice, Overview, Thread},
};
use super::{
    Console,
    access::Person,
    answer,
    problem::Problem,
    queries::{DeadLettersQuery, ThreadsQuery},
    reading::{Shared, explained, parked_page, thread_id, threads_page},
};
use crate::config::Role;

/// A page, or the page that says why there is none.
type Page = Result<Response, Failed>;

/// Why there is no page.
struct Failed(Problem);

/// The thread that is looked for.
#[derive(Deserialize)]
struct Find {
    id: String,
}

/// The pages and their forms.
pub(super) fn pages(console: &Arc<Console>) -> Router<Arc<Console>> {
    Router::new()
        .route("/", get(overview))
        .route("/find", get(find))
        .route("/threads", get(waiting))
        .route("/threads/{id}", get(thread))
        .route("/threads/{id}/hold", post(pressed::hold))
        .route("/threads/{id}/release", post(pressed::release))
        .route("/threads/{id}/clean", post(pressed::clean))
        .route("/dead-letters", get(letters))
        .route("/dead-letters/replay", post(pressed::replay))
        .route("/dead-letters/purge", post(pressed::purge))
        .route("/pause", post(pressed::pause))
        .route("/resume", post(pressed::resume))
        .layer(middleware::from_fn_with_state(Arc::clone(console), known_only))
        // These are for who is not known yet.
        .route("/login", get(log_in).post(pressed::log_in))
        .route("/logout", post(pressed::log_out))
        .route("/assets/console.css", get(style))
}

/// Lets in who may look; who has no token yet is asked for it.
async fn known_only(State(console): Shared, mut request: Request, next: Next) -> Response {
    match console.access.identify(request.headers()).await {
        Ok(person) => {
            request.extensions_mut().insert(person);
            next.run(request).await
        }
        Err(problem) => Failed(problem).into_response(),
    }
}

async fn style(headers: HeaderMap) -> Response {
    let mut response = answer::tagged(&headers, "text/css; charset=utf-8", include_bytes!("console.css").to_vec());
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    response
}

async fn log_in() -> Response {
    Notice { title: "Log in".to_owned(), detail: String::new(), has_login: true }.shown(StatusCode::OK)
}

async fn overview(State(console): Shared, Extension(person): Extension<Person>) -> Page {
    let report = console.report().await?;
    Ok(rendered(&Overview::new(frame(&console, &person).await, &report)))
}

async fn find(uri: Uri) -> Page {
    let Find { id } = answer::query(&uri)?;
    let thread = thread_id(id.trim())?;
    Ok(Redirect::to(&format!("/threads/{thread}")).into_response())
}

async fn waiting(State(console): Shared, Extension(person): Extension<Person>, uri: Uri) -> Page {
    let query: ThreadsQuery = answer::query(&without_empty(&uri)?)?;
    let page = threads_page(&console, &query).await?;
    Ok(rendered(&Waiting::new(frame(&console, &person).await, &query, page)))
}

async fn thread(State(console): Shared, Extension(person): Extension<Person>, Path(id): Path<String>) -> Page {
    let id = thread_id(&id)?;
    let explanation = explained(&console, id.clone()).await?;
    Ok(rendered(&Thread::new(frame(&console, &person).await, &id, &explanation)))
}

async fn letters(State(console): Shared, Extension(person): Extension<Person>, uri: Uri) -> Page {
    let query: DeadLettersQuery = answer::query(&without_empty(&uri)?)?;
    let page = parked_page(&console, &query).await?;
    Ok(rendered(&Letters::new(frame(&console, &person).await, &query, page)))
}

/// The address without the fields of a form that were left empty.
fn without_empty(uri: &Uri) -> Result<Uri, Failed> {
    let given = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let given = given.filter(|(_, value)| !value.is_empty());
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
    format!("{}?{query}", uri.path()).parse().map_err(|_| Failed(Problem::invalid("this is no address")))
}

/// What every page has. That the database does not answer is said by the page itself.
async fn frame(console: &Console, person: &Person) -> Frame {
    let pauses = match console.store().await {
        Ok(store) => store.pauses_in_force(None).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    Frame::new(person, console.check_may(person, Role::Operator).is_ok(), &pauses)
}

fn rendered(page: &impl Template) -> Response {
    match page.render() {
        Ok(page) => Html(page).into_response(),
        Err(error) => Failed(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())).into_response(),
    }
}

impl Notice {
    fn shown(&self, code: StatusCode) -> Response {
        let page = self.render().unwrap_or_else(|_| "this page can't be shown".to_owned());
        (code, Html(page)).into_response()
    }
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let code = problem.code();
        let title = problem.title.to_owned();
        Notice { title, detail: problem.detail, has_login: code == StatusCode::UNAUTHORIZED }.shown(code)
    }
}
