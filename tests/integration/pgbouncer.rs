//! PostgreSQL behind PgBouncer in transaction mode: each transaction gets another of the server's connections.

use std::{os::unix::fs::MetadataExt, process::Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};
use url::Url;

use crate::world::{On, World, eventually, world};

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
