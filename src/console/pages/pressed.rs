//! The forms: each does what the API does, and then shows the page that it was sent from.

use axum::{
    Extension, Form,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::Page;
use crate::console::{
    access::{Access, Person},
    acts::{HoldRequest, MessagesRequest, PauseRequest, ResumeRequest},
    problem::Problem,
    reading::{Shared, thread_id},
};

/// What was typed into the form for a token.
#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
}

/// What was typed into the form for a hold.
#[derive(Deserialize)]
pub(super) struct HoldForm {
    reason: String,
    until: String,
}

/// What was typed into the form for a pause.
#[derive(Deserialize)]
pub(super) struct PauseForm {
    reason: String,
}

/// Which messages a form is about.
#[derive(Deserialize)]
pub(super) struct MessagesForm {
    reason: String,
    thread: String,
    expected: String,
}

impl MessagesForm {
    fn request(self) -> Result<MessagesRequest, Problem> {
        let expected = self.expected.trim().parse();
        let expected = expected.map_err(|_| Problem::invalid("type the number of messages"))?;
        Ok(MessagesRequest {
            reason: Some(self.reason),
            thread: Some(self.thread),
            expected: Some(expected),
            ..MessagesRequest::default()
        })
    }
}

pub(super) async fn log_in(State(console): Shared, headers: HeaderMap, Form(form): Form<Login>) -> Page {
    // Whoever claims it wrongly only gets a cookie that plain HTTP does not send.
    let is_https = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let cookie = console.access.log_in(&form.token, is_https).await?;
    Ok(with_cookie(&cookie))
}

pub(super) async fn log_out() -> Response {
    with_cookie(&Access::log_out())
}

fn with_cookie(cookie: &str) -> Response {
    let mut response = Redirect::to("/").into_response();
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn back_to(path: &str) -> Response {
    Redirect::to(path).into_response()
}

pub(super) async fn hold(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Form(form): Form<HoldForm>,
) -> Page {
    let id = thread_id(&id)?;
    let asked = HoldRequest { reason: form.reason, until: Some(form.until) };
    console.hold(&person, &id, &asked).await?;
    Ok(back_to(&format!("/threads/{id}")))
}

pub(super) async fn release(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Page {
    let id = thread_id(&id)?;
    console.release(&person, &id).await?;
    Ok(back_to(&format!("/threads/{id}")))
}

pub(super) async fn clean(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Page {
    let id = thread_id(&id)?;
    console.clean(&person, &id).await?;
    Ok(back_to(&format!("/threads/{id}")))
}

pub(super) async fn pause(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Form(form): Form<PauseForm>,
) -> Page {
    console.pause(&person, &PauseRequest { reason: form.reason, host: None }).await?;
    Ok(back_to("/"))
}

pub(super) async fn resume(State(console): Shared, Extension(person): Extension<Person>) -> Page {
    console.resume(&person, &ResumeRequest::default()).await?;
    Ok(back_to("/"))
}

pub(super) async fn replay(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Form(form): Form<MessagesForm>,
) -> Page {
    console.replay(&person, &form.request()?).await?;
    Ok(back_to("/dead-letters"))
}

pub(super) async fn purge(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Form(form): Form<MessagesForm>,
) -> Page {
    console.purge(&person, &form.request()?).await?;
    Ok(back_to("/dead-letters"))
}
