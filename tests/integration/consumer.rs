//! Events through a real broker, to their settlement.

use std::sync::Arc;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use tokio_util::sync::CancellationToken;
use volume_reaper::{
    cleanup::{Removal, fleet::Fleet},
    config::Config,
    delivery::consumer::Consumer,
    failure::Dependency,
    health::Health,
    metrics,
    queue::{Publisher, Queues, Subscription},
};

use crate::{
    fakes::{cleaner, row, thread},
    proxy::CountingProxy,
    world::{On, World, eventually, header, world},
};

/// A world with a retry schedule that is short enough for a test to reach its end.
async fn world_with_ladder(on: On) -> World {
    let mut world = world(on).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms,200ms");
    world
}

#[tokio::test]
async fn an_event_removes_the_volume_marks_the_row_and_is_acknowledged() {
    for on in On::ALL {
        let world = world(on).await;
        let serving = world.serve_idle().await;
        world.closed_with_volume("t1").await;
        let output = world.run(&["publish", "t1"]).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "published 1 event\n");
        world.until_marked("t1").await;
        assert!(!world.has_volume("t1").await, "{on:?}");
        assert_eq!(world.receipts("t1").await, ["removed/event"], "{on:?}");
        serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 1).await;
        assert_eq!(serving.stop().await, Some(0));
        assert_eq!(world.messages(&world.work_queue()).await, 0, "{on:?}");
    }
}

#[tokio::test]
async fn a_missing_volume_is_marked_and_acknowledged() {
    let world = world(On::Sqlite).await;
    let serving = world.serve_idle().await;
    world.open_thread("t1").await;
    world.close_thread("t1").await;
    world.publish_closed("t1").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 1).await;
    assert_eq!(world.receipts("t1").await, ["not_found/event"]);
}

#[tokio::test]
async fn a_referenced_volume_is_acknowledged_and_left_to_the_reconciler() {
    let world = world(On::Sqlite).await;
    let serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    world.create_container("t1").await;
    world.publish_closed("t1").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 1).await;
    let referenced = "volume_reaper_cleanups_total{source=\"event\",outcome=\"referenced\"}";
    assert_eq!(serving.metric(referenced).await, 1);
    assert!(world.has_volume("t1").await && world.mark("t1").await.is_none());
}

