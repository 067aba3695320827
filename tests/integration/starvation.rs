//! Nobody starves: rows that can't be cleaned never keep those between them waiting.
//!
//! On fakes, since a daemon with two thousand held volumes takes minutes to make and the claims are about order and
//! number of requests; one real daemon shows that failures survive a restart.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use volume_reaper::{
    cleanup::{Origin, Removal},
    failure::Failure,
    health::Health,
    sweep::Sweeper,
};

use crate::{
    fakes::{
        FakeCleaner, FakeThreads, FakeVolumes, Row, age_failure, calls, cleaner, cleaner_with, row, set_row, thread,
        volume,
    },
    proxy::CountingProxy,
    world::{On, world},
};

fn reconciler(cleaner: &Arc<FakeCleaner>) -> Sweeper<FakeVolumes, FakeThreads> {
    Sweeper::new(Arc::clone(cleaner), Arc::new(Health::new()), Duration::from_mins(1))
}

/// Closes the thread `id` and makes its volume.
fn close_with_volume(cleaner: &FakeCleaner, id: &str) {
    set_row(&cleaner.threads().rows, id, Row { closed: true, ..Row::default() });
    cleaner.volumes.inventory.lock().expect("lock").present.insert(volume(id));
}

/// Has removals of volumes that end in `-bad` fail.
fn fail_the_bad(cleaner: &FakeCleaner) {
    cleaner.volumes.refused.lock().expect("lock").push("-bad".to_owned());
}

fn removals(cleaner: &FakeCleaner) -> Vec<String> {
    calls(cleaner).into_iter().filter(|call| call.starts_with("remove ")).collect()
}

#[tokio::test]
async fn a_thousand_newest_and_a_thousand_oldest_held_rows_do_not_delay_the_ones_between() {
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    fail_the_bad(&cleaner);
    let held = (0..1000).flat_map(|number| [format!("a{number:04}"), format!("z{number:04}")]);
    for id in held {
        close_with_volume(&cleaner, &id);
        cleaner.volumes.inventory.lock().expect("lock").referenced.insert(volume(&id), vec!["c1".to_owned()]);
    }
    for number in 0..100 {
        close_with_volume(&cleaner, &format!("a{number:04}-bad"));
        close_with_volume(&cleaner, &format!("m{number:04}"));
    }
    set_row(&cleaner.threads().rows, "a/invalid", Row { closed: true, ..Row::default() });

    let report = reconciler(&cleaner).sweep(false, &CancellationToken::new()).await;
    assert_eq!((report.removed, report.referenced, report.failed), (100, 2000, 101));
    assert!((0..100).all(|number| row(&cleaner, &format!("m{number:04}")).mark.is_some()));
    assert_eq!(removals(&cleaner).len(), 200, "held volumes cost no request");
}

#[tokio::test]
async fn rows_that_failed_before_are_tried_after_all_others() {
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    fail_the_bad(&cleaner);
    for id in ["a-bad", "b-bad"] {
        close_with_volume(&cleaner, id);
    }
    let (reconciler, stop) = (reconciler(&cleaner), CancellationToken::new());
    assert_eq!(reconciler.sweep(false, &stop).await.failed, 2);
    for id in ["a-bad", "b-bad"] {
        age_failure(&cleaner, id, Duration::from_mins(5));
    }
    close_with_volume(&cleaner, "y");
    close_with_volume(&cleaner, "z");
    cleaner.volumes.calls.lock().expect("lock").clear();
    let report = reconciler.sweep(false, &stop).await;
    assert_eq!((report.removed, report.failed), (2, 2));
    let order: Vec<_> = removals(&cleaner);
    assert!(order[..2].iter().all(|call| !call.ends_with("-bad")), "{order:?}");
}

#[tokio::test]
async fn each_row_backs_off_for_itself_and_its_waits_grow() {
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    fail_the_bad(&cleaner);
    close_with_volume(&cleaner, "a-bad");
    let (reconciler, stop) = (reconciler(&cleaner), CancellationToken::new());
    assert_eq!(reconciler.sweep(false, &stop).await.failed, 1);
    close_with_volume(&cleaner, "b-bad");
    let report = reconciler.sweep(false, &stop).await;
    assert_eq!((report.cooling_down, report.failed), (1, 1), "the new one does not wait for the old one");

    // It has been failing for five minutes when it fails again, so it waits for five minutes, and not for one.
    age_failure(&cleaner, "a-bad", Duration::from_mins(5));
    assert_eq!(reconciler.sweep(false, &stop).await.failed, 1);
    let failed = cleaner.threads().failures.lock().expect("lock")[&thread("a-bad")].clone();
    assert_eq!(failed.attempts, 2);
    let wait = (failed.next_try_at(Duration::from_mins(1), failed.failed_at) - failed.failed_at).num_seconds();
    assert!((300..400).contains(&wait), "{wait}");
}

