//! `serve --dry-run`: decides as `serve` does, and touches nothing.

use std::{fs::File, path::PathBuf};

use chrono::Utc;
use migrations::ThreadsTable;
use serde_json::{Value, json};
use volume_reaper::{
    cleanup::{Details, Gone, Origin, Receipt, Threads},
    config::SecretUrl,
    store::Store,
    volume_name::{ThreadId, VolumeNames},
};

use crate::world::{On, PrivateHost, Serving, World, eventually, server, world};

/// A dry run beside the platform, whose exchange is there.
struct DryRun {
    serving: Serving,
    journal: PathBuf,
}

impl DryRun {
    async fn start(world: &World) -> Self {
        let journal = world.dir.path().join("journal");
        let file = File::create(&journal).expect("a file");
        let serving = world.start_as(&["serve", "--dry-run"], file.into()).await;
        serving.until_ready().await;
        Self { serving, journal }
    }

    fn entries(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.journal).expect("readable");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an entry about the thread, and returns its outcome, source and settlement.
    async fn entry(&self, thread: &str) -> [Value; 3] {
        let what = format!("the journal has {thread}");
        let find = async || self.entries().into_iter().find(|entry| entry["thread_id"] == thread);
        let entry = eventually(&what, find).await;
        ["outcome", "source", "settlement"].map(|field| entry[field].clone())
    }
}

/// A world that the service has run in before.
async fn served(on: On) -> World {
    let world = world(on).await;
    assert_eq!(world.serve().await.stop().await, Some(0));
    world
}

async fn publish_closed(world: &World, id: &str) {
    let body = json!({ "thread_id": id }).to_string();
    world.publish_to_exchange("thread.closed", body.as_bytes()).await;
}

/// All that the service could have written.
async fn written(world: &World) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, columns) in [
        ("threads", "id || status || COALESCE(CAST(workspace_volume_removed_at AS char(30)), '-')"),
        ("volume_removals", "thread_id"),
        ("volume_reaper_daemons", "identity"),
        ("volume_reaper_leases", "CAST(epoch AS char(9))"),
        ("volume_reaper_failures", "thread_id"),
        ("volume_reaper_pauses", "reason"),
    ] {
        let found = world.texts(&format!("SELECT {columns} FROM {table} ORDER BY 1")).await;
        rows.extend(found.into_iter().map(|row| format!("{table} {row}")));
    }
    rows
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    for on in On::ALL {
        let mut world = served(on).await;
        world.set("VOLUME_REAPER_RETRY_DELAYS", "1s");
        world.closed_with_volume("swept").await;
        world.open_thread("absent").await;
        world.close_thread("absent").await;
        let before = written(&world).await;

        let dry = DryRun::start(&world).await;
        assert_eq!(dry.entry("swept").await, [json!("removed"), json!("sweep"), Value::Null], "{on:?}");
        assert_eq!(dry.entry("absent").await, [json!("not_found"), json!("sweep"), Value::Null], "{on:?}");
        publish_closed(&world, "unknown").await;
        let [outcome, ..] = dry.entry("unknown").await;
        assert_eq!(outcome, json!("unknown_thread"), "{on:?}");
        dry.serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
        let last = dry.entries().pop().expect("an entry");
        assert_eq!((&last["thread_id"], &last["settlement"]), (&json!("unknown"), &json!("dead_letter")), "{on:?}");

        assert_eq!(dry.serving.stop().await, Some(0));
        assert_eq!(written(&world).await, before, "{on:?}");
        assert!(world.has_volume("swept").await, "{on:?}");
    }
}

#[tokio::test]
async fn a_dry_run_has_a_copy_of_the_events_and_the_service_its_own() {
    let mut world = served(On::Postgres).await;
    // Only events count here.
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
    let dry = DryRun::start(&world).await;
    world.closed_with_volume("t1").await;
    publish_closed(&world, "t1").await;
    assert_eq!(dry.entry("t1").await, [json!("removed"), json!("event"), json!("ack")]);
    assert!(world.has_volume("t1").await);
    assert_eq!(world.messages(&world.work_queue()).await, 1);
    // The same event again: the thread would be clean by now.
    publish_closed(&world, "t1").await;
    dry.serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 2).await;
    assert_eq!(dry.entries().pop().expect("an entry")["outcome"], "already_clean");
    assert_eq!(dry.serving.stop().await, Some(0));

    let program = format!("{}/rabbitmqctl", server("VOLUME_REAPER_TEST_SERVERS"));
    let queues = tokio::process::Command::new(program).args(["--quiet", "list_queues", "name"]).output().await;
    let queues = String::from_utf8(queues.expect("it runs").stdout).expect("text");
    assert!(queues.contains(&world.work_queue()) && !queues.contains(&format!("{}.dry-run", world.name)), "{queues}");
    let _serving = world.serve().await;
    world.until_marked("t1").await;
}

