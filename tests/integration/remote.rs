//! `--server`: commands ask a running service, and need neither broker nor database nor Docker.

use std::process::Output;

use serde_json::Value;

use crate::{
    api::{OPERATOR, VIEWER, with_tokens},
    world::{On, Serving, World, world},
};

/// A command at a place where nothing else is reached, with this token.
async fn ask_as(world: &World, serving: &Serving, token: &str, arguments: &[&str]) -> Output {
    let mut command = world.command(arguments);
    command
        .env("DATABASE_URL", "postgres://127.0.0.1:1/nowhere")
        .env("AMQP_URL", "amqp://127.0.0.1:1")
        .env("DOCKER_HOST", "unix:///nowhere")
        .env("VOLUME_REAPER_SERVER", format!("http://{}/", serving.http))
        .env("VOLUME_REAPER_SERVER_TOKEN", token);
    command.output().await.expect("it runs")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn what_a_service_is_asked_for_is_printed_as_if_it_were_found_here() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    for id in ["gone", "away"] {
        world.closed_with_volume(id).await;
        world.publish_closed(id).await;
        world.until_marked(id).await;
    }
    world.closed_with_volume("waits").await;
    world.create_volume("orphan").await;
    world.publish(b"no event").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
    for command in [
        &["explain", "gone"][..],
        &["explain", "waits"],
        &["hosts", "list"],
        &["hosts", "list", "--json"],
        &["receipts"],
        &["receipts", "--csv", "--thread", "gone"],
        &["receipts", "--json", "--limit", "1"],
    ] {
        let (there, here) = (ask_as(&world, &serving, VIEWER, command).await, world.run(command).await);
        assert_eq!(text(&there), text(&here), "{command:?}");
    }
    // These have ages, which go on.
    for (command, said) in [
        (&["status"][..], "backlog"),
        (&["orphans"], "orphan  age "),
        (&["orphans"], "1 of 2 volumes belong to no thread"),
        (&["dead-letters", "list", "--reason", "undecodable"], "1 messages are parked, 1 of them are selected"),
        (&["doctor"], "failed"),
    ] {
        let there = ask_as(&world, &serving, VIEWER, command).await;
        let here = world.run(command).await;
        assert_eq!(there.status.code(), here.status.code(), "{command:?}");
        let (there, here) = (String::from_utf8_lossy(&there.stdout), String::from_utf8_lossy(&here.stdout));
        assert!(there.contains(said) && here.contains(said), "{command:?}: {there}\n{here}");
        assert_eq!(there.lines().count(), here.lines().count(), "{command:?}: {there}\n{here}");
    }
    let found = text(&ask_as(&world, &serving, VIEWER, &["dead-letters", "list", "--json"]).await);
    let found: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(found["messages"], world.json(&["dead-letters", "list", "--json"]).await["messages"]);
}

#[tokio::test]
async fn what_a_service_is_told_is_done_there_by_who_may() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    let tell = async |token: &str, arguments: &[&str]| ask_as(&world, &serving, token, arguments).await;
    let refused = async |token: &str, arguments: &[&str], why: &str| {
        let output = tell(token, arguments).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.lines().count() == 1 && error.contains(why) && !error.contains(token), "{error}");
    };
    let said = text(&tell(OPERATOR, &["hold", "t1", "--reason", "audit"]).await);
    assert!(said.starts_with("t1 is held until it is released: audit\n  there is no such thread"), "{said}");
    assert_eq!(text(&tell(OPERATOR, &["release", "t1"]).await), "t1 is released\n");
    let said = text(&tell(OPERATOR, &["pause", "--reason", "because"]).await);
    assert_eq!(said, "removal is paused on all replicas; `volume-reaper resume` resumes it\n");
    assert_eq!(world.json(&["status", "--json"]).await["pause"]["paused_by"], "otto over HTTP");
    assert!(text(&tell(OPERATOR, &["resume"]).await).starts_with("removal resumed; it was paused since"));
    refused(OPERATOR, &["release", "t1"], "t1 is not held").await;
    refused(VIEWER, &["pause", "--reason", "because"], "this takes the role operator").await;
    refused("nonsense", &["status"], "this token is not in VOLUME_REAPER_HTTP_TOKENS_FILE").await;
    refused(OPERATOR, &["sweep"], "no service does this").await;
    assert_eq!(serving.stop().await, Some(0));
    let output = world.command(&["--server", "http://127.0.0.1:1/", "status"]).output().await.expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("the service at http://127.0.0.1:1/: Connection refused"), "{error}");
}
