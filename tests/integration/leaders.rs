//! Who sweeps says so, and is alone in saying what only a sweep finds out.

use crate::world::{On, Serving, eventually, world};

const LEADER: &str = "volume_reaper_sweep_leader";

/// Whether a replica says what only a sweep finds out.
async fn knows_backlog(serving: &Serving) -> bool {
    serving.get("/metrics").await.1.contains("\nvolume_reaper_unmarked_threads ")
}

#[tokio::test]
async fn what_only_who_sweeps_knows_is_absent_elsewhere_also_after_a_pause() {
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    let first = world.serve_idle().await;
    world.set("VOLUME_REAPER_REPLICA", "replica-2");
    let second = world.serve().await;
    assert_eq!((first.metric(LEADER).await, second.metric(LEADER).await), (1, 0));
    eventually("who sweeps has counted the backlog", async || knows_backlog(&first).await.then_some(())).await;
    assert!(!knows_backlog(&second).await);

    // As a virtual machine that is paused: its lease runs out, and it does not know.
    first.signal("STOP");
    second.until_metric(LEADER, 1).await;
    first.signal("CONT");
    assert_eq!(first.metric(LEADER).await, 0);
    assert!(!knows_backlog(&first).await);
    eventually("the other one has counted the backlog", async || knows_backlog(&second).await.then_some(())).await;
    assert_eq!(second.stop().await, Some(0));
    assert_eq!(first.stop().await, Some(0));
}
