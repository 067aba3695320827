//! A hot standby whose replay lags: what it has of the threads is of yesterday, and no volume goes by that.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::{On, World, connect, eventually, servers};

/// A private PostgreSQL.
struct Postgres {
    dir: TempDir,
    url: String,
}

impl Postgres {
    async fn start_in(dir: TempDir) -> Self {
        let status = servers("start", dir.path()).arg("postgres").status().await.expect("it runs");
        assert!(status.success());
        let env = std::fs::read_to_string(dir.path().join("env")).expect("readable");
        let url = env.lines().find_map(|line| line.strip_prefix("export DATABASE_URL=")).expect("the URL").to_owned();
        Self { dir, url }
    }

    async fn primary() -> Self {
        Self::start_in(TempDir::with_prefix("vr-").expect("a temporary directory")).await
    }

    /// A standby of this server, which commits an hour later what the primary has.
    async fn lagging_standby(&self) -> Self {
        let dir = TempDir::with_prefix("vr-").expect("a temporary directory");
        std::fs::write(dir.path().join(".servers"), "").expect("written");
        let home = dir.path().join("postgres");
        let data = home.join("data");
        std::fs::create_dir(&home).expect("made");
        run(Command::new(tool("pg_basebackup"))
            .args(["--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf", "--no-sync", "--pgdata"])
            .arg(&data)
            .args(["--dbname", &self.url]));
        let settings = data.join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&settings).expect("readable");
        std::fs::write(&settings, format!("{text}recovery_min_apply_delay = '1h'\n")).expect("written");
        let owner = std::fs::metadata(self.dir.path().join("postgres/data")).expect("it is there");
        run(Command::new("chown").arg("-R").arg(format!("{}:{}", owner.uid(), owner.gid())).arg(&home));
        Self::start_in(dir).await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers");
        let _ = Command::new(script).arg("stop").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

/// A program of the newest PostgreSQL, which lies beside the server's.
fn tool(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin").join(name)).filter(|tool| tool.exists()).max();
    newest.unwrap_or_else(|| Path::new(name).to_owned())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

async fn execute(db: &DatabaseConnection, sql: &str) {
    db.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn readyz(serving: &crate::world::Serving) -> (u16, Value) {
    let (code, body) = serving.get("/readyz").await;
    (code, serde_json::from_str(&body).expect("JSON"))
}

#[tokio::test]
async fn a_standby_that_lags_is_no_ground_for_a_removal_and_heals_by_its_promotion() {
    let primary = Postgres::primary().await;
    let mut world = World::without_schema(On::Postgres).await;
    world.set("DATABASE_URL", &primary.url);
    world.db = connect(&primary.url).await;
    assert!(world.run(&["migrate"]).await.status.success());
    assert_eq!(world.sweep().await["candidates"], 0, "the daemon is known");
    world.closed_with_volume("t1").await;
    let standby = primary.lagging_standby().await;
    // Here it is open again, there it is closed.
    world.reopen_thread("t1").await;
    let stale = connect(&standby.url).await;
    world.set("DATABASE_URL", &standby.url);
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");

    let swept = world.run(&["sweep"]).await;
    assert_eq!(swept.status.code(), Some(1), "{swept:?}");
    let said = String::from_utf8_lossy(&swept.stderr).into_owned();
    assert!(said.contains("a standby, or "), "{said}");
    let doctor = world.json(&["doctor", "--json"]).await;
    let failed: Vec<_> = doctor["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter(|check| check["status"] == "fail")
        .map(|check| (check["name"].as_str().expect("a name"), check["why"].as_str().expect("why")))
        .collect();
    assert!(failed.iter().any(|(name, why)| *name == "database.rights" && why.contains("read-only")), "{failed:?}");
    assert!(failed.iter().all(|(name, _)| !name.starts_with("docker")), "it is not Docker's fault: {failed:?}");

    let serving = world.start().await;
    let (code, body) = eventually("the database is said to be down", async || {
        let said = readyz(&serving).await;
        said.1["dependencies"]["database"]["reason"]
            .as_str()
            .is_some_and(|why| why.contains("read-only"))
            .then_some(said)
    })
    .await;
    assert_eq!((code, &body["dependencies"]["database"]["up"]), (503, &json!(false)), "{body}");
    let docker = body["dependencies"]["docker"]["reason"].as_str().unwrap_or_default();
    assert!(!docker.contains("database"), "{body}");
    let is_told = |line: &Value| line["message"] == "down" && line["dependency"] == "database";
    serving.until_line(is_told).await;
    assert!(world.has_volume("t1").await);

    // It applies what it has, and takes writes from then on.
    execute(&stale, "SELECT pg_promote()").await;
    serving.until_ready().await;
    world.db = stale;
    assert_eq!(world.texts("SELECT status FROM threads").await, ["open"]);
    assert!(world.has_volume("t1").await && world.receipts("t1").await.is_empty());
    world.close_thread("t1").await;
    world.until_marked("t1").await;
    assert!(!world.has_volume("t1").await);
    assert_eq!(serving.stop().await, Some(0));
}
