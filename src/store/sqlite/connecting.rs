//! Connections to SQLite's file.

use std::{fs::OpenOptions, ops::Not, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use migrations::Sqlite;
use sea_orm::{
    ConnectOptions, SqliteTransactionMode, TransactionOptions,
    sqlx::{
        Connection,
        sqlite::{SqliteJournalMode, SqlitePoolOptions},
    },
};

use crate::{
    cleanup::policy::Locking,
    config::SecretUrl,
    store::engine::{Access, Connecting},
};

/// How long the file is locked unless it is said otherwise: a tenth of what its users wait by default.
const FILE_LOCK_LIMIT: Duration = Duration::from_millis(500);

/// Rows that the client library's thread for SQLite reads before somebody takes them: a page. With its default of 50
/// both threads wait for each other forty times a page.
const ROWS_AHEAD: usize = 2000;

impl Connecting for Sqlite {
    /// There is no server.
    fn usual_port(&self) -> u16 {
        0
    }

    /// There is one writer at a time. With one connection they queue up in the pool, fairly, instead of polling the
    /// file's lock.
    fn most_connections(&self, _asked: u32) -> u32 {
        1
    }

    fn adapt(&self, options: &mut ConnectOptions, access: Access, url: &SecretUrl) {
        let makes_file = url.parameter("mode").as_deref() == Some("rwc");
        options.map_sqlx_sqlite_opts(move |sqlite| {
            let sqlite = sqlite.row_buffer_size(ROWS_AHEAD);
            match access {
                Access::Work => {
                    if makes_file {
                        make_file(sqlite.get_filename());
                    }
                    // Then readers and a writer do not block each other. A file that is there already stays as somebody
                    // made it.
                    let is_new = sqlite.get_filename().metadata().is_ok_and(|file| file.len() > 0).not();
                    if is_new { sqlite.journal_mode(SqliteJournalMode::Wal) } else { sqlite }
                }
                Access::Look => sqlite.create_if_missing(false),
                Access::Read => sqlite.create_if_missing(false).pragma("query_only", "ON"),
            }
        });
        options.map_sqlx_sqlite_pool_opts(without_failed_transactions);
    }

    /// Whoever reads first and then writes is refused if somebody else wrote in between.
    fn marking(&self) -> TransactionOptions {
        self.writing()
    }

    fn locks_for_everybody(&self) -> bool {
        true
    }

    /// Its lock is the whole file's, so that others would wait for ours.
    fn locking(&self, limit: Option<Duration>) -> Locking {
        Locking::of_file(limit.unwrap_or(FILE_LOCK_LIMIT))
    }

    /// It wants to know beforehand.
    fn writing(&self) -> TransactionOptions {
        TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        }
    }
}

/// Makes the file for nobody but us to read; what SQLite puts beside it is as the file. That it is there already, or
/// can't be made, SQLite finds out itself.
fn make_file(path: &Path) {
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
}

/// A pool that closes a connection whose transaction could not be ended.
///
/// When a COMMIT fails, on a full disk for one, SQLite has rolled the transaction back by itself. sqlx does not know,
/// and its own ROLLBACK fails: from then on what it takes for transactions are savepoints in a transaction that nobody
/// commits, or that is not there.
fn without_failed_transactions(pool: SqlitePoolOptions) -> SqlitePoolOptions {
    pool.after_release(|connection, _| {
        Box::pin(async move {
            if connection.is_in_transaction() {
                // Its rollback may be on its way; the answer comes after it.
                connection.ping().await?;
            }
            Ok(!connection.is_in_transaction())
        })
    })
}
