//! A table of volumes of the platform's: each row names a volume and has its mark; the threads are never written.

use std::sync::atomic::{AtomicU32, Ordering};

use bollard::{models::VolumeCreateRequest, query_parameters::RemoveVolumeOptions};
use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::{Value, json};

use crate::{
    api::{VIEWER, ask, tell, with_tokens},
    locks::{reopened_while_removing, serving, stays_when_its_event_comes_again},
    world::{On, World, connect, eventually},
};

/// A uuid as the databases write it, but for its last digit.
pub(crate) const UUID: &str = "7f1c2a30-9f55-4f0e-8a77-0f6f1f4f1b1";

/// How many rows of volumes there are, for their ids.
static ROWS: AtomicU32 = AtomicU32::new(0);

/// The shape of a platform that exists, as each database has it.
pub(crate) fn tables(on: On) -> Vec<String> {
    let (uuid, time) = match on {
        On::Postgres => ("uuid", "timestamp(3)"),
        On::Sqlite => ("text", "text"),
        On::Mysql => ("char(36)", "datetime(3)"),
    };
    let status = match on {
        On::Postgres => "status",
        On::Sqlite => "text",
        On::Mysql => "enum('open', 'closed')",
    };
    let (name, quote) = match on {
        On::Mysql => ("varchar(255)", '`'),
        On::Postgres | On::Sqlite => ("text", '"'),
    };
    let thread = format!("{quote}Thread{quote}");
    let threads = format!(
        "CREATE TABLE {thread} (id {uuid} PRIMARY KEY, status {status} NOT NULL DEFAULT 'open', closed_at {time})"
    );
    let volumes = format!(
        "CREATE TABLE workspace_volumes (id {uuid} PRIMARY KEY, thread_id {uuid} NOT NULL, \
         volume_name {name} NOT NULL UNIQUE, created_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP, removed_at {time}, \
         FOREIGN KEY (thread_id) REFERENCES {thread} (id))"
    );
    let volumes = if matches!(on, On::Mysql) {
        volumes.replace("DEFAULT CURRENT_TIMESTAMP", "DEFAULT CURRENT_TIMESTAMP(3)")
    } else {
        volumes
    };
    let kinds = matches!(on, On::Postgres).then(|| "CREATE TYPE status AS ENUM ('open', 'closed')".to_owned());
    kinds.into_iter().chain([threads, volumes]).collect()
}

/// A platform with such tables, and the program's settings for it.
pub(crate) async fn adopting(on: On) -> World {
    let mut world = World::without_schema(on).await;
    for table in tables(on) {
        world.execute(&table).await;
    }
    world.set("VOLUME_REAPER_THREADS_TABLE", "Thread");
    world.set("VOLUME_REAPER_VOLUMES_TABLE", "workspace_volumes");
    world
}

pub(crate) async fn platform(on: On) -> World {
    let world = adopting(on).await;
    let output = world.run(&["migrate"]).await;
    assert!(output.status.success(), "{on:?} {output:?}");
    world
}

pub(crate) fn thread(digit: u8) -> String {
    format!("{UUID}{digit}")
}

pub(crate) fn quoted(on: On) -> &'static str {
    if matches!(on, On::Mysql) { "`Thread`" } else { "\"Thread\"" }
}

/// A thread with these volumes, which are there, and have names that say nothing of it.
pub(crate) async fn open(world: &World, on: On, thread: &str, volumes: &[&str]) {
    world.execute(&format!("INSERT INTO {} (id, status) VALUES ('{thread}', 'open')", quoted(on))).await;
    for volume in volumes {
        add(world, thread, volume).await;
    }
}

/// One more volume of a thread.
async fn add(world: &World, thread: &str, volume: &str) {
    world.create_volume(volume).await;
    add_row(world, thread, &world.volume(volume)).await;
}

