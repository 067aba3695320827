//! Volumes that vanish by no doing of ours: a disk that is not mounted, on the daemon that is pinned.

use std::sync::atomic::Ordering;

use bollard::query_parameters::RemoveVolumeOptions;
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;
use volume_reaper::cleanup::{Removal, Sighting};

use crate::{
    fakes::{LIMITS, cleaner},
    world::{On, PrivateHost, World, world},
};

const PAUSED: &str = "volume_reaper_removal_paused";
/// A loss is none before receipts that come so late would be there.
const SHORT_LOCKS: &str = "100ms";

fn ids() -> impl Iterator<Item = String> {
    (1..=12).map(|number| format!("t{number}"))
}

/// As if the disk were gone: nothing of ours is in the audit trail.
async fn lose(world: &World, id: &str) {
    world.docker.remove_volume(&world.volume(id), None::<RemoveVolumeOptions>).await.expect("it is there");
}

async fn report(world: &World, arguments: &[&str]) -> Value {
    let output = world.run(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn resume(world: &World) {
    let output = world.run(&["resume"]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("are gone, and this service"), "{output:?}");
}

#[tokio::test(start_paused = true)]
async fn what_others_remove_while_a_list_is_made_has_not_vanished() {
    let cleaner = cleaner(Ok(Removal::Removed));
    let threads = cleaner.threads();
    *threads.seen.lock().expect("lock") = Some(Sighting { volumes: 20, at: Utc::now() });
    threads.removed_by_others.store(20, Ordering::Relaxed);
    // Their receipts are committed after it.
    let inventory = cleaner.inventory(false).await.expect("a list");
    assert_eq!((inventory.doubt, threads.counts.load(Ordering::Relaxed)), (None, 2));
    threads.removed_by_others.store(19 - 10, Ordering::Relaxed);
    let began = Instant::now();
    let doubt = cleaner.inventory(false).await.expect("a list").doubt;
    assert!(doubt.is_some_and(|reason| reason.starts_with("11 of the 20 volumes")));
    assert!(began.elapsed() > LIMITS.locking.limit, "their rows may be locked for so long");
}

#[tokio::test]
async fn nothing_has_vanished_since_a_time_that_lies_ahead() {
    let cleaner = cleaner(Ok(Removal::Removed));
    let by_a_wrong_clock = Sighting { volumes: 20, at: Utc::now() + TimeDelta::hours(2) };
    *cleaner.threads().seen.lock().expect("lock") = Some(by_a_wrong_clock);
    assert_eq!(cleaner.inventory(false).await.expect("a list").doubt, None);
}

#[tokio::test]
async fn when_most_volumes_have_vanished_nobody_is_marked_until_a_person_has_looked() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_LOCK_LIMIT", SHORT_LOCKS);
        for id in ids() {
            world.create_volume(&id).await;
            world.open_thread(&id).await;
        }
        assert_eq!(world.sweep().await["candidates"], 0, "{on:?}");
        for id in ids().take(10) {
            lose(&world, &id).await;
        }
        for id in ids() {
            world.close_thread(&id).await;
        }
        let why = "10 of the 12 volumes that the host had at ";
        let dry = report(&world, &["sweep", "--dry-run", "--json"]).await;
        assert_eq!((&dry["not_found"], &dry["paused"]), (&json!(0), &json!(10)), "{on:?}: {dry}");
        assert!(dry["skipped_reason"].as_str().is_some_and(|reason| reason.contains(why)), "{on:?}: {dry}");
        assert!(world.texts("SELECT name FROM volume_reaper_pauses").await.is_empty(), "{on:?}: it only looks");
        for _ in 0..2 {
            let swept = report(&world, &["sweep", "--json"]).await;
            let counts = (&swept["not_found"], &swept["removed"], &swept["paused"]);
            assert_eq!(counts, (&json!(0), &json!(0), &json!(12)), "{on:?}: {swept}");
            assert!(swept["skipped_reason"].as_str().is_some_and(|reason| reason.contains(why)), "{on:?}: {swept}");
        }
        let status = world.json(&["status", "--json"]).await;
        assert!(status["pause"]["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{on:?}: {status}");
        // That some are back is not what a person said.
        for id in ids().take(9) {
            world.create_volume(&id).await;
        }
        assert_eq!(report(&world, &["sweep", "--json"]).await["not_found"], 0, "{on:?}");
        resume(&world).await;
        let swept = world.sweep().await;
        assert_eq!((&swept["not_found"], &swept["removed"]), (&json!(1), &json!(11)), "{on:?}: {swept}");
        assert_eq!(world.sweep().await["candidates"], 0, "{on:?}");
    }
}

#[tokio::test]
async fn an_empty_disk_is_noticed_without_a_closed_thread_and_events_mark_nobody_either() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    for id in ids().take(3) {
        world.create_volume(&id).await;
        world.open_thread(&id).await;
    }
    let serving = world.serve_idle().await;
    for id in ids().take(3) {
        lose(&world, &id).await;
    }
    assert!(world.run(&["sweep"]).await.status.success(), "there was nothing to do");
    world.close_thread("t1").await;
    world.publish_closed("t1").await;
    serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"paused\"}", 1).await;
    serving.until_metric(PAUSED, 1).await;
    assert!(world.mark("t1").await.is_none());
    let says_why = |line: &Value| {
        line["level"] == "WARN"
            && line["reason"].as_str().is_some_and(|reason| reason.starts_with("3 of the 3 volumes"))
    };
    serving.until_line(says_why).await;
    resume(&world).await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn old_threads_of_the_first_day_and_what_was_removed_here_have_not_vanished() {
    for on in On::ALL {
        let world = world(on).await;
        let old = |day: u32| (0..30).map(move |number| format!("('old-{day}-{number}', 'closed')"));
        for id in ids() {
            world.closed_with_volume(&id).await;
        }
        for day in 1..=2 {
            let rows: Vec<_> = old(day).collect();
            world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(", "))).await;
            let swept = world.sweep().await;
            let removed = if day == 1 { 12 } else { 0 };
            assert_eq!((&swept["not_found"], &swept["removed"]), (&json!(30), &json!(removed)), "{on:?}: {swept}");
        }
    }
}

