//! PostgreSQL's errors: its manual, appendix A.

use migrations::Postgres;
use sea_orm::sqlx::error::DatabaseError;

use crate::store::engine::{Errors, Refusal};

impl Errors for Postgres {
    fn means_down(&self, error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| is_of_server(&code))
    }

    fn is_lock_timeout(&self, error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "55P03")
    }

    fn refusal(&self, error: &dyn DatabaseError) -> Option<Refusal> {
        let code = error.code()?;
        if code.starts_with("28") {
            return Some(Refusal::Login);
        }
        (code == "3D000").then_some(Refusal::NoDatabase)
    }

    /// PgBouncer's words, and those of a server that takes no writes.
    fn remedy(&self, error: &dyn DatabaseError) -> Option<&'static str> {
        if error.code().is_some_and(|code| code == "25006") {
            return Some(
                "a standby, or a server that was set so. What it has may be out of date, so nothing is removed by it; \
                 let DATABASE_URL lead to the primary",
            );
        }
        error.message().contains("unsupported startup parameter").then_some(
            "this is a pooler: add pgbouncer=true to DATABASE_URL, or have it pass over that (its setting \
             ignore_startup_parameters = extra_float_digits,options)",
        )
    }
}

/// Class 08 connection, 53 out of resources, 57P shutdown, 58 system error; 25006 a server that takes no writes. 42P01,
/// 42703 and 3F000 say that a table, column or schema is not there, which was at the start: it is another database.
fn is_of_server(code: &str) -> bool {
    ["08", "53", "57P", "58", "25006", "42P01", "42703", "3F000"].iter().any(|class| code.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_shuts_down_is_told_from_a_statement_that_fails() {
        for code in ["08006", "57P01", "57P03", "53300", "25006", "42P01"] {
            assert!(is_of_server(code), "{code}");
        }
        for code in ["40001", "40P01", "23505", "42501"] {
            assert!(!is_of_server(code), "{code}");
        }
    }
}