/// A row alone, whatever it names.
pub(crate) async fn add_row(world: &World, thread: &str, name: &str) {
    let id = format!("{}{:04x}", &UUID[..32], ROWS.fetch_add(1, Ordering::Relaxed));
    let insert = "INSERT INTO workspace_volumes (id, thread_id, volume_name)";
    world.execute(&format!("{insert} VALUES ('{id}', '{thread}', '{name}')")).await;
}

pub(crate) async fn set(world: &World, on: On, thread: &str, status: &str) {
    let closed_at = if status == "closed" { "CURRENT_TIMESTAMP" } else { "NULL" };
    let update = format!("UPDATE {} SET status = '{status}', closed_at = {closed_at}", quoted(on));
    world.execute(&format!("{update} WHERE id = '{thread}'")).await;
}

/// The volumes whose rows are marked, the test's name left out.
pub(crate) async fn marked(world: &World) -> Vec<String> {
    let name = format!("replace(volume_name, '{}_ws_', '')", world.name);
    world.texts(&format!("SELECT {name} FROM workspace_volumes WHERE removed_at IS NOT NULL ORDER BY 1")).await
}

pub(crate) async fn until_marked(world: &World, volumes: &[&str]) {
    eventually(&format!("{volumes:?} are marked"), async || (marked(world).await == volumes).then_some(())).await;
}

pub(crate) fn counts(report: &Value) -> Value {
    json!([report["candidates"], report["removed"], report["not_found"], report["referenced"], report["failed"]])
}

#[tokio::test]
async fn all_volumes_that_rows_name_go_by_event_and_by_sweep_and_each_is_marked_with_its_receipt() {
    for on in On::ALL {
        let world = platform(on).await;
        open(&world, on, &thread(1), &["a1", "a2", "a3"]).await;
        open(&world, on, &thread(2), &["b1"]).await;
        open(&world, on, &thread(3), &["c1"]).await;
        set(&world, on, &thread(1), "closed").await;
        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0]), "{on:?}");
        assert_eq!(marked(&world).await, ["a1", "a2", "a3"], "{on:?}");
        assert_eq!(world.receipts(&thread(1)).await, ["removed/sweep"; 3], "{on:?}");
        let serving = world.serve_idle().await;
        set(&world, on, &thread(2), "closed").await;
        world.publish_closed(&thread(2)).await;
        until_marked(&world, &["a1", "a2", "a3", "b1"]).await;
        assert_eq!(world.receipts(&thread(2)).await, ["removed/event"], "{on:?}");
        // A marked thread costs nothing, whatever event comes.
        world.publish_closed(&thread(2)).await;
        serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"already_clean\"}", 1).await;
        assert_eq!(serving.stop().await, Some(0));
        assert_eq!(counts(&world.sweep().await), json!([0, 0, 0, 0, 0]), "{on:?}");
        for (volume, is_there) in [("a1", false), ("a2", false), ("a3", false), ("b1", false), ("c1", true)] {
            assert_eq!(world.has_volume(volume).await, is_there, "{on:?} {volume}");
        }
    }
}

#[tokio::test]
async fn a_volume_in_use_keeps_no_other_from_its_mark() {
    for on in On::ALL {
        let world = platform(on).await;
        open(&world, on, &thread(1), &["used", "free"]).await;
        let container = world.create_container("used").await;
        set(&world, on, &thread(1), "closed").await;
        assert_eq!(counts(&world.sweep().await), json!([1, 0, 0, 1, 0]), "{on:?}");
        assert_eq!(marked(&world).await, ["free"], "{on:?}");
        let explained = world.json(&["explain", &thread(1), "--json"]).await;
        assert_eq!(explained["reasons"][0], "referenced", "{on:?} {explained}");
        assert_eq!(explained["volumes"].as_array().map(Vec::len), Some(2), "{on:?} {explained}");
        world.remove_container(&container).await;
        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0]), "{on:?}");
        assert_eq!(marked(&world).await, ["free", "used"], "{on:?}");
        assert_eq!(world.receipts(&thread(1)).await, ["removed/sweep"; 2], "{on:?}");
    }
}

