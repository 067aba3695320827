//! Sweeps: what they pick, what they mark, and what they leave alone for ever after.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use volume_reaper::{
    cleanup::{Origin, Outcome, Removal},
    failure::{Dependency, Failure},
    health::Health,
    sweep::{Schedule, SweepReport, Sweeper},
};

use crate::{
    fakes::{FakeCleaner, LIMITS, Row, age_failure, calls, cleaner, cleaner_with, row, set_row, thread, volume},
    proxy::CountingProxy,
    world::{On, eventually, world},
};

/// The counts of a report, in the order of the contract.
fn counts(report: &Value) -> Value {
    let fields = ["candidates", "removed", "not_found", "referenced", "cooling_down", "failed"];
    fields.iter().map(|field| report[field].clone()).collect()
}

async fn sweep(cleaner: &Arc<FakeCleaner>) -> SweepReport {
    let sweeper = sweeper(cleaner);
    sweeper.sweep(false, &CancellationToken::new()).await
}

fn sweeper(cleaner: &Arc<FakeCleaner>) -> Sweeper<crate::fakes::FakeVolumes, crate::fakes::FakeThreads> {
    let minute = std::time::Duration::from_mins(1);
    Sweeper::new(Arc::clone(cleaner), Arc::new(Health::new()), minute)
}

#[tokio::test]
async fn the_candidates_of_a_sweep_are_exactly_the_closed_threads_with_no_mark() {
    for on in On::ALL {
        let world = world(on).await;
        world.closed_with_volume("closed").await;
        world.create_volume("open").await;
        world.open_thread("open").await;
        world.open_thread("marked").await;
        world.close_thread("marked").await;
        world.execute("UPDATE threads SET workspace_volume_removed_at = CURRENT_TIMESTAMP WHERE id = 'marked'").await;

        assert_eq!(counts(&world.sweep().await), json!([1, 1, 0, 0, 0, 0]), "{on:?}");
        assert!(!world.has_volume("closed").await);
        assert!(world.has_volume("open").await, "open threads' volumes are left as they are");
        assert_eq!(world.receipts("closed").await, ["removed/sweep"]);
    }
}

