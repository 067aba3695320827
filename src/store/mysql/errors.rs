//! MySQL's errors, by their numbers, which say more than their SQLSTATEs (its manual, "Server Error Message Reference";
//! MariaDB's, "Error Codes").

use migrations::MySql;
use sea_orm::sqlx::{self, error::DatabaseError, mysql::MySqlDatabaseError};

use crate::store::engine::{Errors, Refusal};

impl Errors for MySql {
    fn means_down(&self, error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| is_class_of_server(&code)) || number(error).is_some_and(is_of_server)
    }

    fn is_lock_timeout(&self, error: &dyn DatabaseError) -> bool {
        number(error) == Some(1205)
    }

    fn refusal(&self, error: &dyn DatabaseError) -> Option<Refusal> {
        match number(error) {
            Some(1044 | 1045 | 1130 | 1698) => Some(Refusal::Login),
            Some(1049) => Some(Refusal::NoDatabase),
            Some(_) | None => None,
        }
    }

    /// `ER_BINLOG_CREATE_ROUTINE_NEED_SUPER`.
    fn remedy(&self, error: &dyn DatabaseError) -> Option<&'static str> {
        (number(error) == Some(1419))
            .then_some("our trigger needs SET GLOBAL log_bin_trust_function_creators = 1, see docs/mysql.md")
    }

    /// The one thing that this library refuses to do with an address that it took: to encrypt a password without TLS.
    fn plain_words(&self, error: &sqlx::Error) -> Option<&'static str> {
        let sqlx::Error::Configuration(error) = error else { return None };
        error.to_string().contains("mysql-rsa").then_some(
            "this user's login (caching_sha2_password) is done over TLS or a Unix socket only: set ssl-mode=REQUIRED, \
             or socket=PATH, in DATABASE_URL",
        )
    }
}

/// The server's number of an error.
pub(super) fn number(error: &dyn DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// Class 08 connection, 53 out of resources, 58 system error; 25006 a server that takes no writes.
fn is_class_of_server(code: &str) -> bool {
    ["08", "53", "58", "25006"].iter().any(|class| code.starts_with(class))
}

/// Those with a SQLSTATE that says nothing or something else: 1021 disk full, 1037 and 1041 out of memory, 1114 table
/// full, 1203 and 1226 too many connections of this user, 1290 and 1836 read-only, 1317 interrupted (also by a
/// shutdown), 1792 a read-only transaction, 1927 and 3169 connection killed. A deadlock (1213) and a lock that was not
/// given in time (1205) are about the statement. 1054 and 1146 say that a column or table is not there, which was at
/// the start: it is another database.
fn is_of_server(number: u16) -> bool {
    matches!(number, 1021 | 1037 | 1041 | 1054 | 1114 | 1146 | 1203 | 1226 | 1290 | 1317 | 1792 | 1836 | 1927 | 3169)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_shuts_down_is_told_from_a_statement_that_fails() {
        assert!(is_class_of_server("08S01"));
        for number in [1114, 1146, 1226, 1290] {
            assert!(is_of_server(number), "{number}");
        }
        for number in [1062, 1142, 1205, 1213] {
            assert!(!is_of_server(number), "{number}");
        }
    }
}
