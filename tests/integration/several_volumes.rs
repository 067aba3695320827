//! Threads with several volumes, each by a template: marked when all are gone, and each with its receipt.

use bollard::{
    models::{ContainerCreateBody, HostConfig, VolumeCreateRequest},
    query_parameters::{CreateContainerOptions, RemoveVolumeOptions},
};
use serde_json::{Value, json};

use crate::{
    locks::{reopened_while_removing, serving, stays_when_its_event_comes_again},
    proxy::CountingProxy,
    world::{On, World, world},
};

/// A world whose threads have a workspace and a cache.
async fn platform(on: On) -> World {
    let mut world = world(on).await;
    let names = format!("{0}_ws_{{id}},{0}_cache_{{id}}", world.name);
    world.set("VOLUME_REAPER_VOLUME_NAMES", names);
    world
}

fn cache(world: &World, id: &str) -> String {
    format!("{}_cache_{id}", world.name)
}

async fn create_both(world: &World, id: &str) {
    world.create_volume(id).await;
    let request = VolumeCreateRequest { name: Some(cache(world, id)), ..VolumeCreateRequest::default() };
    world.docker.create_volume(request).await.expect("a volume can be created");
}

async fn has_cache(world: &World, id: &str) -> bool {
    world.docker.inspect_volume(&cache(world, id)).await.is_ok()
}

/// A closed thread with both volumes.
async fn closed_with_both(world: &World, id: &str) {
    create_both(world, id).await;
    world.open_thread(id).await;
    world.close_thread(id).await;
}

