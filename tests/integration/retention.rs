//! Retention: a volume is kept for some time after the close.

use std::sync::Arc;

use serde_json::json;
use volume_reaper::cleanup::{Origin, Outcome, Policy, Removal, retention::Retention};

use crate::{
    fakes::{LIMITS, Row, calls, cleaner, set_row, thread, under},
    proxy::CountingProxy,
    world::{On, World, world},
};

/// A world with a retention of an hour.
async fn retaining(on: On) -> World {
    let mut world = world(on).await;
    world.set("VOLUME_REAPER_RETENTION", "1h");
    world
}

async fn closed_minutes_ago(world: &World, id: &str, minutes: i64) {
    let closed_at = world.moment(chrono::Utc::now() - chrono::TimeDelta::minutes(minutes));
    world.execute(&format!("UPDATE threads SET closed_at = '{closed_at}' WHERE id = '{id}'")).await;
}

#[tokio::test]
async fn a_volume_is_kept_until_the_retention_is_over_and_removed_by_the_next_sweep() {
    for on in On::ALL {
        let mut world = retaining(on).await;
        let proxy = CountingProxy::start(world.dir.path());
        world.set("DOCKER_HOST", proxy.endpoint());
        world.closed_with_volume("t1").await;
        closed_minutes_ago(&world, "t1", 59).await;

        let serving = world.serve().await;
        world.publish_closed("t1").await;
        serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"not_due\"}", 1).await;
        serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 1).await;
        assert_eq!(serving.stop().await, Some(0));
        let report = world.sweep().await;
        assert_eq!((&report["not_due"], &report["removed"]), (&json!(1), &json!(0)), "{on:?}: {report}");
        assert!(world.has_volume("t1").await && world.mark("t1").await.is_none(), "{on:?}");
        assert_eq!(proxy.removals(), 0, "Docker is not asked: {:?}", proxy.requests());

        closed_minutes_ago(&world, "t1", 61).await;
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
        assert!(!world.has_volume("t1").await, "{on:?}");
    }
}

#[tokio::test]
async fn a_thread_without_a_time_of_close_is_never_due_under_a_retention() {
    for on in On::ALL {
        let mut world = retaining(on).await;
        world.closed_with_volume("t1").await;
        world.execute("UPDATE threads SET closed_at = NULL").await;
        assert_eq!(world.sweep().await["not_due"], json!(1), "{on:?}");
        assert!(world.has_volume("t1").await, "{on:?}");
        world.set("VOLUME_REAPER_RETENTION", "0s");
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
    }
}

#[tokio::test]
async fn a_time_of_close_without_a_zone_is_utc() {
    for on in On::ALL {
        let mut world = World::without_schema(on).await;
        world.execute("CREATE TABLE threads (id varchar(99) PRIMARY KEY, status text, closed_at timestamp NULL)").await;
        assert!(world.run(&["migrate"]).await.status.success());
        world.set("VOLUME_REAPER_RETENTION", "1h");
        for (id, minutes) in [("due", 61), ("not-due", 59)] {
            world.create_volume(id).await;
            let closed_at = chrono::Utc::now() - chrono::TimeDelta::minutes(minutes);
            let closed_at = closed_at.format("%Y-%m-%d %H:%M:%S");
            world
                .execute(&format!(
                    "INSERT INTO threads (id, status, closed_at) VALUES ('{id}', 'closed', '{closed_at}')"
                ))
                .await;
        }
        let report = world.sweep().await;
        assert_eq!((&report["removed"], &report["not_due"]), (&json!(1), &json!(1)), "{on:?}: {report}");
        assert!(world.has_volume("not-due").await && !world.has_volume("due").await, "{on:?}");
    }
}

#[tokio::test]
async fn a_thread_that_is_not_due_and_whose_volume_is_gone_by_itself_is_marked() {
    for on in On::ALL {
        let world = retaining(on).await;
        world.open_thread("t1").await;
        world.close_thread("t1").await;
        let output = world.run(&["sweep", "--dry-run", "--json"]).await;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&report["not_due"], &report["not_found"]), (&json!(0), &json!(1)), "{on:?}: {report}");
        assert!(world.mark("t1").await.is_none(), "{on:?}");
        assert_eq!(world.sweep().await["not_found"], json!(1), "{on:?}");
        assert!(world.mark("t1").await.is_some(), "{on:?}");
    }
}

#[tokio::test]
async fn many_threads_that_are_not_due_cost_a_sweep_no_list_of_their_own() {
    let mut world = retaining(On::Sqlite).await;
    let proxy = CountingProxy::start(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    // Two pages.
    world
        .execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 13000) \
             INSERT INTO threads (id, status, closed_at) SELECT 't' || i, 'closed', '2999-01-01 00:00:00' FROM n",
        )
        .await;
    world.create_volume("t1").await;
    let report = world.sweep().await;
    assert_eq!((&report["not_due"], &report["not_found"]), (&json!(1), &json!(12_999)), "{report}");
    let lists = proxy.requests().into_iter().filter(|request| request.starts_with("GET /volumes")).count();
    assert_eq!(lists, 1, "{:?}", proxy.requests());
}

#[tokio::test]
async fn the_cleaner_says_when_a_thread_will_be_due_and_asks_nothing_of_docker() {
    let hour = Retention(std::time::Duration::from_hours(1));
    let cleaner = under(cleaner(Ok(Removal::Removed)), Policy { retention: hour, ..Policy::default() }, LIMITS);
    let cleaner = Arc::new(cleaner);
    let closed_at = chrono::Utc::now();
    set_row(&cleaner.threads().rows, "t1", Row { closed: true, closed_at: Some(closed_at), ..Row::default() });
    set_row(&cleaner.threads().rows, "t2", Row { closed: true, ..Row::default() });
    let due_at = Some(closed_at + chrono::TimeDelta::hours(1));
    assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(Outcome::NotDue { due_at }));
    assert_eq!(cleaner.clean(&thread("t2"), Origin::Sweep).await, Ok(Outcome::NotDue { due_at: None }));
    assert_eq!(calls(&cleaner), [""; 0]);
}

#[tokio::test]
async fn a_clock_that_is_weeks_ahead_ends_no_retention() {
    let month = Retention(std::time::Duration::from_hours(30 * 24));
    let cleaner = under(cleaner(Ok(Removal::Removed)), Policy { retention: month, ..Policy::default() }, LIMITS);
    let cleaner = Arc::new(cleaner);
    let (now, weeks) = (chrono::Utc::now(), chrono::TimeDelta::weeks(5));
    // To our clock it was closed five weeks ago, to the database's just now.
    let closed_at = now - weeks;
    set_row(&cleaner.threads().rows, "t1", Row { closed: true, closed_at: Some(closed_at), ..Row::default() });
    *cleaner.threads().said_at.lock().expect("lock") = Some(closed_at);
    let due_at = Some(closed_at + chrono::TimeDelta::days(30));
    assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(Outcome::NotDue { due_at }));
    assert_eq!(calls(&cleaner), [""; 0]);
    *cleaner.threads().said_at.lock().expect("lock") = Some(now + weeks);
    assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(Outcome::Removed));
}
