//! MySQL and MariaDB as others run them: with a primary key demanded of every table, with logins that want TLS, and
//! with a database that comes from a dump.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::world::{On, World, connect, server, servers, world};

/// A server of the test's own.
pub(crate) struct PrivateMySql {
    dir: TempDir,
    pub(crate) admin: DatabaseConnection,
    url: String,
}

impl PrivateMySql {
    /// With these settings besides its own.
    pub(crate) async fn start(settings: &str) -> Self {
        let dir = TempDir::with_prefix("vr-").expect("a temporary directory");
        let files = TempDir::new().expect("a temporary directory");
        let file = files.path().join("my.cnf");
        std::fs::write(&file, settings).expect("written");
        let start = servers("start", dir.path()).arg("mariadb").env("EXTRA_MARIADB_CONFIG", file).status().await;
        assert!(start.expect("it runs").success());
        let env = std::fs::read_to_string(dir.path().join("env")).expect("readable");
        let url = env.lines().find_map(|line| line.strip_prefix("export MYSQL_URL=")).expect("the URL").to_owned();
        Self { admin: connect(&url).await, url, dir }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn place(&self) -> &str {
        place(&self.url)
    }

    async fn execute(&self, sql: &str) {
        self.admin.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// A world with a new database on this server, whose user is called `reaper` and logs in so.
    async fn world(&self, login: &str) -> World {
        let mut world = World::without_schema(On::Sqlite).await;
        self.execute(&format!("CREATE DATABASE {}", world.name)).await;
        self.execute(&format!("CREATE USER reaper {login} BY 's3cret'")).await;
        self.execute(&format!("GRANT ALL ON {}.* TO reaper", world.name)).await;
        world.set("DATABASE_URL", self.url_of(&world, ""));
        world.db = connect(&self.url.replace("/mysql", &format!("/{}", world.name))).await;
        world
    }

    fn url_of(&self, world: &World, parameters: &str) -> String {
        format!("mysql://reaper:s3cret@{}/{}{parameters}", self.place(), world.name)
    }
}

impl Drop for PrivateMySql {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers");
        let _ = std::process::Command::new(script).arg("stop").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

fn place(url: &str) -> &str {
    url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a user and a database in the URL").0
}

/// Where MySQL's server and its programs were unpacked, if that is what is tested.
fn mysql_root() -> Option<PathBuf> {
    std::env::var_os("MYSQL_ROOT").filter(|root| !root.is_empty()).map(PathBuf::from)
}

async fn doctor(world: &World) -> Vec<Value> {
    let report = world.json(&["doctor", "--json"]).await;
    let checks = report["checks"].as_array().expect("checks").clone();
    let is_bad = |check: &Value| {
        check["name"].as_str().is_some_and(|name| name.starts_with("database.")) && check["status"] == "fail"
    };
    checks.into_iter().filter(is_bad).collect()
}

/// One thread whose volume goes, one whose volume was gone; then there is nothing left to do.
async fn sweeps(world: &World) {
    world.closed_with_volume("there").await;
    world.open_thread("gone").await;
    world.close_thread("gone").await;
    let swept = world.sweep().await;
    assert_eq!((&swept["removed"], &swept["not_found"]), (&json!(1), &json!(1)), "{swept}");
    assert_eq!(world.sweep().await["candidates"], 0);
}

#[tokio::test]
async fn a_server_that_wants_a_primary_key_of_every_table_is_migrated_and_back() {
    // Each server knows one of the two.
    let strict = PrivateMySql::start("loose_sql_require_primary_key = ON\nloose_innodb_force_primary_key = ON\n").await;
    strict.execute("SET GLOBAL log_bin_trust_function_creators = 1").await;
    let mut world = strict.world("IDENTIFIED").await;
    assert!(world.db.execute_unprepared("CREATE TABLE without_key (n int)").await.is_err(), "the server is strict");
    world.set("DATABASE_URL", strict.url_of(&world, "?ssl-mode=PREFERRED"));
    for command in ["up", "down", "up"] {
        let arguments = if command == "down" { vec!["migrate", "down", "--all"] } else { vec!["migrate", command] };
        let migrated = world.run(&arguments).await;
        assert!(migrated.status.success(), "{migrated:?}");
    }
    assert_eq!(doctor(&world).await, [""; 0]);
    sweeps(&world).await;
    if mysql_root().is_some() {
        default_login_of_mysql(&strict).await;
    }
}

/// `caching_sha2_password`, which MariaDB 11.8 has not.
async fn default_login_of_mysql(private: &PrivateMySql) {
    private.execute("DROP USER reaper").await;
    let mut world = private.world("IDENTIFIED WITH caching_sha2_password").await;
    // First, since the server remembers a password that once came over TLS.
    world.set("DATABASE_URL", private.url_of(&world, "?ssl-mode=DISABLED"));
    let refused = world.run(&["migrate"]).await;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("over TLS or a Unix socket only"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let report = world.run(&["doctor"]).await;
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("over TLS or a Unix socket only: set ssl-mode=REQUIRED"), "{report}");

    let socket = private.dir.path().join("mariadb/socket");
    world.set("DATABASE_URL", private.url_of(&world, &format!("?socket={}", socket.display())));
    let migrated = world.run(&["migrate"]).await;
    assert!(migrated.status.success(), "{migrated:?}");
    for sql in ["ALTER USER reaper IDENTIFIED WITH caching_sha2_password BY 's3cret'", "FLUSH PRIVILEGES"] {
        private.execute(sql).await;
    }
    world.set("DATABASE_URL", private.url_of(&world, "?ssl-mode=REQUIRED"));
    assert_eq!(doctor(&world).await, [""; 0]);
    sweeps(&world).await;
}

/// One of the server's own programs.
fn program(name: &str, mariadb: &str) -> Command {
    let Some(root) = mysql_root() else {
        let mut command = Command::new(mariadb);
        command.arg("--no-defaults");
        return command;
    };
    let libraries = std::fs::read_dir(root.join("usr/lib")).expect("unpacked").flatten().map(|entry| entry.path());
    let libraries: Vec<_> = libraries.map(|path| path.display().to_string()).collect();
    let mut command = Command::new(root.join("usr/bin").join(name));
    command.env("LD_LIBRARY_PATH", libraries.join(":")).arg("--no-defaults");
    command
}

/// How a program reaches the server.
fn options(url: &str) -> [String; 4] {
    let (host, port) = place(url).split_once(':').expect("a port");
    ["--user=root".to_owned(), format!("--host={host}"), format!("--port={port}"), "--protocol=tcp".to_owned()]
}

async fn dump(database: &str, file: &Path) {
    let url = server("MYSQL_URL");
    let mut dump = program("mysqldump", "mariadb-dump");
    dump.args(options(&url)).arg(format!("--result-file={}", file.display())).arg("--single-transaction");
    if mysql_root().is_some() {
        // It is restored on the same server, where these transactions are known.
        dump.arg("--set-gtid-purged=OFF");
    }
    dump.arg(database);
    let dumped = dump.output().await.expect("it runs");
    assert!(dumped.status.success(), "{dumped:?}");
}

async fn restore(database: &str, file: &Path) {
    let url = server("MYSQL_URL");
    let mut restore = program("mysql", "mariadb");
    restore.args(options(&url)).arg(database).stdin(std::fs::File::open(file).expect("the dump"));
    let restored = restore.output().await.expect("it runs");
    assert!(restored.status.success(), "{restored:?}");
}

#[tokio::test]
async fn what_a_dump_of_a_migrated_database_restores_elsewhere_is_swept_and_whole() {
    let from = world(On::Mysql).await;
    sweeps(&from).await;
    from.open_thread("reopened").await;
    from.close_thread("reopened").await;
    let mut to = World::without_schema(On::Mysql).await;
    let file = to.dir.path().join("dump.sql");
    dump(&from.name, &file).await;
    restore(&to.name, &file).await;

    // The volumes are where they were; the queues too.
    for setting in ["VOLUME_REAPER_VOLUME_PREFIX", "VOLUME_REAPER_QUEUE_PREFIX", "VOLUME_REAPER_EXCHANGE"] {
        let value = from.settings[setting].clone();
        to.set(setting, value);
    }
    assert_eq!(doctor(&to).await, [""; 0]);
    let status = to.run(&["migrate", "status"]).await;
    assert!(status.status.success(), "{status:?}");
    let verified = to.run(&["receipts", "verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
    let swept = to.sweep().await;
    assert_eq!((&swept["candidates"], &swept["not_found"]), (&json!(1), &json!(1)), "{swept}");
    // The trigger came along.
    to.reopen_thread("reopened").await;
    assert!(to.mark("reopened").await.is_none());
    assert!(from.mark("reopened").await.is_none(), "the other database is as it was");
    assert!(to.run(&["migrate", "down", "--all"]).await.status.success());
}
