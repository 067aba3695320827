//! What is written down of the past: receipts with their circumstances, sweeps, acts of people, counts.

use chrono::{TimeDelta, Utc};
use migrations::ThreadsTable;
use serde_json::json;
use volume_reaper::{
    config::SecretUrl,
    store::{Resolution, Store, UNCOUNTED_RECEIPTS_READ},
};

use crate::world::{On, PrivateHost, World, eventually, world};

async fn store(world: &World) -> Store {
    let url = SecretUrl::parse(&world.settings["DATABASE_URL"], &["postgres", "sqlite", "mysql"]).expect("valid");
    Store::new(&url, ThreadsTable::default(), "replica-1".to_owned(), 2).await.expect("a pool")
}

#[tokio::test]
async fn a_receipt_says_on_which_host_and_daemon_and_how_long_it_took() {
    for on in On::ALL {
        let world = world(on).await;
        world.closed_with_volume("there").await;
        world.open_thread("gone").await;
        world.close_thread("gone").await;
        world.sweep().await;
        let identity = world.texts("SELECT identity FROM volume_reaper_daemons").await;
        for id in ["there", "gone"] {
            let of = |column: &str| format!("SELECT {column} FROM volume_removals WHERE thread_id = '{id}'");
            assert_eq!(world.texts(&of("host")).await, ["default"], "{on:?}");
            assert_eq!(world.texts(&of("daemon")).await, identity, "{on:?}");
            let known = world.as_text("(CASE WHEN bytes IS NULL THEN 'unknown' ELSE 'known' END)");
            assert_eq!(world.texts(&of(&known)).await, ["unknown"], "{on:?}");
        }
        let took = "SELECT thread_id FROM volume_removals WHERE duration_ms IS NOT NULL";
        assert_eq!(world.texts(took).await, ["there"], "{on:?}: only a removal takes its time");
    }
}

#[tokio::test]
async fn each_sweep_is_in_the_list_with_who_why_and_what_it_did() {
    for on in On::ALL {
        let world = world(on).await;
        world.closed_with_volume("t1").await;
        let report = world.sweep().await;
        world.json(&["sweep", "--dry-run", "--json"]).await;
        let store = store(&world).await;
        let sweeps = store.sweeps(None, 10).await.expect("sweeps");
        let [sweep] = &sweeps[..] else { panic!("{on:?}: a dry run leaves nothing: {sweeps:?}") };
        assert_eq!(sweep.report.as_ref().expect("a report"), &report, "{on:?}");
        assert_eq!((sweep.host.as_deref(), sweep.cause.as_str()), (Some("default"), "person"), "{on:?}");
        assert!(sweep.actor.is_some() && sweep.ended_at >= Some(sweep.began_at), "{on:?}: {sweep:?}");

        let serving = world.serve().await;
        world.closed_with_volume("t2").await;
        world.publish_closed("t2").await;
        world.until_marked("t2").await;
        assert_eq!(serving.stop().await, Some(0));
        let sweeps = store.sweeps(None, 10).await.expect("sweeps");
        assert!(sweeps.len() > 1 && sweeps.last() == Some(sweep), "{on:?}: the latest first: {sweeps:?}");
        for scheduled in &sweeps[..sweeps.len() - 1] {
            assert_eq!((scheduled.cause.as_str(), &scheduled.actor), ("schedule", &None), "{on:?}");
        }
        let earlier = store.sweeps(Some(&sweeps[sweeps.len() - 2].id), 10).await.expect("sweeps");
        assert_eq!(earlier, std::slice::from_ref(sweep), "{on:?}: a page after another");
    }
}

#[tokio::test]
async fn a_sweep_whose_process_died_is_not_running_for_ever() {
    for on in On::ALL {
        let world = world(on).await;
        let columns = "id, host, cause, replica, began_at";
        let began = world.moment(Utc::now() - TimeDelta::hours(1));
        for (id, host) in [("dead", "'default'"), ("of another host", "'b'")] {
            let values = format!("'{id}', {host}, 'schedule', 'r', '{began}'");
            world.execute(&format!("INSERT INTO volume_reaper_sweeps ({columns}) VALUES ({values})")).await;
        }
        assert_eq!(world.serve_idle().await.stop().await, Some(0));
        let running = "SELECT id FROM volume_reaper_sweeps WHERE ended_at IS NULL";
        assert_eq!(world.texts(running).await, ["of another host"], "{on:?}");
        let reason = "SELECT skipped_reason FROM volume_reaper_sweeps WHERE id = 'dead'";
        assert_eq!(world.texts(reason).await, ["cut off: its process ended"], "{on:?}");
    }
}

