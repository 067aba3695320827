//! `status`: every section, and what it says of what it can't read.

use serde_json::{Value, json};

use crate::{
    proxy::CountingProxy,
    world::{On, World, eventually, world},
};

async fn status(world: &World) -> (Option<i32>, Value) {
    let output = world.run(&["status", "--json"]).await;
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), report)
}

async fn text(world: &World) -> String {
    String::from_utf8(world.run(&["status"]).await.stdout).expect("text")
}

/// A world in which `serve` ran once, with one volume removed, one failing, and one unmarked for a day.
async fn busy(on: On) -> World {
    let mut world = world(on).await;
    world.closed_with_volume("removed").await;
    let serving = world.serve().await;
    world.until_marked("removed").await;
    assert_eq!(serving.stop().await, Some(0));
    world.closed_with_volume("failing").await;
    world.execute("UPDATE threads SET closed_at = '2020-01-01 00:00:00' WHERE id = 'failing'").await;
    let daemon = world.settings["DOCKER_HOST"].clone();
    let proxy = CountingProxy::start_failing_removals(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    assert_eq!(world.sweep().await["failed"], json!(1));
    world.set("DOCKER_HOST", daemon);
    world
}

#[tokio::test]
async fn every_section_says_how_things_stand() {
    for on in On::ALL {
        let world = busy(on).await;
        world.publish(b"not an event").await;
        let (code, report) = status(&world).await;
        assert_eq!((code, &report["ok"]), (Some(0), &json!(true)), "{report}");
        assert_eq!(report["errors"], json!({}));
        for dependency in ["broker", "database", "docker"] {
            assert_eq!(report["dependencies"][dependency], json!({"up": true, "error": null}));
        }
        assert_eq!(report["backlog"]["unmarked"], json!(1), "{on:?}");
        assert_eq!(report["backlog"]["oldest_closed_at"], json!("2020-01-01T00:00:00Z"), "{on:?}");
        assert!(report["backlog"]["oldest_seconds"].as_u64().expect("seconds") > 5 * 365 * 24 * 3600);
        let removed = json!({"removed": 1});
        let unknown = json!({"bytes": 0, "unsized_volumes": 1});
        let expected = json!({
            "last_hour": removed, "last_day": removed, "reclaimed_last_hour": unknown, "reclaimed_last_day": unknown,
        });
        assert_eq!(report["removals"], expected, "{on:?}");
        assert_eq!(report["failing"]["threads"], json!(1));
        let worst = &report["failing"]["worst"][0];
        assert_eq!((&worst["thread_id"], &worst["attempts"]), (&json!("failing"), &json!(1)));
        assert!(worst["error"].as_str().expect("why").contains("no space left on device"));
        assert!(worst["next_try_at"].is_string() && worst["first_failed_at"].is_string());
        // `serve` gave its lease up when it stopped.
        assert_eq!((&report["sweeper"]["epoch"], &report["sweeper"]["current"]), (&json!(1), &json!(false)));
        assert_eq!(
            (&report["daemons"][0]["name"], &report["daemons"][0]["answers"]),
            (&json!("default"), &json!(true))
        );

        let queues = report["queues"].as_array().expect("queues");
        assert_eq!(queues.len(), 7, "work queue, five delay queues, dead letters");
        assert_eq!(queues[0], json!({"name": world.work_queue(), "messages": 1, "consumers": 0, "error": null}));
        assert_eq!(queues[6]["name"], json!(world.dead_letter_queue()));
    }
}

#[tokio::test]
async fn for_people_it_says_the_same() {
    let world = busy(On::Sqlite).await;
    let text = text(&world).await;
    for line in [
        "broker    answers\ndatabase  answers\ndocker    answers\nbacklog   1 closed threads are not marked, the \
         oldest ",
        "\nremovals  last hour: 1 removed, sizes unknown; last 24 hours: 1 removed, sizes unknown\n",
        "\nfailing   1 threads\n",
        "\n  failing  once, next try at 2",
        "\nsweeper   nobody; the last one was replica-1/",
        "\ndaemons   default: ",
        "\nqueues\n",
        ".dead-letter    0 messages, 0 consumers\n",
    ] {
        assert!(text.contains(line), "{line:?}\n{text}");
    }
}

#[tokio::test]
async fn who_sweeps_and_who_consumes_is_told_while_serve_runs() {
    let world = world(On::Postgres).await;
    let serving = world.serve().await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
    let (_, report) = status(&world).await;
    assert_eq!(report["sweeper"]["current"], json!(true), "{report}");
    assert_eq!(report["queues"][0]["consumers"], json!(1));
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn what_is_down_says_why_and_the_rest_is_told() {
    let mut all = busy(On::Sqlite).await;
    let up = all.settings.clone();
    for (variable, value, dependency, missing) in [
        ("AMQP_URL", "amqp://u:s3cret@127.0.0.1:1/%2f", "broker", &["queues"][..]),
        ("DOCKER_HOST", "tcp://127.0.0.1:1", "docker", &[]),
        (
            "DATABASE_URL",
            "postgres://u:s3cret@127.0.0.1:1/none",
            "database",
            &["backlog", "daemons", "failing", "pause", "removals", "sweeper", "threads"],
        ),
    ] {
        all.settings.clone_from(&up);
        all.set(variable, value);
        let (code, report) = status(&all).await;
        assert_eq!((code, &report["ok"]), (Some(1), &json!(false)), "{report}");
        assert_eq!(report["dependencies"][dependency]["up"], json!(false), "{report}");
        let errors: Vec<_> = report["errors"].as_object().expect("an object").keys().collect();
        assert_eq!(errors, missing, "{report}");
        for section in ["backlog", "removals", "failing", "sweeper", "queues", "daemons"] {
            assert_eq!(report[section].is_null(), missing.contains(&section), "{dependency} {section}: {report}");
        }
        let text = text(&all).await;
        assert!(text.contains(&format!("{dependency:<9} does not answer: ")), "{text}");
        assert!(!text.contains("s3cret") && !report.to_string().contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn queues_that_are_not_there_are_named_and_nothing_is_made() {
    let world = world(On::Sqlite).await;
    let (code, report) = status(&world).await;
    assert_eq!(code, Some(1));
    let queue = &report["queues"][0];
    assert!(queue["messages"].is_null() && queue["error"].as_str().expect("why").contains("NOT_FOUND"), "{queue}");
    assert!(!world.has_queue(&world.work_queue()).await);
    assert_eq!(world.texts("SELECT name FROM volume_reaper_daemons").await, [""; 0]);
}

#[tokio::test]
async fn another_daemon_than_the_pinned_one_is_told() {
    let world = busy(On::Sqlite).await;
    world.execute("UPDATE volume_reaper_daemons SET identity = 'another'").await;
    let (code, report) = status(&world).await;
    assert_eq!((code, &report["daemons"][0]["answers"]), (Some(0), &json!(false)));
    assert!(text(&world).await.contains("default: another, pinned at "));
}

#[tokio::test]
async fn status_and_metrics_agree_on_what_is_left_and_why() {
    for on in On::ALL {
        let world = world(on).await;
        for id in ["used", "held", "free"] {
            world.closed_with_volume(id).await;
        }
        let container = world.create_container("used").await;
        let held = world.run(&["hold", "held", "--reason", "a dispute"]).await;
        assert!(held.status.success(), "{held:?}");
        let serving = world.serve().await;
        world.until_marked("free").await;
        serving.until_metric("volume_reaper_threads{state=\"held\"}", 1).await;
        let report = status(&world).await.1;
        let states = report["threads"].as_object().expect("states").clone();
        for (state, threads) in &states {
            let metric = serving.metric(&format!("volume_reaper_threads{{state=\"{state}\"}}")).await;
            assert_eq!(Some(metric), threads.as_u64(), "{on:?} {state}: {states:?}");
        }
        assert_eq!((&states["held"], &states["referenced"]), (&json!(1), &json!(1)), "{on:?}");
        assert_eq!(serving.metric("volume_reaper_unmarked_threads").await, 2, "{on:?}");
        assert_eq!(report["backlog"]["unmarked"], json!(2), "{on:?}");
        serving.until_metric("volume_reaper_removal_seconds_count", 1).await;
        serving.until_metric("volume_reaper_reclaimed_unknown_total", 1).await;
        let queue = format!("volume_reaper_queue_messages{{queue=\"{}\"}} 0\n", world.work_queue());
        let is_counted = async || serving.get("/metrics").await.1.contains(&queue).then_some(());
        eventually("the queue is counted", is_counted).await;
        let text = text(&world).await;
        assert!(text.contains("left by the last sweep: 1 referenced, 1 held"), "{on:?}: {text}");
        assert_eq!(serving.stop().await, Some(0));
        world.remove_container(&container).await;
    }
}
