//! Volumes of one thread on several Docker hosts: each row may name its own, and each is cleaned there.

use serde_json::{Value, json};

use crate::{
    api::ask,
    volumes_table::{adopting, marked, open, quoted, set, thread, until_marked},
    world::{On, PrivateHost, World},
};

/// A platform whose threads and volumes name hosts.
async fn fleet(on: On, hosts: &[PrivateHost]) -> World {
    let mut world = adopting(on).await;
    for table in [quoted(on), "workspace_volumes"] {
        world.execute(&format!("ALTER TABLE {table} ADD COLUMN host varchar(64)")).await;
    }
    world.use_hosts(hosts);
    world.set("VOLUME_REAPER_THREADS_HOST_COLUMN", "host");
    world.set("VOLUME_REAPER_VOLUMES_HOST_COLUMN", "host");
    let output = world.run(&["migrate"]).await;
    assert!(output.status.success(), "{on:?} {output:?}");
    world
}

/// A thread on a host, or on none, with volumes whose rows name these. All of them are on both hosts: who asks the
/// wrong one would find something to remove.
async fn placed(world: &World, on: On, hosts: &[PrivateHost], id: &str, host: &str, volumes: &[(&str, &str)]) {
    let names: Vec<_> = volumes.iter().map(|(name, _)| *name).collect();
    open(world, on, id, &names).await;
    world.execute(&format!("UPDATE {} SET host = '{host}' WHERE id = '{id}'", quoted(on))).await;
    for (name, of_row) in volumes {
        let name = world.volume(name);
        world.execute(&format!("UPDATE workspace_volumes SET host = '{of_row}' WHERE volume_name = '{name}'")).await;
        for host in hosts {
            host.create_volume(&name).await;
        }
    }
}

/// Whether each of these is on the first and on the second host.
async fn there(world: &World, [a, b]: &[PrivateHost; 2], volumes: &[&str]) -> Vec<(bool, bool)> {
    let mut found = Vec::new();
    for volume in volumes {
        let name = world.volume(volume);
        found.push((a.has_volume(&name).await, b.has_volume(&name).await));
    }
    found
}

/// The host by which each volume's receipt says that it is gone.
async fn gone_by(world: &World) -> Vec<String> {
    let volume = format!("replace(volume_name, '{}_ws_', '')", world.name);
    world.texts(&format!("SELECT {volume} || ' ' || host FROM volume_removals ORDER BY volume_name, id")).await
}

