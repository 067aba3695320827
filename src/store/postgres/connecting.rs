//! Connections to PostgreSQL.

use std::time::Duration;

use migrations::{Dialect, Postgres};
use sea_orm::ConnectOptions;

use crate::{
    config::SecretUrl,
    store::engine::{Access, Connecting},
};

impl Connecting for Postgres {
    fn usual_port(&self) -> u16 {
        5432
    }

    /// Rows that a policy hides are an error, and not rows that are not there. PgBouncer refuses a connection that
    /// wants this to be set, or digits.
    fn adapt(&self, options: &mut ConnectOptions, access: Access, url: &SecretUrl) {
        let (is_behind_pooler, schema) = (url.is_behind_pooler(), url.schema());
        options.map_sqlx_postgres_opts(move |mut postgres| {
            if is_behind_pooler {
                return postgres.statement_cache_capacity(0).extra_float_digits(None);
            }
            if let Some(schema) = &schema {
                postgres = postgres.options([("search_path", in_options(&Postgres.quoted(schema)))]);
            }
            let postgres = postgres.options([("row_security", "off")]);
            match access {
                Access::Work | Access::Look => postgres,
                Access::Read => postgres.options([("default_transaction_read_only", "on")]),
            }
        });
    }

    fn marks_at_once(&self) -> usize {
        4
    }

    /// Longer than most transactions of a platform last.
    fn before_impatient_update(&self) -> Option<&'static str> {
        Some("SET LOCAL lock_timeout = '20ms'")
    }

    fn end_of_frozen_transaction(&self, after: Duration) -> Option<String> {
        let after_ms = after.as_millis();
        Some(format!("(SELECT set_config('idle_in_transaction_session_timeout', '{after_ms}', true))"))
    }

    /// The connection may have others' prepared statements, and not our settings.
    fn after_begin_behind_pooler(&self) -> Option<&'static str> {
        Some("DEALLOCATE ALL; SET LOCAL row_security = off")
    }
}

/// A value among the server's options, where a blank or a backslash needs another one before it (PostgreSQL's manual,
/// `options` of libpq).
fn in_options(value: &str) -> String {
    value.replace('\\', "\\\\").replace(' ', "\\ ")
}
