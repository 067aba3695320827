//! Pictures of every page, for people to look at: `make screenshots`.

use std::path::PathBuf;

use chrono::{TimeDelta, Utc};

use crate::{
    api::{ADMIN, with_tokens},
    browser::{Browser, Manner, USUAL},
    pages::PAGES,
    world::{On, Serving, World, world},
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

async fn take(serving: &Serving, state: &str) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/screenshots"));
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, manner) in MANNERS {
        let browser = Browser::start(manner).await;
        browser.open(&format!("http://{}/login", serving.http)).await;
        browser.fill("input[name=token]", ADMIN).await;
        browser.click("main button").await;
        for page in PAGES.into_iter().chain(["/threads/b7f1c0de-0004"]) {
            browser.open(&format!("http://{}{page}", serving.http)).await;
            browser.until_text("h1", "").await;
            let page = page.trim_matches('/').replace('/', "-");
            let page = if page.is_empty() { "overview" } else { &page };
            std::fs::write(folder.join(format!("{state}-{name}-{page}.png")), browser.picture().await)
                .expect("written");
        }
        browser.close().await;
    }
}

#[tokio::test]
#[ignore = "checks nothing: `make screenshots` has it take pictures for people to look at"]
async fn of_a_new_service_and_of_a_busy_one() {
    let mut new = world(On::Sqlite).await;
    let serving = with_tokens(&mut new).await;
    take(&serving, "new").await;
    let mut old = world(On::Sqlite).await;
    let serving = busy(&mut old).await;
    take(&serving, "busy").await;
}
