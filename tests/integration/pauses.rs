//! Budgets, the breaker that they trip, and the pause by hand.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use volume_reaper::{
    cleanup::{
        Origin, Outcome, Policy, Removal,
        breaker::{Budgets, REFRESH_INTERVAL},
    },
    health::Health,
    sweep::Sweeper,
};

use crate::{
    fakes::{FakeCleaner, LIMITS, Row, calls, cleaner, set_row, thread, under, volume},
    proxy::CountingProxy,
    world::{On, Serving, World, eventually, world},
};

const PAUSED: &str = "volume_reaper_removal_paused";

async fn threads_with_volumes(world: &World, ids: &[&str]) {
    for id in ids {
        world.closed_with_volume(id).await;
    }
}

async fn out(world: &World, arguments: &[&str]) -> String {
    let output = world.run(arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The reasons of the lines that say that removal is paused, of which there is one at least.
async fn said_why(serving: &Serving) -> Vec<Value> {
    let is_pause =
        |line: &Value| line["message"].as_str().is_some_and(|message| message.starts_with("removal is paused;"));
    serving.until_line(is_pause).await;
    let lines = serving.lines();
    lines.iter().filter(|line| is_pause(line)).map(|line| line["reason"].clone()).collect()
}

#[tokio::test]
async fn a_sweep_that_would_exceed_its_budget_pauses_all_removal_until_it_is_resumed() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_BUDGET_PER_SWEEP", "2");
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
        threads_with_volumes(&world, &["a", "b", "c"]).await;
        let serving = world.serve().await;
        serving.until_metric(PAUSED, 1).await;
        assert_eq!(said_why(&serving).await, ["the budget of 2 removals per sweep is used up"], "{on:?}");
        assert_eq!(world.texts("SELECT outcome FROM volume_removals").await.len(), 2, "{on:?}");

        // Another replica sees it, events of either are settled, sweeps go on, and all stay ready.
        let other = world.serve().await;
        other.until_metric(PAUSED, 1).await;
        for _ in 0..4 {
            world.publish_closed("c").await;
        }
        eventually("all events are settled", async || {
            let acked = "volume_reaper_cleanups_total{source=\"event\",outcome=\"paused\"}";
            (serving.metric(acked).await + other.metric(acked).await == 4).then_some(())
        })
        .await;
        let sweeps = serving.metric("volume_reaper_sweep_seconds_count").await;
        serving.until_metric("volume_reaper_sweep_seconds_count", sweeps + 2).await;
        assert!(world.has_volume("c").await && world.mark("c").await.is_none(), "{on:?}");
        assert_eq!((serving.get("/readyz").await.0, other.get("/readyz").await.0), (200, 200), "{on:?}");
        assert_eq!(said_why(&serving).await.len(), 1, "{on:?}: once, not for each volume or sweep");

        let resumed = out(&world, &["resume"]).await;
        assert!(resumed.contains("by replica-1: the budget of 2 removals per sweep is used up"), "{resumed}");
        world.until_marked("c").await;
        eventually("the metric is 0", async || (serving.metric(PAUSED).await == 0).then_some(())).await;
        assert_eq!(serving.stop().await, Some(0));
        assert_eq!(other.stop().await, Some(0));
    }
}

#[tokio::test]
async fn the_budget_of_an_hour_counts_what_others_removed_and_anew_after_it_was_resumed() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_BUDGET_PER_HOUR", "3");
        threads_with_volumes(&world, &["a", "b", "c"]).await;
        assert_eq!(world.sweep().await["paused"], json!(0), "{on:?}: a budget that is just used up is none exceeded");

        // Another process, and another replica.
        world.set("VOLUME_REAPER_REPLICA", "replica-2");
        threads_with_volumes(&world, &["d"]).await;
        let output = world.run(&["sweep", "--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&report["removed"], &report["paused"]), (&json!(0), &json!(1)), "{on:?}: {report}");
        let reason = "removal is paused: the budget of 3 removals per hour is used up";
        assert_eq!((&report["skipped_reason"], output.status.code()), (&json!(reason), Some(1)), "{on:?}");
        assert!(world.has_volume("d").await, "{on:?}");

        out(&world, &["resume"]).await;
        threads_with_volumes(&world, &["e", "f"]).await;
        assert_eq!(world.sweep().await["removed"], json!(3), "{on:?}");
    }
}

