//! A volume with very many files: Docker's driver holds one lock while it deletes them, so its removal is slow, and
//! whoever creates a volume meanwhile waits behind all that we had queued.

use std::{path::Path, time::Instant};

use bollard::models::VolumeCreateRequest;
use tokio::process::Command;

use crate::{
    proxy::CountingProxy,
    world::{On, PrivateHost, World, eventually, world},
};

/// Some seconds of deleting, on a disk as on a machine of ours.
const FILES: u32 = 600_000;
const SMALL: u32 = 40;

const ACKED: &str = "volume_reaper_settlements_total{settlement=\"ack\"}";
const REMOVING: &str = "volume_reaper_cleanups_total{source=\"event\",outcome=\"removing\"}";

/// Puts the files into a volume; they are the daemon's, which is root's.
async fn fill(dir: &Path) {
    let script = format!("cd '{}' && seq {FILES} | xargs touch", dir.display());
    let mut command = Command::new("sh");
    if std::env::var_os("USER").is_some_and(|user| user != "root") {
        command = Command::new("sudo");
        command.arg("sh");
    }
    assert!(command.args(["-c", &script]).status().await.expect("it runs").success());
}

/// A world whose daemon has one huge volume and many small ones, all of closed threads.
async fn world_with_huge_volume(host: &PrivateHost) -> (World, CountingProxy) {
    let mut world = world(On::Sqlite).await;
    let proxy = CountingProxy::before(world.dir.path(), &host.endpoint());
    world.set("DOCKER_HOST", proxy.endpoint());
    world.set("VOLUME_REAPER_DOCKER_TIMEOUT", "1s");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let huge = world.volume("huge");
    host.create_volume(&huge).await;
    fill(&host.files_of(&huge)).await;
    (world, proxy)
}

async fn close(world: &World, host: &PrivateHost, id: &str) {
    if id != "huge" {
        host.create_volume(&world.volume(id)).await;
    }
    world.open_thread(id).await;
    world.close_thread(id).await;
}

async fn until_huge_is_being_removed(world: &World, proxy: &CountingProxy) {
    let huge = format!("/{}", world.volume("huge"));
    eventually("the removal of the huge volume was sent", async || {
        proxy.requests().iter().any(|it| it.starts_with("DELETE ") && it.contains(&huge)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_removal_that_is_slower_than_the_timeout_has_not_failed() {
    let host = PrivateHost::start("a").await;
    let (world, proxy) = world_with_huge_volume(&host).await;
    let serving = world.serve_idle().await;
    close(&world, &host, "huge").await;
    world.publish_closed("huge").await;
    // Nobody waits for it any more, and it continues.
    serving.until_metric(REMOVING, 1).await;
    serving.until_metric(ACKED, 1).await;
    assert!(world.mark("huge").await.is_none());
    // Told of again, it is not asked for again: that would be one more in the driver's queue.
    world.publish_closed("huge").await;
    serving.until_metric(ACKED, 2).await;
    world.until_marked("huge").await;
    assert_eq!(world.receipts("huge").await, ["removed/event"]);
    assert_eq!(proxy.removals(), 1);
    assert_eq!(world.texts("SELECT thread_id FROM volume_reaper_failures").await, [""; 0]);
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn who_creates_a_volume_waits_behind_the_huge_one_and_not_behind_what_we_queued() {
    let host = PrivateHost::start("a").await;
    let (mut world, proxy) = world_with_huge_volume(&host).await;
    world.set("VOLUME_REAPER_DOCKER_TIMEOUT", "2m");
    world.set("VOLUME_REAPER_PREFETCH", "32");
    let ids: Vec<_> = (0..SMALL).map(|number| format!("small{number:02}")).collect();
    let serving = world.serve_idle().await;
    close(&world, &host, "huge").await;
    for id in &ids {
        close(&world, &host, id).await;
    }
    world.publish_closed("huge").await;
    until_huge_is_being_removed(&world, &proxy).await;
    futures_util::future::join_all(ids.iter().map(|id| world.publish_closed(id))).await;
    eventually("all but the huge one wait for their turn", async || {
        (world.messages(&world.work_queue()).await <= SMALL + 1 - 32).then_some(())
    })
    .await;

    // By the same way, so that it is seen what came before it.
    let docker = bollard::Docker::connect_with_unix(&proxy.endpoint(), 60, bollard::API_DEFAULT_VERSION);
    let name = Some(world.volume("new"));
    let began = Instant::now();
    let created = docker.expect("a client").create_volume(VolumeCreateRequest { name, ..Default::default() }).await;
    let waited = began.elapsed();
    assert!(created.is_ok(), "{created:?}");
    let requests = proxy.requests();
    let before =
        requests.iter().take_while(|request| !(request.starts_with("POST ") && request.contains("/volumes/create")));
    let queued = before.filter(|request| request.starts_with("DELETE ")).count() - 1;
    println!("a new volume took {waited:?}, with {queued} removals queued before it besides the huge one");
    assert_eq!(queued, 0, "{requests:?}");

    for id in ids.iter().map(String::as_str).chain(["huge"]) {
        world.until_marked(id).await;
        assert_eq!(world.receipts(id).await, ["removed/event"], "{id}");
    }
    assert_eq!(serving.stop().await, Some(0));
}
