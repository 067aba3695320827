//! Several Docker hosts in one service: the right one is asked, every one where nobody knows which, and none waits for
//! another. The hosts are daemons of the test's own, some of which are killed, frozen or slowed down.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    fault_proxy::{FaultProxy, Mode},
    world::{On, PrivateHost, Serving, World, eventually, header, world},
};

const DEFERRED: &str = "volume_reaper_cleanups_total{source=\"event\",outcome=\"deferred\"}";
const ACKED: &str = "volume_reaper_settlements_total{settlement=\"ack\"}";

/// A world with hosts, and rows that have a column for them.
async fn fleet_on(on: On, hosts: &[PrivateHost]) -> World {
    let mut world = World::without_schema(on).await;
    world.use_hosts(hosts);
    world.set("VOLUME_REAPER_THREADS_HOST_COLUMN", "host");
    assert!(world.run(&["migrate"]).await.status.success());
    world
}

async fn fleet(hosts: &[PrivateHost]) -> World {
    fleet_on(On::Sqlite, hosts).await
}

/// A closed thread whose row names a host, or none.
async fn closed(world: &World, id: &str, host: Option<&str>) {
    world.open_thread(id).await;
    if let Some(host) = host {
        world.execute(&format!("UPDATE threads SET host = '{host}' WHERE id = '{id}'")).await;
    }
    world.close_thread(id).await;
}

async fn publish(world: &World, id: &str, host: Option<&str>) {
    let event = host.map_or_else(|| json!({ "thread_id": id }), |host| json!({ "thread_id": id, "host": host }));
    world.publish(event.to_string().as_bytes()).await;
}

fn up(host: &str) -> String {
    format!("volume_reaper_docker_host_up{{host=\"{host}\"}}")
}

