//! Sweeps: what they pick, what they mark, and what they leave alone for ever after.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use volume_reaper::{
    coordinator::{Origin, Removal},
    failure::{Dependency, Failure},
    health::Health,
    reconciler::{Reconciler, Report},
};

use crate::{
    fakes::{FakeCoordinator, Row, calls, coordinator, coordinator_with, row, set_row, thread},
    proxy::CountingProxy,
    world::{On, eventually, world},
};

/// The counts of a report, in the order of the contract.
fn counts(report: &Value) -> Value {
    let fields = ["candidates", "removed", "not_found", "referenced", "cooling_down", "failed"];
    fields.iter().map(|field| report[field].clone()).collect()
}

async fn sweep(coordinator: &Arc<FakeCoordinator>) -> Report {
    let reconciler = reconciler(coordinator);
    reconciler.sweep(false, &CancellationToken::new()).await
}

fn reconciler(coordinator: &Arc<FakeCoordinator>) -> Reconciler<crate::fakes::FakeVolumes, crate::fakes::FakeThreads> {
    let minute = std::time::Duration::from_mins(1);
    Reconciler::new(Arc::clone(coordinator), Arc::new(Health::new()), minute)
}

#[tokio::test]
async fn the_candidates_of_a_sweep_are_exactly_the_closed_threads_with_no_mark() {
    for on in [On::Sqlite, On::Postgres] {
        let world = world(on).await;
        world.closed_with_volume("closed").await;
        world.create_volume("open").await;
        world.open_thread("open").await;
        world.closed_with_volume("marked").await;
        world.execute("UPDATE threads SET workspace_volume_removed_at = CURRENT_TIMESTAMP WHERE id = 'marked'").await;

        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0, 0]), "{on:?}");
        assert!(!world.has_volume("closed").await);
        assert!(world.has_volume("open").await, "open threads' volumes are left as they are");
        assert_eq!(world.receipts("closed").await, ["removed/sweep"]);
    }
}

#[tokio::test]
async fn a_sweep_marks_on_removed_and_on_not_found_and_not_when_referenced() {
    for on in [On::Sqlite, On::Postgres] {
        let world = world(on).await;
        world.closed_with_volume("there").await;
        world.open_thread("absent").await;
        world.close_thread("absent").await;
        world.closed_with_volume("held").await;
        let container = world.create_container("held").await;

        assert_eq!(counts(&world.sweep().await), json!([3, 1, 1, 1, 0, 0]), "{on:?}");
        assert!(world.mark("there").await.is_some());
        assert!(world.mark("absent").await.is_some());
        assert!(world.mark("held").await.is_none(), "{on:?}");
        assert!(world.has_volume("held").await, "referenced volumes are left as they are");

        world.remove_container(&container).await;
        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0, 0]), "{on:?}");
    }
}