#[tokio::test]
async fn a_sweep_marks_on_removed_and_on_not_found_and_not_when_referenced() {
    for on in On::ALL {
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
    let has_swept = |line: &Value| line["level"] == "INFO" && line["message"] == "swept";
    serving.until_line(has_swept).await;
    assert_eq!(serving.lines().iter().filter(|line| has_swept(line)).count(), 1, "and say nothing");
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
        "containers_removed",
        "removed",
        "bytes",
        "unsized_volumes",
        "not_found",
        "referenced",
        "not_due",
        "held",
        "paused",
        "removing",
        "cooling_down",
        "failed",
        "drift",
        "orphans",
        "misplaced",
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
    let skipped = || serving.lines().into_iter().filter(|line| line["message"] == "no sweeps while it is down").count();
    eventually("the skipped sweeps are logged", async || (skipped() > 0).then_some(())).await;

    let _proxy = CountingProxy::start(&proxied);
    world.until_marked("t1").await;
    assert_eq!(skipped(), 1);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn two_coordinators_and_a_sweep_racing_for_one_thread_leave_one_receipt_and_no_error() {
    for on in On::ALL {
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
    // A thread whose volume is created and closed while the list is made must not be marked by that list.
    let appear = |rows: &_| {
        set_row(rows, "t2", Row { closed: true, ..Row::default() });
        Ok(())
    };
    let cleaner = Arc::new(cleaner_with(Ok(Removal::Removed), |_| Ok(()), appear));
    let report = sweep(&cleaner).await;
    assert!(row(&cleaner, "t1").mark.is_some());
    // t2 sorts behind the page that was read, so the second page finds it, with a list of its own.
    assert_eq!(calls(&cleaner), ["inventory", "inventory", "inventory"]);
    assert_eq!(report.not_found, 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_has_become_old_while_volumes_were_removed_is_asked_for_anew() {
    for (takes, lists) in [(0, 3), (20, 4)] {
        let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
        // The last is on a page of its own, whose list is asked for before anything is removed.
        for number in 1..=12_001 {
            let id = format!("t{number}");
            set_row(&cleaner.threads().rows, &id, Row { closed: true, ..Row::default() });
            cleaner.volumes.inventory.lock().expect("lock").present.insert(volume(&id));
        }
        *cleaner.volumes.takes.lock().expect("lock") = std::time::Duration::from_millis(takes);
        assert_eq!(sweep(&cleaner).await.removed, 12_001);
        assert_eq!(calls(&cleaner)[..2], ["inventory", "inventory"]);
        assert_eq!(calls(&cleaner).iter().filter(|call| *call == "inventory").count(), lists, "{takes} ms a removal");
    }
}

#[tokio::test]
async fn of_as_many_threads_as_a_page_has_those_that_wait_hold_up_no_other() {
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    for number in 1..=12_000 {
        let held = number == 1000;
        set_row(&cleaner.threads().rows, &format!("t{number}"), Row { closed: true, held, ..Row::default() });
    }
    // The volume of the one that waits is absent too, which the hold keeps nobody from saying.
    assert_eq!(sweep(&cleaner).await.not_found, 12_000);
}

#[tokio::test]
async fn a_thread_that_was_reopened_and_closed_again_behind_the_list_is_another_close() {
    let closed_again = |rows: &_| {
        set_row(rows, "t1", Row { closed: true, closed_at: Some(chrono::Utc::now()), ..Row::default() });
        Ok(())
    };
    let cleaner = Arc::new(cleaner_with(Ok(Removal::Removed), |_| Ok(()), closed_again));
    assert_eq!(sweep(&cleaner).await.not_found, 0);
    assert!(row(&cleaner, "t1").mark.is_none());
}

#[tokio::test]
async fn a_list_with_warnings_proves_no_absence() {
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    cleaner.volumes.inventory.lock().expect("lock").warnings.push("a driver did not answer".to_owned());
    let report = sweep(&cleaner).await;
    assert_eq!((report.not_found, report.failed), (0, 1));
    assert!(row(&cleaner, "t1").mark.is_none());
}

#[tokio::test]
async fn a_list_that_fails_marks_nothing_and_says_so() {
    let down = |_: &_| Err(Failure::unavailable(Dependency::Docker, "refused"));
    let cleaner = Arc::new(cleaner_with(Ok(Removal::Removed), |_| Ok(()), down));
    let report = sweep(&cleaner).await;
    assert_eq!(report.skipped_reason.as_deref(), Some("refused"));
    assert!(row(&cleaner, "t1").mark.is_none());
}

#[tokio::test]
async fn a_volume_that_could_not_be_removed_is_left_alone_for_the_cooldown() {
    let cleaner = Arc::new(cleaner(Err(Failure::transient("500"))));
    cleaner.volumes.inventory.lock().expect("lock").present.insert(volume("t1"));
    let sweeper = sweeper(&cleaner);
    let stop = CancellationToken::new();
    assert_eq!(sweeper.sweep(false, &stop).await.failed, 1);
    assert_eq!(sweeper.sweep(false, &stop).await.cooling_down, 1);
    age_failure(&cleaner, "t1", std::time::Duration::from_secs(61));
    assert_eq!(sweeper.sweep(false, &stop).await.failed, 1);
    assert_eq!(calls(&cleaner).iter().filter(|call| call.starts_with("remove")).count(), 2);
}

/// Two hundred closed threads whose volumes are there. The daemon never finishes the removals of the first `stuck`.
fn two_hundred(stuck: usize) -> Arc<FakeCleaner> {
    let cleaner = cleaner(Ok(Removal::Removed));
    for number in 0..200 {
        let id = format!("{number}{}", if number < stuck { "-stuck" } else { "" });
        set_row(&cleaner.threads().rows, &id, Row { closed: true, ..Row::default() });
        cleaner.volumes.inventory.lock().expect("lock").present.insert(volume(&id));
    }
    set_row(&cleaner.threads().rows, "t1", Row::default());
    cleaner.volumes.stuck.lock().expect("lock").push("stuck".to_owned());
    Arc::new(cleaner)
}

#[tokio::test(start_paused = true)]
async fn a_sweep_does_not_wait_for_a_stuck_daemon_with_every_thread() {
    let cleaner = two_hundred(8);
    for number in 0..8 {
        let stuck = cleaner.clean(&thread(&format!("{number}-stuck")), Origin::Event(None)).await;
        assert_eq!(stuck, Ok(Outcome::Removing));
    }
    let report = sweep(&cleaner).await;
    assert_eq!((report.removed, report.cooling_down), (0, 64), "{report:?}");
    assert_eq!(u128::from(report.duration_ms), LIMITS.timeout.as_millis(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_goes_on_when_one_removal_takes_longer_than_its_threads_wait() {
    let cleaner = two_hundred(1);
    let report = sweep(&cleaner).await;
    assert_eq!((report.removing, report.cooling_down, report.removed), (1, 63, 136), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_goes_on_when_the_database_took_longer_than_its_threads_wait() {
    let cleaner = two_hundred(0);
    cleaner.threads().slow_locks.lock().expect("lock").push(LIMITS.timeout * 3 / 2);
    let report = sweep(&cleaner).await;
    assert_eq!((report.cooling_down, report.removed), (64, 136), "{report:?}");
}

#[tokio::test]
async fn a_referenced_thread_costs_no_removal_in_a_sweep() {
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    {
        let mut inventory = cleaner.volumes.inventory.lock().expect("lock");
        inventory.present.insert(volume("t1"));
        inventory.referenced.insert(volume("t1"), vec![]);
    }
    assert_eq!(sweep(&cleaner).await.referenced, 1);
    // The second list is for what is there and should not be.
    assert_eq!(calls(&cleaner), ["inventory", "inventory"]);
    assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(volume_reaper::cleanup::Outcome::Removed));
}

#[tokio::test]
async fn a_volume_whose_thread_is_marked_is_looked_at_afresh_cleaned_and_counted_as_drift() {
    for on in On::ALL {
        let world = world(on).await;
        world.closed_with_volume("t1").await;
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
        // As after a backup that brought the volume back.
        world.create_volume("t1").await;
        let report = world.sweep().await;
        assert_eq!((&report["drift"], &report["removed"]), (&json!(1), &json!(1)), "{on:?}: {report}");
        assert!(!world.has_volume("t1").await);
        assert!(world.mark("t1").await.is_some(), "{on:?}");
        assert_eq!(world.receipts("t1").await.len(), 2, "{on:?}");
        assert_eq!(world.sweep().await["drift"], json!(0), "{on:?}");
    }
}

#[tokio::test]
async fn a_volume_of_a_marked_thread_that_a_container_holds_loses_its_mark_and_stays() {
    let world = world(On::Sqlite).await;
    world.open_thread("t1").await;
    world.close_thread("t1").await;
    assert_eq!(world.sweep().await["not_found"], json!(1));
    world.create_volume("t1").await;
    world.create_container("t1").await;
    assert_eq!(world.sweep().await["drift"], json!(1));
    assert!(world.has_volume("t1").await);
    assert!(world.mark("t1").await.is_none(), "what is marked is gone, so this is not");
}

#[tokio::test]
async fn a_volume_that_is_removed_and_marked_while_the_sweep_looks_is_no_drift() {
    // The first list has the volume, the row is marked by the time it is read, and a later list lacks it.
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    let marked = Row { closed: true, mark: Some(chrono::Utc::now()), ..Row::default() };
    set_row(&cleaner.threads().rows, "t1", marked);
    cleaner.volumes.inventory.lock().expect("lock").present.insert(volume("t1"));
    cleaner.volumes.vanishing.store(true, std::sync::atomic::Ordering::Relaxed);
    let report = sweep(&cleaner).await;
    assert_eq!((report.drift, report.failed), (0, 0));
    assert!(row(&cleaner, "t1").mark.is_some());
}

#[tokio::test]
async fn a_volume_without_a_thread_is_counted_and_never_touched() {
    let world = world(On::Sqlite).await;
    world.create_volume("nobody").await;
    assert_eq!(world.sweep().await["orphans"], json!(1));
    assert!(world.has_volume("nobody").await);
}

#[tokio::test]
async fn one_of_many_replicas_sweeps_and_another_takes_over_when_it_is_gone() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
        let first = world.serve().await;
        first.until_metric("volume_reaper_sweep_seconds_count", 1).await;
        let second = world.serve().await;
        first.until_metric("volume_reaper_sweep_seconds_count", 3).await;
        assert_eq!(second.metric("volume_reaper_sweep_seconds_count").await, 0, "{on:?}");

        // A clean stop gives the lease up; nobody has to wait for its end.
        assert_eq!(first.stop().await, Some(0));
        world.closed_with_volume("t1").await;
        world.until_marked("t1").await;
        assert_eq!(second.stop().await, Some(0));
        let epoch = format!("SELECT {} FROM volume_reaper_leases", world.as_text("epoch"));
        assert_eq!(world.texts(&epoch).await, ["2"], "{on:?}");
    }
}

#[tokio::test]
async fn the_lease_of_a_killed_replica_is_taken_over_within_its_time_to_live() {
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    let mut first = world.serve().await;
    first.until_metric("volume_reaper_sweep_seconds_count", 1).await;
    first.signal("KILL");
    first.exit_code().await;
    let second = world.serve().await;
    world.closed_with_volume("t1").await;
    world.until_marked("t1").await;
    assert_eq!(second.stop().await, Some(0));
}

#[tokio::test]
async fn a_holder_of_the_lease_that_wakes_up_late_notices_and_stops_sweeping() {
    const SWEEPS: &str = "volume_reaper_sweep_seconds_count";
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    let first = world.serve().await;
    first.until_metric(SWEEPS, 1).await;
    first.signal("STOP");
    let second = world.serve().await;
    second.until_metric(SWEEPS, 1).await;
    assert_eq!(world.texts("SELECT CAST(epoch AS text) FROM volume_reaper_leases").await, ["2"]);

    first.signal("CONT");
    let gave_up = |line: &Value| line["message"] == "another replica sweeps now";
    eventually("it notices", async || first.lines().iter().any(gave_up).then_some(())).await;
    let of_second = second.metric(SWEEPS).await;
    // One that was running ends early, and is counted.
    second.until_metric(SWEEPS, of_second + 1).await;
    let of_first = first.metric(SWEEPS).await;
    second.until_metric(SWEEPS, of_second + 4).await;
    assert_eq!(first.metric(SWEEPS).await, of_first);
    assert_eq!(world.texts("SELECT CAST(epoch AS text) FROM volume_reaper_leases").await, ["2"]);
    assert_eq!((first.stop().await, second.stop().await), (Some(0), Some(0)));
}

#[tokio::test]
async fn a_sweep_that_is_killed_is_resumed_where_it_was() {
    for on in On::ALL {
        let world = world(on).await;
        let rows: Vec<_> = (0..30_000).map(|number| format!("('t{number}', 'closed')")).collect();
        for rows in rows.chunks(10_000) {
            world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await;
        }
        let receipts = &format!("SELECT {} FROM volume_removals", world.as_text("count(*)"));
        let mut killed = world.command(&["sweep"]).spawn().expect("it starts");
        eventually("it has begun", async || (world.texts(receipts).await[0] != "0").then_some(())).await;
        killed.kill().await.expect("it is killed");

        let threads = format!("SELECT {} FROM volume_removals", world.as_text("count(DISTINCT thread_id)"));
        let before: u64 = world.texts(receipts).await[0].parse().expect("a number");
        let report = world.sweep().await;
        assert!(before < 30_000, "it was killed too late to show anything");
        assert_eq!((&report["candidates"], &report["not_found"]), (&json!(30_000 - before), &json!(30_000 - before)));
        assert_eq!(world.texts(&threads).await, ["30000"]);
        assert_eq!(world.texts(receipts).await, ["30000"], "one receipt each, {on:?}");
    }
}

#[tokio::test]
async fn on_a_terminal_a_sweep_shows_how_far_it_is() {
    let world = world(On::Sqlite).await;
    let rows: Vec<_> = (0..5000).map(|number| format!("('t{number}', 'closed')")).collect();
    world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await;
    // script(1) of util-linux gives it a terminal.
    let sweep = format!("{} sweep", env!("CARGO_BIN_EXE_volume-reaper"));
    let mut command = tokio::process::Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &sweep, "/dev/null"])
        .env_clear()
        .env("TERM", "xterm")
        .envs(&world.settings);
    let output = command.current_dir(world.dir.path()).output().await.expect("script runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(" of 5,000  ") && text.contains("not found   5000"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_panics_ends_nothing_but_itself() {
    let panics = AtomicU32::new(2);
    let on_inventory = move || match panics.load(Ordering::Relaxed) {
        0 => Ok(()),
        left => {
            panics.store(left - 1, Ordering::Relaxed);
            panic!("a value that nobody thought of");
        }
    };
    let cleaner = Arc::new(cleaner_with(Ok(Removal::NotFound), |_| Ok(()), move |_| on_inventory()));
    let health = Arc::new(Health::new());
    for dependency in Dependency::ALL {
        health.up(dependency);
    }
    let sweeper = Sweeper::new(Arc::clone(&cleaner), health, std::time::Duration::from_mins(1));
    let stop = CancellationToken::new();
    let is_leader = watch::Sender::new(true);
    let interval = std::time::Duration::from_secs(1);
    let schedule = Schedule { interval, is_leader: is_leader.subscribe(), stop: stop.clone() };
    let marked = async {
        eventually("the third one marks", async || row(&cleaner, "t1").mark).await;
        stop.cancel();
    };
    tokio::join!(sweeper.run(schedule), marked);
    assert!(calls(&cleaner).iter().filter(|call| *call == "inventory").count() >= 3);
}