#[tokio::test]
async fn what_a_person_does_is_in_the_list_with_who_and_what_came_of_it() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("USER", "ada");
        world.set("SUDO_USER", "");
        for (arguments, code) in [
            (&["hold", "t1", "--reason", "a dispute"][..], 0),
            (&["release", "t1"], 0),
            (&["release", "t1"], 1),
            (&["pause", "--reason", "a fire"], 0),
            (&["resume"], 0),
            (&["sweep"], 0),
            // It only looks.
            (&["sweep", "--dry-run"], 0),
        ] {
            assert_eq!(world.run(arguments).await.status.code(), Some(code), "{on:?} {arguments:?}");
        }
        let acts = store(&world).await.acts(None, 10).await.expect("acts");
        let acts: Vec<_> = acts.iter().rev().collect();
        let done: Vec<_> =
            acts.iter().map(|act| (act.action.as_str(), act.target.as_deref(), act.error.as_deref())).collect();
        assert_eq!(
            done,
            [
                ("hold", Some("t1"), None),
                ("release", Some("t1"), None),
                ("release", Some("t1"), Some("t1 is not held")),
                ("pause", None, None),
                ("resume", None, None),
                ("sweep", None, None),
            ],
            "{on:?}"
        );
        assert!(acts.iter().all(|act| act.actor == "ada" && act.via == "command"), "{on:?}: {acts:?}");
        assert_eq!(acts[0].details.as_ref().expect("details")["reason"], json!("a dispute"), "{on:?}");
    }
}

#[tokio::test]
async fn a_purge_of_dead_letters_is_in_the_list() {
    let mut world = world(On::Postgres).await;
    world.set("USER", "ada");
    world.set("SUDO_USER", "");
    let serving = world.serve().await;
    world.publish(b"no event").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
    assert_eq!(serving.stop().await, Some(0));
    let purged = world.run(&["dead-letters", "purge", "--yes"]).await;
    assert!(purged.status.success(), "{purged:?}");
    let acts = store(&world).await.acts(None, 10).await.expect("acts");
    assert_eq!((acts[0].action.as_str(), acts[0].actor.as_str()), ("dead-letters purge", "ada"));
    assert_eq!(acts[0].details.as_ref().expect("details")["messages"], json!(1));
}

#[tokio::test]
async fn receipts_are_counted_once_by_minute_hour_and_day_and_to_the_byte() {
    for on in On::ALL {
        let world = world(on).await;
        let now = Utc::now();
        let columns = "thread_id, volume_name, outcome, source, replica, removed_at, host, bytes";
        let insert = async |days: i64, outcome: &str, bytes: &str| {
            let at = world.moment(now - TimeDelta::days(days));
            let values = format!("'t', 'v', '{outcome}', 'event', 'r', '{at}', 'default', {bytes}");
            world.execute(&format!("INSERT INTO volume_removals ({columns}) VALUES ({values})")).await;
        };
        for (days, outcome, bytes) in
            [(100, "removed", "7"), (1, "removed", "1000"), (1, "removed", "24"), (0, "removed", "NULL")]
        {
            insert(days, outcome, bytes).await;
        }
        let store = store(&world).await;
        let sums = async |resolution| {
            let stats = store.stats(resolution, now - TimeDelta::days(30)).await.expect("stats").stats;
            let sum = |of: fn(&volume_reaper::store::Stat) -> i64| stats.iter().map(of).sum::<i64>();
            (sum(|stat| stat.receipts), sum(|stat| stat.bytes), sum(|stat| stat.unsized_receipts), stats.len())
        };
        let all = [Resolution::Minute, Resolution::Hour, Resolution::Day];
        for resolution in all {
            assert_eq!(sums(resolution).await, (3, 1024, 1, 2), "{on:?}: what is not counted yet is added");
        }
        let latest = store.latest_receipt().await.expect("a receipt");
        store.roll_up(latest).await.expect("counted");
        store.roll_up(latest).await.expect("nothing is left");
        insert(0, "not_found", "NULL").await;
        for resolution in all {
            assert_eq!(sums(resolution).await, (4, 1024, 1, 3), "{on:?}: once each");
        }
        let counted = world.as_text("receipts");
        let days = format!("SELECT {counted} FROM volume_reaper_stats WHERE resolution = 'day' ORDER BY bucket");
        assert_eq!(world.texts(&days).await, ["1", "2", "1"], "{on:?}");
        store.forget_history().await.expect("forgotten");
        assert_eq!(world.texts(&days).await, ["2", "1"], "{on:?}: 90 days");
    }
}

