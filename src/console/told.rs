//! What the API answers when it is told to do something.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Extension, FromRequest, FromRequestParts, Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    Console,
    access::Person,
    answer,
    bodies::{
        self, CleanRequested, GoesOn, HoldRequest, MessagesRequest, OrphansRequest, PauseRequest, ResumeRequest,
        StopRequested, SweepRequest,
    },
    problem::Problem,
    reading::{Answer, Shared, thread_id},
};
use crate::{
    operations::{
        holding::{HoldReleased, HoldSet},
        orphan_removal::OrphansRemoved,
        parking::{Purged, Replayed},
        pausing::{PauseSet, Resumed},
    },
    sweep::SweepReport,
};

/// What is asked for, by whom. Who may not is refused before the body is read.
pub(super) struct Asked<T> {
    person: Person,
    body: T,
    headers: HeaderMap,
}

impl<T: bodies::Request> FromRequest<Arc<Console>> for Asked<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let person = Extension::<Person>::from_request_parts(&mut parts, console).await;
        let Extension(person) =
            person.map_err(|_| Problem::new(StatusCode::UNAUTHORIZED, "it is not known who asks"))?;
        console.check_may(&person, T::ROLE)?;
        let headers = parts.headers.clone();
        let body = Bytes::from_request(Request::from_parts(parts, body), console).await;
        let body = body.map_err(|rejected| Problem::new(rejected.status(), rejected.body_text()))?;
        Ok(Self { person, body: answer::body(&headers, &body)?, headers })
    }
}

impl<T> Asked<T> {
    /// What was done; that it goes on if it is not done yet.
    fn answer<R: Serialize>(&self, done: Option<&R>) -> Response {
        match done {
            Some(report) => answer::json(&self.headers, report),
            None => (StatusCode::ACCEPTED, axum::Json(GoesOn { running: true })).into_response(),
        }
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
pub(super) async fn hold(State(console): Shared, Path(id): Path<String>, asked: Asked<HoldRequest>) -> Answer {
    let done = console.hold(&asked.person, &thread_id(&id)?, &asked.body).await?;
    Ok(asked.answer(Some(&done)))
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
pub(super) async fn pause(State(console): Shared, asked: Asked<PauseRequest>) -> Answer {
    let done = console.pause(&asked.person, &asked.body).await?;
    Ok(asked.answer(Some(&done)))
}

/// Resumes removal. What the breaker or the command line paused takes the role admin.
#[utoipa::path(
    post,
    path = "/api/v1/resume",
    request_body = ResumeRequest,
    responses((status = 200, body = Resumed))
)]
pub(super) async fn resume(State(console): Shared, asked: Asked<ResumeRequest>) -> Answer {
    let done = console.resume(&asked.person, &asked.body).await?;
    Ok(asked.answer(Some(&done)))
}

/// Sweeps once, or says what a sweep would do. One that takes longer than an answer may goes on.
#[utoipa::path(
    post,
    path = "/api/v1/sweep",
    request_body = SweepRequest,
    responses((status = 200, body = SweepReport), (status = 202, body = GoesOn))
)]
pub(super) async fn sweep(State(console): Shared, asked: Asked<SweepRequest>) -> Answer {
    let done = console.sweep(&asked.person, &asked.body).await?;
    Ok(asked.answer(done.as_ref()))
}

/// Publishes messages of the dead-letter queue again. A replay that takes longer than an answer may goes on.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/replay",
    request_body = MessagesRequest,
    responses((status = 200, body = Replayed), (status = 202, body = GoesOn))
)]
pub(super) async fn replay(State(console): Shared, asked: Asked<MessagesRequest>) -> Answer {
    let done = console.replay(&asked.person, &asked.body).await?;
    Ok(asked.answer(done.as_ref()))
}

/// Deletes messages of the dead-letter queue for good, if they are as many as `expected`.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/purge",
    request_body = MessagesRequest,
    responses((status = 200, body = Purged), (status = 202, body = GoesOn))
)]
pub(super) async fn purge(State(console): Shared, asked: Asked<MessagesRequest>) -> Answer {
    let done = console.purge(&asked.person, &asked.body).await?;
    Ok(asked.answer(done.as_ref()))
}

/// Removes volumes without a thread that nothing uses, if they are as many as `expected`.
#[utoipa::path(
    post,
    path = "/api/v1/orphans/remove",
    request_body = OrphansRequest,
    responses((status = 200, body = OrphansRemoved), (status = 202, body = GoesOn))
)]
pub(super) async fn remove_orphans(State(console): Shared, asked: Asked<OrphansRequest>) -> Answer {
    let done = console.remove_orphans(&asked.person, &asked.body).await?;
    Ok(asked.answer(done.as_ref()))
}

/// Ends a sweep that runs, whichever replica makes it.
#[utoipa::path(
    post,
    path = "/api/v1/sweeps/{id}/stop",
    params(("id" = String, Path, description = "The sweep, as the list calls it")),
    responses((status = 202, body = StopRequested))
)]
pub(super) async fn stop_sweep(
    State(console): Shared,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    console.stop_sweep(&person, &id).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(StopRequested { stopping: true })).into_response())
}

/// Ends what was asked for at this replica and runs: a dry run, a sweep, a replay, a purge, a removal.
#[utoipa::path(post, path = "/api/v1/operation/stop", responses((status = 202, body = StopRequested)))]
pub(super) async fn stop(State(console): Shared, Extension(person): Extension<Person>) -> Answer {
    console.stop_operation(&person).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(StopRequested { stopping: true })).into_response())
}
