//! What went wrong at the database, in words and with its verdict.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use super::{CONNECT_TIMEOUT, engine::Engine};
use crate::{
    config::SecretUrl,
    failure::{Dependency, Failure},
    tls::Problem,
};

/// The verdict on a database error: is the database down, or was it this statement?
pub(super) fn failure(engine: &dyn Engine, url: &SecretUrl, error: &DbErr) -> Failure {
    let message = format!("database at {url}: {}", describe(engine, error));
    let is_unreachable = matches!(error, DbErr::Conn(_) | DbErr::ConnectionAcquire(_));
    let down = is_unreachable || sqlx_error(error).is_some_and(|error| means_down(engine, error));
    if down { Failure::unavailable(Dependency::Database, message) } else { Failure::transient(message) }
}

fn means_down(engine: &dyn Engine, error: &sqlx::Error) -> bool {
    if let sqlx::Error::Database(error) = error {
        return engine.means_down(error.as_ref());
    }
    matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
    )
}

fn sqlx_error(error: &DbErr) -> Option<&sqlx::Error> {
    if let DbErr::Conn(RuntimeErr::SqlxError(error))
    | DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error)) = error
    {
        return Some(error.as_ref());
    }
    None
}

/// What the server itself said.
pub(super) fn database_error(error: &DbErr) -> Option<&dyn sqlx::error::DatabaseError> {
    let sqlx::Error::Database(error) = sqlx_error(error)? else { return None };
    Some(error.as_ref())
}

/// The error without the wrappings that name only themselves.
fn describe(engine: &dyn Engine, error: &DbErr) -> String {
    if let Some(problem) = tls_problem(error) {
        let [authority, certificate, key] = engine.tls_parameters();
        let remedy = match &problem {
            Problem::UnknownAuthority => {
                format!("; name the file with its authority's certificate as {authority} in DATABASE_URL")
            }
            Problem::NoClientCertificate => {
                format!("; name one as {certificate}, and its key as {key}, in DATABASE_URL")
            }
            Problem::Other(_) => String::new(),
        };
        return format!("{problem}{remedy}");
    }
    if let Some(remedy) = database_error(error).and_then(|error| engine.remedy(error)) {
        return format!("{}: {remedy}", own_words(error));
    }
    if let Some(words) = sqlx_error(error).and_then(|error| engine.plain_words(error)) {
        return words.to_owned();
    }
    own_words(error)
}

fn own_words(error: &DbErr) -> String {
    if let DbErr::ConnectionAcquire(_) = error {
        return format!("no connection within {}", humantime::format_duration(CONNECT_TIMEOUT));
    }
    if let DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error) = error {
        return error.to_string();
    }
    if let DbErr::Migration(error) = error { error.clone() } else { error.to_string() }
}

/// Why TLS to the database failed, if that is why there is no connection.
///
/// Unlike the broker's, it is not permanent: that would dead-letter the deliveries that are being worked on when a
/// certificate expires. They are handed back, as always while the database can't be used.
fn tls_problem(error: &DbErr) -> Option<Problem> {
    let DbErr::Conn(RuntimeErr::SqlxError(error)) = error else { return None };
    let sqlx::Error::Io(error) = error.as_ref() else { return None };
    Problem::of(error)
}