#[tokio::test]
async fn a_failure_is_noted_for_events_and_sweeps_alike_and_not_when_a_dependency_is_down() {
    let cleaner = Arc::new(cleaner(Err(Failure::transient("disk full"))));
    for origin in [Origin::Sweep, Origin::Event(None)] {
        assert!(cleaner.clean(&thread("t1"), origin).await.is_err());
    }
    let down = Failure::unavailable(volume_reaper::failure::Dependency::Docker, "refused");
    *cleaner.volumes.answer.lock().expect("lock") = Err(down);
    assert!(cleaner.clean(&thread("t1"), Origin::Sweep).await.is_err());
    let failed = cleaner.threads().failures.lock().expect("lock")[&thread("t1")].clone();
    assert_eq!((failed.attempts, failed.error.as_str()), (2, "disk full"));
}

#[tokio::test]
async fn an_event_is_tried_at_once_however_often_the_thread_failed() {
    let cleaner = Arc::new(cleaner(Err(Failure::transient("disk full"))));
    assert!(cleaner.clean(&thread("t1"), Origin::Sweep).await.is_err());
    *cleaner.volumes.answer.lock().expect("lock") = Ok(Removal::Removed);
    assert!(cleaner.clean(&thread("t1"), Origin::Event(None)).await.is_ok());
    assert!(row(&cleaner, "t1").mark.is_some());
}

#[tokio::test]
async fn one_row_that_cannot_be_marked_does_not_keep_the_others_from_their_mark() {
    let refuse_t1 = |receipt: &volume_reaper::cleanup::Receipt| receipt.thread_id.as_str() == "t1";
    let cleaner = Arc::new(cleaner_with(Ok(Removal::NotFound), |_| Ok(()), |_| Ok(())));
    *cleaner.threads().unmarkable.lock().expect("lock") = Some(Box::new(refuse_t1));
    for id in ["s1", "u1", "v1"] {
        set_row(&cleaner.threads().rows, id, Row { closed: true, ..Row::default() });
    }
    let (reconciler, stop) = (reconciler(&cleaner), CancellationToken::new());
    let report = reconciler.sweep(false, &stop).await;
    assert_eq!((report.not_found, report.failed, report.skipped_reason), (3, 1, None));
    let report = reconciler.sweep(false, &stop).await;
    assert_eq!((report.candidates, report.cooling_down, report.failed), (1, 1, 0));
}

#[tokio::test]
async fn a_failing_row_survives_a_restart_and_is_forgotten_when_it_is_cleaned() {
    for on in On::ALL {
        let mut world = world(on).await;
        let daemon = world.settings["DOCKER_HOST"].clone();
        world.closed_with_volume("t1").await;
        let proxy = CountingProxy::start_failing_removals(world.dir.path());
        world.set("DOCKER_HOST", proxy.endpoint());
        assert_eq!(world.sweep().await["failed"], json!(1), "{on:?}");
        // Each sweep is a process of its own, so this one has only the database to know from.
        let second = world.sweep().await;
        assert_eq!((&second["failed"], &second["cooling_down"]), (&json!(0), &json!(1)), "{on:?}");
        assert_eq!(proxy.removals(), 1, "{on:?}");
        let attempts = world.as_text("attempts");
        let noted = &format!("SELECT concat(thread_id, ' ', {attempts}, ' ', replica) FROM volume_reaper_failures");
        assert_eq!(world.texts(noted).await, ["t1 1 replica-1"], "{on:?}");

        world.set("DOCKER_HOST", daemon);
        world.execute("UPDATE volume_reaper_failures SET failed_at = '2000-01-01 00:00:00'").await;
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
        assert_eq!(world.texts(noted).await, [""; 0], "{on:?}");
    }
}

#[tokio::test]
async fn a_closed_thread_whose_id_cannot_name_a_volume_is_told_once_and_not_in_every_sweep() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    world.execute("INSERT INTO threads (id, status) VALUES ('a/b', 'closed')").await;
    let serving = world.serve().await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 3).await;
    let is_warning = |line: &&serde_json::Value| {
        line["level"] != "DEBUG"
            && (line["message"] == "swept" || line["message"].to_string().contains("name a volume"))
    };
    serving.until_line(|line| is_warning(&line)).await;
    let lines = serving.lines();
    let warnings: Vec<_> = lines.iter().filter(is_warning).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(serving.stop().await, Some(0));
}