/// A container that uses the thread's cache. Returns its id.
async fn use_cache(world: &World, id: &str) -> String {
    // The image is there after this.
    let other = world.create_container(&format!("{id}-image")).await;
    world.remove_container(&other).await;
    let body = ContainerCreateBody {
        image: Some("volume-reaper-empty:latest".to_owned()),
        cmd: Some(vec!["never-started".to_owned()]),
        host_config: Some(HostConfig {
            binds: Some(vec![format!("{}:/cache", cache(world, id))]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    world.docker.create_container(None::<CreateContainerOptions>, body).await.expect("the image is there").id
}

/// `volume outcome/source` of each of a thread's receipts, the name of the test left out.
async fn receipts(world: &World, id: &str) -> Vec<String> {
    let volume = format!("replace(volume_name, '{}_', '')", world.name);
    let select = format!("SELECT {volume} || ' ' || outcome || '/' || source FROM volume_removals");
    world.texts(&format!("{select} WHERE thread_id = '{id}' ORDER BY volume_name, id")).await
}

fn counts(report: &Value) -> Value {
    json!([report["candidates"], report["removed"], report["not_found"], report["referenced"], report["failed"]])
}

#[tokio::test]
async fn all_volumes_of_a_closed_thread_go_by_event_and_by_sweep_and_each_has_its_receipt() {
    for on in On::ALL {
        let world = platform(on).await;
        closed_with_both(&world, "swept").await;
        create_both(&world, "open").await;
        world.open_thread("open").await;
        let report = world.sweep().await;
        assert_eq!(counts(&report), json!([1, 1, 0, 0, 0]), "{on:?} {report}");
        assert!(!world.has_volume("swept").await && !has_cache(&world, "swept").await, "{on:?}");
        assert_eq!(receipts(&world, "swept").await, ["cache_swept removed/sweep", "ws_swept removed/sweep"], "{on:?}");
        let serving = world.serve_idle().await;
        closed_with_both(&world, "event").await;
        // What an event says of volumes is for the log, whatever it is.
        let hint = json!({ "thread_id": "event", "volumes": [world.volume("open"), cache(&world, "open"), "../x"] });
        world.publish(hint.to_string().as_bytes()).await;
        world.until_marked("event").await;
        let logged = |line: &Value| {
            let volumes = format!("{} {}", world.volume("open"), cache(&world, "open"));
            line["level"] == "DEBUG" && line["volumes"] == volumes
        };
        serving.until_line(logged).await;
        assert!(!world.has_volume("event").await && !has_cache(&world, "event").await, "{on:?}");
        assert_eq!(receipts(&world, "event").await, ["cache_event removed/event", "ws_event removed/event"], "{on:?}");
        assert!(world.has_volume("open").await && has_cache(&world, "open").await, "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_volume_in_use_keeps_its_thread_unmarked_and_the_others_go_once() {
    for on in On::ALL {
        let world = platform(on).await;
        closed_with_both(&world, "t1").await;
        let container = use_cache(&world, "t1").await;
        let report = world.sweep().await;
        assert_eq!(counts(&report), json!([1, 0, 0, 1, 0]), "{on:?} {report}");
        assert!(!world.has_volume("t1").await && has_cache(&world, "t1").await, "{on:?}");
        assert_eq!(
            (world.mark("t1").await, receipts(&world, "t1").await),
            (None, vec!["ws_t1 removed/sweep".to_owned()])
        );
        let explained = world.run(&["explain", "t1"]).await;
        let text = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(text.contains(&format!("its volume {} is still there: container", cache(&world, "t1"))), "{text}");
        assert!(text.contains(&format!("  also     {}, which is not there", world.volume("t1"))), "{text}");
        let explained = world.json(&["explain", "t1", "--json"]).await;
        assert_eq!(explained["reasons"][0], "referenced", "{explained}");
        assert_eq!(explained["volumes"][1]["users"][0]["id"], container, "{explained}");
        // In use: costs no call but the lists.
        assert_eq!(counts(&world.sweep().await), json!([1, 0, 0, 1, 0]), "{on:?}");
        world.remove_container(&container).await;
        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0]), "{on:?}");
        assert!(world.mark("t1").await.is_some() && !has_cache(&world, "t1").await, "{on:?}");
        assert_eq!(receipts(&world, "t1").await, ["cache_t1 removed/sweep", "ws_t1 removed/sweep"], "{on:?}");
        let report = world.sweep().await;
        assert_eq!(report["candidates"], 0, "{on:?}");
    }
}

#[tokio::test]
async fn the_end_of_the_container_that_uses_one_of_them_finishes_the_thread() {
    for on in On::ALL {
        let mut world = platform(on).await;
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve_idle().await;
        closed_with_both(&world, "t1").await;
        let container = use_cache(&world, "t1").await;
        world.publish_closed("t1").await;
        serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"referenced\"}", 1).await;
        assert!(!world.has_volume("t1").await && world.mark("t1").await.is_none(), "{on:?}");
        world.remove_container(&container).await;
        world.until_marked("t1").await;
        assert_eq!(receipts(&world, "t1").await, ["cache_t1 removed/docker", "ws_t1 removed/event"], "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_reopened_thread_keeps_what_it_makes_and_its_next_close_has_receipts_of_its_own() {
    for on in On::ALL {
        let world = platform(on).await;
        closed_with_both(&world, "t1").await;
        let container = use_cache(&world, "t1").await;
        world.sweep().await;
        world.reopen_thread("t1").await;
        world.create_volume("t1").await;
        world.remove_container(&container).await;
        assert_eq!(world.sweep().await["candidates"], 0, "{on:?}");
        assert!(world.has_volume("t1").await && has_cache(&world, "t1").await, "{on:?}");
        // A thread is closed later than its volume was removed before, by the clock of whole seconds that closes it.
        let closed_at = world.moment(chrono::Utc::now() + chrono::TimeDelta::seconds(1));
        world.docker.remove_volume(&world.volume("t1"), None::<RemoveVolumeOptions>).await.expect("removed by hand");
        world
            .execute(&format!("UPDATE threads SET status = 'closed', closed_at = '{closed_at}' WHERE id = 't1'"))
            .await;
        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0]), "{on:?}");
        let expected = ["cache_t1 removed/sweep", "ws_t1 removed/sweep", "ws_t1 not_found/sweep"];
        assert_eq!(receipts(&world, "t1").await, expected, "{on:?}");
    }
}

#[tokio::test]
async fn a_sweep_asks_for_the_same_two_lists_whatever_the_number_of_volumes() {
    let mut world = platform(On::Sqlite).await;
    for id in ["t1", "t2", "t3"] {
        closed_with_both(&world, id).await;
    }
    let docker = CountingProxy::start(world.dir.path());
    world.set("DOCKER_HOST", docker.endpoint());
    assert_eq!(world.sweep().await["removed"], 3);
    let with_several = docker.requests();
    let lists = |requests: &[String]| {
        requests.iter().filter(|it| it.starts_with("GET /volumes") || it.starts_with("GET /containers")).count()
    };
    let removals = with_several.iter().filter(|request| request.starts_with("DELETE")).count();
    assert_eq!((removals, lists(&with_several)), (6, 4), "{with_several:?}");
}

#[tokio::test]
async fn the_budget_of_a_sweep_counts_volumes() {
    let mut world = platform(On::Sqlite).await;
    world.set("VOLUME_REAPER_BUDGET_PER_SWEEP", "3");
    for id in ["t1", "t2"] {
        closed_with_both(&world, id).await;
    }
    let report = world.sweep().await;
    assert_eq!((&report["removed"], &report["paused"]), (&json!(1), &json!(1)), "{report}");
}

#[tokio::test]
async fn volumes_without_a_row_are_orphans_by_every_name_and_those_of_a_marked_thread_are_drift() {
    for on in On::ALL {
        let world = platform(on).await;
        closed_with_both(&world, "t1").await;
        world.sweep().await;
        create_both(&world, "t1").await;
        create_both(&world, "nobody").await;
        let found = world.json(&["orphans", "--json"]).await;
        let mut names: Vec<_> =
            found["orphans"].as_array().expect("a list").iter().map(|it| it["volume"].clone()).collect();
        names.sort_by_key(ToString::to_string);
        assert_eq!(names, [json!(cache(&world, "nobody")), json!(world.volume("nobody"))], "{on:?}");
        let report = world.sweep().await;
        assert_eq!((&report["drift"], &report["orphans"]), (&json!(2), &json!(2)), "{on:?} {report}");
        assert!(!world.has_volume("t1").await && !has_cache(&world, "t1").await, "{on:?}");
        assert!(world.has_volume("nobody").await && has_cache(&world, "nobody").await, "{on:?}");
    }
}

#[tokio::test]
async fn who_reopens_waits_until_all_volumes_are_gone() {
    for on in [On::Postgres, On::Mysql] {
        let mut world = platform(on).await;
        let (serving, docker) = serving(&mut world, "30s").await;
        let id = format!("{}-reopened", world.name);
        closed_with_both(&world, &id).await;
        let are_there = async || [world.has_volume(&id).await, has_cache(&world, &id).await];
        let has_mark = async || world.mark(&id).await.is_some();
        let reopen = world.reopen_thread(&id);
        reopened_while_removing(&world, on, &id, &docker, reopen, are_there, has_mark).await;
        let volumes = "SELECT volume_name FROM volume_removals WHERE outcome = 'removed' AND source = 'event'";
        let found = world.texts(&format!("{volumes} AND thread_id = '{id}' ORDER BY volume_name")).await;
        assert_eq!(found, [cache(&world, &id), world.volume(&id)], "{on:?}");
        create_both(&world, &id).await;
        stays_when_its_event_comes_again(&world, &serving, &id, are_there).await;
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn names_that_could_be_each_others_are_refused_before_anything_starts() {
    let mut world = world(On::Sqlite).await;
    for (names, told) in [
        ("ha_ws_{id},ha_ws_x_{id}".to_owned(), "could have the name of another's"),
        ("ha_ws_{id},ha_cache".to_owned(), "has to have {id} in it once"),
        ("ha_ws_{id},ha_cache_{id}".to_owned(), "let one of the names be that"),
    ] {
        world.set("VOLUME_REAPER_VOLUME_NAMES", names);
        let output = world.run(&["sweep"]).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("VOLUME_REAPER_VOLUME_NAMES") && error.contains(told), "{error}");
    }
}
