//! Which path is answered by what, and what holds for all of them: who may, how many at once, what browsers are told.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response as HttpResponse, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tower_http::csrf::{CsrfLayer, ProtectionError};

use super::{Console, answer, done, openapi, pages::pages, problem::Problem, reading, told};

/// The longest body: a reason, and a few conditions.
const MOST_BYTES: usize = 16 * 1024;

/// What every answer to a browser has. Nothing is loaded from elsewhere, nothing runs that is not a file of ours, and
/// nobody shows our pages in theirs. The referrer is kept for ourselves: without it a form would have no `Origin`.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action \
         'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// The API and the pages. Without health and metrics.
pub(super) fn routes(console: Arc<Console>) -> Router {
    let api: Router<Arc<Console>> = Router::new()
        .route("/status", get(reading::status))
        .route("/threads", get(reading::threads))
        .route("/threads/{id}", get(reading::thread))
        .route("/threads/{id}/hold", post(told::hold))
        .route("/threads/{id}/release", post(told::release))
        .route("/threads/{id}/clean", post(told::clean))
        .route("/removals", get(reading::removals))
        .route("/dead-letters", get(reading::dead_letters))
        .route("/dead-letters/replay", post(told::replay))
        .route("/dead-letters/purge", post(told::purge))
        .route("/hosts", get(reading::hosts))
        .route("/orphans", get(reading::orphans))
        .route("/orphans/remove", post(told::remove_orphans))
        .route("/holds", get(reading::holds))
        .route("/doctor", get(reading::doctor))
        .route("/sweeps", get(done::sweeps))
        .route("/sweeps/{id}/stop", post(told::stop_sweep))
        .route("/operation/stop", post(told::stop))
        .route("/actions", get(done::actions))
        .route("/stats", get(done::stats))
        .route("/sweep", post(told::sweep))
        .route("/pause", post(told::pause))
        .route("/resume", post(told::resume))
        .route("/openapi.json", get(described))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&console), known_only));
    Router::new()
        .nest("/api/v1", api)
        .merge(pages(&console))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(CsrfLayer::new().with_rejection_response(from_elsewhere))
        .layer(middleware::from_fn_with_state(Arc::clone(&console), bounded))
        .layer(middleware::map_response(with_headers))
        .with_state(console)
}

async fn described(headers: HeaderMap) -> Response {
    static DOCUMENT: LazyLock<Vec<u8>> =
        LazyLock::new(|| serde_json::to_vec(&openapi::document()).expect("the description is JSON"));
    answer::tagged(&headers, "application/json", DOCUMENT.clone())
}

async fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such path; /api/v1/openapi.json has those that there are")
}

async fn no_such_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path has another method; see /api/v1/openapi.json")
}

/// Lets in who may look, and tells what answers who it is.
async fn known_only(State(console): State<Arc<Console>>, mut request: Request, next: Next) -> Response {
    match console.access.identify(request.headers()).await {
        Ok(person) => {
            request.extensions_mut().insert(person);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Answers so many at once and no more: the work of the service comes first.
async fn bounded(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let Ok(_turn) = Arc::clone(&console.requests).try_acquire_owned() else {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many ask at once: ask again in a moment")
            .into_response();
    };
    next.run(request).await
}

/// A page of somebody else's made a browser ask.
fn from_elsewhere(_: ProtectionError) -> HttpResponse<Body> {
    Problem::forbidden("this was asked for by a page of another origin").into_response()
}

async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