#[tokio::test]
async fn removals_of_more_than_an_hour_ago_and_volumes_that_were_not_there_use_up_no_budget() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_BUDGET_PER_HOUR", "1");
        threads_with_volumes(&world, &["a"]).await;
        for id in ["absent-1", "absent-2"] {
            world.open_thread(id).await;
            world.close_thread(id).await;
        }
        let report = world.sweep().await;
        assert_eq!((&report["removed"], &report["not_found"]), (&json!(1), &json!(2)), "{on:?}: {report}");
        let earlier = world.moment(chrono::Utc::now() - chrono::TimeDelta::minutes(61));
        world.execute(&format!("UPDATE volume_removals SET removed_at = '{earlier}' WHERE thread_id = 'a'")).await;
        threads_with_volumes(&world, &["b"]).await;
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
    }
}

/// How many a sweep removed, and for how many the pause kept it from that.
async fn swept(world: &World) -> (Value, Value) {
    let output = world.run(&["sweep", "--json"]).await;
    let mut report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (report["removed"].take(), report["paused"].take())
}

#[tokio::test]
async fn what_a_clock_that_was_weeks_ahead_wrote_neither_uses_up_a_budget_nor_renews_it() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_BUDGET_PER_HOUR", "1");
        threads_with_volumes(&world, &["a"]).await;
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
        let ahead = world.moment(chrono::Utc::now() + chrono::TimeDelta::weeks(2));
        world.execute(&format!("UPDATE volume_removals SET removed_at = '{ahead}' WHERE thread_id = 'a'")).await;
        threads_with_volumes(&world, &["b", "c"]).await;
        assert_eq!(swept(&world).await, (json!(1), json!(1)), "{on:?}");

        out(&world, &["resume"]).await;
        world.execute(&format!("UPDATE volume_reaper_pauses SET resumed_at = '{ahead}'")).await;
        assert_eq!(swept(&world).await, (json!(0), json!(1)), "{on:?}");
    }
}

#[tokio::test]
async fn a_pause_by_hand_stops_removal_at_once_outlives_restarts_and_lets_absent_volumes_be_marked() {
    for on in On::ALL {
        let mut world = world(on).await;
        let proxy = CountingProxy::start(world.dir.path());
        world.set("DOCKER_HOST", proxy.endpoint());
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
        let serving = world.serve().await;
        let paused = out(&world, &["pause", "--reason", "a restore is running"]).await;
        assert_eq!(paused, "removal is paused on all replicas; `volume-reaper resume` resumes it\n");
        threads_with_volumes(&world, &["a"]).await;
        world.publish_closed("a").await;
        serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"paused\"}", 1).await;
        serving.until_metric(PAUSED, 1).await;
        assert_eq!(said_why(&serving).await, ["a restore is running"], "{on:?}");
        assert_eq!(serving.stop().await, Some(0));

        let serving = world.serve().await;
        world.open_thread("absent").await;
        world.close_thread("absent").await;
        world.until_marked("absent").await;
        serving.until_metric(PAUSED, 1).await;
        assert_eq!(proxy.removals(), 0, "{on:?}: Docker is not asked: {:?}", proxy.requests());
        assert!(world.has_volume("a").await && world.mark("a").await.is_none(), "{on:?}");

        let again = out(&world, &["pause", "--reason", "something else"]).await;
        assert!(again.starts_with("removal was paused already, since "), "{again}");
        assert!(again.ends_with(" by replica-1: a restore is running\n"), "{again}");
        out(&world, &["resume"]).await;
        world.until_marked("a").await;
        assert!(!world.has_volume("a").await, "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
        assert_eq!(out(&world, &["resume"]).await, "removal was not paused\n", "{on:?}");
    }
}

