//! Threads that are known from events alone: no platform writes their rows.

use chrono::{DateTime, Utc};
use migrations::ThreadsTable;
use serde_json::json;
use volume_reaper::{
    cleanup::{StatusChange, StatusChanges},
    config::SecretUrl,
    store::Store,
    volume_name::ThreadId,
};

use crate::world::{On, Serving, World, header, world};

/// A world whose events open the rows.
async fn recording(on: On) -> World {
    let mut world = world(on).await;
    world.set("VOLUME_REAPER_UNKNOWN_THREADS", "record");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1s");
    world
}

async fn publish(world: &World, arguments: &[&str]) {
    let output = world.run(&[&["publish"], arguments].concat()).await;
    assert!(output.status.success(), "{output:?}");
}

async fn until_settled(serving: &Serving, settlement: &str, count: u64) {
    serving.until_metric(&format!("volume_reaper_settlements_total{{settlement=\"{settlement}\"}}"), count).await;
}

async fn status(world: &World, id: &str) -> Vec<String> {
    world.texts(&format!("SELECT status FROM threads WHERE id = '{id}'")).await
}

#[tokio::test]
async fn the_event_of_an_unknown_thread_opens_its_row_and_the_volume_is_removed() {
    for on in On::ALL {
        let world = recording(on).await;
        let serving = world.serve_idle().await;
        world.create_volume("t1").await;
        publish(&world, &["t1"]).await;
        world.until_marked("t1").await;
        assert!(!world.has_volume("t1").await, "{on:?}");
        assert_eq!(world.receipts("t1").await, ["removed/event"], "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_reopened_thread_keeps_its_volume_from_late_events_until_it_is_closed_again() {
    for on in On::ALL {
        let world = recording(on).await;
        let serving = world.serve_idle().await;
        publish(&world, &["t1"]).await;
        world.until_marked("t1").await;
        let first_close = Utc::now();

        publish(&world, &["--reopened", "t1"]).await;
        until_settled(&serving, "ack", 2).await;
        assert_eq!(status(&world, "t1").await, ["open"], "{on:?}");
        assert_eq!(world.mark("t1").await, None, "{on:?}");

        world.create_volume("t1").await;
        let late = json!({ "thread_id": "t1", "closed_at": first_close }).to_string();
        world.publish(late.as_bytes()).await;
        world.publish_closed("t1").await;
        until_settled(&serving, "stale", 2).await;
        assert!(world.has_volume("t1").await, "{on:?}");

        publish(&world, &["t1"]).await;
        world.until_marked("t1").await;
        assert!(!world.has_volume("t1").await, "{on:?}");
        assert_eq!(world.receipts("t1").await, ["not_found/event", "removed/event"], "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn in_whatever_order_events_come_and_however_often_the_latest_counts() {
    let at = |second: i64| DateTime::from_timestamp(1_700_000_000 + second, 0).expect("a time");
    let changes = [
        StatusChange::Closed { at: Some(at(1)) },
        StatusChange::Reopened { at: at(2) },
        StatusChange::Closed { at: Some(at(3)) },
        StatusChange::Reopened { at: at(3) },
        StatusChange::Closed { at: Some(at(4)) },
    ];
    for on in On::ALL {
        let world = world(on).await;
        let url = SecretUrl::parse(&world.settings["DATABASE_URL"], &["postgres", "sqlite", "mysql"]).expect("valid");
        let store = Store::new(&url, ThreadsTable::default(), "replica-1".to_owned(), 1).await.expect("a pool");
        // The first four end reopened, since a reopening wins a tie; all five end closed.
        for (count, expected) in [(4, "open"), (5, "closed")] {
            for (number, order) in orders(count).into_iter().enumerate() {
                let id = format!("t-{count}-{number}");
                let thread = ThreadId::parse(&id).expect("valid");
                for &index in order.iter().chain(&order[..2]) {
                    store.record_change(&thread, &changes[index]).await.expect("recorded");
                }
                assert_eq!(status(&world, &id).await, [expected], "{on:?}, {order:?}");
            }
        }
    }
}

/// All orders of `0..count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for next in 0..count {
        let longer = |order: &Vec<usize>| {
            let order = order.clone();
            (0..=order.len()).map(move |at| [&order[..at], &[next], &order[at..]].concat()).collect::<Vec<_>>()
        };
        orders = orders.iter().flat_map(longer).collect();
    }
    orders
}

#[tokio::test]
async fn a_volume_that_is_there_again_may_be_in_use_and_stays() {
    let world = recording(On::Sqlite).await;
    let serving = world.serve().await;
    publish(&world, &["t1"]).await;
    world.until_marked("t1").await;
    assert_eq!(serving.stop().await, Some(0));

    // It was reopened, and of that the event is still to come.
    world.create_volume("t1").await;
    world.create_volume("never-closed").await;
    let report = world.sweep().await;
    assert_eq!((&report["drift"], &report["removed"], &report["orphans"]), (&json!(1), &json!(0), &json!(0)));
    assert!(world.has_volume("t1").await && world.mark("t1").await.is_some());
}

#[tokio::test]
async fn volumes_without_a_thread_are_no_orphans_where_threads_in_use_have_no_row() {
    let world = recording(On::Sqlite).await;
    world.create_volume("never-closed").await;
    let output = world.run(&["orphans", "remove", "--older-than", "0s", "--yes"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("may be a workspace in use"), "{output:?}");
    assert!(world.has_volume("never-closed").await);
}

#[tokio::test]
async fn a_close_in_the_future_is_parked_and_opens_no_row() {
    let world = recording(On::Sqlite).await;
    let _serving = world.serve().await;
    world.publish(br#"{"thread_id": "t1", "closed_at": "2999-01-01T00:00:00Z"}"#).await;
    let parked = world.dead_letter().await;
    assert_eq!(header(&parked, "volume-reaper-reason").as_deref(), Some("permanent"));
    assert!(status(&world, "t1").await.is_empty());
}

#[tokio::test]
async fn a_reopening_stays_one_on_its_way_through_delay_queues_and_the_parking_lot() {
    let world = recording(On::Sqlite).await;
    let _serving = world.serve().await;
    publish(&world, &["t1"]).await;
    world.until_marked("t1").await;
    // Without its time, only the routing key says what it is; and the row can't be written for now.
    world.execute("CREATE TRIGGER no BEFORE UPDATE ON threads BEGIN SELECT RAISE(ABORT, 'not now'); END").await;
    world.publish_to_exchange("thread.reopened", br#"{"thread_id": "t1"}"#).await;
    let parked = crate::world::eventually("it is parked", async || {
        (world.messages(&world.dead_letter_queue()).await == 1).then_some(())
    });
    parked.await;
    world.execute("DROP TRIGGER no").await;
    let output = world.run(&["dead-letters", "replay"]).await;
    assert!(output.status.success(), "{output:?}");
    crate::world::eventually("it is open", async || (status(&world, "t1").await == ["open"]).then_some(())).await;
}

#[tokio::test]
async fn threads_are_not_recorded_in_a_table_of_the_platforms() {
    let mut world = World::without_schema(On::Sqlite).await;
    world.set("VOLUME_REAPER_UNKNOWN_THREADS", "record");
    world.execute("CREATE TABLE threads (id text PRIMARY KEY, status text, closed_at text)").await;
    let output = world.run(&["sweep"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("leave out VOLUME_REAPER_UNKNOWN_THREADS=record"));

    world.set("VOLUME_REAPER_THREADS_TABLE", "conversations");
    let output = world.run(&["sweep"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[tokio::test]
async fn by_default_an_event_opens_no_row_and_nobody_listens_to_reopenings() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1s");
    let _serving = world.serve().await;
    publish(&world, &["t1"]).await;
    assert_eq!(header(&world.dead_letter().await, "volume-reaper-reason").as_deref(), Some("unknown_thread"));
    let output = world.run(&["publish", "--reopened", "t1"]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("no queue takes routing key \"thread.reopened\""));
    assert!(status(&world, "t1").await.is_empty());
}
