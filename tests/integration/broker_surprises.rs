//! What others do to the broker: policies, forged headers, an exchange of another kind, large messages. Doctor says it,
//! and nothing is lost.

use std::sync::atomic::{AtomicU64, Ordering};

use lapin::{
    BasicProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::world::{On, PrivateBroker, World, eventually, header, world};

/// A management API that knows of each queue what this function says.
async fn management(facts: impl Fn(&str) -> Value + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let bytes = stream.read(&mut request).await.expect("a request");
            let request = String::from_utf8_lossy(&request[..bytes]).into_owned();
            assert!(request.contains("Authorization: Basic Z3Vlc3Q6Z3Vlc3Q="), "{request}");
            let path = request.split(' ').nth(1).expect("a path");
            let queue = path.strip_prefix("/api/queues/%2f/").expect("a queue of the virtual host");
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}", facts(queue));
            stream.write_all(answer.as_bytes()).await.expect("answered");
        }
    });
    (url, serving)
}

async fn check(world: &World, name: &str) -> Value {
    let report = world.json(&["doctor", "--json"]).await;
    let mut checks = report["checks"].as_array().expect("checks").iter();
    checks.find(|check| check["name"] == name).unwrap_or_else(|| panic!("{report}")).clone()
}

#[tokio::test]
async fn a_policy_that_loses_messages_fails_and_is_named_with_its_queue() {
    let mut world = world(On::Sqlite).await;
    let serving = world.serve().await;
    let letters = world.dead_letter_queue();
    let (url, api) = management(move |queue| {
        let definition = if queue == letters { json!({ "max-length": 10 }) } else { json!({ "delivery-limit": 20 }) };
        json!({ "name": queue, "policy": "limits", "operator_policy": null, "effective_policy_definition": definition })
    })
    .await;
    world.set("VOLUME_REAPER_MANAGEMENT_URL", url);
    let failed = check(&world, "broker.policies").await;
    let expected = format!("policy limits sets max-length = 10 on {}", world.dead_letter_queue());
    assert_eq!(failed["status"], "fail", "{failed}");
    assert!(failed["why"].as_str().is_some_and(|why| why.ends_with(&expected)), "{failed}");
    api.abort();

    let (url, api) = management(|queue| json!({ "name": queue, "effective_policy_definition": {} })).await;
    world.set("VOLUME_REAPER_MANAGEMENT_URL", url);
    assert_eq!(check(&world, "broker.policies").await["status"], "ok");
    api.abort();
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn messages_that_stand_still_in_a_delay_queue_are_told_if_they_still_do_after_a_while() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1s,5s");
    let serving = world.serve().await;
    let [first, second] = ["1s", "5s"].map(|delay| format!("{}.retry.{delay}", world.name));
    let (passing, standing, asked) = (first.clone(), second.clone(), AtomicU64::new(0));
    let (url, api) = management(move |queue| {
        // What is on its way at the first look is gone at the next one; policies ask for the queue too.
        let look = asked.fetch_add(u64::from(queue == passing), Ordering::Relaxed);
        let messages = if queue == standing || (queue == passing && look < 2) { 5 } else { 2 };
        json!({ "name": queue, "messages": messages, "messages_ready": 1, "messages_unacknowledged": 1 })
    })
    .await;
    world.set("VOLUME_REAPER_MANAGEMENT_URL", url);
    let found = check(&world, "broker.delays").await;
    let (why, fix) = (found["why"].as_str().expect("why"), found["fix"].as_str().expect("a fix"));
    assert!(found["status"] == "warn" && fix.contains("restart the broker's nodes"), "{found}");
    assert!(why.contains(&format!("3 in \"{second}\"")) && !why.contains(&first), "{found}");
    api.abort();

    let (url, api) = management(|queue| json!({ "name": queue, "messages": 2, "messages_ready": 2 })).await;
    world.set("VOLUME_REAPER_MANAGEMENT_URL", url);
    assert_eq!(check(&world, "broker.delays").await["status"], "ok");
    api.abort();
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_letter_that_the_dead_letter_queue_refuses_stays_where_it_is_until_it_is_taken() {
    let broker = PrivateBroker::start().await;
    let mut world = world(On::Sqlite).await;
    world.use_broker(&broker);
    let serving = world.serve().await;
    world.publish(b"{").await;
    let queue = world.dead_letter_queue();
    eventually("it is parked", async || (world.messages(&queue).await == 1).then_some(())).await;
    let pattern = format!("^{queue}$");
    broker.rabbitmqctl(&["set_policy", "limit", &pattern, r#"{"max-length": 1}"#]).await;
    let refused = async || {
        let expected = "can't move the delivery on; it stays where it is until that works";
        serving.lines().iter().any(|line| line["message"] == expected).then_some(())
    };
    // A quorum queue goes over its limit by some before it refuses, and loses none of them.
    let mut published = 1;
    for _ in 0..20 {
        world.publish(b"{").await;
        published += 1;
    }
    eventually("one is refused", refused).await;
    broker.rabbitmqctl(&["clear_policy", "limit"]).await;
    eventually("all are parked", async || (world.messages(&queue).await == published).then_some(())).await;
    assert_eq!(serving.stop().await, Some(0));
    assert_eq!(world.messages(&world.work_queue()).await, 0);
}

#[tokio::test]
async fn advice_about_the_platforms_exchange_names_its_setting() {
    let world = world(On::Sqlite).await;
    assert_eq!(world.serve().await.stop().await, Some(0));
    let exchange = world.settings["VOLUME_REAPER_EXCHANGE"].clone();
    let (connection, channel) = world.channel().await;
    let delete = channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default());
    delete.await.expect("deleted");
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declare =
        channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Fanout, durable, FieldTable::default());
    declare.await.expect("declared");
    connection.close(200, "done".into()).await.expect("closed");
    let fix = check(&world, "broker.exchange").await["fix"].to_string();
    assert!(fix.contains("VOLUME_REAPER_EXCHANGE") && !fix.contains("QUEUE_PREFIX"), "{fix}");
    let output = world.run(&["serve"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("VOLUME_REAPER_EXCHANGE") && !error.contains("QUEUE_PREFIX"), "{error}");
}

#[tokio::test]
async fn a_forged_attempt_shortens_its_own_schedule_and_no_other() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let serving = world.serve().await;
    let mut forged = FieldTable::default();
    forged.insert("volume-reaper-attempt".into(), AMQPValue::LongLongInt(4_294_967_296));
    world.publish_with(BasicProperties::default().with_headers(forged), br#"{"thread_id":"nobody"}"#).await;
    let letter = world.dead_letter().await;
    assert_eq!(header(&letter, "volume-reaper-reason").as_deref(), Some("unknown_thread"));
    assert_eq!(header(&letter, "volume-reaper-attempt").as_deref(), Some("1001"));
    world.publish(br#"{"thread_id":"nobody-else"}"#).await;
    let letter = world.dead_letter().await;
    assert_eq!(header(&letter, "volume-reaper-attempt").as_deref(), Some("2"));
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn forty_bodies_as_large_as_the_broker_takes_them_need_less_than_128_mib() {
    let world = world(On::Sqlite).await;
    let serving = world.serve().await;
    let status = format!("/proc/{}/status", serving.child.id().expect("it runs"));
    let body = vec![b' '; 1024 * 1024];
    for _ in 0..40 {
        world.publish(&body).await;
    }
    eventually("all are parked", async || (world.messages(&world.dead_letter_queue()).await == 40).then_some(())).await;
    let text = std::fs::read_to_string(&status).expect("readable");
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: u32 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    println!("40 bodies of 1 MiB: a peak of {} MiB", kib / 1024);
    assert!(kib < 128 * 1024, "{kib} KiB");
    assert_eq!(check(&world, "broker.message-size").await["status"], "ok");
    assert_eq!(serving.stop().await, Some(0));
}
