//! Whoever opens connections to the HTTP port and does not use them stops nothing: no answer, no clean-up, no end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::world::{On, Serving, world};

/// What clients send that never send the rest, or never read the answer.
const HALVES: [&str; 4] = [
    "",
    "GET /livez HTTP/1.1\r\nHo",
    "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx",
];
/// As many connections as the setting allows by default, and what else is opened meanwhile.
const MOST_DESCRIPTORS: usize = 256 + 50;

fn descriptors(serving: &Serving) -> usize {
    let folder = format!("/proc/{}/fd", serving.child.id().expect("it runs"));
    std::fs::read_dir(folder).expect("readable").count()
}

async fn begin(serving: &Serving, half: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&serving.http).await.expect("it listens");
    stream.write_all(half.as_bytes()).await.expect("written");
    stream
}

#[tokio::test]
async fn five_thousand_connections_that_ask_nothing_stop_nothing() {
    let mut world = world(On::Sqlite).await;
    // So that it is the number alone that bounds them.
    world.set("VOLUME_REAPER_HTTP_TIMEOUT", "1h");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let mut serving = world.serve_idle().await;
    let before = descriptors(&serving);
    let mut open = Vec::new();
    for half in HALVES.iter().cycle().take(5000) {
        open.push(begin(&serving, half).await);
    }
    assert_eq!(serving.get("/livez").await, (200, "ok\n".to_owned()));
    let descriptors = descriptors(&serving);
    assert!(descriptors <= before + MOST_DESCRIPTORS, "{before} descriptors before, {descriptors} now");
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    assert_eq!(world.receipts("t1").await, ["removed/event"]);

    serving.signal("TERM");
    assert_eq!(serving.exit_code().await, Some(0));
    let lines = serving.lines();
    assert!(lines.iter().all(|line| line["message"] != "the grace period is over, stopping at once"), "{lines:?}");
    drop(open);
}

#[tokio::test]
async fn a_connection_is_closed_when_its_time_is_over() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_HTTP_TIMEOUT", "1s");
    let serving = world.start().await;
    for half in HALVES {
        let mut stream = begin(&serving, half).await;
        let mut answer = Vec::new();
        let end = timeout(Duration::from_mins(1), stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{half:?} is still open");
    }
    assert_eq!(serving.stop().await, Some(0));
}
