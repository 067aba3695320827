//! Volumes that a container used: what happens when it ends.

use std::time::{Duration, Instant};

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use futures_util::{StreamExt, future::join_all};

use crate::{
    proxy::CountingProxy,
    world::{On, Serving, World, eventually, world},
};

const CONNECTED: &str = "volume_reaper_docker_events_connected";
const REFERENCED_EVENTS: &str = r#"volume_reaper_cleanups_total{source="event",outcome="referenced"}"#;
const REFERENCED_RELEASES: &str = r#"volume_reaper_cleanups_total{source="docker",outcome="referenced"}"#;

/// A world in which only the first sweep comes by itself.
async fn world_without_sweeps() -> World {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
    world
}

/// Serves, after the first sweep and with Docker's events followed.
async fn serve(world: &World) -> Serving {
    let serving = world.serve().await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
    serving.until_metric(CONNECTED, 1).await;
    serving
}

/// Closes a thread whose volume a container holds. Returns the container.
async fn closed_and_held(world: &World, id: &str) -> String {
    world.open_thread(id).await;
    world.create_volume(id).await;
    let container = world.create_container(id).await;
    world.close_thread(id).await;
    container
}

#[tokio::test]
async fn a_volume_freed_by_its_last_container_is_gone_within_a_second_at_the_median() {
    let world = world_without_sweeps().await;
    let serving = serve(&world).await;
    let ids: Vec<_> = (0..20).map(|number| format!("t{number}")).collect();
    let containers = join_all(ids.iter().map(|id| closed_and_held(&world, id))).await;
    for id in &ids {
        world.publish_closed(id).await;
    }
    serving.until_metric(REFERENCED_EVENTS, 20).await;

    let mut took = Vec::new();
    for (id, container) in ids.iter().zip(&containers) {
        world.remove_container(container).await;
        let freed = Instant::now();
        world.until_marked(id).await;
        took.push(freed.elapsed());
        assert!(!world.has_volume(id).await);
        assert_eq!(world.receipts(id).await, ["removed/docker"]);
    }
    took.sort();
    println!("from the container's end to the mark: median {:?}, longest {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_secs(1), "{took:?}");
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_volume_that_only_a_sweep_saw_held_is_freed_by_its_container_too() {
    let world = world_without_sweeps().await;
    let container = closed_and_held(&world, "t1").await;
    let serving = serve(&world).await;
    world.remove_container(&container).await;
    world.until_marked("t1").await;
    assert_eq!(world.receipts("t1").await, ["removed/docker"]);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_volume_of_two_containers_stays_until_both_are_gone() {
    let world = world_without_sweeps().await;
    let first = closed_and_held(&world, "t1").await;
    let second = world.create_container("t1").await;
    let serving = serve(&world).await;
    world.remove_container(&first).await;
    serving.until_metric(REFERENCED_RELEASES, 1).await;
    assert!(world.has_volume("t1").await);
    world.remove_container(&second).await;
    world.until_marked("t1").await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn an_unmounted_volume_of_a_waiting_thread_is_tried() {
    let world = world_without_sweeps().await;
    let container = closed_and_held(&world, "t1").await;
    let serving = serve(&world).await;
    // Docker mounts the volumes of a stopped container to copy from it, and unmounts them again.
    let path = DownloadFromContainerOptionsBuilder::default().path("/workspace").build();
    let mut copy = world.docker.download_from_container(&container, Some(path));
    while let Some(chunk) = copy.next().await {
        chunk.expect("the volume can be read");
    }
    serving.until_metric(REFERENCED_RELEASES, 1).await;
    assert!(world.has_volume("t1").await);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_container_of_an_open_thread_that_ends_frees_nothing() {
    let mut world = world_without_sweeps().await;
    let proxy = CountingProxy::start(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    let closed = closed_and_held(&world, "closed").await;
    world.open_thread("open").await;
    world.create_volume("open").await;
    let open = world.create_container("open").await;
    let serving = serve(&world).await;
    world.remove_container(&open).await;
    world.remove_container(&closed).await;
    world.until_marked("closed").await;
    assert!(world.has_volume("open").await);
    assert_eq!(proxy.removals(), 1);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_thread_reopened_while_it_waited_keeps_its_volume() {
    let world = world_without_sweeps().await;
    let container = closed_and_held(&world, "t1").await;
    let serving = serve(&world).await;
    world.reopen_thread("t1").await;
    world.remove_container(&container).await;
    serving.until_metric(r#"volume_reaper_cleanups_total{source="docker",outcome="not_closed"}"#, 1).await;
    assert!(world.has_volume("t1").await);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn events_that_were_missed_while_the_stream_was_broken_cost_only_a_sweep() {
    let mut world = world_without_sweeps().await;
    let proxy = CountingProxy::start(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    let container = closed_and_held(&world, "t1").await;
    let serving = serve(&world).await;

    proxy.cut(true);
    eventually("the loss is seen", async || (serving.metric(CONNECTED).await == 0).then_some(())).await;
    world.remove_container(&container).await;
    proxy.cut(false);
    eventually("it is marked", async || world.mark("t1").await).await;
    assert_eq!(world.receipts("t1").await, ["removed/sweep"]);
    assert_eq!(serving.stop().await, Some(0));
}
