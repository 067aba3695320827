//! What the API answers when it is told to do something.

use axum::{
    body::Bytes,
    extract::{Extension, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    access::Person,
    acts::{CleanRequested, GoesOn, HoldRequest, MessagesRequest, PauseRequest, ResumeRequest, SweepRequest},
    answer,
    reading::{Answer, Shared, thread_id},
};
use crate::{
    config::Role,
    operations::{
        holding::{HoldReleased, HoldSet},
        parking::{Purged, Replayed},
        pausing::{PauseSet, Resumed},
    },
    sweep::SweepReport,
};

/// What was done; that it goes on if it is not done yet.
fn done<T: Serialize>(headers: &HeaderMap, done: Option<T>) -> Response {
    match done {
        Some(report) => answer::json(headers, &report),
        None => (StatusCode::ACCEPTED, axum::Json(GoesOn { running: true })).into_response(),
    }
}

/// Holds a thread, in place of any hold before.
#[utoipa::path(
    post,
    path = "/api/v1/threads/{id}/hold",
    params(("id" = String, Path, description = "The thread")),
    request_body = HoldRequest,
    responses((status = 200, body = HoldSet))
)]
pub(super) async fn hold(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    console.check_may(&person, Role::Operator)?;
    let asked = answer::body(&headers, &body)?;
    Ok(answer::json(&headers, &console.hold(&person, &thread_id(&id)?, &asked).await?))
}

/// Ends the hold on a thread.
#[utoipa::path(
    post,
    path = "/api/v1/threads/{id}/release",
    params(("id" = String, Path, description = "The thread")),
    responses((status = 200, body = HoldReleased))
)]
pub(super) async fn release(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    Ok(answer::json(&headers, &console.release(&person, &thread_id(&id)?).await?))
}

/// Has a thread cleaned up now: publishes its event again.
#[utoipa::path(
    post,
    path = "/api/v1/threads/{id}/clean",
    params(("id" = String, Path, description = "The thread")),
    responses((status = 202, body = CleanRequested))
)]
pub(super) async fn clean(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let requested = console.clean(&person, &thread_id(&id)?).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(requested)).into_response())
}

/// Pauses removal.
#[utoipa::path(
    post,
    path = "/api/v1/pause",
    request_body = PauseRequest,
    responses((status = 200, body = PauseSet))
)]
pub(super) async fn pause(
    State(console): Shared,
    Extension(person): Extension<Person>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    console.check_may(&person, Role::Operator)?;
    let asked = answer::body(&headers, &body)?;
    Ok(answer::json(&headers, &console.pause(&person, &asked).await?))
}

/// Resumes removal. What the breaker or the command line paused takes the role admin.
#[utoipa::path(
    post,
    path = "/api/v1/resume",
    request_body = ResumeRequest,
    responses((status = 200, body = Resumed))
)]
pub(super) async fn resume(
    State(console): Shared,
    Extension(person): Extension<Person>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    console.check_may(&person, Role::Operator)?;
    let asked = answer::body(&headers, &body)?;
    Ok(answer::json(&headers, &console.resume(&person, &asked).await?))
}

/// Sweeps once, or says what a sweep would do. One that takes longer than an answer may goes on.
#[utoipa::path(
    post,
    path = "/api/v1/sweep",
    request_body = SweepRequest,
    responses((status = 200, body = SweepReport), (status = 202, body = GoesOn))
)]
pub(super) async fn sweep(
    State(console): Shared,
    Extension(person): Extension<Person>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    console.check_may(&person, Role::Viewer)?;
    let asked = answer::body(&headers, &body)?;
    Ok(done(&headers, console.sweep(&person, &asked).await?))
}

/// Publishes messages of the dead-letter queue again. A replay that takes longer than an answer may goes on.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/replay",
    request_body = MessagesRequest,
    responses((status = 200, body = Replayed), (status = 202, body = GoesOn))
)]
pub(super) async fn replay(
    State(console): Shared,
    Extension(person): Extension<Person>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    console.check_may(&person, Role::Operator)?;
    let asked = answer::body(&headers, &body)?;
    Ok(done(&headers, console.replay(&person, &asked).await?))
}

/// Deletes messages of the dead-letter queue for good, if they are as many as `expected`.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/purge",
    request_body = MessagesRequest,
    responses((status = 200, body = Purged), (status = 202, body = GoesOn))
)]
pub(super) async fn purge(
    State(console): Shared,
    Extension(person): Extension<Person>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    console.check_may(&person, Role::Admin)?;
    let asked = answer::body(&headers, &body)?;
    Ok(done(&headers, console.purge(&person, &asked).await?))
}