#[tokio::test]
async fn a_held_volume_and_one_that_is_there_although_marked_are_told_too() {
    let world = served(On::Sqlite).await;
    world.closed_with_volume("held").await;
    let container = world.create_container("held").await;
    world.closed_with_volume("back").await;
    world.execute("UPDATE threads SET workspace_volume_removed_at = CURRENT_TIMESTAMP WHERE id = 'back'").await;
    let dry = DryRun::start(&world).await;
    assert_eq!(dry.entry("back").await[0], json!("mark_withdrawn"));
    publish_closed(&world, "held").await;
    assert_eq!(dry.entry("held").await, [json!("referenced"), json!("event"), json!("ack")]);
    assert!(world.mark("back").await.is_some() && world.has_volume("back").await);
    world.remove_container(&container).await;
    assert_eq!(dry.serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_budget_that_would_be_used_up_is_told_and_pauses_nothing() {
    let mut world = served(On::Sqlite).await;
    world.set("VOLUME_REAPER_BUDGET_PER_HOUR", "1");
    for id in ["t1", "t2", "t3"] {
        world.closed_with_volume(id).await;
    }
    let dry = DryRun::start(&world).await;
    eventually("the pause is logged", async || {
        dry.entries().into_iter().find(|entry| entry["outcome"] == "removal_paused")
    })
    .await;
    let removed = dry.entries().iter().filter(|entry| entry["outcome"] == "removed").count();
    assert_eq!(removed, 1);
    assert_eq!(dry.serving.stop().await, Some(0));
    assert!(world.texts("SELECT reason FROM volume_reaper_pauses").await.iter().all(String::is_empty));
}

#[tokio::test]
async fn the_database_itself_refuses_what_a_dry_run_must_not_write() {
    for on in On::ALL {
        let world = world(on).await;
        world.open_thread("t1").await;
        world.close_thread("t1").await;
        let url = SecretUrl::parse(&world.settings["DATABASE_URL"], &["postgres", "sqlite", "mysql"]).expect("valid");
        let store = Store::read_only(&url, ThreadsTable::default(), 2).await.expect("a pool");
        let thread_id = ThreadId::parse("t1").expect("valid");
        let volume = VolumeNames::of_prefix("ha_ws_").expect("valid").volume_of(&thread_id);
        let receipt = Receipt {
            thread_id,
            close: store.read(&[ThreadId::parse("t1").expect("valid")], None).await.expect("read").threads
                [&ThreadId::parse("t1").expect("valid")]
                .close
                .clone(),
            volume,
            gone: Gone::Removed,
            origin: Origin::Sweep,
            at: Utc::now(),
            is_written: false,
            details: Details::default(),
            completes: true,
        };
        store.mark(&[receipt]).await.expect_err("refused");
        assert_eq!(world.mark("t1").await, None, "{on:?}");
    }
}

#[tokio::test]
async fn a_dry_run_needs_nothing_of_ours_in_the_database() {
    let platform = served(On::Sqlite).await;
    for on in On::ALL {
        let mut world = World::without_schema(on).await;
        world.set("VOLUME_REAPER_EXCHANGE", platform.settings["VOLUME_REAPER_EXCHANGE"].clone());
        world.set("VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN", "");
        world.execute("CREATE TABLE threads (id varchar(36) PRIMARY KEY, status varchar(9))").await;
        world.execute("INSERT INTO threads VALUES ('there', 'closed'), ('gone', 'closed'), ('used', 'open')").await;
        world.create_volume("there").await;
        let dry = DryRun::start(&world).await;
        assert_eq!(dry.entry("there").await[0], json!("removed"), "{on:?}");
        assert_eq!(dry.entry("gone").await[0], json!("not_found"), "{on:?}");
        publish_closed(&world, "used").await;
        assert_eq!(dry.entry("used").await[0], json!("not_closed"), "{on:?}");
        assert_eq!(dry.serving.stop().await, Some(0));
        let tables = match on {
            On::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
            On::Postgres => "SELECT CAST(tablename AS text) FROM pg_tables WHERE schemaname = 'public'",
            On::Mysql => "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
        };
        assert_eq!(world.texts(tables).await, ["threads"], "{on:?}");
    }
}

#[tokio::test]
async fn a_dry_run_of_a_fleet_asks_all_hosts_and_touches_none() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    let mut world = World::without_schema(On::Sqlite).await;
    world.use_hosts(hosts);
    assert_eq!(world.serve().await.stop().await, Some(0));
    // From here on both are known.
    assert_eq!(world.sweep().await["skipped_reason"], Value::Null);
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
    for (id, host) in [("on-a", Some(a)), ("on-b", Some(b)), ("nowhere", None)] {
        world.open_thread(id).await;
        world.close_thread(id).await;
        if let Some(host) = host {
            host.create_volume(&world.volume(id)).await;
        }
    }
    let before = written(&world).await;
    let dry = DryRun::start(&world).await;
    assert_eq!(dry.entry("on-a").await, [json!("removed"), json!("sweep"), Value::Null]);
    assert_eq!(dry.entry("on-b").await, [json!("removed"), json!("sweep"), Value::Null]);
    assert_eq!(dry.entry("nowhere").await, [json!("not_found"), json!("sweep"), Value::Null]);
    assert_eq!(dry.serving.stop().await, Some(0));
    assert_eq!(written(&world).await, before);
    assert!(a.has_volume(&world.volume("on-a")).await && b.has_volume(&world.volume("on-b")).await);
}
