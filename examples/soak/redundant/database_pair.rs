//! A database and its streaming standby, which change places when the primary dies.
//!
//! What is committed is with the standby before the client hears of it: else a promotion would lose what the platform
//! and the service were told, which no client can make up for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use tokio::{
    process::Command,
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{
    SOON, Try, authority,
    others::exported,
    servers::{Proxy, SCRIPT, control, output_of},
    soon,
};

pub(crate) struct Pair {
    /// Taken by whoever does something to one of them.
    pub(crate) turn: Mutex<()>,
    dirs: [PathBuf; 2],
    urls: [String; 2],
    primary: AtomicUsize,
}

impl Pair {
    pub(crate) async fn start(base: &Path) -> Try<Self> {
        let dirs = ["database-1", "database-2"].map(|name| base.join(name));
        let mut pair =
            Self { turn: Mutex::default(), dirs, urls: [String::new(), String::new()], primary: AtomicUsize::new(0) };
        control(&pair.dirs[0], "start", &["postgres"]).await?;
        pair.urls[0] = exported(&pair.dirs[0], "DATABASE_URL").await?;
        pair.follow(1, 0).await?;
        pair.urls[1] = exported(&pair.dirs[1], "DATABASE_URL").await?;
        pair.wait_for_standby(0).await?;
        Ok(pair)
    }

    /// `host:port`.
    pub(crate) fn address(&self, which: usize) -> String {
        authority(&self.urls[which]).unwrap_or_default().to_owned()
    }

    /// The primary dies, and some time later the standby is promoted and the clients are led to it. The old primary
    /// comes back, takes no writes, and for a moment some clients are led to it; then it becomes the standby.
    pub(crate) async fn fail_over(&self, lasts: Duration, clients: &[&Proxy], astray: &Proxy) -> Try {
        let old = self.primary.load(Ordering::Relaxed);
        let new = 1 - old;
        control(&self.dirs[old], "kill", &["postgres"]).await?;
        sleep(lasts / 2).await;
        let db = self.connect(new).await?;
        execute(&db, "SELECT pg_promote(true, 30)").await?;
        // Nobody follows yet: waiting for a standby would be waiting for us.
        set(&db, "synchronous_standby_names", "''").await?;
        let there = [self.address(new)];
        for client in clients {
            client.swap(&there);
        }
        self.primary.store(new, Ordering::Relaxed);

        let mut fenced = Command::new(SCRIPT);
        fenced.arg("start").arg(&self.dirs[old]).arg("postgres");
        fenced.env("EXTRA_POSTGRES_OPTIONS", "-c default_transaction_read_only=on");
        output_of(fenced).await?;
        astray.swap(&[self.address(old)]);
        sleep(lasts / 2).await;
        astray.swap(&there);

        self.follow(old, new).await?;
        self.wait_for_standby(new).await
    }

    /// The standby is away. Meanwhile no commit comes to its end.
    pub(crate) async fn lose_standby(&self, lasts: Duration) -> Try {
        let dir = &self.dirs[1 - self.primary.load(Ordering::Relaxed)];
        control(dir, "kill", &["postgres"]).await?;
        sleep(lasts).await;
        control(dir, "start", &["postgres"]).await
    }

    /// Clients are led to the standby, which knows less and less of what happened.
    pub(crate) async fn ask_standby(&self, lasts: Duration, clients: &Proxy) -> Try {
        let primary = self.primary.load(Ordering::Relaxed);
        let db = self.connect(1 - primary).await?;
        execute(&db, "SELECT pg_wal_replay_pause()").await?;
        sleep(lasts / 2).await;
        clients.swap(&[self.address(1 - primary)]);
        sleep(lasts / 2).await;
        clients.swap(&[self.address(primary)]);
        execute(&db, "SELECT pg_wal_replay_resume()").await
    }

    /// Makes one the standby of the other, whatever it was.
    async fn follow(&self, standby: usize, primary: usize) -> Try {
        control(&self.dirs[standby], "standby", &[&self.dirs[primary].display().to_string()]).await
    }

    /// Until the standby has all that there is, and will have all that comes.
    async fn wait_for_standby(&self, primary: usize) -> Try {
        let db = self.connect(primary).await?;
        let streaming = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'";
        let streams = async {
            while db.query_all_raw(Statement::from_string(DbBackend::Postgres, streaming)).await?.is_empty() {
                sleep(Duration::from_millis(100)).await;
            }
            Ok::<(), sea_orm::DbErr>(())
        };
        timeout(SOON, streams).await.map_err(|_| "the standby does not follow")??;
        set(&db, "synchronous_standby_names", "'*'").await?;
        // A commit that waits for the standby has waited for all before it too.
        execute(&db, "SELECT pg_current_xact_id()").await
    }

    async fn connect(&self, which: usize) -> Try<DatabaseConnection> {
        let mut options = ConnectOptions::new(&self.urls[which]);
        options.sqlx_logging(false).max_connections(1);
        Box::pin(soon("database", Database::connect(options))).await
    }
}

async fn execute(db: &DatabaseConnection, sql: &str) -> Try {
    soon("database", db.execute_unprepared(sql)).await.map(drop)
}

async fn set(db: &DatabaseConnection, name: &str, value: &str) -> Try {
    execute(db, &format!("ALTER SYSTEM SET {name} = {value}")).await?;
    execute(db, "SELECT pg_reload_conf()").await
}

impl Drop for Pair {
    fn drop(&mut self) {
        for dir in self.dirs.iter().filter(|dir| fs::exists(dir).unwrap_or(false)) {
            let _ = process::Command::new(SCRIPT).arg("remove").arg(dir).stderr(Stdio::null()).status();
        }
    }
}
