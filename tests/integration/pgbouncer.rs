//! PostgreSQL behind PgBouncer in transaction mode: each transaction gets another of the server's connections.

use std::{os::unix::fs::MetadataExt, process::Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};
use url::Url;

use crate::{
    fault_proxy::{FaultProxy, Mode},
    locks::{lock, remove_without_answer, until_somebody_waits},
    world::{On, World, eventually, world},
};

/// Fewer than a replica wants, so that they are handed around.
const SERVER_CONNECTIONS: u32 = 2;

struct PgBouncer {
    process: Child,
    port: u16,
    dir: TempDir,
}

impl PgBouncer {
    /// Starts one before the world's database.
    async fn before(world: &World) -> Self {
        let database = Url::parse(&world.settings["DATABASE_URL"]).expect("a URL");
        let (host, port) = (database.host_str().expect("a host"), database.port().expect("a port"));
        let (user, dir) = (database.username(), TempDir::new().expect("a temporary directory"));
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = free.local_addr().expect("an address").port();
        drop(free);
        let config = format!(
            "[databases]\n* = host={host} port={port} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {listen}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = {SERVER_CONNECTIONS}\nmax_client_conn = 200\nlogfile = /dev/null\n"
        );
        std::fs::write(dir.path().join("pgbouncer.ini"), config).expect("written");
        let mut command = Command::new("/usr/sbin/pgbouncer");
        // It does not run as root.
        if dir.path().metadata().expect("it is there").uid() == 0 {
            command.args(["-u", "postgres"]);
        }
        command.arg(dir.path().join("pgbouncer.ini")).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().expect("PgBouncer is installed");
        let bouncer = Self { process, port: listen, dir };
        eventually("PgBouncer listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", listen)).await.ok().map(drop)
        })
        .await;
        bouncer
    }

    fn url(&self, world: &World) -> String {
        let mut url = Url::parse(&world.settings["DATABASE_URL"]).expect("a URL");
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(self.port)).expect("a port");
        url.query_pairs_mut().append_pair("pgbouncer", "true");
        url.into()
    }

    async fn stop(mut self) {
        self.process.kill().await.expect("it runs");
        drop(self.dir);
    }
}

#[tokio::test]
async fn events_sweeps_and_the_lease_work_through_pgbouncer_in_transaction_mode() {
    let mut world = world(On::Postgres).await;
    let bouncer = PgBouncer::before(&world).await;
    world.set("DATABASE_URL", bouncer.url(&world));
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    let ids: Vec<_> = (0..60).map(|number| format!("t{number}")).collect();
    for id in &ids {
        world.closed_with_volume(id).await;
    }
    world.set("VOLUME_REAPER_REPLICA", "first");
    let first = world.serve().await;
    world.set("VOLUME_REAPER_REPLICA", "second");
    let second = world.serve().await;
    let published = world.run(&[&["publish"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat()).await;
    assert!(published.status.success(), "{published:?}");
    for id in &ids {
        world.until_marked(id).await;
        assert_eq!(world.receipts(id).await.len(), 1);
    }
    // The one that sweeps is killed: it can't give its lease back.
    let holder =
        || async { world.texts("SELECT holder FROM volume_reaper_leases").await.pop().expect("somebody sweeps") };
    let before = holder().await;
    let (mut sweeping, waiting) = if before.starts_with("first/") { (first, second) } else { (second, first) };
    sweeping.signal("KILL");
    sweeping.exit_code().await;
    eventually("the other one sweeps", async || (holder().await != before).then_some(())).await;
    world.closed_with_volume("late").await;
    world.until_marked("late").await;
    let log = waiting.lines();
    assert!(log.iter().all(|line| line["level"] != "WARN" && line["level"] != "ERROR"), "{log:?}");
    assert_eq!(waiting.stop().await, Some(0));
    bouncer.stop().await;
}

#[tokio::test]
async fn rows_are_locked_through_pgbouncer_too() {
    let mut world = world(On::Postgres).await;
    let direct = world.settings["DATABASE_URL"].clone();
    let bouncer = PgBouncer::before(&world).await;
    let (docker, endpoint) = FaultProxy::docker().await;
    world.set("DOCKER_HOST", endpoint);
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    for limit in ["30s", "200ms"] {
        world.set("DATABASE_URL", bouncer.url(&world));
        world.set("VOLUME_REAPER_LOCK_LIMIT", limit);
        let serving = world.serve_idle().await;
        // The test itself speaks to the server.
        world.set("DATABASE_URL", direct.clone());
        if limit == "30s" {
            // A reopening waits for the removal.
            remove_without_answer(&world, &docker, "reopened").await;
            tokio::join!(world.reopen_thread("reopened"), async {
                until_somebody_waits(&world, On::Postgres, "reopened").await;
                docker.set(Mode::Pass);
            });
            assert_eq!(world.receipts("reopened").await, ["removed/event"]);
            // A row that somebody else has locked is passed over.
            world.closed_with_volume("busy").await;
            world.closed_with_volume("free").await;
            let lock = lock(&world, "busy").await;
            world.publish_closed("busy").await;
            serving.until_metric("volume_reaper_settlements_total{settlement=\"busy\"}", 1).await;
            world.publish_closed("free").await;
            world.until_marked("free").await;
            assert!(world.has_volume("busy").await);
            lock.rollback().await.expect("unlocked");
            world.until_marked("busy").await;
        } else {
            // After the limit nothing is locked, and the removal still ends marked.
            remove_without_answer(&world, &docker, "slow").await;
            drop(lock(&world, "slow").await);
            assert_eq!(world.mark("slow").await, None, "it was not waited for");
            docker.set(Mode::Pass);
            world.until_marked("slow").await;
            assert_eq!(world.receipts("slow").await, ["removed/event"]);
        }
        assert_eq!(serving.stop().await, Some(0));
    }
    bouncer.stop().await;
}

#[tokio::test]
async fn the_schema_is_not_changed_through_a_pooler() {
    let mut world = World::without_schema(On::Postgres).await;
    let bouncer = PgBouncer::before(&world).await;
    world.set("DATABASE_URL", bouncer.url(&world));
    let output = world.run(&["migrate"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("can't be changed through a pooler: run `volume-reaper migrate` with a DATABASE_URL"),
        "{error}"
    );
    bouncer.stop().await;
}
