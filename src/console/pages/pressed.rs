//! The forms: each does what the API does, and then shows the page that it was sent from.

use axum::{
    Form,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    Page,
    viewer::{LOOK_COOKIE, Look, Place, Viewer, way_back},
};
use crate::console::{
    access::Access,
    bodies::{HoldRequest, MessagesRequest, OrphansRequest, PauseRequest, ResumeRequest, SweepRequest},
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
    /// Where it is no part of the path.
    #[serde(default)]
    thread: String,
    reason: String,
    until: String,
}

/// What was typed into the form for a pause.
#[derive(Deserialize)]
pub(super) struct PauseForm {
    reason: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    back: String,
}

/// What a form without fields for people has.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PlainForm {
    host: String,
    /// The page that it was pressed on.
    back: String,
}

/// Which sweep.
#[derive(Deserialize)]
pub(super) struct SweepForm {
    #[serde(default)]
    dry_run: bool,
}

/// Light or dark.
#[derive(Deserialize)]
pub(super) struct LookForm {
    look: String,
    #[serde(default)]
    back: String,
}

/// Which messages a form is about.
#[derive(Deserialize)]
pub(super) struct MessagesForm {
    reason: String,
    #[serde(default)]
    group: String,
    thread: String,
    expected: String,
}

impl MessagesForm {
    fn request(self) -> Result<MessagesRequest, Problem> {
        let expected = typed(&self.expected, "messages")?;
        Ok(MessagesRequest {
            reason: Some(self.reason),
            group: given(self.group),
            thread: Some(self.thread),
            expected: Some(expected),
            ..MessagesRequest::default()
        })
    }
}

/// Which volumes without a thread a form is about.
#[derive(Deserialize)]
pub(super) struct OrphansForm {
    older_than: String,
    expected: String,
    seen: String,
}

/// How many a person typed.
fn typed(number: &str, of: &str) -> Result<u64, Problem> {
    number.trim().parse().map_err(|_| Problem::invalid(format!("type the number of {of}")))
}

pub(super) async fn log_in(State(console): Shared, headers: HeaderMap, Form(form): Form<Login>) -> Page {
    // Whoever claims it wrongly only gets a cookie that plain HTTP does not send.
    let is_https = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let cookie = console.access.log_in(&form.token, is_https).await?;
    Ok(with_cookie("./", &cookie))
}

pub(super) async fn log_out() -> Response {
    with_cookie("./", &Access::log_out())
}

/// Remembers light or dark, for as long as browsers keep such.
pub(super) async fn look(place: Place, Form(form): Form<LookForm>) -> Response {
    let look = Look::named(&form.look).as_str();
    let cookie = format!("{LOOK_COOKIE}={look}; Max-Age=31536000; HttpOnly; SameSite=Strict");
    with_cookie(&way_back(&place.root, &form.back), &cookie)
}

fn with_cookie(to: &str, cookie: &str) -> Response {
    let mut response = Redirect::to(to).into_response();
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Back to a page, named from the overview on.
fn back_to(viewer: &Viewer, page: &str) -> Response {
    Redirect::to(&way_back(&viewer.place.root, page)).into_response()
}

pub(super) async fn hold(
    State(console): Shared,
    viewer: Viewer,
    Path(id): Path<String>,
    Form(form): Form<HoldForm>,
) -> Page {
    let id = thread_id(&id)?;
    let asked = HoldRequest { reason: form.reason, until: Some(form.until) };
    console.hold(&viewer.person, &id, &asked).await?;
    Ok(back_to(&viewer, &format!("threads/{id}")))
}

pub(super) async fn hold_any(State(console): Shared, viewer: Viewer, Form(form): Form<HoldForm>) -> Page {
    let asked = HoldRequest { reason: form.reason, until: Some(form.until) };
    console.hold(&viewer.person, &thread_id(form.thread.trim())?, &asked).await?;
    Ok(back_to(&viewer, "holds"))
}

pub(super) async fn release(
    State(console): Shared,
    viewer: Viewer,
    Path(id): Path<String>,
    Form(form): Form<PlainForm>,
) -> Page {
    let id = thread_id(&id)?;
    console.release(&viewer.person, &id).await?;
    let to = if form.back.is_empty() { format!("threads/{id}") } else { form.back };
    Ok(back_to(&viewer, &to))
}

pub(super) async fn clean(State(console): Shared, viewer: Viewer, Path(id): Path<String>) -> Page {
    let id = thread_id(&id)?;
    console.clean(&viewer.person, &id).await?;
    Ok(back_to(&viewer, &format!("threads/{id}")))
}

pub(super) async fn pause(State(console): Shared, viewer: Viewer, Form(form): Form<PauseForm>) -> Page {
    console.pause(&viewer.person, &PauseRequest { reason: form.reason, host: given(form.host) }).await?;
    Ok(back_to(&viewer, &form.back))
}

pub(super) async fn resume(State(console): Shared, viewer: Viewer, Form(form): Form<PlainForm>) -> Page {
    console.resume(&viewer.person, &ResumeRequest { host: given(form.host) }).await?;
    Ok(back_to(&viewer, &form.back))
}

pub(super) async fn sweep(State(console): Shared, viewer: Viewer, Form(form): Form<SweepForm>) -> Page {
    console.sweep(&viewer.person, &SweepRequest { dry_run: form.dry_run }).await?;
    Ok(back_to(&viewer, "sweeps"))
}

pub(super) async fn replay(State(console): Shared, viewer: Viewer, Form(form): Form<MessagesForm>) -> Page {
    console.replay(&viewer.person, &form.request()?).await?;
    Ok(back_to(&viewer, "dead-letters"))
}

pub(super) async fn purge(State(console): Shared, viewer: Viewer, Form(form): Form<MessagesForm>) -> Page {
    console.purge(&viewer.person, &form.request()?).await?;
    Ok(back_to(&viewer, "dead-letters"))
}

pub(super) async fn remove_orphans(State(console): Shared, viewer: Viewer, Form(form): Form<OrphansForm>) -> Page {
    let OrphansForm { older_than, expected, seen } = form;
    let expected = Some(typed(&expected, "volumes")?);
    let asked = OrphansRequest { older_than: Some(older_than), expected, seen: Some(seen) };
    console.remove_orphans(&viewer.person, &asked).await?;
    Ok(back_to(&viewer, "orphans"))
}

pub(super) async fn stop_sweep(State(console): Shared, viewer: Viewer, Path(id): Path<String>) -> Page {
    console.stop_sweep(&viewer.person, &id).await?;
    Ok(back_to(&viewer, "sweeps"))
}

pub(super) async fn stop(State(console): Shared, viewer: Viewer, Form(form): Form<PlainForm>) -> Page {
    console.stop_operation(&viewer.person).await?;
    Ok(back_to(&viewer, &form.back))
}
