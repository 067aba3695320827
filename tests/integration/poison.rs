//! Messages that the client library chokes on stop no other, and end in the dead-letter queue with body and reason.

use std::{
    cell::Cell,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    raw_publisher::{self as raw, MOST_TABLE_BYTES, RawPublisher, odd, unreadable},
    world::{On, PrivateBroker, World, eventually, world},
};

async fn publisher(world: &World) -> RawPublisher {
    RawPublisher::connect(world.broker()).await.expect("the broker is there")
}

fn event(id: &str) -> Vec<u8> {
    json!({ "thread_id": id }).to_string().into_bytes()
}

async fn letters(world: &World, arguments: &[&str]) -> Value {
    world.json(&[&["dead-letters"], arguments, &["--json"]].concat()).await
}

async fn until_parked(world: &World, count: u32) {
    eventually(&format!("{count} messages are parked"), async || {
        (world.messages(&world.dead_letter_queue()).await == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_parked_with_its_body_and_the_reason() {
    let world = world(On::Sqlite).await;
    let serving = world.serve().await;
    let mut publisher = publisher(&world).await;
    for (number, (what, properties)) in unreadable().iter().enumerate() {
        publisher.publish(&world.work_queue(), properties, what.as_bytes()).await.expect("published");
        until_parked(&world, u32::try_from(number).expect("few") + 1).await;
    }
    let shown = letters(&world, &["show"]).await;
    for (what, _) in unreadable() {
        let messages = shown["messages"].as_array().expect("a list").iter();
        let message = messages.clone().find(|message| message["body"] == what).unwrap_or_else(|| panic!("{shown}"));
        assert_eq!(message["reason"], "unreadable", "{what}");
        assert!(message["error"].as_str().expect("text").contains("have to be UTF-8"), "{message}");
    }
    // Without what could not be read, it is an event like any other.
    world.closed_with_volume("t1").await;
    assert_eq!(world.messages(&world.work_queue()).await, 0);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn an_event_is_an_event_whatever_its_headers_are() {
    let world = world(On::Sqlite).await;
    let serving = world.serve_idle().await;
    let mut publisher = publisher(&world).await;
    for (number, (what, properties)) in odd().iter().enumerate() {
        let id = format!("t{number}");
        world.closed_with_volume(&id).await;
        publisher.publish(&world.work_queue(), properties, &event(&id)).await.expect("published");
        eventually(&format!("{what}: it is cleaned up"), async || world.mark(&id).await).await;
        assert_eq!(world.receipts(&id).await, ["removed/event"], "{what}");
    }
    assert_eq!(serving.stop().await, Some(0));
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
}

#[tokio::test]
async fn what_is_no_event_is_parked_whatever_its_headers_are() {
    let world = world(On::Sqlite).await;
    let serving = world.serve().await;
    let mut publisher = publisher(&world).await;
    let odd = odd();
    for (_, properties) in &odd {
        publisher.publish(&world.work_queue(), properties, b"{").await.expect("published");
    }
    until_parked(&world, u32::try_from(odd.len()).expect("few")).await;
    let list = letters(&world, &["list"]).await;
    assert_eq!(list["by_reason"], json!({ "undecodable": odd.len() }));
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn forty_unreadable_messages_cost_the_good_ones_between_them_less_than_five_seconds() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let took = async |world: &World, poisons: &[(&str, Vec<u8>)], from: usize| {
        let mut publisher = publisher(world).await;
        let ids: Vec<_> = (from..from + 40).map(|number| format!("t{number}")).collect();
        for id in &ids {
            world.closed_with_volume(id).await;
        }
        let began = Instant::now();
        for (number, id) in ids.iter().enumerate() {
            if let Some((_, properties)) = poisons.get(number % poisons.len().max(1)) {
                publisher
                    .publish(&world.work_queue(), properties, format!("poison {number}").as_bytes())
                    .await
                    .expect("published");
            }
            publisher
                .publish(&world.work_queue(), &raw::message_id(id.as_bytes()), &event(id))
                .await
                .expect("published");
        }
        for id in &ids {
            world.until_marked(id).await;
            assert_eq!(world.receipts(id).await, ["removed/event"], "{id}");
        }
        began.elapsed()
    };
    let serving = world.serve_idle().await;
    let before = took(&world, &[], 0).await;
    let between = took(&world, &unreadable(), 40).await;
    let after = took(&world, &[], 80).await;
    println!("40 good events: {before:?} and {after:?} alone, {between:?} between 40 unreadable ones");
    let empty = async || (world.messages(&world.work_queue()).await == 0).then_some(());
    eventually("the work queue is empty", empty).await;
    // What the machine has else to do costs both alike.
    let cost = between.saturating_sub(before.max(after));
    assert!(cost < Duration::from_secs(5), "{before:?} and {after:?} alone, {between:?} between unreadable ones");
    assert_eq!(serving.stop().await, Some(0));
    // By its body: one that was parked when the broker's word on it was lost is parked again.
    let shown = letters(&world, &["show", "--limit", "1000"]).await;
    let messages = shown["messages"].as_array().expect("a list");
    let parked: BTreeSet<_> = messages.iter().map(|message| message["body"].to_string()).collect();
    assert_eq!(parked, (0..40).map(|number| format!("\"poison {number}\"")).collect(), "{shown}");
    assert!(messages.iter().all(|message| message["reason"] == "unreadable"), "{shown}");
}

#[tokio::test]
async fn an_unreadable_message_that_the_dead_letter_queue_refuses_is_held_and_stops_no_other() {
    let broker = PrivateBroker::start().await;
    let mut world = world(On::Sqlite).await;
    world.use_broker(&broker);
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = world.serve_idle().await;
    let pattern = format!("^{}$", world.dead_letter_queue());
    broker.rabbitmqctl(&["set_policy", "limit", &pattern, r#"{"max-length": 1}"#]).await;
    // A quorum queue goes over its limit by some before it refuses.
    let sent = Cell::new(0);
    eventually("the dead-letter queue refuses", async || {
        world.publish(b"{").await;
        sent.set(sent.get() + 1);
        let refused = "can't move the delivery on; it stays where it is until that works";
        serving.lines().iter().any(|line| line["message"] == refused).then_some(())
    })
    .await;
    let mut letters = sent.get();
    let mut publisher = publisher(&world).await;
    let ids: Vec<_> = (0..40).map(|number| format!("t{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        world.closed_with_volume(id).await;
        if let Some((what, properties)) = unreadable().get(number) {
            publisher.publish(&world.work_queue(), properties, what.as_bytes()).await.expect("published");
            letters += 1;
        }
        publisher.publish(&world.work_queue(), &raw::message_id(id.as_bytes()), &event(id)).await.expect("published");
    }
    for id in &ids {
        world.until_marked(id).await;
        assert_eq!(world.receipts(id).await, ["removed/event"], "{id}");
    }
    serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 40).await;
    serving.until_ready().await;
    let lost = "the client library lost its connection over messages that it can't read";
    let lost = serving.lines().iter().filter(|line| line["message"] == lost).count();
    assert!(lost < 10, "the connection was lost {lost} times over {} messages", unreadable().len());

    broker.rabbitmqctl(&["clear_policy", "limit"]).await;
    until_parked(&world, letters).await;
    assert_eq!(serving.stop().await, Some(0));
    assert_eq!(world.messages(&world.work_queue()).await, 0);
}

#[tokio::test]
async fn dead_letters_that_cannot_be_read_are_listed_shown_replayed_and_purged() {
    let world = world(On::Sqlite).await;
    assert_eq!(world.serve().await.stop().await, Some(0));
    let mut publisher = publisher(&world).await;
    let queue = world.dead_letter_queue();
    let all = [unreadable(), odd()].concat();
    for (what, properties) in &all {
        publisher.publish(&queue, properties, &event(&what.replace([' ', '-'], "_"))).await.expect("published");
    }
    let count = all.len();
    let list = letters(&world, &["list"]).await;
    assert_eq!((&list["total"], &list["by_reason"]["unreadable"]), (&json!(count), &json!(5)), "{list}");
    let shown = letters(&world, &["show", "--limit", "100"]).await;
    assert_eq!(shown["messages"].as_array().map(Vec::len), Some(count));

    let replayed = letters(&world, &["replay", "--reason", "unreadable"]).await;
    assert_eq!(replayed["replayed"], json!(5), "{replayed}");
    assert_eq!(world.messages(&world.work_queue()).await, 5);
    let purged = letters(&world, &["purge", "--yes"]).await;
    assert_eq!(purged["purged"], json!(count - 5), "{purged}");
    assert_eq!(world.messages(&queue).await, 0);
}

#[tokio::test]
async fn the_deepest_headers_that_fit_into_a_frame_are_survived() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = world.serve_idle().await;
    let mut publisher = publisher(&world).await;
    let status = format!("/proc/{}/status", serving.child.id().expect("it runs"));
    for (id, header) in [
        ("arrays", raw::nested_arrays((MOST_TABLE_BYTES - 10) / 5)),
        ("tables", raw::nested_tables((MOST_TABLE_BYTES - 10) / 7)),
    ] {
        world.closed_with_volume(id).await;
        let began = Instant::now();
        let properties = raw::headers(&[(b"x", header)]);
        publisher.publish(&world.work_queue(), &properties, &event(id)).await.expect("published");
        world.until_marked(id).await;
        assert_eq!(world.receipts(id).await, ["removed/event"], "{id}");
        let text = std::fs::read_to_string(&status).expect("readable");
        let peak = text.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
        println!("deepest {id}: {:?}, {peak}", began.elapsed());
    }
    assert_eq!(serving.stop().await, Some(0), "it is the process that was started");
}
