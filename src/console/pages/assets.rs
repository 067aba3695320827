//! What pages load besides themselves: one style, one script, one picture, all ours.

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
    routing::get,
};

use crate::console::answer;

const STYLE: &[u8] = include_bytes!("console.css");
const SCRIPT: &[u8] = include_bytes!("console.js");
const ICON: &[u8] = include_bytes!("icon.svg");

/// The files below `/assets`. They tell nothing of the service, so that anybody may have them.
pub(super) fn assets<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(
            "/assets/console.css",
            get(|headers: HeaderMap| async move { file(&headers, "text/css; charset=utf-8", STYLE) }),
        )
        .route(
            "/assets/console.js",
            get(|headers: HeaderMap| async move { file(&headers, "text/javascript; charset=utf-8", SCRIPT) }),
        )
        .route("/assets/icon.svg", get(|headers: HeaderMap| async move { file(&headers, "image/svg+xml", ICON) }))
}

fn file(headers: &HeaderMap, kind: &'static str, text: &'static [u8]) -> Response {
    let mut response = answer::tagged(headers, kind, text.to_vec());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_page_loads_is_small() {
        assert!(STYLE.len() + SCRIPT.len() + ICON.len() < 40_000);
    }
}