#[tokio::test]
async fn a_body_that_is_no_event_is_dead_lettered_with_its_reason_and_docker_is_not_asked() {
    let mut world = world(On::Sqlite).await;
    let proxy = CountingProxy::start(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    let serving = world.serve().await;
    let too_large = format!(r#"{{"thread_id": "t1", "padding": "{}"}}"#, "x".repeat(64 * 1024));
    let too_long = format!(r#"{{"thread_id": "{}"}}"#, "a".repeat(129));
    for (body, reason) in [
        (&b"not json"[..], "undecodable"),
        (br#"{"thread_id": 7}"#, "undecodable"),
        (br#"{"thread_id": ""}"#, "invalid_thread_id"),
        (br#"{"thread_id": "../x"}"#, "invalid_thread_id"),
        (br#"{"thread_id": "a b"}"#, "invalid_thread_id"),
        (b"{\"thread_id\": \"a\\u0000b\"}", "invalid_thread_id"),
        ("{\"thread_id\": \"thr\u{e9}ad\"}".as_bytes(), "invalid_thread_id"),
        (too_long.as_bytes(), "invalid_thread_id"),
        (too_large.as_bytes(), "too_large"),
    ] {
        world.publish(body).await;
        let message = world.dead_letter().await;
        assert_eq!(header(&message, "volume-reaper-reason").as_deref(), Some(reason));
        assert_eq!(message.delivery.data, body);
        assert!(header(&message, "volume-reaper-error").is_some_and(|error| !error.is_empty()));
        assert!(header(&message, "volume-reaper-first-seen").is_some());
    }
    assert_eq!(proxy.removals(), 0);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_message_whose_headers_fill_a_frame_is_moved_on_without_the_largest() {
    let world = world(On::Sqlite).await;
    let serving = world.serve().await;
    let mut headers = FieldTable::default();
    for (key, bytes) in [("small", 10), ("large", 129_000)] {
        headers.insert(key.into(), AMQPValue::LongString("x".repeat(bytes).into()));
    }
    world.publish_with(BasicProperties::default().with_headers(headers), b"not json").await;
    let message = world.dead_letter().await;
    assert_eq!(header(&message, "volume-reaper-reason").as_deref(), Some("undecodable"));
    assert_eq!(header(&message, "small").as_deref(), Some("xxxxxxxxxx"));
    assert_eq!(header(&message, "large"), None);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn an_unknown_thread_climbs_the_ladder_and_is_dead_lettered() {
    let world = world_with_ladder(On::Sqlite).await;
    let serving = world.serve().await;
    world.publish_with(BasicProperties::default().with_message_id("m-1".into()), br#"{"thread_id": "nobody"}"#).await;
    let message = world.dead_letter().await;
    assert_eq!(header(&message, "volume-reaper-reason").as_deref(), Some("unknown_thread"));
    assert_eq!(header(&message, "volume-reaper-attempt").as_deref(), Some("3"));
    assert_eq!(message.delivery.properties.message_id().as_ref().map(lapin::types::ShortString::as_str), Some("m-1"));
    assert_eq!(serving.metric("volume_reaper_settlements_total{settlement=\"retry\"}").await, 2);
}

#[tokio::test]
async fn an_event_that_overtakes_the_commit_is_tried_again_and_succeeds() {
    let world = world_with_ladder(On::Sqlite).await;
    let serving = world.serve().await;
    world.create_volume("t1").await;
    world.open_thread("t1").await;
    world.publish_closed("t1").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"retry\"}", 1).await;
    world.close_thread("t1").await;
    world.until_marked("t1").await;
    assert!(!world.has_volume("t1").await);
}

#[tokio::test]
async fn an_event_about_a_thread_that_stays_open_is_acknowledged_as_stale_and_touches_nothing() {
    let world = world_with_ladder(On::Sqlite).await;
    let serving = world.serve().await;
    world.create_volume("t1").await;
    world.open_thread("t1").await;
    world.publish_closed("t1").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"stale\"}", 1).await;
    assert!(world.has_volume("t1").await);
    assert_eq!(serving.stop().await, Some(0));
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
}

#[tokio::test]
async fn a_late_event_about_an_earlier_close_removes_nothing_from_a_reopened_thread() {
    let world = world_with_ladder(On::Sqlite).await;
    let serving = world.serve().await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    world.reopen_thread("t1").await;
    world.create_volume("t1").await;
    world.publish_closed("t1").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"stale\"}", 1).await;
    assert!(world.has_volume("t1").await);
    assert!(world.mark("t1").await.is_none());
}

#[tokio::test]
async fn a_repeated_event_is_acknowledged_with_no_call_to_docker() {
    let mut world = world(On::Sqlite).await;
    let proxy = CountingProxy::start(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    let serving = world.serve().await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    for _ in 0..3 {
        world.publish_closed("t1").await;
    }
    serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 4).await;
    assert_eq!(proxy.removals(), 1);
    assert_eq!(world.receipts("t1").await.len(), 1);
}

#[tokio::test]
async fn the_last_rung_of_a_transient_error_is_the_dead_letter_queue_and_the_row_stays_unmarked() {
    let mut world = world_with_ladder(On::Sqlite).await;
    // Serves everything but removals, which it answers with the error of a full disk.
    let failing = CountingProxy::start_failing_removals(world.dir.path());
    world.set("DOCKER_HOST", failing.endpoint());
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = world.serve().await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    let message = world.dead_letter().await;
    assert_eq!(header(&message, "volume-reaper-reason").as_deref(), Some("exhausted"));
    assert_eq!(header(&message, "volume-reaper-attempt").as_deref(), Some("3"));
    assert!(header(&message, "volume-reaper-error").is_some_and(|error| error.contains("no space left")));
    assert_eq!(failing.removals(), 3);
    assert!(world.mark("t1").await.is_none());
    // The reconciler still owns the work, and takes it up after the cooldown.
    assert_eq!(serving.stop().await, Some(0));
    world.set("DOCKER_HOST", crate::world::server("DOCKER_HOST"));
    assert_eq!(world.sweep().await["cooling_down"], 1);
    world.execute("UPDATE volume_reaper_failures SET failed_at = '2000-01-01 00:00:00+00:00'").await;
    assert_eq!(world.sweep().await["removed"], 1);
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_received_from() {
    // Q7 Q9
    let world = world(On::Sqlite).await;
    let serving = world.serve().await;
    world.delete_queue(&world.work_queue()).await;
    eventually("the loss is noticed", async || {
        let lost = serving
            .lines()
            .into_iter()
            .any(|line| line["reason"].as_str().is_some_and(|reason| reason.contains("cancelled the subscription")));
        lost.then_some(())
    })
    .await;
    serving.until_ready().await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
}

#[tokio::test]
async fn headers_of_the_publisher_travel_on_with_the_message() {
    let world = world_with_ladder(On::Sqlite).await;
    let _serving = world.serve().await;
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), lapin::types::AMQPValue::LongString("00-trace".into()));
    let properties = BasicProperties::default().with_headers(headers).with_expiration("60000".into());
    world.publish_with(properties, br#"{"thread_id": "nobody"}"#).await;
    let message = world.dead_letter().await;
    assert_eq!(header(&message, "traceparent").as_deref(), Some("00-trace"));
    assert_eq!(message.delivery.properties.expiration(), &None);
}

#[tokio::test]
async fn a_message_over_which_settling_always_panics_ends_in_the_dead_letter_queue_and_holds_up_nobody() {
    let world = world_with_ladder(On::Sqlite).await;
    // On this thread alone: other tests have metrics too.
    let recorder = metrics::recorder().expect("buckets");
    let _recording = ::metrics::set_default_local_recorder(&recorder);
    let config = Config::load(|_| None, &world.settings, None).expect("valid");
    let queues = Queues::new(&config);
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    *cleaner.threads().is_not_noted.lock().expect("lock") = Some(thread("bug"));
    let health = Arc::new(Health::new());
    for dependency in Dependency::ALL {
        health.up(dependency);
    }
    let consumer = Consumer {
        fleet: Arc::new(Fleet::new(vec![Arc::clone(&cleaner)], &health, 1)),
        health: Arc::clone(&health),
        retry_delays: config.retry_delays.clone(),
    };
    let subscription = Subscription {
        publisher: Arc::new(Publisher::new(queues.clone())),
        queues,
        consumer: Arc::new(consumer),
        health,
        // What is kept unacknowledged keeps everything else away.
        prefetch: 1,
    };
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    let acts = async {
        let work = world.work_queue();
        eventually("the queues are declared", async || world.has_queue(&work).await.then_some(())).await;
        world.publish(br#"{"thread_id": "bug"}"#).await;
        world.publish(br#"{"thread_id": "t1"}"#).await;
        let letter = world.dead_letter().await;
        assert_eq!(header(&letter, "volume-reaper-reason").as_deref(), Some("exhausted"));
        assert_eq!(header(&letter, "volume-reaper-attempt").as_deref(), Some("3"));
        assert!(header(&letter, "volume-reaper-error").is_some_and(|error| error.contains("panicked")));
        eventually("the other one is marked", async || row(&cleaner, "t1").mark).await;
        stop.cancel();
    };
    let (ran, ()) = tokio::join!(subscription.run(&stop, &abort), acts);
    ran.expect("it stops");
    // Nothing was left unacknowledged.
    assert_eq!(world.messages(&world.work_queue()).await, 0);
    let metrics = recorder.handle().render();
    assert!(metrics.contains("volume_reaper_panics_total 3"), "{metrics}");
}