#[tokio::test]
async fn each_volume_is_cleaned_on_its_own_host_by_event_and_by_sweep() {
    let hosts = &PrivateHost::several::<2>().await;
    for on in On::ALL {
        let mut world = fleet(on, hosts).await;
        let rows = |[one, two, three]: [&'static str; 3]| [(one, "a"), (two, "b"), (three, "")];
        placed(&world, on, hosts, &thread(1), "b", &rows(["s1", "s2", "s3"])).await;
        set(&world, on, &thread(1), "closed").await;
        let explained = world.json(&["explain", &thread(1), "--json"]).await;
        let seen = explained["volumes"].as_array().expect("each volume").iter();
        let mut seen: Vec<_> = seen.map(|seen| [&seen["volume"], &seen["host"]].map(Value::to_string)).collect();
        seen.sort();
        let expected = [("s1", "a"), ("s2", "b"), ("s3", "b")];
        let expected =
            expected.map(|(name, host)| [world.volume(name), host.to_owned()].map(|text| json!(text).to_string()));
        assert_eq!(seen, expected, "{on:?} {explained}");
        let listed = world.json(&["hosts", "list", "--json"]).await;
        let unmarked = listed["hosts"].as_array().expect("hosts").iter().map(|host| host["unmarked"].clone());
        assert_eq!(unmarked.collect::<Vec<_>>(), [json!(1), json!(1)], "{on:?} {listed}");

        let report = world.sweep().await;
        // Each host has its share of the thread; who finds its row locked by the other leaves it for the next sweep.
        let mut counts = ["candidates", "removed", "not_found", "failed", "orphans"].map(|field| report[field].clone());
        if report["cooling_down"] == 1 {
            counts[1] = json!(
                report["removed"].as_u64().expect("removed")
                    + world.sweep().await["removed"].as_u64().expect("removed")
            );
        }
        assert_eq!(counts, [2, 2, 0, 0, 0].map(Value::from), "{on:?} {report}");
        assert_eq!(marked(&world).await, ["s1", "s2", "s3"], "{on:?}");
        assert_eq!(there(&world, hosts, &["s1", "s2", "s3"]).await, [(false, true), (true, false), (true, false)]);
        assert_eq!(gone_by(&world).await, ["s1 a", "s2 b", "s3 b"], "{on:?}");

        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve_idle().await;
        placed(&world, on, hosts, &thread(2), "", &rows(["t1", "t2", "t3"])).await;
        set(&world, on, &thread(2), "closed").await;
        // None of its volumes is where its own row, or nobody, says.
        placed(&world, on, hosts, &thread(3), "b", &[("u1", "a"), ("u2", "a")]).await;
        set(&world, on, &thread(3), "closed").await;
        let by_host = |listed: &Value| {
            let of_hosts = listed["hosts"].as_array().expect("hosts").iter().map(|host| host["unmarked"].clone());
            of_hosts.chain([listed["unmarked_without_host"].clone()]).collect::<Vec<_>>()
        };
        let listed = world.json(&["hosts", "list", "--json"]).await;
        assert_eq!(by_host(&listed), [2, 1, 1].map(Value::from), "{on:?} {listed}");
        let shown = ask(&serving, "GET /api/v1/hosts", &[], "").await.json();
        assert_eq!(by_host(&shown), by_host(&listed), "{on:?} {shown}");
        let waiting = ask(&serving, "GET /api/v1/threads", &[], "").await.json();
        let waiting = waiting["threads"].as_array().expect("threads").iter().map(|waits| waits["thread_id"].clone());
        assert_eq!(waiting.collect::<Vec<_>>(), [thread(2), thread(3)].map(Value::from), "{on:?}");
        // The event's host is believed only of the one of which nobody else says it.
        let event = json!({ "thread_id": thread(2), "host": "a" });
        world.publish(event.to_string().as_bytes()).await;
        until_marked(&world, &["s1", "s2", "s3", "t1", "t2", "t3"]).await;
        assert_eq!(there(&world, hosts, &["t1", "t2", "t3"]).await, [(false, true), (true, false), (false, true)]);
        assert_eq!(gone_by(&world).await[3..], ["t1 a", "t2 b", "t3 a"], "{on:?}");
        serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"removed\"}", 1).await;
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_volume_of_which_nobody_says_the_host_is_gone_only_if_every_host_says_so() {
    let hosts @ [a, b] = &PrivateHost::several::<2>().await;
    let mut world = fleet(On::Postgres, hosts).await;
    placed(&world, On::Postgres, hosts, &thread(1), "", &[("on_a", "a"), ("any", ""), ("none", "")]).await;
    for (host, volume) in [(a, "any"), (a, "none"), (b, "none")] {
        host.docker
            .remove_volume(&world.volume(volume), None::<bollard::query_parameters::RemoveVolumeOptions>)
            .await
            .expect("it is there");
    }
    set(&world, On::Postgres, &thread(1), "closed").await;
    world.set("VOLUME_REAPER_HOST", "a");
    let both = world.settings.remove("VOLUME_REAPER_DOCKER_HOSTS").expect("the hosts");
    world.set("DOCKER_HOST", a.endpoint());
    // One host alone has its own share, and can't say of the others.
    world.sweep().await;
    assert_eq!(marked(&world).await, ["on_a"]);
    for setting in ["VOLUME_REAPER_HOST", "DOCKER_HOST"] {
        world.settings.remove(setting);
    }
    world.set("VOLUME_REAPER_DOCKER_HOSTS", both);
    // Where one is removed, the other is only known not to be: the next sweep has the word of both.
    for _ in 0..2 {
        world.sweep().await;
    }
    let receipts = world.texts("SELECT outcome FROM volume_removals ORDER BY outcome").await;
    assert_eq!(receipts, ["not_found", "removed", "removed"]);
    assert_eq!(marked(&world).await, ["any", "none", "on_a"]);
    assert_eq!(there(&world, hosts, &["on_a", "any", "none"]).await, [(false, true), (false, false), (false, false)]);
}

#[tokio::test]
async fn a_host_column_without_hosts_or_of_another_type_is_refused() {
    let mut world = adopting(On::Sqlite).await;
    world.set("VOLUME_REAPER_VOLUMES_HOST_COLUMN", "host");
    let told = async |world: &World| String::from_utf8_lossy(&world.run(&["migrate"]).await.stderr).into_owned();
    let error = told(&world).await;
    assert!(
        error.contains("VOLUME_REAPER_VOLUMES_HOST_COLUMN is \"host\", and the Docker host has no name"),
        "{error}"
    );
    world.set("VOLUME_REAPER_HOST", "a");
    let error = told(&world).await;
    assert!(
        error.contains("has no column \"host\" (VOLUME_REAPER_VOLUMES_HOST_COLUMN, which may be empty)"),
        "{error}"
    );
    world.execute("ALTER TABLE workspace_volumes ADD COLUMN host integer").await;
    assert!(told(&world).await.contains("the name of a host is text"));
}
