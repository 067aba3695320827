//! What pages cost: none of them reads a table as a whole, however long it is.

use serde_json::json;

use crate::{
    api::{VIEWER, ask, with_tokens},
    pages::PAGES,
    world::{On, World, world},
};

/// Of each table. A page may look through ten thousand for what a filter means.
const ROWS: u64 = 100_000;
/// Pages with filters, which nothing meets.
const FILTERED: [&str; 9] = [
    "/threads/w1",
    "/threads?prefix=x",
    "/threads?waits_for=held&older_than=30d",
    "/removals?host=nowhere",
    "/removals?outcome=removed&since=7d",
    "/removals?thread=w1",
    "/api/v1/removals?host=nowhere",
    "/api/v1/removals?outcome=removed&since=2026-01-01T00:00:00Z",
    "/?range=quarter",
];

/// Waiting threads and receipts, as after a long time.
async fn fill(world: &World) {
    let numbers = format!("FROM generate_series(1, {ROWS}) n");
    world
        .execute(&format!(
            "INSERT INTO threads (id, status, closed_at) SELECT 'w' || n, 'closed', now() - interval '1 day' {numbers}"
        ))
        .await;
    world
        .execute(&format!(
            "INSERT INTO volume_removals (thread_id, volume_name, outcome, source, replica, removed_at) \
             SELECT 'gone' || n, 'v', 'not_found', 'event', 'r', now() - n * interval '1 second' {numbers}"
        ))
        .await;
    world
        .execute(
            "INSERT INTO volume_reaper_rollups (name, receipt_id, rolled_at) \
             SELECT 'stats', max(id), now() FROM volume_removals \
             ON CONFLICT (name) DO UPDATE SET receipt_id = excluded.receipt_id",
        )
        .await;
    // What filters mean, far behind what they do not mean.
    world.execute("INSERT INTO volume_reaper_holds (thread_id, reason, held_at) VALUES ('w99999', 'r', now())").await;
    world.execute("UPDATE volume_removals SET host = 'far' WHERE thread_id = 'gone3000'").await;
    world.execute("ANALYZE threads, volume_removals").await;
}

/// How many rows and index entries were read of a table.
async fn read_of(world: &World, table: &str) -> u64 {
    let count = format!(
        "SELECT CAST(sum(rows) AS text) FROM (SELECT seq_tup_read AS rows FROM pg_stat_user_tables WHERE relname = \
         '{table}' UNION ALL SELECT idx_tup_read FROM pg_stat_user_indexes WHERE relname = '{table}') counted"
    );
    world.texts(&count).await[0].parse().expect("a number")
}

#[tokio::test]
async fn no_page_reads_a_table_as_a_whole() {
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    fill(&world).await;
    world.execute("SELECT pg_stat_reset()").await;
    let token = format!("Authorization: Bearer {VIEWER}");
    for path in PAGES.into_iter().chain(FILTERED) {
        let answer = ask(&serving, &format!("GET {path}"), &[&token], "").await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.text);
        if path == "/" {
            assert!(answer.text.contains("more than 10,000"), "{}", answer.text);
        }
    }
    let page = async |path: &str| ask(&serving, &format!("GET {path}"), &[&token], "").await.text;
    assert!(page("/threads?waits_for=held").await.contains(">w99999</a>"));
    let first = page("/removals?host=far").await;
    assert!(first.contains("No receipt is so among those") && !first.contains("gone3000"), "{first}");
    let next = first.split_once("rel=\"next\" href=\".").expect("a next page").1;
    let next = next.split('"').next().expect("its end").replace("&#38;", "&");
    assert!(page(&next).await.contains(">gone3000</a>"));
    let page =
        async |after: &str| ask(&serving, &format!("GET /api/v1/removals?host=far{after}"), &[&token], "").await.json();
    let first = page("").await;
    assert_eq!(first["removals"], json!([]));
    let second = page(&format!("&after={}", first["next"].as_str().expect("a next page"))).await;
    assert_eq!(second["removals"][0]["thread_id"], "gone3000");
    assert_eq!(serving.stop().await, Some(0));
    world.until_alone().await;
    for table in ["threads", "volume_removals"] {
        let read = read_of(&world, table).await;
        assert!(read < ROWS, "{read} rows of {table} were read for all pages together");
    }
    // Who asks for all of them gets all, however far behind.
    let all = world.json(&["receipts", "--host", "far", "--json"]).await;
    assert_eq!((&all["receipts"][0]["thread_id"], &all["next"]), (&json!("gone3000"), &json!(null)));
}
