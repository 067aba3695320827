//! Dead letters are workable: counted, shown, replayed and deleted, and none is lost on the way.

use std::{collections::BTreeSet, process::Stdio};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    asyncapi::check_headers,
    fault_proxy::{FaultProxy, Mode},
    world::{On, World, eventually, header, world},
};

/// A world whose queues are there and nobody reads.
async fn quiet_world() -> World {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1s");
    assert_eq!(world.serve().await.stop().await, Some(0));
    world
}

fn headers(texts: &[(&str, &str)]) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (key, value) in texts {
        headers.insert((*key).into(), AMQPValue::LongString((*value).into()));
    }
    BasicProperties::default().with_headers(headers)
}

fn parked_for(reason: &str) -> BasicProperties {
    headers(&[("volume-reaper-reason", reason)])
}

fn event(id: &str) -> String {
    format!(r#"{{"thread_id": "{id}"}}"#)
}

async fn channel(world: &World) -> (Connection, Channel) {
    let connection = Connection::connect(&world.settings["AMQP_URL"], ConnectionProperties::default());
    let connection = connection.await.expect("the broker is there");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// Puts messages into the dead-letter queue, as they are.
async fn park(world: &World, messages: impl IntoIterator<Item = (BasicProperties, String)>) {
    let (connection, channel) = channel(world).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let queue = world.dead_letter_queue();
    for (properties, body) in messages {
        let options = BasicPublishOptions::default();
        let send = channel.basic_publish("".into(), queue.as_str().into(), options, body.as_bytes(), properties);
        assert!(send.await.expect("sent").await.expect("confirmed").is_ack());
    }
    connection.close(200, "done".into()).await.expect("closed");
}

/// Runs `dead-letters` and returns its output.
async fn text(world: &World, arguments: &[&str]) -> String {
    let output = world.run(&[&["dead-letters"], arguments].concat()).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs `dead-letters --json` and returns its report.
async fn report(world: &World, arguments: &[&str]) -> Value {
    let output = text(world, &[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// The threads of a report, in its order.
fn threads(report: &Value) -> Vec<&str> {
    let messages = report["messages"].as_array().expect("a list").iter();
    messages.map(|message| message["thread_id"].as_str().unwrap_or("-")).collect()
}

/// The ids of the events in a queue, which are taken out of it.
async fn drain(world: &World, queue: &str) -> Vec<String> {
    let (connection, channel) = channel(world).await;
    let mut ids = Vec::new();
    while let Some(message) =
        channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.expect("it is there")
    {
        let body: Value = serde_json::from_slice(&message.delivery.data).expect("JSON");
        ids.push(body["thread_id"].as_str().expect("an id").to_owned());
    }
    connection.close(200, "done".into()).await.expect("closed");
    ids
}

#[tokio::test]
async fn the_counts_come_first_and_are_of_all_reasons() {
    let world = quiet_world().await;
    park(&world, (0..3).map(|_| (parked_for("undecodable"), "{".to_owned()))).await;
    park(&world, (0..2).map(|id| (parked_for("exhausted"), event(&format!("t{id}"))))).await;
    let list = text(&world, &["list", "--limit", "1"]).await;
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines[0], "5 messages are parked, 5 of them are selected");
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["exhausted", "2"]);
    assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["undecodable", "3"]);
    assert_eq!(lines.last(), Some(&"and 4 more; --limit says how many are listed"));

    let report = report(&world, &["list", "--reason", "exhausted", "--limit", "1"]).await;
    assert_eq!(report["total"], json!(5));
    assert_eq!(report["matching"], json!(2));
    assert_eq!(report["by_reason"], json!({ "exhausted": 2, "undecodable": 3 }));
    assert_eq!(threads(&report), ["t0"]);
}

#[tokio::test]
async fn an_empty_queue_is_not_an_error() {
    let world = quiet_world().await;
    assert_eq!(text(&world, &["list"]).await, "0 messages are parked, 0 of them are selected\n");
    assert_eq!(report(&world, &["show"]).await["messages"], json!([]));
    assert_eq!(report(&world, &["replay"]).await["replayed"], json!(0));
    assert_eq!(report(&world, &["purge", "--yes"]).await["purged"], json!(0));
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_said_and_not_created() {
    let mut world = world(On::Sqlite).await;
    world.set("RUST_LOG", "info,lapin=off");
    let output = world.run(&["dead-letters", "list"]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&world.dead_letter_queue()) && error.lines().count() == 1, "{error}");
    assert!(!world.has_queue(&world.dead_letter_queue()).await);
}

#[tokio::test]
async fn each_condition_selects_and_all_of_them_have_to_be_true() {
    let world = quiet_world().await;
    let hours_ago = |hours| (chrono::Utc::now() - chrono::TimeDelta::hours(hours)).to_rfc3339();
    for (id, reason, hours) in [("old", "exhausted", 30), ("new", "exhausted", 1), ("other", "permanent", 3)] {
        let parked_at = hours_ago(hours);
        let properties = headers(&[("volume-reaper-reason", reason), ("volume-reaper-parked-at", &parked_at)]);
        park(&world, [(properties, event(id))]).await;
    }
    park(&world, [(parked_for("exhausted"), event("ageless"))]).await;
    for (conditions, selected) in [
        (&["--reason", "exhausted"][..], &["ageless", "old", "new"][..]),
        (&["--thread", "other"], &["other"]),
        (&["--older-than", "2h"], &["old", "other"]),
        (&["--newer-than", "1d"], &["other", "new"]),
        (&["--older-than", "2h", "--newer-than", "1d"], &["other"]),
        (&["--reason", "exhausted", "--newer-than", "1d"], &["new"]),
        (&["--reason", "undecodable"], &[]),
    ] {
        let report = report(&world, &[&["list"], conditions].concat()).await;
        assert_eq!(threads(&report), selected, "{conditions:?}");
        assert_eq!(report["matching"], json!(selected.len()), "{conditions:?}");
        assert_eq!(report["total"], json!(4), "{conditions:?}");
    }
    for senseless in [&["--reason", "bad-luck"], &["--thread", "../t1"], &["--older-than", "2"], &["--limit", "0"]] {
        let output = world.run(&[&["dead-letters", "list"], &senseless[..]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{senseless:?}");
    }
}

#[tokio::test]
async fn show_has_the_whole_message_and_nothing_of_it_steers_the_terminal() {
    let world = quiet_world().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let properties = headers(&[
        ("volume-reaper-reason", "exhausted"),
        ("volume-reaper-error", "disk\u{1b}[2J full"),
        ("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01")),
        ("tenant", "acme"),
    ]);
    let properties = properties.with_content_type("application/json".into()).with_message_id("m-1".into());
    let body = "{\"thread_id\": \"t1\",\n\"note\": \"\u{7f}\u{202e}x\"}";
    park(&world, [(properties, body.to_owned()), (parked_for("undecodable"), "{".to_owned())]).await;

    let shown = text(&world, &["show", "--thread", "t1"]).await;
    assert!(shown.starts_with("2 messages are parked, 1 of them are selected\n"), "{shown}");
    for part in [
        "disk\\u{1b}[2J full",
        trace,
        "    tenant: acme",
        "m-1",
        "application/json",
        "\n    \"note\": \"\\u{7f}\\u{202e}x",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(!shown.contains(['\u{1b}', '\u{7f}', '\u{202e}']), "{shown:?}");

    let report = report(&world, &["show", "--thread", "t1"]).await;
    let message = &report["messages"][0];
    assert_eq!(message["body"], json!(body));
    assert_eq!(message["headers"]["tenant"], json!("acme"));
    assert_eq!(message["trace_id"], json!(trace));
    assert_eq!(report["messages"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_replay_has_a_clean_slate_of_headers_and_a_mark() {
    // Q17
    let world = quiet_world().await;
    let properties = headers(&[
        ("volume-reaper-reason", "exhausted"),
        ("volume-reaper-error", "disk full"),
        ("volume-reaper-attempt", "6"),
        ("volume-reaper-first-seen", "2026-01-01T00:00:00Z"),
        ("volume-reaper-parked-at", "2026-01-01T00:00:00Z"),
        ("volume-reaper-replayed", "before"),
        ("x-first-death-queue", "somewhere"),
        ("x-last-death-reason", "rejected"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("ce-id", "e-1"),
        ("ce-source", "/platform"),
        ("ce-type", "closed"),
        ("ce-specversion", "1.0"),
    ]);
    let properties = properties.with_content_type("application/json".into()).with_message_id("m-1".into());
    park(&world, [(properties, event("t1"))]).await;
    let report = report(&world, &["replay"]).await;
    assert_eq!(report["replayed"], json!(1));

    let message = world.take(&world.work_queue()).await;
    check_headers("replayedHeaders", &message);
    let properties = &message.delivery.properties;
    let mut keys: Vec<_> =
        properties.headers().as_ref().expect("headers").inner().keys().map(ShortString::as_str).collect();
    // RabbitMQ before 4.0 adds this one to what it delivers.
    keys.retain(|key| *key != "x-delivery-count");
    assert_eq!(
        keys,
        [
            "ce-id",
            "ce-source",
            "ce-specversion",
            "ce-type",
            "traceparent",
            "volume-reaper-replayed",
            "volume-reaper-replays"
        ]
    );
    assert_ne!(header(&message, "volume-reaper-replayed").as_deref(), Some("before"));
    assert_eq!(message.delivery.data, event("t1").as_bytes());
    assert_eq!(properties.content_type().as_ref().map(ShortString::as_str), Some("application/json"));
    assert_eq!(properties.message_id().as_ref().map(ShortString::as_str), Some("m-1"));
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
}

#[tokio::test]
async fn what_was_dead_lettered_by_the_service_is_cleaned_up_after_a_replay() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1s");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = world.serve().await;
    world.publish_closed("t1").await;
    let report_of = async || report(&world, &["list"]).await;
    let parked = eventually("the thread that is not there is parked", async || {
        let report = report_of().await;
        (report["total"] == json!(1)).then_some(report)
    })
    .await;
    assert_eq!(parked["by_reason"], json!({ "unknown_thread": 1 }));
    assert_eq!(parked["messages"][0]["attempts"], json!(2));
    assert_eq!(threads(&report(&world, &["list", "--newer-than", "1h"]).await), ["t1"]);
    assert_eq!(threads(&report(&world, &["list", "--older-than", "1h"]).await).len(), 0);

    world.closed_with_volume("t1").await;
    assert_eq!(report(&world, &["replay", "--thread", "t1"]).await["replayed"], json!(1));
    world.until_marked("t1").await;
    assert!(!world.has_volume("t1").await);
    let removed = serving.until_line(|line| line["message"] == "removed the volume").await;
    assert!(removed.to_string().contains("replayed"), "the log says that it was a replay: {removed}");
}

#[tokio::test]
async fn a_replayed_stale_event_removes_nothing_of_a_reopened_thread() {
    let mut world = quiet_world().await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.closed_with_volume("t1").await;
    park(&world, [(parked_for("exhausted"), event("t1"))]).await;
    world.reopen_thread("t1").await;
    let serving = world.serve().await;
    assert_eq!(report(&world, &["replay"]).await["replayed"], json!(1));
    serving.until_metric("volume_reaper_settlements_total{settlement=\"stale\"}", 1).await;
    assert!(world.has_volume("t1").await);
    assert!(world.mark("t1").await.is_none());
}

#[tokio::test]
async fn a_replay_that_is_killed_between_publish_and_acknowledgement_loses_none() {
    let mut world = quiet_world().await;
    let count = 300;
    let ids: BTreeSet<_> = (0..count).map(|id| format!("t{id}")).collect();
    park(&world, ids.iter().map(|id| (parked_for("exhausted"), event(id)))).await;
    let direct = world.settings["AMQP_URL"].clone();
    let (proxy, url) = FaultProxy::url(&direct).await;
    world.set("AMQP_URL", url);
    let mut replay = world.command(&["dead-letters", "replay"]).stdout(Stdio::null()).spawn().expect("it starts");
    world.set("AMQP_URL", direct);
    eventually("a message is replayed", async || (world.messages(&world.work_queue()).await > 0).then_some(())).await;
    // From now on no confirmation arrives, so it stands between a publish and its acknowledgement.
    proxy.set(Mode::StallToClient);
    replay.kill().await.expect("SIGKILL");
    proxy.cut();
    let (work, parked) = (world.work_queue(), world.dead_letter_queue());
    eventually("the broker has all of them back", async || {
        (world.messages(&work).await + world.messages(&parked).await >= count).then_some(())
    })
    .await;

    let (work, parked) = (drain(&world, &work).await, drain(&world, &parked).await);
    assert!(!work.is_empty() && !parked.is_empty(), "it was killed in the middle");
    let twice = work.len() + parked.len() - ids.len();
    assert!(twice <= 1, "{twice} are there twice");
    assert_eq!(work.into_iter().chain(parked).collect::<BTreeSet<_>>(), ids);
}

#[tokio::test]
async fn looking_twenty_five_times_loses_nothing_and_lists_the_oldest_first() {
    // Q2: each look counts as a delivery, and the broker's own limit is 20.
    let world = quiet_world().await;
    // More than one subscription holds.
    let ids: Vec<_> = (0..600).map(|id| format!("t{id}")).collect();
    let parked_at = |number: usize| format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60);
    let messages = ids.iter().enumerate().map(|(number, id)| {
        let texts = [("volume-reaper-reason", "exhausted"), ("volume-reaper-parked-at", &parked_at(number))];
        (headers(&texts), event(id))
    });
    park(&world, messages).await;
    for look in 0..25 {
        let all = report(&world, &["list", "--limit", "1000"]).await;
        assert_eq!(threads(&all), ids, "look {look}");
    }
    let limited = report(&world, &["list", "--limit", "7"]).await;
    assert_eq!(threads(&limited), ids[..7]);
    assert_eq!(limited["matching"], json!(600));
}

#[tokio::test]
async fn purge_deletes_what_is_selected_and_nothing_else() {
    let world = quiet_world().await;
    for id in ["a", "b", "c", "d"] {
        let reason = if id < "c" { "permanent" } else { "exhausted" };
        park(&world, [(parked_for(reason), event(id)), (parked_for("undecodable"), "{".to_owned())]).await;
    }
    let report_of = async |arguments: &[&str]| report(&world, arguments).await;
    let purge = report_of(&["purge", "--yes", "--reason", "permanent", "--limit", "1"]).await;
    assert_eq!((&purge["purged"], &purge["matching"]), (&json!(1), &json!(2)));
    assert_eq!(report_of(&["purge", "--yes", "--thread", "d"]).await["purged"], json!(1));
    let list = report_of(&["list"]).await;
    let mut left = threads(&list);
    left.sort_unstable();
    assert!(matches!(left[..], ["-", "-", "-", "-", "a" | "b", "c"]), "{left:?}");
}

#[tokio::test]
async fn what_a_purge_of_thousands_says_it_deleted_does_not_come_back() {
    let world = quiet_world().await;
    park(&world, (0..5000).map(|id| (parked_for("exhausted"), event(&format!("t{id}"))))).await;
    assert_eq!(report(&world, &["purge", "--yes"]).await["purged"], json!(5000));
    assert_eq!(report(&world, &["list"]).await["total"], json!(0));
}

#[tokio::test]
async fn purge_without_yes_and_without_a_terminal_is_refused() {
    let world = quiet_world().await;
    park(&world, [(parked_for("exhausted"), event("t1"))]).await;
    let output = world.run(&["dead-letters", "purge"]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("--yes") && error.lines().count() == 1, "{error}");
    assert_eq!(threads(&report(&world, &["list"]).await), ["t1"]);
}

#[tokio::test]
async fn purge_on_a_terminal_wants_the_number_of_messages_typed() {
    let world = quiet_world().await;
    park(&world, ["t1", "t2"].map(|id| (parked_for("exhausted"), event(id)))).await;
    for (typed, code, left) in [("yes\n", 1, 2), ("3\n", 1, 2), ("2\n", 0, 0)] {
        // `script` runs it on a terminal of its own.
        let program = env!("CARGO_BIN_EXE_volume-reaper");
        let mut script = tokio::process::Command::new("script");
        script.args(["-q", "-e", "-c", &format!("{program} dead-letters purge"), "/dev/null"]);
        script.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        script.envs(&world.settings).current_dir(world.dir.path()).kill_on_drop(true);
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script is there");
        let mut stdin = script.stdin.take().expect("a pipe");
        stdin.write_all(typed.as_bytes()).await.expect("written");
        let output = script.wait_with_output().await.expect("it ends");
        assert_eq!(output.status.code(), Some(code), "{typed:?}: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(report(&world, &["list"]).await["total"], json!(left), "{typed:?}");
        drop(stdin);
    }
}

#[tokio::test]
async fn what_is_no_event_is_replayed_only_if_its_reason_is_named() {
    let world = quiet_world().await;
    park(&world, [(parked_for("undecodable"), "{".to_owned()), (parked_for("exhausted"), event("t1"))]).await;
    let replay = report(&world, &["replay"]).await;
    assert_eq!((&replay["replayed"], &replay["no_event"]), (&json!(1), &json!(1)));
    assert_eq!(report(&world, &["list"]).await["by_reason"], json!({ "undecodable": 1 }));
    assert_eq!(report(&world, &["replay", "--reason", "undecodable"]).await["replayed"], json!(1));
    assert_eq!(world.messages(&world.work_queue()).await, 2);
}

#[tokio::test]
async fn what_the_broker_dead_lettered_is_listed_with_the_brokers_reason() {
    let world = quiet_world().await;
    world.publish_with(headers(&[("volume-reaper-reason", "retry")]), event("returned").as_bytes()).await;
    let (connection, channel) = channel(&world).await;
    let queue = world.work_queue();
    // Once more than the work queue's limit. Since RabbitMQ 4.3 only what a channel's end gives back counts.
    for _ in 0..=20 {
        let channel = connection.create_channel().await.expect("a channel");
        channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.expect("the queue");
        channel.close(200, "without an acknowledgement".into()).await.expect("closed");
    }
    world.publish_closed("rejected").await;
    let message = eventually("the next message is there", async || {
        channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.expect("the queue")
    })
    .await;
    message.delivery.acker.reject(BasicRejectOptions { requeue: false }).await.expect("rejected");
    connection.close(200, "done".into()).await.expect("closed");

    let report_of = async || report(&world, &["list", "--newer-than", "1h"]).await;
    let list = eventually("both are dead-lettered", async || {
        let list = report_of().await;
        (list["matching"] == json!(2)).then_some(list)
    })
    .await;
    assert_eq!(list["by_reason"], json!({ "delivery_limit": 1, "rejected": 1 }));
    assert_eq!(threads(&report(&world, &["list", "--reason", "delivery_limit"]).await), ["returned"]);
}
