//! One reaper per host, and hosts that come, are replaced and go.

use std::process::Output;

use serde_json::{Value, json};

use crate::world::{On, PrivateHost, World};

/// A world whose program is the reaper of one host.
async fn reaper_of(host: &PrivateHost) -> World {
    let mut world = World::without_schema(On::Postgres).await;
    world.settings.remove("DOCKER_HOST");
    set_host(&mut world, host);
    assert!(world.run(&["migrate"]).await.status.success());
    world
}

fn set_host(world: &mut World, host: &PrivateHost) {
    world.set("VOLUME_REAPER_HOST", &host.name);
    world.set("DOCKER_HOST", host.endpoint());
}

async fn closed(world: &World, id: &str) {
    world.open_thread(id).await;
    world.close_thread(id).await;
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn one_reaper_per_host_takes_its_own_events_and_threads_and_no_others() {
    let hosts = PrivateHost::several::<2>().await;
    let mut world = reaper_of(&hosts[0]).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let mut serving = Vec::new();
    for host in &hosts {
        set_host(&mut world, host);
        serving.push(world.serve_idle().await);
    }
    // The same names on both, so that the wrong one would find something to remove.
    for (id, host) in [("t-a", &hosts[0]), ("t-b", &hosts[1])] {
        for each in &hosts {
            each.create_volume(&world.volume(id)).await;
        }
        closed(&world, id).await;
        set_host(&mut world, host);
        assert!(world.run(&["publish", id]).await.status.success());
        world.until_marked(id).await;
        assert_eq!(world.receipts(id).await, ["removed/event"]);
        for each in &hosts {
            assert_eq!(each.has_volume(&world.volume(id)).await, each.name != host.name, "{id} on {}", each.name);
        }
    }
    // What is not there is not there: it came to the host whose it is.
    closed(&world, "gone").await;
    assert!(world.run(&["publish", "gone"]).await.status.success());
    world.until_marked("gone").await;
    assert_eq!(world.receipts("gone").await, ["not_found/event"]);
    for serving in serving {
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn the_sweep_of_one_hosts_reaper_marks_only_what_it_can_prove() {
    let [a, b] = &PrivateHost::several::<2>().await;
    let mut world = reaper_of(a).await;
    // That there are others is said by the setting, before they have come: they may have the volume.
    closed(&world, "alone").await;
    let report = world.sweep().await;
    assert!(report["skipped_reason"].as_str().expect("a reason").contains("another host may have them"), "{report}");
    assert_eq!(report["not_found"], json!(0), "{report}");
    set_host(&mut world, b);
    assert_eq!(world.sweep().await["not_found"], json!(0));

    b.create_volume(&world.volume("on-b")).await;
    closed(&world, "on-b").await;
    closed(&world, "nowhere").await;
    set_host(&mut world, a);
    let report = world.sweep().await;
    let reason = report["skipped_reason"].as_str().expect("a reason");
    assert!(reason.contains("host \"b\"") && reason.contains("VOLUME_REAPER_THREADS_HOST_COLUMN"), "{report}");
    assert_eq!((&report["removed"], &report["not_found"]), (&json!(0), &json!(0)), "{report}");
    set_host(&mut world, b);
    assert_eq!(world.sweep().await["removed"], json!(1));

    // With a column that says so, each host's word is enough for its own.
    world.execute("ALTER TABLE threads ADD COLUMN host text").await;
    world.execute("UPDATE threads SET host = 'a' WHERE id <> 'on-b'").await;
    world.set("VOLUME_REAPER_THREADS_HOST_COLUMN", "host");
    assert_eq!(world.sweep().await["not_found"], json!(0));
    set_host(&mut world, a);
    let report = world.sweep().await;
    assert_eq!((&report["not_found"], &report["skipped_reason"]), (&json!(2), &Value::Null), "{report}");
}

#[tokio::test]
async fn hosts_that_come_are_replaced_and_go_are_shown_with_what_it_means() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    let mut world = World::without_schema(On::Sqlite).await;
    world.use_hosts(hosts);
    world.set("VOLUME_REAPER_THREADS_HOST_COLUMN", "host");
    assert!(world.run(&["migrate"]).await.status.success());
    assert_eq!(world.sweep().await["skipped_reason"], Value::Null);
    for (id, host) in [("open", "b"), ("t1", "b"), ("t2", "b"), ("t3", "a")] {
        let docker = if host == "a" { a } else { b };
        docker.create_volume(&world.volume(id)).await;
        world.open_thread(id).await;
        world.execute(&format!("UPDATE threads SET host = '{host}' WHERE id = '{id}'")).await;
    }
    for id in ["t1", "t2", "t3"] {
        world.close_thread(id).await;
    }

    let listed = text(&world.run(&["hosts", "list"]).await);
    for line in ["volumes    3 of ours", "unmarked   2 closed threads name this host", "unmarked   1 closed threads"] {
        assert!(listed.contains(line), "{listed}");
    }

    // A host that is in use is not given up by mistake.
    let refused = world.run(&["hosts", "retire", "b", "--yes"]).await;
    assert!(!refused.status.success() && text(&refused).contains("has 3 volumes of ours"), "{refused:?}");
    let unasked = world.run(&["hosts", "retire", "b"]).await;
    assert!(!unasked.status.success() && text(&unasked).contains("--yes"), "{unasked:?}");
    assert!(world.mark("t1").await.is_none());

    // It is lost for good.
    b.control("kill").await;
    let shown = world.run(&["hosts", "retire", "b", "--dry-run"]).await;
    assert!(shown.status.success() && text(&shown).contains("2 closed threads name this host"), "{shown:?}");
    assert!(world.mark("t1").await.is_none());
    let retired = world.run(&["hosts", "retire", "b", "--yes"]).await;
    let said = text(&retired);
    assert!(retired.status.success(), "{said}");
    for line in ["does not answer", "2 closed threads name this host: they are marked now", "retired; 2 threads marked"]
    {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(world.receipts("t1").await, ["not_found/retired"]);
    assert!(world.mark("t3").await.is_none() && world.mark("open").await.is_none());
    assert_eq!(world.texts("SELECT name FROM volume_reaper_daemons").await, ["a"]);

    // Without it, the others' word is enough again.
    world.use_hosts(std::slice::from_ref(a));
    closed(&world, "nowhere").await;
    let report = world.sweep().await;
    assert_eq!((&report["removed"], &report["not_found"]), (&json!(1), &json!(1)), "{report}");

    // A daemon in place of another one is nobody until it is adopted.
    let other = PrivateHost::start("a").await;
    world.use_hosts(std::slice::from_ref(&other));
    let report = world.sweep().await;
    assert!(report["skipped_reason"].as_str().expect("a reason").contains("hosts adopt"), "{report}");
    let unknown = world.run(&["hosts", "adopt", "z"]).await;
    assert!(!unknown.status.success() && text(&unknown).contains("there is no host \"z\""), "{unknown:?}");
    let shown = text(&world.run(&["hosts", "adopt", "a", "--dry-run"]).await);
    assert!(shown.contains("0 volumes of ours") && !shown.contains("in place of"), "{shown}");
    assert!(world.sweep().await["skipped_reason"].is_string());
    let adopted = text(&world.run(&["hosts", "adopt", "a"]).await);
    assert!(adopted.contains("0 volumes of ours") && adopted.contains("in place of"), "{adopted}");
    assert_eq!(world.sweep().await["skipped_reason"], Value::Null);
}