#[tokio::test]
async fn a_dry_run_takes_a_thread_for_marked_only_with_its_last_volume() {
    let mut world = platform(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    // The exchange, and the pinned daemon.
    assert_eq!(world.serve().await.stop().await, Some(0));
    open(&world, On::Sqlite, &thread(1), &["used", "free"]).await;
    let container = world.create_container("used").await;
    let journal = world.dir.path().join("journal");
    let serving =
        world.start_as(&["serve", "--dry-run"], std::fs::File::create(&journal).expect("a file").into()).await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
    set(&world, On::Sqlite, &thread(1), "closed").await;
    for (times, outcome) in [(1, "referenced"), (2, "referenced"), (1, "removed"), (1, "already_clean")] {
        if outcome == "removed" {
            world.remove_container(&container).await;
        }
        // A dry run has a queue of its own.
        world.publish_to_exchange("thread.closed", json!({ "thread_id": thread(1) }).to_string().as_bytes()).await;
        eventually(&format!("the journal has {outcome}, {times} times"), async || {
            let text = std::fs::read_to_string(&journal).expect("readable");
            let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            // What its event came to; by Docker's, the container's end, the same may have been said before.
            let told = entries.filter(|entry| entry["outcome"] == outcome).count();
            (told >= times).then_some(())
        })
        .await;
    }
    assert_eq!(serving.stop().await, Some(0));
    assert!(world.has_volume("used").await && world.has_volume("free").await);
    assert_eq!(marked(&world).await, Vec::<String>::new());
}

#[tokio::test]
async fn reopening_clears_the_marks_of_a_threads_volumes_and_its_next_close_is_cleaned_again() {
    for on in On::ALL {
        let world = platform(on).await;
        open(&world, on, &thread(1), &["a1", "a2"]).await;
        open(&world, on, &thread(2), &["b1"]).await;
        for one in [1, 2] {
            set(&world, on, &thread(one), "closed").await;
        }
        world.sweep().await;
        assert_eq!(marked(&world).await, ["a1", "a2", "b1"], "{on:?}");
        set(&world, on, &thread(1), "open").await;
        assert_eq!(marked(&world).await, ["b1"], "{on:?}");
        world.create_volume("a1").await;
        assert_eq!(counts(&world.sweep().await), json!([0, 0, 0, 0, 0]), "{on:?}");
        assert!(world.has_volume("a1").await, "{on:?}");
        set(&world, on, &thread(1), "closed").await;
        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0]), "{on:?}");
        assert_eq!(marked(&world).await, ["a1", "a2", "b1"], "{on:?}");
    }
}

#[tokio::test]
async fn a_row_that_comes_later_or_is_renamed_is_the_next_sweeps() {
    for on in On::ALL {
        let world = platform(on).await;
        open(&world, on, &thread(1), &["a1"]).await;
        set(&world, on, &thread(1), "closed").await;
        world.sweep().await;
        add(&world, &thread(1), "late").await;
        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0]), "{on:?}");
        assert_eq!(marked(&world).await, ["a1", "late"], "{on:?}");
        // Renamed after its mark, to a volume that is there: drift.
        world.create_volume("new").await;
        let rename = format!("UPDATE workspace_volumes SET volume_name = '{}'", world.volume("new"));
        world.execute(&format!("{rename} WHERE volume_name = '{}'", world.volume("late"))).await;
        let report = world.sweep().await;
        assert_eq!((&report["drift"], world.has_volume("new").await), (&json!(1), false), "{on:?} {report}");
        assert_eq!(marked(&world).await, ["a1", "new"], "{on:?}");
        let report = world.sweep().await;
        assert_eq!((&report["candidates"], &report["drift"]), (&json!(0), &json!(0)), "{on:?} {report}");
    }
}