#[tokio::test]
async fn a_pause_without_a_reason_is_refused() {
    let world = world(On::Sqlite).await;
    let output = world.run(&["pause", "--reason", ""]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--reason is empty"), "{output:?}");
    assert!(world.texts("SELECT name FROM volume_reaper_pauses").await.is_empty());
}

#[tokio::test]
async fn a_dry_run_says_what_is_paused() {
    let world = world(On::Sqlite).await;
    threads_with_volumes(&world, &["a"]).await;
    out(&world, &["pause", "--reason", "r"]).await;
    let output = world.run(&["sweep", "--dry-run", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["removed"], &report["paused"]), (&json!(0), &json!(1)), "{report}");
}

#[tokio::test]
async fn an_empty_volume_prefix_or_one_shorter_than_three_characters_is_refused_at_start() {
    for prefix in ["", "h", "ha"] {
        for command in [&["serve"][..], &["sweep"], &["sweep", "--dry-run"]] {
            let mut world = World::without_schema(On::Sqlite).await;
            world.set("VOLUME_REAPER_VOLUME_PREFIX", prefix);
            let output = world.run(command).await;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{prefix:?} {command:?}: {error}");
            assert!(error.starts_with("volume-reaper: VOLUME_REAPER_VOLUME_PREFIX "), "{error}");
        }
    }
}

// --- What only fakes can do ---

fn with_budgets(per_sweep: Option<u64>, per_hour: Option<u64>) -> Arc<FakeCleaner> {
    let budgets = Budgets { per_sweep, per_hour };
    let cleaner = under(cleaner(Ok(Removal::Removed)), Policy { budgets, ..Policy::default() }, LIMITS);
    for number in 1..=100 {
        let id = format!("t{number}");
        set_row(&cleaner.threads().rows, &id, Row { closed: true, ..Row::default() });
        cleaner.volumes.inventory.lock().expect("lock").present.insert(volume(&id));
    }
    Arc::new(cleaner)
}

async fn clean(cleaner: &Arc<FakeCleaner>, number: u64) -> Outcome {
    cleaner.clean(&thread(&format!("t{number}")), Origin::Event(None)).await.expect("an outcome")
}

async fn sweep(cleaner: &Arc<FakeCleaner>) -> volume_reaper::sweep::SweepReport {
    let sweeper = Sweeper::new(Arc::clone(cleaner), Arc::new(Health::new()), Duration::from_mins(1));
    sweeper.sweep(false, &CancellationToken::new()).await
}

fn removals(cleaner: &FakeCleaner) -> usize {
    calls(cleaner).iter().filter(|call| call.starts_with("remove")).count()
}

#[tokio::test]
async fn a_sweep_removes_exactly_its_budget_and_counts_the_rest() {
    let cleaner = with_budgets(Some(30), None);
    let report = sweep(&cleaner).await;
    assert_eq!((report.removed, report.paused, removals(&cleaner)), (30, 70, 30));
    let report = sweep(&cleaner).await;
    assert_eq!((report.removed, report.paused, removals(&cleaner)), (0, 70, 30), "and nothing while paused");
}

#[tokio::test]
async fn one_replica_never_exceeds_the_budget_of_an_hour_however_many_it_removes_at_once() {
    let cleaner = with_budgets(None, Some(30));
    let report = sweep(&cleaner).await;
    assert_eq!((report.removed, report.paused, removals(&cleaner)), (30, 70, 30));
}

#[tokio::test(start_paused = true)]
async fn the_removals_of_all_replicas_are_counted_now_and_then_and_not_for_each() {
    let cleaner = with_budgets(None, Some(1000));
    for number in 1..=50 {
        assert_eq!(clean(&cleaner, number).await, Outcome::Removed);
    }
    assert_eq!(cleaner.threads().counts.load(Ordering::Relaxed), 1);
    // The others have been busy: seen after the interval, not before.
    cleaner.threads().removed_by_others.store(1000, Ordering::Relaxed);
    assert_eq!(clean(&cleaner, 51).await, Outcome::Removed);
    tokio::time::advance(REFRESH_INTERVAL).await;
    assert_eq!(clean(&cleaner, 52).await, Outcome::Paused);
    assert_eq!(cleaner.threads().counts.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn without_a_budget_nothing_is_counted() {
    let cleaner = with_budgets(None, None);
    assert_eq!(sweep(&cleaner).await.removed, 100);
    assert_eq!(cleaner.threads().counts.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_count_from_before_the_pause_does_not_trip_the_breaker_again_after_it() {
    let cleaner = with_budgets(None, Some(1));
    assert_eq!(clean(&cleaner, 1).await, Outcome::Removed);
    assert_eq!(clean(&cleaner, 2).await, Outcome::Paused);
    // Resumed, within the interval: the database counts anew from here on.
    *cleaner.threads().pause.lock().expect("lock") = None;
    set_row(&cleaner.threads().rows, "t1", Row::default());
    assert_eq!(clean(&cleaner, 3).await, Outcome::Removed);
}

#[tokio::test]
async fn what_turns_out_to_be_no_removal_gives_its_place_back() {
    let cleaner = with_budgets(None, Some(1));
    *cleaner.volumes.answer.lock().expect("lock") = Ok(Removal::Referenced { containers: vec![] });
    for number in 1..=3 {
        assert_eq!(clean(&cleaner, number).await, Outcome::Referenced { containers: vec![] });
    }
    *cleaner.volumes.answer.lock().expect("lock") = Ok(Removal::NotFound);
    assert_eq!(clean(&cleaner, 4).await, Outcome::NotFound);
    *cleaner.volumes.answer.lock().expect("lock") = Ok(Removal::Removed);
    assert_eq!(clean(&cleaner, 5).await, Outcome::Removed);
    assert_eq!(clean(&cleaner, 6).await, Outcome::Paused);
}
