//! Answers in JSON: with an entity tag, so that who asks again for what has not changed gets nothing but that.

use std::fmt::Display;

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use ring::digest::{SHA256, digest};
use serde::{Serialize, de::DeserializeOwned};

use super::problem::Problem;

/// Items of a page, unless it is said otherwise.
pub(super) const USUAL_ITEMS: usize = 100;
/// Items of a page at most.
const MOST_ITEMS: usize = 1000;

/// An object, or that it is what the client has already.
pub(super) fn json(headers: &HeaderMap, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("an answer is always valid JSON");
    tagged(headers, "application/json", body)
}

/// A report: an object, or the text that the command prints, if that is what the client accepts.
pub(super) fn report(headers: &HeaderMap, value: &(impl Serialize + Display)) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut response = if accepts.starts_with("text/plain") {
        tagged(headers, "text/plain; charset=utf-8", value.to_string().into_bytes())
    } else {
        json(headers, value)
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// A body with its entity tag.
pub(super) fn tagged(headers: &HeaderMap, content_type: &'static str, body: Vec<u8>) -> Response {
    let digest = digest(&SHA256, &body);
    let tag = format!("\"{}\"", hex::encode(&digest.as_ref()[..12]));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known.flat_map(|tags| tags.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag);
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, content_type)], body).into_response()
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// What stands behind the question mark.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let query = axum::extract::Query::<T>::try_from_uri(uri);
    query.map(|query| query.0).map_err(|error| Problem::invalid(error.body_text()))
}

/// What was sent: one JSON object; nothing is an empty one.
pub(super) fn body<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_json =
        content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if body.is_empty() {
        return serde_json::from_slice(b"{}").map_err(|error| Problem::invalid(format!("the body: {error}")));
    }
    if !is_json {
        let detail = "the body must be JSON, and say so: Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    // serde would take a list for an object, by the order of its fields.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::invalid("the body must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Problem::invalid(format!("the body: {error}")))
}

/// How many items a page has.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(USUAL_ITEMS) {
        limit if (1..=MOST_ITEMS).contains(&limit) => Ok(limit),
        _ => Err(Problem::invalid(format!("limit must be a whole number from 1 to {MOST_ITEMS}"))),
    }
}

/// A duration such as `2h`.
pub(super) fn duration(name: &str, text: Option<&str>) -> Result<Option<std::time::Duration>, Problem> {
    let parse = |text| {
        let wrong = |_| Problem::invalid(format!("{name} must be a duration with its unit, as in 2h or 7d"));
        humantime::parse_duration(text).map_err(wrong)
    };
    text.filter(|text| !text.is_empty()).map(parse).transpose()
}
