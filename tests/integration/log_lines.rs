//! Log lines: that nobody reads them stops nothing, and what repeats is counted.

use std::time::Instant;

use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::world::{On, eventually, world};

#[tokio::test]
async fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let mut world = world(On::Sqlite).await;
    world.set("RUST_LOG", "trace");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let (mut serving, mut log) = world.start_unread().await;
    serving.until_ready().await;
    for number in 0..30 {
        let id = format!("t{number}");
        world.closed_with_volume(&id).await;
        world.publish_closed(&id).await;
        world.until_marked(&id).await;
    }
    assert_eq!(serving.get("/livez").await.0, 200);
    serving.signal("TERM");
    assert_eq!(serving.exit_code().await, Some(0));
    let mut unread = String::new();
    log.read_to_string(&mut unread).await.expect("readable");
    let last_words = r#""message":"stopped""#;
    assert!(!unread.contains(last_words), "the pipe was not full: all {} bytes found room in it", unread.len());
}

#[tokio::test]
async fn events_about_threads_that_nobody_knows_are_a_few_lines_and_a_count() {
    const EVENTS: u64 = 50;
    let mut world = world(On::Sqlite).await;
    world.set("RUST_LOG", "info");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let mut serving = world.serve().await;
    let began = Instant::now();
    let ids: Vec<_> = (0..EVENTS).map(|number| format!("t{number}")).collect();
    let arguments: Vec<_> = std::iter::once("publish").chain(ids.iter().map(String::as_str)).collect();
    assert!(world.run(&arguments).await.status.success());
    eventually("all are dead letters", async || {
        (u64::from(world.messages(&world.dead_letter_queue()).await) == EVENTS).then_some(())
    })
    .await;
    serving.signal("TERM");
    assert_eq!(serving.exit_code().await, Some(0));
    let lines = serving.lines();
    let written = lines.iter().filter(|line| line["settlement"].is_string()).count() as u64;
    let left_out: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
    assert_eq!(written + left_out, 2 * EVENTS, "each was retried and dead-lettered");
    let minutes = 1 + began.elapsed().as_secs() / 60;
    assert!(written <= 20 * minutes, "{written} lines in {minutes} minutes");
    assert!(lines.iter().all(|line| line["level"] != "DEBUG"), "{:?}", Value::from(lines.clone()));
}
