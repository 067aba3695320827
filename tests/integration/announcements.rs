//! `workspace.volume.removed`: each mark is told, at least once, in order, whether the broker was there or not.

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};

use crate::{
    event::validator,
    world::{On, World, eventually, world},
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