#[tokio::test]
async fn a_doubt_about_one_host_of_several_stops_what_needs_its_word_and_nothing_else() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    let mut world = World::without_schema(On::Sqlite).await;
    world.use_hosts(hosts);
    world.set("VOLUME_REAPER_THREADS_HOST_COLUMN", "host");
    assert!(world.run(&["migrate"]).await.status.success());
    for host in hosts {
        for number in 1..=4 {
            let id = format!("{}{number}", host.name);
            host.create_volume(&world.volume(&id)).await;
            world.open_thread(&id).await;
            world.execute(&format!("UPDATE threads SET host = '{}' WHERE id = '{id}'", host.name)).await;
        }
    }
    assert_eq!(world.sweep().await["candidates"], 0);
    for number in 1..=4 {
        let volume = world.volume(&format!("a{number}"));
        a.docker.remove_volume(&volume, None::<RemoveVolumeOptions>).await.expect("it is there");
    }
    // One that is gone from the doubted host, one that never was on the other, one there, and one that may be on any.
    for id in ["a1", "b1"] {
        world.close_thread(id).await;
    }
    for (id, host) in [("never", "'b'"), ("anywhere", "NULL")] {
        world.open_thread(id).await;
        world.execute(&format!("UPDATE threads SET host = {host} WHERE id = '{id}'")).await;
        world.close_thread(id).await;
    }
    let swept = report(&world, &["sweep", "--json"]).await;
    assert_eq!((&swept["removed"], &swept["not_found"]), (&json!(1), &json!(1)), "{swept}");
    let unmarked = "SELECT id FROM threads WHERE status = 'closed' AND workspace_volume_removed_at IS NULL ORDER BY id";
    assert_eq!(world.texts(unmarked).await, ["a1", "anywhere"]);
    let status = world.json(&["status", "--json"]).await;
    let reason = status["hosts"][0]["pause"]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("4 of the 4 volumes"), "{status}");
    assert!(status["hosts"][1]["pause"].is_null(), "{status}");
    assert!(status["pause"].is_null(), "a doubt about one host is no pause of everything: {status}");
    let paused = world.run(&["pause", "--reason", "a release is looked at"]).await;
    assert!(String::from_utf8_lossy(&paused.stdout).starts_with("removal is paused on all replicas"), "{paused:?}");
    let status = world.json(&["status", "--json"]).await;
    assert_eq!(status["pause"]["reason"], json!("a release is looked at"), "{status}");
    assert_eq!(status["hosts"][1]["pause"], status["pause"], "{status}");
    let text = String::from_utf8(world.run(&["status"]).await.stdout).expect("text");
    let lines: Vec<_> = text.lines().filter(|line| line.contains("PAUSED")).collect();
    assert!(lines.len() == 2 && lines[0].starts_with("removal") && lines[1].contains("4 of the 4 volumes"), "{text}");
    assert!(!b.has_volume(&world.volume("b1")).await && b.has_volume(&world.volume("b2")).await);
    let resumed = world.run(&["resume", "--on", "a"]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    assert!(world.run(&["resume"]).await.status.success());
    assert_eq!(world.sweep().await["not_found"], 2);
    assert!(world.texts(unmarked).await.is_empty());
}