#[tokio::test]
async fn a_row_that_names_somebody_elses_volume_is_refused_counted_and_shown() {
    for on in On::ALL {
        let world = platform(on).await;
        let theirs = format!("{}_data", world.name);
        let request = VolumeCreateRequest { name: Some(theirs.clone()), ..VolumeCreateRequest::default() };
        world.docker.create_volume(request).await.expect("a volume can be created");
        open(&world, on, &thread(1), &["a1"]).await;
        add_row(&world, &thread(1), &theirs).await;
        open(&world, on, &thread(2), &[]).await;
        add_row(&world, &thread(2), &format!("{}/../../x", world.volume("a"))).await;
        for one in [1, 2] {
            set(&world, on, &thread(one), "closed").await;
        }
        world.sweep().await;
        assert_eq!(marked(&world).await, ["a1"], "{on:?}");
        let report = world.sweep().await;
        assert_eq!(counts(&report), json!([2, 0, 0, 0, 2]), "{on:?} {report}");
        let there = world.docker.inspect_volume(&theirs).await;
        assert!(there.is_ok(), "{on:?}");
        let explained = world.json(&["explain", &thread(1), "--json"]).await;
        assert_eq!(explained["reasons"][0], "refused_name", "{on:?} {explained}");
        let text = String::from_utf8_lossy(&world.run(&["explain", &thread(1)]).await.stdout).into_owned();
        assert!(text.contains(&format!("{theirs:?}")), "{on:?} {text}");
        let serving = world.serve_idle().await;
        world.publish_closed(&thread(2)).await;
        world.dead_letter().await;
        assert_eq!(serving.stop().await, Some(0));
        world.docker.remove_volume(&theirs, None::<RemoveVolumeOptions>).await.expect("it is there");
    }
}

#[tokio::test]
async fn volumes_that_no_row_names_are_orphans_and_stay() {
    for on in On::ALL {
        let world = platform(on).await;
        open(&world, on, &thread(1), &["a1", "_a2"]).await;
        world.create_volume("nobodys").await;
        // No thread's id can begin so: without a row it is somebody else's.
        world.create_volume("_else").await;
        let report = world.sweep().await;
        assert_eq!(report["orphans"], 1, "{on:?} {report}");
        let orphans = world.json(&["orphans", "--json"]).await;
        assert_eq!((&orphans["volumes"], &orphans["foreign"]), (&json!(4), &json!(1)), "{on:?} {orphans}");
        assert_eq!(orphans["orphans"].as_array().map(Vec::len), Some(1), "{on:?} {orphans}");
        assert_eq!(orphans["orphans"][0]["volume"], world.volume("nobodys"), "{on:?} {orphans}");
        assert!(world.has_volume("nobodys").await && world.has_volume("a1").await, "{on:?}");
    }
}