#[tokio::test]
async fn after_the_first_sweep_no_gone_volume_is_asked_for_again_not_even_after_a_restart() {
    let mut world = world(On::Sqlite).await;
    let proxy = CountingProxy::start(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    for id in ["a", "b", "c"] {
        world.closed_with_volume(id).await;
    }
    world.open_thread("absent").await;
    world.close_thread("absent").await;

    let serving = world.serve().await;
    for id in ["a", "b", "c", "absent"] {
        world.until_marked(id).await;
    }
    let removals = proxy.removals();
    assert_eq!(removals, 3, "one request a volume: {:?}", proxy.requests());
    let sweeps = serving.metric("volume_reaper_sweep_seconds_count").await;
    serving.until_metric("volume_reaper_sweep_seconds_count", sweeps + 2).await;
    assert_eq!(proxy.removals(), removals, "later sweeps ask for nothing");
    let lines = serving.lines().into_iter().filter(|line| line["level"] == "INFO" && line["message"] == "swept");
    assert_eq!(lines.count(), 1, "and say nothing");
    assert_eq!(serving.stop().await, Some(0));

    let serving = world.serve().await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 2).await;
    assert_eq!(proxy.removals(), removals, "nor does a restart");
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let world = world(On::Sqlite).await;
    world.closed_with_volume("there").await;
    world.open_thread("absent").await;
    world.close_thread("absent").await;
    let output = world.run(&["sweep", "--dry-run", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(counts(&report), json!([2, 1, 1, 0, 0, 0]));
    assert_eq!(report["dry_run"], json!(true));
    assert!(world.has_volume("there").await);
    assert!(world.mark("there").await.is_none() && world.mark("absent").await.is_none());
}

#[tokio::test]
async fn the_report_has_the_fields_of_the_contract() {
    let report = world(On::Sqlite).await.sweep().await;
    let fields: Vec<_> = report.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut contract = vec![
        "candidates",
        "removed",
        "not_found",
        "referenced",
        "cooling_down",
        "failed",
        "drift",
        "orphans",
        "skipped_reason",
        "dry_run",
        "duration_ms",
    ];
    contract.sort_unstable();
    assert_eq!(fields, contract);
}

#[tokio::test]
async fn a_daemon_that_is_down_marks_nothing_and_fails_the_command() {
    let mut world = world(On::Sqlite).await;
    world.open_thread("t1").await;
    world.close_thread("t1").await;
    world.set("DOCKER_HOST", format!("unix://{}", world.dir.path().join("no.sock").display()));
    let output = world.run(&["sweep", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("docker at unix://"), "{output:?}");
    assert!(world.mark("t1").await.is_none());
}

#[tokio::test]
async fn sweeps_are_skipped_with_one_line_while_docker_is_down_and_go_on_when_it_is_back() {
    let mut world = world(On::Sqlite).await;
    let proxied = world.dir.path().to_path_buf();
    world.set("DOCKER_HOST", format!("unix://{}", proxied.join("proxy.sock").display()));
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    world.closed_with_volume("t1").await;
    let serving = world.start().await;
    eventually("docker is known to be down", async || {
        let (code, body) = serving.get("/readyz").await;
        (code == 503 && body.contains("Socket not found")).then_some(())
    })
    .await;
    assert_eq!(serving.metric("volume_reaper_dependency_up{dependency=\"docker\"}").await, 0);
    assert_eq!(serving.metric("volume_reaper_sweep_seconds_count").await, 0);
    let skipped = serving.lines().into_iter().filter(|line| line["message"] == "no sweeps while it is down");
    assert_eq!(skipped.count(), 1);

    let _proxy = CountingProxy::start(&proxied);
    world.until_marked("t1").await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn two_coordinators_and_a_sweep_racing_for_one_thread_leave_one_receipt_and_no_error() {
    for on in [On::Sqlite, On::Postgres] {
        let world = world(on).await;
        let (first, second) = (world.serve().await, world.serve().await);
        for round in 0..10 {
            let id = format!("t{round}");
            world.closed_with_volume(&id).await;
            let ((), (), report) = tokio::join!(world.publish_closed(&id), world.publish_closed(&id), world.sweep());
            assert_eq!(report["failed"], json!(0), "{on:?}: {report}");
            world.until_marked(&id).await;
            assert_eq!(world.receipts(&id).await.len(), 1, "{on:?}");
        }
        eventually("every event is settled", async || {
            let mut acked = 0;
            for serving in [&first, &second] {
                acked += serving.metric("volume_reaper_settlements_total{settlement=\"ack\"}").await;
            }
            (acked >= 20).then_some(())
        })
        .await;
        for serving in [first, second] {
            let errors = serving.lines().into_iter().filter(|line| line["level"] == "ERROR" || line["level"] == "WARN");
            assert_eq!(errors.collect::<Vec<_>>(), Vec::<Value>::new(), "{on:?}");
            assert_eq!(serving.stop().await, Some(0));
        }
        assert_eq!(world.texts("SELECT thread_id FROM volume_removals").await.len(), 10, "{on:?}");
    }
}

#[tokio::test]
async fn rows_are_read_before_the_list_is_asked_for() {
    // G18: a thread whose volume is created and closed while the list is made must not be marked by that list.
    let appear = |rows: &_| {
        set_row(rows, "t2", Row { closed: true, ..Row::default() });
        Ok(())
    };
    let coordinator = Arc::new(coordinator_with(Ok(Removal::Removed), |_| Ok(()), appear));
    let report = sweep(&coordinator).await;
    assert!(row(&coordinator, "t1").mark.is_some());
    // t2 sorts behind the page that was read, so the second page finds it, with a list of its own.
    assert_eq!(calls(&coordinator), ["inventory", "inventory"]);
    assert_eq!(report.not_found, 2);
}

#[tokio::test]
async fn a_list_with_warnings_proves_no_absence() {
    let coordinator = Arc::new(coordinator(Ok(Removal::Removed)));
    coordinator.volumes.inventory.lock().expect("lock").warnings.push("a driver did not answer".to_owned());
    let report = sweep(&coordinator).await;
    assert_eq!((report.not_found, report.failed), (0, 1));
    assert!(row(&coordinator, "t1").mark.is_none());
}

#[tokio::test]
async fn a_list_that_fails_marks_nothing_and_says_so() {
    let down = |_: &_| Err(Failure::unavailable(Dependency::Docker, "refused"));
    let coordinator = Arc::new(coordinator_with(Ok(Removal::Removed), |_| Ok(()), down));
    let report = sweep(&coordinator).await;
    assert_eq!(report.skipped_reason.as_deref(), Some("refused"));
    assert!(row(&coordinator, "t1").mark.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_could_not_be_removed_is_left_alone_for_the_cooldown() {
    let coordinator = Arc::new(coordinator(Err(Failure::transient("500"))));
    coordinator.volumes.inventory.lock().expect("lock").present.insert(thread("t1"));
    let reconciler = reconciler(&coordinator);
    let stop = CancellationToken::new();
    assert_eq!(reconciler.sweep(false, &stop).await.failed, 1);
    assert_eq!(reconciler.sweep(false, &stop).await.cooling_down, 1);
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    assert_eq!(reconciler.sweep(false, &stop).await.failed, 1);
    assert_eq!(calls(&coordinator).iter().filter(|call| call.starts_with("remove")).count(), 2);
}

#[tokio::test]
async fn a_referenced_thread_costs_no_removal_in_a_sweep() {
    let coordinator = Arc::new(coordinator(Ok(Removal::Removed)));
    {
        let mut inventory = coordinator.volumes.inventory.lock().expect("lock");
        inventory.present.insert(thread("t1"));
        inventory.referenced.insert(thread("t1"));
    }
    assert_eq!(sweep(&coordinator).await.referenced, 1);
    assert_eq!(calls(&coordinator), ["inventory"]);
    assert_eq!(coordinator.clean(&thread("t1"), Origin::Sweep).await, Ok(volume_reaper::coordinator::Outcome::Removed));
}
