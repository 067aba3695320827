//! `workspace.volume.removed`: each mark is told, at least once, in order, whether the broker was there or not.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use lapin::{
    ExchangeKind,
    options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};

use crate::{
    event::validator,
    fault_proxy::{FaultProxy, Mode},
    world::{On, Serving, World, eventually, world},
};

/// A queue of somebody who wants to hear of `world`'s volumes.
async fn listen(world: &mut World) -> String {
    let (exchange, queue) = (format!("{}.removed", world.name), format!("{}.listener", world.name));
    let (_connection, channel) = world.channel().await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let nothing = FieldTable::default;
    channel
        .exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, durable, nothing())
        .await
        .expect("declared");
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, nothing()).await.expect("declared");
    let (key, options) = ("workspace.volume.#".into(), QueueBindOptions::default());
    channel.queue_bind(queue.as_str().into(), exchange.as_str().into(), key, options, nothing()).await.expect("bound");
    world.set("VOLUME_REAPER_REMOVED_EXCHANGE", exchange);
    queue
}

async fn heard(world: &World, queue: &str) -> Value {
    let message = world.take(queue).await;
    let event = serde_json::from_slice(&message.delivery.data).expect("JSON");
    let schema = validator("asyncapi.yaml#/components/messages/workspaceVolumeRemoved/payload");
    assert!(schema.is_valid(&event), "{event}");
    event
}

#[tokio::test]
async fn each_mark_is_told_also_those_from_before_the_broker_was_there() {
    for on in On::ALL {
        let mut world = world(on).await;
        let queue = listen(&mut world).await;
        // A sweep by hand needs no broker.
        world.closed_with_volume("t1").await;
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
        let waiting = "SELECT thread_id FROM volume_reaper_outbox";
        assert_eq!(world.texts(waiting).await, ["t1"], "{on:?}");

        let serving = world.serve().await;
        let first = heard(&world, &queue).await;
        assert_eq!((&first["subject"], &first["data"]["outcome"]), (&json!("t1"), &json!("removed")), "{on:?}");
        assert_eq!(first["data"]["volume_name"], json!(world.volume("t1")), "{on:?}");
        // Another close of the thread is another mark.
        world.reopen_thread("t1").await;
        world.close_thread("t1").await;
        world.publish_closed("t1").await;
        let second = heard(&world, &queue).await;
        assert_eq!((&second["subject"], &second["data"]["outcome"]), (&json!("t1"), &json!("not_found")), "{on:?}");
        assert_ne!(first["id"], second["id"], "{on:?}");
        eventually("the outbox is empty", async || world.texts(waiting).await.is_empty().then_some(())).await;
        assert_eq!(serving.stop().await, Some(0));
        world.delete_queue(&queue).await;
    }
}

#[tokio::test]
async fn without_an_exchange_nothing_is_told() {
    let world = world(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    assert_eq!(world.sweep().await["removed"], json!(1));
    assert!(world.texts("SELECT thread_id FROM volume_reaper_outbox").await.is_empty());
}

/// The most memory that a process had so far, in bytes.
fn peak_memory(serving: &Serving) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.child.id().expect("it runs")));
    let status = status.expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    peak.expect("a peak").trim().parse::<u64>().expect("a number") * 1024
}

