//! SQLite's errors: numbers, of which the lowest byte is the primary code (sqlite.org/rescode.html).

use migrations::Sqlite;
use sea_orm::sqlx::error::DatabaseError;

use crate::store::engine::{Errors, Refusal};

impl Errors for Sqlite {
    fn means_down(&self, error: &dyn DatabaseError) -> bool {
        // A table or column that was there at the start: it is another file.
        let is_gone = ["no such table", "no such column"].iter().any(|what| error.message().contains(what));
        is_gone || error.code().is_some_and(|code| is_of_file(&code))
    }

    fn is_lock_timeout(&self, error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "5")
    }

    fn refusal(&self, error: &dyn DatabaseError) -> Option<Refusal> {
        error.code().is_some_and(|code| code == "14").then_some(Refusal::NoDatabase)
    }
}

/// 8 read-only, 10 I/O error, 11 corrupt, 13 full, 14 can't open, 26 not a database.
fn is_of_file(code: &str) -> bool {
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 8 | 10 | 11 | 13 | 14 | 26))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_not_be_used_is_told_from_a_statement_that_fails() {
        for code in ["14", "10", "266", "13"] {
            assert!(is_of_file(code), "{code}");
        }
        for code in ["5", "6", "2067"] {
            assert!(!is_of_file(code), "{code}");
        }
    }
}