#[tokio::test]
async fn the_last_hour_and_day_are_counted_to_the_receipt_and_without_reading_those_that_were_counted_before() {
    for on in On::ALL {
        let world = world(on).await;
        let now = Utc::now();
        let insert = async |seconds: i64| {
            let at = world.moment(now - TimeDelta::seconds(seconds));
            let columns = "thread_id, volume_name, outcome, source, replica, removed_at";
            let values = format!("'t', 'v', 'removed', 'event', 'r', '{at}'");
            world.execute(&format!("INSERT INTO volume_removals ({columns}) VALUES ({values})")).await;
        };
        for seconds in [30, 3570, 3630, 86_370, 86_430] {
            insert(seconds).await;
        }
        let store = store(&world).await;
        let removed = async || {
            let removals = store.removals(now).await.expect("counts");
            [removals.last_hour, removals.last_day].map(|counts| counts.get("removed").copied().unwrap_or_default())
        };
        assert_eq!(removed().await, [2, 4], "{on:?}: nothing was counted before");
        store.roll_up(store.latest_receipt().await.expect("a receipt")).await.expect("counted");
        assert_eq!(removed().await, [2, 4], "{on:?}: all was counted before");
        insert(10).await;
        assert_eq!(removed().await, [3, 5], "{on:?}: one was not counted before");
        // Those of the first minute of each are read, since the minute began before.
        let [hour, day] = [3570, 86_370].map(|seconds| world.moment(now - TimeDelta::seconds(seconds)));
        world.execute(&format!("DELETE FROM volume_removals WHERE removed_at NOT IN ('{hour}', '{day}')")).await;
        assert_eq!(removed().await, [2, 4], "{on:?}: the others are not read again");
    }
}

/// So many receipts of some minutes ago.
async fn insert_receipts(world: &World, receipts: u64) {
    let at = world.moment(Utc::now() - TimeDelta::minutes(5));
    let row = format!("('t', 'v', 'removed', 'event', 'r', '{at}')");
    let mut left = usize::try_from(receipts).expect("few");
    while left > 0 {
        let step = left.min(5000);
        let columns = "thread_id, volume_name, outcome, source, replica, removed_at";
        let rows = vec![row.as_str(); step].join(", ");
        world.execute(&format!("INSERT INTO volume_removals ({columns}) VALUES {rows}")).await;
        left -= step;
    }
}

#[tokio::test]
async fn of_receipts_that_were_not_counted_yet_only_the_latest_are_read_and_it_says_at_least() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        let counts = async || {
            let (now, since) = (Utc::now(), Utc::now() - TimeDelta::hours(2));
            let (removals, stats) = (store.removals(now).await, store.stats(Resolution::Hour, since).await);
            let (removals, stats) = (removals.expect("counts"), stats.expect("counts"));
            let sum = stats.stats.iter().map(|stat| stat.receipts.unsigned_abs()).sum::<u64>();
            assert_eq!(removals.last_hour, removals.last_day, "{on:?}");
            assert_eq!((sum, stats.at_least), (removals.last_hour["removed"], removals.at_least), "{on:?}");
            (sum, stats.at_least)
        };
        insert_receipts(&world, UNCOUNTED_RECEIPTS_READ - 1).await;
        assert_eq!(counts().await, (UNCOUNTED_RECEIPTS_READ - 1, false), "{on:?}: all of them");
        insert_receipts(&world, 10_000).await;
        assert_eq!(counts().await, (UNCOUNTED_RECEIPTS_READ, true), "{on:?}: so many, and no more");
        let status = world.json(&["status", "--json"]).await;
        assert_eq!(status["removals"]["at_least"], json!(true), "{on:?}: {status}");
        store.roll_up(store.latest_receipt().await.expect("receipts")).await.expect("counted");
        assert_eq!(counts().await, (UNCOUNTED_RECEIPTS_READ + 9_999, false), "{on:?}: when they were counted");
        let status = world.json(&["status", "--json"]).await;
        assert!(status["removals"].get("at_least").is_none(), "{on:?}: {status}");
    }
}

#[tokio::test]
async fn what_was_in_a_volume_is_in_its_receipt_the_counts_and_the_metrics_to_the_byte() {
    let [host] = PrivateHost::several().await;
    let mut world = world(On::Postgres).await;
    world.set("DOCKER_HOST", host.endpoint());
    world.set("VOLUME_REAPER_SIZE_INTERVAL", "1m");
    let volume = world.volume("t1");
    host.create_volume(&volume).await;
    std::fs::write(host.files_of(&volume).join("file"), vec![b'x'; 4321]).expect("written");
    world.open_thread("t1").await;
    let serving = world.serve().await;

    let metrics = async || serving.get("/metrics").await.1;
    eventually("it was measured", async || metrics().await.contains("\"disk_usage\"").then_some(())).await;
    world.close_thread("t1").await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    let bytes = world.texts("SELECT bytes::text FROM volume_removals").await;
    assert!(metrics().await.contains(&format!("volume_reaper_reclaimed_bytes_total {}\n", bytes[0])), "{bytes:?}");
    let daemon: i64 = bytes[0].parse().expect("bytes");
    assert!(daemon >= 4321, "the file at least: {daemon}");
    let stats = store(&world).await.stats(Resolution::Day, Utc::now()).await.expect("stats").stats;
    assert_eq!(stats.iter().map(|stat| (stat.bytes, stat.unsized_receipts)).collect::<Vec<_>>(), [(daemon, 0)]);
    assert_eq!(serving.stop().await, Some(0));
}