async fn until_down(serving: &Serving, host: &str) {
    eventually("the host is known to be down", async || (serving.metric(&up(host)).await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_threads_host_is_what_its_row_says_or_else_its_event() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    for on in On::ALL {
        let mut world = fleet_on(on, hosts).await;
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve_idle().await;
        for (id, row, event, expected) in [
            ("by-row", Some("b"), None, b),
            ("by-event", None, Some("a"), a),
            ("by-row-against-event", Some("a"), Some("b"), a),
        ] {
            let (volume, other) = (world.volume(id), if expected.name == "a" { b } else { a });
            // The same name on both: who asks the wrong one would find something to remove.
            a.create_volume(&volume).await;
            b.create_volume(&volume).await;
            closed(&world, id, row).await;
            publish(&world, id, event).await;
            world.until_marked(id).await;
            assert_eq!(world.receipts(id).await, ["removed/event"], "{on:?} {id}");
            assert!(!expected.has_volume(&volume).await && other.has_volume(&volume).await, "{on:?} {id}");
        }
        // By the routing key, which says as much as the event.
        let volume = world.volume("by-key");
        a.create_volume(&volume).await;
        b.create_volume(&volume).await;
        closed(&world, "by-key", None).await;
        let key = "thread.closed.b";
        world.publish_to_exchange(key, br#"{"thread_id": "by-key"}"#).await;
        world.until_marked("by-key").await;
        assert!(a.has_volume(&volume).await && !b.has_volume(&volume).await, "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_thread_on_an_unknown_host_is_looked_for_on_all_of_them() {
    let hosts @ [_, b, _] = &PrivateHost::several::<3>().await;
    let mut world = fleet(hosts).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = world.serve_idle().await;
    eventually("all hosts are up", async || {
        for host in hosts {
            (serving.metric(&up(&host.name)).await == 1).then_some(())?;
        }
        Some(())
    })
    .await;
    b.create_volume(&world.volume("there")).await;
    closed(&world, "there", None).await;
    closed(&world, "nowhere", None).await;
    publish(&world, "there", None).await;
    publish(&world, "nowhere", None).await;
    world.until_marked("there").await;
    world.until_marked("nowhere").await;
    assert_eq!(world.receipts("there").await, ["removed/event"]);
    assert_eq!(world.receipts("nowhere").await, ["not_found/event"]);
    assert!(!b.has_volume(&world.volume("there")).await);

    // And by a sweep, which knows of no event.
    b.create_volume(&world.volume("there-too")).await;
    closed(&world, "there-too", None).await;
    closed(&world, "nowhere-too", None).await;
    let report = world.sweep().await;
    assert_eq!((&report["removed"], &report["not_found"], &report["candidates"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(world.receipts("there-too").await, ["removed/sweep"]);
    assert_eq!(world.receipts("nowhere-too").await, ["not_found/sweep"]);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn as_many_threads_on_no_host_as_a_page_has_are_swept_as_well() {
    let hosts = &PrivateHost::several::<2>().await;
    let world = fleet(hosts).await;
    world
        .execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 12000)
             INSERT INTO threads (id, status, closed_at) SELECT n, 'closed', CURRENT_TIMESTAMP FROM numbers",
        )
        .await;
    assert_eq!(world.sweep().await["not_found"], 12_000);
}

#[tokio::test]
async fn not_found_needs_the_word_of_every_host() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    let mut world = fleet(hosts).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    // Both are known from here on.
    assert_eq!(world.sweep().await["skipped_reason"], Value::Null);
    b.create_volume(&world.volume("on-b")).await;
    a.create_volume(&world.volume("on-a")).await;
    for id in ["on-a", "on-b", "nowhere"] {
        closed(&world, id, None).await;
    }
    b.control("kill").await;
    let serving = world.serve().await;
    // That of the other host, and that of what is nowhere.
    serving.until_metric("volume_reaper_sweep_seconds_count", 2).await;
    for id in ["on-b", "nowhere"] {
        publish(&world, id, None).await;
    }
    // Acknowledged, since the row remembers; and marked by nobody.
    serving.until_metric(DEFERRED, 2).await;
    serving.until_metric(ACKED, 2).await;
    world.until_marked("on-a").await;
    let report = world.sweep().await;
    assert!(report["skipped_reason"].as_str().expect("a reason").contains("host \"b\""), "{report}");
    assert_eq!(report["not_found"], json!(0), "{report}");
    assert!(world.mark("on-b").await.is_none() && world.mark("nowhere").await.is_none());

    // The host is back: its own sweep comes at once, and so does that of what is nowhere.
    b.control("start").await;
    world.until_marked("on-b").await;
    assert_eq!(world.receipts("on-b").await, ["removed/sweep"]);
    world.until_marked("nowhere").await;
    assert_eq!(serving.stop().await, Some(0));
    assert_eq!(world.receipts("nowhere").await, ["not_found/sweep"]);
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
}

#[tokio::test]
async fn a_dead_and_a_frozen_host_hold_up_nobody_else() {
    let hosts @ [_, dead, frozen] = &PrivateHost::several::<3>().await;
    let mut world = fleet(hosts).await;
    world.set("VOLUME_REAPER_PREFETCH", "4");
    world.set("VOLUME_REAPER_DOCKER_TIMEOUT", "1s");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let serving = world.serve_idle().await;
    for host in hosts {
        serving.until_metric(&up(&host.name), 1).await;
    }
    let ids: Vec<_> = (0..60).map(|number| (format!("t{number}"), &hosts[number % 3])).collect();
    for (id, host) in &ids {
        host.create_volume(&world.volume(id)).await;
        closed(&world, id, Some(&host.name)).await;
    }
    dead.control("kill").await;
    frozen.control("pause").await;
    for (id, _) in &ids {
        publish(&world, id, None).await;
    }
    for (id, host) in &ids {
        if host.name == "a" {
            world.until_marked(id).await;
        }
    }
    until_down(&serving, "b").await;
    until_down(&serving, "c").await;
    let (code, body) = serving.get("/readyz").await;
    assert_eq!(code, 200, "one host is enough to be ready: {body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let is_up: Vec<_> = body["hosts"].as_array().expect("hosts").iter().map(|host| &host["up"]).collect();
    assert_eq!(is_up, [&json!(true), &json!(false), &json!(false)]);
    // None is kept, given back or counted as an attempt.
    serving.until_metric(ACKED, 60).await;
    assert_eq!(world.messages(&world.work_queue()).await, 0);
    assert_eq!(serving.metric("volume_reaper_settlements_total{settlement=\"hand_back\"}").await, 0);
    assert_eq!(serving.metric("volume_reaper_settlements_total{settlement=\"retry\"}").await, 0);
    // But what has no row is left to no sweep, whatever host it names.
    publish(&world, "unknown", Some(&dead.name)).await;
    assert_eq!(header(&world.dead_letter().await, "volume-reaper-reason").as_deref(), Some("unknown_thread"));

    dead.control("start").await;
    frozen.control("resume").await;
    for (id, host) in &ids {
        world.until_marked(id).await;
        assert_eq!(world.receipts(id).await.len(), 1, "{id}");
        assert!(!host.has_volume(&world.volume(id)).await, "{id}");
    }
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn ten_hosts_are_swept_as_fast_as_the_slowest_one_alone() {
    const VOLUMES: usize = 12;
    let hosts: [PrivateHost; 10] = PrivateHost::several().await;
    let mut proxies = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let proxy = FaultProxy::start(&host.socket().to_string_lossy()).await;
        // The last one is the slowest: its answers come 200 ms late.
        proxy.set(Mode::Slow(Duration::from_millis(20 * (number as u64 + 1))));
        proxies.push(proxy);
    }
    let address = |number: usize| format!("{}=tcp://{}", hosts[number].name, proxies[number].address);
    let mut world = World::without_schema(On::Sqlite).await;
    world.settings.remove("DOCKER_HOST");
    world.set("VOLUME_REAPER_THREADS_HOST_COLUMN", "host");
    world.set("VOLUME_REAPER_CONCURRENCY", "1");
    world.set("VOLUME_REAPER_DOCKER_HOSTS", address(0));
    assert!(world.run(&["migrate"]).await.status.success());

    let mut took = Vec::new();
    for (round, swept) in [vec![9], (0..10).collect()].into_iter().enumerate() {
        for &number in &swept {
            for volume in 0..VOLUMES {
                let id = format!("r{round}h{number}v{volume}");
                hosts[number].create_volume(&world.volume(&id)).await;
                closed(&world, &id, Some(&hosts[number].name)).await;
            }
        }
        world.set(
            "VOLUME_REAPER_DOCKER_HOSTS",
            swept.iter().map(|&number| address(number)).collect::<Vec<_>>().join(","),
        );
        let began = Instant::now();
        let report = world.sweep().await;
        took.push(began.elapsed());
        assert_eq!(report["removed"], json!(swept.len() * VOLUMES), "{report}");
    }
    let ratio = took[1].as_secs_f64() / took[0].as_secs_f64();
    println!("the slowest host alone: {:?}, all ten: {:?}, {ratio:.2} times as long", took[0], took[1]);
    // One after the other, it would be 5.5 times as long. All of them share this machine's processors with other tests.
    assert!(ratio < 3.0, "{ratio}");
}

#[tokio::test]
async fn a_volume_on_another_host_than_its_row_says_is_told_of_and_never_touched() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    let world = fleet(hosts).await;
    let volume = world.volume("moved");
    a.create_volume(&volume).await;
    b.create_volume(&volume).await;
    closed(&world, "moved", Some("b")).await;
    let report = world.sweep().await;
    assert_eq!((&report["removed"], &report["misplaced"]), (&json!(1), &json!(1)), "{report}");
    let report = world.sweep().await;
    assert_eq!(
        (&report["drift"], &report["misplaced"], &report["orphans"]),
        (&json!(0), &json!(1), &json!(0)),
        "{report}"
    );
    assert!(a.has_volume(&volume).await && !b.has_volume(&volume).await);
}

#[tokio::test]
async fn a_host_that_nobody_serves_is_said_and_its_event_is_kept() {
    let hosts = &PrivateHost::several::<1>().await;
    let mut world = fleet(hosts).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let serving = world.serve_idle().await;
    closed(&world, "lost", Some("z")).await;
    publish(&world, "lost", None).await;
    let parked = world.dead_letter().await;
    let error = crate::world::header(&parked, "volume-reaper-error").expect("why");
    assert!(error.contains("host \"z\"") && error.contains("VOLUME_REAPER_DOCKER_HOSTS"), "{error}");
    assert!(world.mark("lost").await.is_none());
    let output = world.run(&["status"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("1 closed threads of host z are not marked, which is none of this service's"), "{text}");
    let output = world.run(&["explain", "lost"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("its row names host \"z\""), "{text}");
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn two_names_for_one_daemon_and_a_reaper_without_a_name_in_a_fleet_are_refused() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    let mut world = fleet(hosts).await;
    assert_eq!(world.sweep().await["skipped_reason"], Value::Null);

    // The same socket by another path is no other daemon.
    let link = world.dir.path().join("docker.sock");
    std::os::unix::fs::symlink(a.socket(), &link).expect("a link");
    let endpoints = format!("a={},b={},again=unix://{}", a.endpoint(), b.endpoint(), link.display());
    world.set("VOLUME_REAPER_DOCKER_HOSTS", endpoints);
    let reason = world.sweep().await["skipped_reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("two names for one daemon"), "{reason}");

    // A reaper of one daemon that knows nothing of the others would mark all that is on them.
    world.settings.remove("VOLUME_REAPER_DOCKER_HOSTS");
    world.settings.remove("VOLUME_REAPER_THREADS_HOST_COLUMN");
    world.set("DOCKER_HOST", a.endpoint());
    b.create_volume(&world.volume("on-b")).await;
    closed(&world, "on-b", None).await;
    let output = world.run(&["sweep"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("VOLUME_REAPER_HOST"), "{error}");
    assert!(world.mark("on-b").await.is_none());
}

#[tokio::test]
async fn the_only_host_becomes_one_of_several_by_its_name() {
    let hosts @ [a, _] = &PrivateHost::several::<2>().await;
    let mut world = world(On::Sqlite).await;
    world.set("DOCKER_HOST", a.endpoint());
    assert!(world.run(&["sweep"]).await.status.success());
    assert_eq!(world.texts("SELECT name FROM volume_reaper_daemons").await, ["default"]);
    world.use_hosts(hosts);
    assert_eq!(world.sweep().await["skipped_reason"], Value::Null);
    assert_eq!(world.texts("SELECT name FROM volume_reaper_daemons ORDER BY name").await, ["a", "b"]);
}

#[tokio::test]
async fn explain_status_and_doctor_tell_of_each_host() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    let world = fleet(hosts).await;
    assert_eq!(world.sweep().await["skipped_reason"], Value::Null);
    b.create_volume(&world.volume("t1")).await;
    closed(&world, "t1", None).await;

    let explained = world.json(&["explain", "t1", "--json"]).await;
    assert_eq!(explained["daemon"]["host"], "b", "{explained}");
    assert_eq!(explained["reasons"][0], "waiting", "{explained}");
    let status = world.json(&["status", "--json"]).await;
    let names: Vec<_> = status["hosts"].as_array().expect("hosts").iter().map(|host| &host["name"]).collect();
    assert_eq!(names, ["a", "b"], "{status}");
    let doctor = world.json(&["doctor", "--json"]).await;
    let checks: Vec<_> = doctor["checks"].as_array().expect("checks").iter().collect();
    for name in ["docker[a].identity", "docker[b].identity"] {
        assert!(checks.iter().any(|check| check["name"] == name && check["status"] == "ok"), "{doctor}");
    }
    let orphan = world.volume("nobodys");
    b.create_volume(&orphan).await;
    let orphans = world.json(&["orphans", "--json"]).await;
    assert_eq!((&orphans["orphans"][0]["volume"], &orphans["orphans"][0]["host"]), (&json!(orphan), &json!("b")));

    // What one of them has is said though the other is down, and what none has that answers is not known.
    closed(&world, "t2", None).await;
    a.control("kill").await;
    let explained = world.json(&["explain", "t1", "--json"]).await;
    assert_eq!(
        (&explained["reasons"][0], &explained["daemon"]["host"]),
        (&json!("waiting"), &json!("b")),
        "{explained}"
    );
    assert_eq!(explained["hosts"][1], json!({ "host": "b", "found": [world.volume("t1")], "error": null }));
    assert!(explained["hosts"][0]["error"].as_str().is_some_and(|error| error.starts_with("host a: ")), "{explained}");
    let output = world.run(&["explain", "t2"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer =
        format!("a host does not answer, so whether the volume {} is there is not known: host a", world.volume("t2"));
    assert!(output.status.code() == Some(1) && text.contains(&answer), "{text}");
    for line in ["  docker   host b, ", "  docker   host b has no volume of it\n", "  docker   no answer: host a: "] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn the_breaker_of_one_host_stops_removal_there_and_nowhere_else() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    for on in On::ALL {
        let mut world = fleet_on(on, hosts).await;
        world.set("VOLUME_REAPER_BUDGET_PER_SWEEP", "2");
        for (host, ids) in [(a, &["a1", "a2", "a3"][..]), (b, &["b1", "b2"])] {
            for id in ids {
                host.create_volume(&world.volume(id)).await;
                closed(&world, id, Some(&host.name)).await;
            }
        }
        let report = world.sweep().await;
        assert_eq!((&report["removed"], &report["paused"]), (&json!(4), &json!(1)), "{on:?} {report}");
        let status = world.json(&["status", "--json"]).await;
        let reason = &status["hosts"][0]["pause"]["reason"];
        assert_eq!(reason, "the budget of 2 removals per sweep is used up", "{on:?} {status}");
        assert!(status["pause"].is_null() && status["hosts"][1]["pause"].is_null(), "{on:?} {status}");

        // The other one continues, by events too, and so does this one once it is resumed.
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve_idle().await;
        serving.until_metric("volume_reaper_removal_paused{host=\"a\"}", 1).await;
        b.create_volume(&world.volume("b3")).await;
        closed(&world, "b3", Some("b")).await;
        publish(&world, "b3", None).await;
        world.until_marked("b3").await;
        assert_eq!(serving.metric("volume_reaper_removal_paused{host=\"b\"}").await, 0);
        // Nor does a thread that may be on any host change what is known of this one.
        b.create_volume(&world.volume("b0")).await;
        closed(&world, "b0", None).await;
        publish(&world, "b0", None).await;
        world.until_marked("b0").await;
        assert_eq!(serving.metric("volume_reaper_removal_paused{host=\"a\"}").await, 1, "{on:?}");
        let resumptions = || serving.lines().iter().filter(|line| line["message"] == "removal resumed").count();
        assert_eq!(resumptions(), 0, "{on:?}");
        let resumed = world.run(&["resume", "--on", "a"]).await;
        assert!(resumed.status.success(), "{resumed:?}");
        let ids = ["a1", "a2", "a3"];
        for id in ids {
            publish(&world, id, None).await;
        }
        for id in ids {
            world.until_marked(id).await;
        }
        serving.until_line(|line| line["message"] == "removal resumed").await;
        assert_eq!(resumptions(), 1, "{on:?}");

        // By hand, and only for a host that there is.
        assert!(world.run(&["pause", "--on", "b", "--reason", "a restore"]).await.status.success());
        b.create_volume(&world.volume("b4")).await;
        closed(&world, "b4", Some("b")).await;
        publish(&world, "b4", None).await;
        serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"paused\"}", 1).await;
        assert!(b.has_volume(&world.volume("b4")).await, "{on:?}");
        assert!(!world.run(&["pause", "--on", "z", "--reason", "x"]).await.status.success());
        // Every pause ends with a resume that names none.
        assert!(world.run(&["resume"]).await.status.success());
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}
