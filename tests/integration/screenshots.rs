//! Pictures of every page, for people to look at: `make screenshots`.

use std::path::PathBuf;

use chrono::{TimeDelta, Utc};

use crate::{
    api::{ADMIN, with_tokens},
    browser::{Browser, Manner, USUAL},
    pages::PAGES,
    world::{On, PrivateHost, Serving, World, eventually, world},
};

const MANNERS: [(&str, Manner); 3] =
    [("light", USUAL), ("dark", Manner { is_dark: true, ..USUAL }), ("narrow", Manner { size: (400, 900), ..USUAL })];

/// A service with a day behind it.
async fn busy(world: &mut World) -> Serving {
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(world).await;
    for id in ["b7f1c0de-0001", "b7f1c0de-0002", "b7f1c0de-0003"] {
        world.closed_with_volume(id).await;
        world.publish_closed(id).await;
        world.until_marked(id).await;
    }
    world.closed_with_volume("b7f1c0de-0004").await;
    world.create_container("b7f1c0de-0004").await;
    world.create_volume("left-behind").await;
    assert!(
        world
            .run(&["hold", "b7f1c0de-0005", "--reason", "asked for by legal", "--until", "30d"])
            .await
            .status
            .success()
    );
    world.publish(b"no event").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
    for hour in 1..24_i32 {
        let hour_ago = (Utc::now() - TimeDelta::hours(i64::from(hour))).format("%Y-%m-%dT%H:00:00+00:00");
        let receipts = 40 + (hour * 37) % 160;
        world
            .execute(&format!(
                "INSERT INTO volume_reaper_stats (resolution, bucket, host, source, outcome, receipts, bytes, \
                 unsized_receipts) VALUES ('hour', '{hour_ago}', '', 'event', 'removed', {receipts}, \
                 {receipts} * 52428800, 0)"
            ))
            .await;
    }
    serving
}

async fn take(serving: &Serving, state: &str, thread: &str) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/screenshots"));
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, manner) in MANNERS {
        let browser = Browser::start(manner).await;
        browser.open(&format!("http://{}/login", serving.http)).await;
        browser.fill("input[name=token]", ADMIN).await;
        browser.click("main button").await;
        browser.until_text("h1", "").await;
        for page in PAGES.into_iter().chain([&*format!("/threads/{thread}")]) {
            browser.open(&format!("http://{}{page}", serving.http)).await;
            browser.until("all is on it", "return document.querySelector('[data-again]') === null").await;
            let page = match page.trim_matches('/') {
                "" => "overview",
                page if page.starts_with("threads/") => "thread",
                page => page,
            };
            std::fs::write(folder.join(format!("{state}-{name}-{page}.png")), browser.picture().await)
                .expect("written");
        }
        browser.close().await;
    }
}

/// A service whose daemon and cause of failures are gone.
async fn broken(world: &mut World) -> (Serving, PrivateHost) {
    let host = PrivateHost::start("a").await;
    world.set("DOCKER_HOST", host.endpoint());
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1s");
    let serving = with_tokens(world).await;
    for number in 1..=4 {
        world.publish_closed(&format!("9c41d2aa-000{number}")).await;
    }
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 4).await;
    assert!(world.run(&["pause", "--reason", "disks of the host are full"]).await.status.success());
    host.control("kill").await;
    eventually("it is noticed", async || (serving.get("/readyz").await.0 != 200).then_some(())).await;
    (serving, host)
}

/// A service on its first day: much was left behind, and the budget of a sweep stopped it.
async fn first_day(world: &mut World) -> Serving {
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.set("VOLUME_REAPER_BUDGET_PER_SWEEP", "20");
    for number in 0..60 {
        let id = format!("4e8810b3-{number:04}");
        world.closed_with_volume(&id).await;
    }
    for number in 60..400 {
        world.execute(&format!(
            "INSERT INTO threads (id, status, closed_at) VALUES ('4e8810b3-{number:04}', 'closed', CURRENT_TIMESTAMP)"
        )).await;
    }
    let serving = with_tokens(world).await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
    serving
}

#[tokio::test]
#[ignore = "checks nothing: `make screenshots` has it take pictures for people to look at"]
async fn of_a_service_that_is_new_busy_broken_and_on_its_first_day() {
    let mut new = world(On::Sqlite).await;
    let serving = with_tokens(&mut new).await;
    take(&serving, "empty", "b7f1c0de-0004").await;
    let mut old = world(On::Sqlite).await;
    let serving = busy(&mut old).await;
    take(&serving, "busy", "b7f1c0de-0004").await;
    let mut ill = world(On::Sqlite).await;
    let (serving, _host) = broken(&mut ill).await;
    take(&serving, "broken", "9c41d2aa-0001").await;
    let mut first = world(On::Sqlite).await;
    let serving = first_day(&mut first).await;
    take(&serving, "first-day", "4e8810b3-0059").await;
}