#[tokio::test]
async fn what_is_marked_while_the_broker_is_away_is_told_when_it_is_back_in_order_and_with_little_memory() {
    const THREADS: usize = 2000;
    const ROUNDS: usize = 9;
    const FIRST: usize = 5;
    let mut world = world(On::Postgres).await;
    let queue = listen(&mut world).await;
    let (proxy, url) = FaultProxy::url(world.broker()).await;
    world.set("AMQP_URL", url);
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    world.set("VOLUME_REAPER_BUDGET_PER_SWEEP", "off");
    // Long ids make long events, and what is held of them shows.
    let rows: Vec<_> = (0..THREADS).map(|number| format!("('{number:0>120}', 'open')")).collect();
    world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(", "))).await;
    let serving = world.serve_idle().await;
    let close_all = async || {
        world.execute("UPDATE threads SET status = 'open', closed_at = NULL").await;
        world.execute("UPDATE threads SET status = 'closed', closed_at = CURRENT_TIMESTAMP").await;
        let unmarked = "SELECT id FROM threads WHERE workspace_volume_removed_at IS NULL LIMIT 1";
        eventually("all are marked", async || world.texts(unmarked).await.is_empty().then_some(())).await;
    };
    let left = async || world.texts("SELECT CAST(count(*) AS text) FROM volume_reaper_outbox").await;
    let left = async || left().await[0].parse::<usize>().expect("a number");
    // What it takes to mark and to tell, before anything waits.
    close_all().await;
    eventually("all are told", async || (left().await == 0).then_some(())).await;
    proxy.set(Mode::Refuse);
    proxy.cut();
    eventually("the broker is missed", async || (serving.get("/readyz").await.0 == 503).then_some(())).await;

    // An hour of it is as many marks as there are in an hour: it is their number that counts.
    // After the first rounds the allocator has what it keeps.
    for _ in 0..FIRST {
        close_all().await;
    }
    let before = peak_memory(&serving);
    for _ in FIRST..ROUNDS {
        close_all().await;
    }
    let grown = peak_memory(&serving) - before;
    let events = world.texts("SELECT event FROM volume_reaper_outbox ORDER BY id").await;
    assert_eq!(events.len(), THREADS * ROUNDS);
    let waiting: u64 = events.iter().skip(THREADS * FIRST).map(|event| event.len() as u64).sum();
    assert!(grown < waiting, "{grown} bytes more for {waiting} bytes of events");

    proxy.set(Mode::Pass);
    eventually("some are told", async || (left().await < events.len()).then_some(())).await;
    // Whoever comes after it goes on where it was.
    assert_eq!(serving.stop().await, Some(0));
    let serving = world.serve().await;
    // By then the library's buffers are as large as they become.
    eventually("half is told", async || (left().await < events.len() / 2).then_some(())).await;
    let (before, rest) = (peak_memory(&serving), left().await);
    eventually("all are told", async || (left().await == 0).then_some(())).await;
    let grown = peak_memory(&serving) - before;
    let told: u64 = events.iter().rev().take(rest).map(|event| event.len() as u64).sum();
    assert!(grown < told, "{grown} bytes more while {told} bytes of events are told");
    assert_eq!(serving.stop().await, Some(0));

    let (connection, channel) = world.channel().await;
    let (options, nothing) = (BasicConsumeOptions { no_ack: true, ..Default::default() }, FieldTable::default());
    let mut told = channel.basic_consume(queue.as_str().into(), "".into(), options, nothing).await.expect("consumed");
    let id = |event: &Value| event["id"].as_str().expect("an id").to_owned();
    let subject = |event: &Value| event["subject"].as_str().expect("a thread").to_owned();
    let (mut ids, mut heard) = (BTreeSet::new(), BTreeMap::<String, Vec<String>>::new());
    while ids.len() < THREADS + events.len() {
        let message = told.next().await.expect("more").expect("a message");
        let event: Value = serde_json::from_slice(&message.data).expect("JSON");
        // One may come twice, and counts where it came first.
        if ids.insert(id(&event)) {
            heard.entry(subject(&event)).or_default().push(id(&event));
        }
    }
    let mut expected = BTreeMap::<String, Vec<String>>::new();
    for event in &events {
        let event: Value = serde_json::from_str(event).expect("JSON");
        expected.entry(subject(&event)).or_default().push(id(&event));
    }
    // The first of each was told before.
    for ids in heard.values_mut() {
        ids.remove(0);
    }
    assert_eq!(heard, expected, "each thread's in their order, and none is missing");
    connection.close(200, "done".into()).await.expect("closed");
    world.delete_queue(&queue).await;
}