#[tokio::test]
async fn the_list_of_a_dry_run_has_the_volumes_of_threads_too_that_failed_before() {
    let mut world = platform(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    for (number, volume) in [(1, "a1"), (2, "b1")] {
        open(&world, On::Sqlite, &thread(number), &[volume]).await;
        set(&world, On::Sqlite, &thread(number), "closed").await;
    }
    let (columns, at) =
        ("thread_id, attempts, first_failed_at, failed_at, error, replica", "'2000-01-01 00:00:00+00:00'");
    let failure = format!("'{}', 1, {at}, {at}, 'test', 'test'", thread(2));
    world.execute(&format!("INSERT INTO volume_reaper_failures ({columns}) VALUES ({failure})")).await;
    let report = tell(&serving, VIEWER, "/sweep", &json!({ "dry_run": true })).await.json();
    assert_eq!(report["removed"], 2, "{report}");
    let viewer = format!("Authorization: Bearer {VIEWER}");
    let list = ask(&serving, "GET /sweeps/planned.csv", &[&viewer], "").await.body();
    let line = |number: u8, volume: &str| format!(",{},{},remove", thread(number), world.volume(volume));
    let expected = ["host,thread_id,volume,would".to_owned(), line(1, "a1"), line(2, "b1")];
    assert_eq!(list.lines().collect::<Vec<_>>(), expected);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn what_migrating_adds_is_taken_away_again_and_the_threads_are_as_they_were() {
    for on in On::ALL {
        let mut world = adopting(on).await;
        let shown = world.run(&["migrate", "up", "--dry-run"]).await;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        // MariaDB has one by thread already, for the foreign key.
        let is_made = shown.contains("volume_reaper_marked_volumes");
        assert_eq!((shown.contains("workspace_volumes"), is_made), (true, !matches!(on, On::Mysql)), "{on:?} {shown}");
        assert!(!shown.contains("workspace_volume_removed_at"), "{on:?} {shown}");
        for arguments in [["migrate", "up"], ["migrate", "up"]] {
            let output = world.run(&arguments).await;
            assert!(output.status.success(), "{on:?} {output:?}");
        }
        let doctor = world.json(&["doctor", "--json"]).await;
        let checks = doctor["checks"].as_array().expect("checks").iter();
        let failed: Vec<_> = checks.filter(|check| check["status"] == "fail").map(|check| &check["name"]).collect();
        let of_database = |name: &&&Value| name.as_str().is_some_and(|name| name.starts_with("database."));
        assert_eq!(failed.iter().filter(of_database).count(), 0, "{on:?} {doctor}");
        // The marks are there, and nowhere else.
        world.settings.remove("VOLUME_REAPER_VOLUMES_TABLE");
        let refused = world.run(&["sweep"]).await;
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.contains("VOLUME_REAPER_VOLUMES_TABLE") && refused.contains("--steps 3"), "{on:?} {refused}");
        world.set("VOLUME_REAPER_VOLUMES_TABLE", "workspace_volumes");
        let down = world.run(&["migrate", "down", "--all"]).await;
        assert!(down.status.success(), "{on:?} {down:?}");
        open(&world, on, &thread(1), &["a1"]).await;
        set(&world, on, &thread(1), "closed").await;
        set(&world, on, &thread(1), "open").await;
        assert_eq!(marked(&world).await, Vec::<String>::new(), "{on:?}");
    }
}

#[tokio::test]
async fn tables_of_volumes_that_do_not_fit_are_refused_before_anything_is_changed() {
    for on in On::ALL {
        for (setting, value, expected) in [
            ("VOLUME_REAPER_VOLUMES_TABLE", "volumes", "there is no table \"volumes\""),
            ("VOLUME_REAPER_VOLUMES_NAME_COLUMN", "created_at", "created_at"),
            ("VOLUME_REAPER_VOLUMES_THREAD_COLUMN", "thread", "has no column \"thread\""),
            ("VOLUME_REAPER_VOLUMES_ID_COLUMN", "key", "has no column \"key\""),
            ("VOLUME_REAPER_VOLUMES_MARK_COLUMN", "volume_name", "null until the volume is gone"),
        ] {
            let mut world = adopting(on).await;
            world.set(setting, value);
            let output = world.run(&["migrate"]).await;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            // On PostgreSQL, a text is no time at all.
            let expected = if value == "volume_name" { "a mark is" } else { expected };
            assert!(output.status.code() == Some(1) && error.contains(expected), "{on:?} {setting}: {error}");
        }
    }
}

#[tokio::test]
async fn who_reopens_waits_until_all_volumes_are_gone_and_marked() {
    for on in [On::Postgres, On::Mysql] {
        let mut world = platform(on).await;
        let (serving, docker) = serving(&mut world, "30s").await;
        // No other test waits for this one.
        let id = thread(9);
        open(&world, on, &id, &["a1", "a2"]).await;
        set(&world, on, &id, "closed").await;
        let are_there = async || [world.has_volume("a1").await, world.has_volume("a2").await];
        let has_mark = async || !marked(&world).await.is_empty();
        let reopen = set(&world, on, &id, "open");
        reopened_while_removing(&world, on, &id, &docker, reopen, are_there, has_mark).await;
        assert_eq!(world.receipts(&id).await, ["removed/event"; 2], "{on:?}");
        // Marked, and cleared by whoever waited.
        assert_eq!(marked(&world).await, Vec::<String>::new(), "{on:?}");
        for volume in ["a1", "a2"] {
            world.create_volume(volume).await;
        }
        stays_when_its_event_comes_again(&world, &serving, &id, are_there).await;
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn who_reopens_one_thread_waits_for_the_marks_of_no_other() {
    for on in [On::Postgres, On::Mysql] {
        let world = platform(on).await;
        for (one, volumes) in [(1, ["a1", "a2"]), (2, ["b1", "b2"])] {
            open(&world, on, &thread(one), &volumes).await;
            set(&world, on, &thread(one), "closed").await;
        }
        let others = connect(&world.settings["DATABASE_URL"]).await.begin().await.expect("a transaction");
        let mark =
            format!("UPDATE workspace_volumes SET removed_at = CURRENT_TIMESTAMP WHERE thread_id = '{}'", thread(1));
        others.execute_unprepared(&mark).await.expect("marked");
        // It would wait for as long as they are not committed.
        set(&world, on, &thread(2), "open").await;
        others.commit().await.expect("committed");
        assert_eq!(marked(&world).await, ["a1", "a2"], "{on:?}");
    }
}

#[tokio::test]
async fn budgets_count_the_volumes_that_rows_name() {
    for budget in ["VOLUME_REAPER_BUDGET_PER_SWEEP", "VOLUME_REAPER_BUDGET_PER_HOUR"] {
        let mut world = platform(On::Sqlite).await;
        world.set(budget, "3");
        open(&world, On::Sqlite, &thread(1), &["a1", "a2"]).await;
        open(&world, On::Sqlite, &thread(2), &["b1", "b2"]).await;
        for one in [1, 2] {
            set(&world, On::Sqlite, &thread(one), "closed").await;
        }
        let report = world.sweep().await;
        assert_eq!((&report["removed"], &report["paused"]), (&json!(1), &json!(1)), "{budget} {report}");
        assert_eq!(marked(&world).await.len(), 2, "{budget}");
    }
}

#[tokio::test]
async fn a_sweep_over_many_marked_volumes_reads_no_table_as_a_whole() {
    let mut world = platform(On::Postgres).await;
    let of = |number: &str| format!("CAST('7f1c2a30-9f55-4f0e-8a77-' || lpad(to_hex({number}), 12, '0') AS uuid)");
    let number = of("number");
    let many = "FROM generate_series(1, 30000) AS number";
    world
        .execute(&format!("INSERT INTO \"Thread\" (id, status, closed_at) SELECT {number}, 'closed', now() {many}"))
        .await;
    let marked_volumes = "INSERT INTO workspace_volumes (id, thread_id, volume_name, removed_at)";
    world.execute(&format!("{marked_volumes} SELECT {number}, {number}, 'ha_ws_' || number, now() {many}")).await;
    world.execute("UPDATE workspace_volumes SET removed_at = NULL WHERE volume_name IN ('ha_ws_7', 'ha_ws_77')").await;
    world.execute("ANALYZE").await;
    world.until_alone().await;
    let scans = async |world: &World, what: &str| {
        let sum = format!("SELECT CAST(sum({what}) AS text) FROM pg_stat_user_tables");
        world.texts(&format!("{sum} WHERE relname IN ('Thread', 'workspace_volumes')")).await
    };
    let (whole, by_index) = (scans(&world, "seq_scan").await, scans(&world, "idx_scan").await);
    let report = world.sweep().await;
    assert_eq!(counts(&report), json!([2, 0, 0, 0, 2]), "{report}");
    world.until_alone().await;
    assert_ne!(scans(&world, "idx_scan").await, by_index, "it is counted");
    assert_eq!(scans(&world, "seq_scan").await, whole);
}
