//! Errors over HTTP, as RFC 9457 has them.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    failure::{Failure, Verdict},
    operations::Refusal,
};

/// After how many seconds it is worth to ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// Why a request was not done: `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the status says what kind it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    pub(super) title: &'static str,
    /// The status.
    status: u16,
    /// What was wrong, and what to do.
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { kind: "about:blank", title, status: status.as_u16(), detail: detail.into() }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// It takes longer than an answer may.
    pub(super) fn not_yet() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "this is still being found out: ask again in a moment")
    }

    pub(super) fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let status = match failure.verdict {
            Verdict::Unavailable(_) | Verdict::Transient => StatusCode::SERVICE_UNAVAILABLE,
            Verdict::Permanent => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, failure.message)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(what) => Self::invalid(what),
            Refusal::NotThere(what) => Self::new(StatusCode::NOT_FOUND, what),
            Refusal::Conflict(what) => Self::new(StatusCode::CONFLICT, what),
            Refusal::Failed(failure) => failure.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = self.code();
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (code, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if code == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if code == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"volume-reaper\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
