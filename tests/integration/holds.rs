//! Holds: a held thread is cleaned by nobody until it is released.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use volume_reaper::{cleanup::Removal, health::Health, sweep::Sweeper};

use crate::{
    fakes::{Row, calls, cleaner_with, set_row, volume},
    proxy::CountingProxy,
    world::{On, World, world},
};

/// Exit code, standard output and standard error of a command.
async fn said(world: &World, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = world.run(arguments).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn hold(world: &World, id: &str) {
    let (code, _, error) = said(world, &["hold", id, "--reason", "a dispute"]).await;
    assert_eq!(code, Some(0), "{error}");
}

#[tokio::test]
async fn a_held_thread_is_cleaned_by_no_event_and_no_sweep_and_by_the_next_sweep_once_released() {
    for on in On::ALL {
        let mut world = world(on).await;
        let proxy = CountingProxy::start(world.dir.path());
        world.set("DOCKER_HOST", proxy.endpoint());
        world.closed_with_volume("t1").await;
        hold(&world, "t1").await;

        let serving = world.serve().await;
        world.publish_closed("t1").await;
        serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"held\"}", 1).await;
        serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 1).await;
        assert_eq!(serving.stop().await, Some(0));
        let report = world.sweep().await;
        assert_eq!((&report["held"], &report["removed"]), (&json!(1), &json!(0)), "{on:?}: {report}");
        assert!(world.has_volume("t1").await && world.mark("t1").await.is_none(), "{on:?}");
        assert_eq!(proxy.removals(), 0, "Docker is not asked: {:?}", proxy.requests());

        assert_eq!(said(&world, &["release", "t1"]).await, (Some(0), "t1 is released\n".to_owned(), String::new()));
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
        assert!(!world.has_volume("t1").await && world.mark("t1").await.is_some(), "{on:?}");
    }
}

#[tokio::test]
async fn a_hold_whose_time_is_over_does_not_count() {
    for on in On::ALL {
        let world = world(on).await;
        for id in ["over", "lasting"] {
            world.closed_with_volume(id).await;
            assert_eq!(said(&world, &["hold", id, "--reason", "r", "--until", "1h"]).await.0, Some(0));
        }
        assert_eq!(world.sweep().await["held"], json!(2), "{on:?}");
        // An hour later, for one of them.
        let over = world.moment(chrono::Utc::now() - chrono::TimeDelta::milliseconds(1));
        world.execute(&format!("UPDATE volume_reaper_holds SET until = '{over}' WHERE thread_id = 'over'")).await;
        let report = world.sweep().await;
        assert_eq!((&report["held"], &report["removed"]), (&json!(1), &json!(1)), "{on:?}: {report}");
        assert!(world.has_volume("lasting").await && !world.has_volume("over").await, "{on:?}");
        let (code, out, _) = said(&world, &["release", "over"]).await;
        assert_eq!(code, Some(0));
        assert!(out.starts_with("over is released; its hold had ended at "), "{out}");
    }
}

#[tokio::test]
async fn a_thread_may_be_held_before_it_is_there() {
    let world = world(On::Sqlite).await;
    let (code, out, _) = said(&world, &["hold", "t1", "--reason", "a dispute"]).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("there is no such thread; it will be held as soon as there is"), "{out}");
    world.closed_with_volume("t1").await;
    assert_eq!(world.sweep().await["held"], json!(1));
    assert!(world.has_volume("t1").await);
}

#[tokio::test]
async fn a_second_hold_replaces_the_first_and_says_so() {
    for on in On::ALL {
        let world = world(on).await;
        hold(&world, "t1").await;
        let (code, out, _) = said(&world, &["hold", "t1", "--reason", "an audit", "--until", "7d"]).await;
        assert_eq!(code, Some(0));
        assert!(out.contains("in place of a hold until it is released: a dispute"), "{out}");
        assert_eq!(world.texts("SELECT reason FROM volume_reaper_holds").await, ["an audit"], "{on:?}");
    }
}

#[tokio::test]
async fn a_hold_that_makes_no_sense_is_refused_with_one_line_and_holds_nothing() {
    let world = world(On::Sqlite).await;
    for (arguments, expected) in [
        (&["hold", "t1", "--reason", " "][..], "--reason is empty"),
        (&["hold", "../t1", "--reason", "r"], "thread id \"../t1\": "),
        (&["hold", "t1", "--reason", "r", "--until", "2020-01-01T00:00:00Z"], "is not in the future"),
        (&["hold", "t1", "--reason", "r", "--until", "soon"], "is neither a time"),
        (&["hold", "t1", "--reason", "r", "--until", "2999-01-01T00:00:00Z"], "is too far away"),
        (&["release", "t1"], "t1 is not held"),
    ] {
        let (code, out, error) = said(&world, arguments).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {error}");
        assert!(error.contains(expected) && error.lines().count() == 1, "{arguments:?}: {error}");
    }
    assert!(world.texts("SELECT thread_id FROM volume_reaper_holds").await.is_empty());
}

#[tokio::test]
async fn a_held_thread_whose_volume_is_gone_by_itself_is_marked() {
    for on in On::ALL {
        let world = world(on).await;
        world.open_thread("t1").await;
        world.close_thread("t1").await;
        hold(&world, "t1").await;
        let report = world.sweep().await;
        assert_eq!((&report["held"], &report["not_found"]), (&json!(0), &json!(1)), "{on:?}: {report}");
        assert!(world.mark("t1").await.is_some(), "{on:?}");
    }
}

#[tokio::test]
async fn a_held_thread_whose_volume_came_back_loses_its_mark_and_keeps_its_volume() {
    for on in On::ALL {
        let world = world(on).await;
        world.closed_with_volume("t1").await;
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?}");
        world.create_volume("t1").await;
        hold(&world, "t1").await;
        let report = world.sweep().await;
        assert_eq!((&report["drift"], &report["held"]), (&json!(1), &json!(1)), "{on:?}: {report}");
        assert!(world.has_volume("t1").await && world.mark("t1").await.is_none(), "{on:?}");
    }
}

#[tokio::test]
async fn a_hold_that_comes_after_the_sweep_has_read_its_page_counts_all_the_same() {
    let hold = |rows: &_| {
        set_row(rows, "t1", Row { closed: true, held: true, ..Row::default() });
        Ok(())
    };
    let cleaner = Arc::new(cleaner_with(Ok(Removal::Removed), |_| Ok(()), hold));
    cleaner.volumes.inventory.lock().expect("lock").present.insert(volume("t1"));
    let reconciler = Sweeper::new(Arc::clone(&cleaner), Arc::new(Health::new()), Duration::from_mins(1));
    let report = reconciler.sweep(false, &CancellationToken::new()).await;
    assert_eq!((report.held, report.removed), (1, 0));
    assert!(!calls(&cleaner).iter().any(|call| call.starts_with("remove")));
}
