//! The audit trail from outside: `receipts`, in its forms and by pages, and `receipts verify`.

use chrono::{TimeDelta, Utc};
use migrations::ThreadsTable;
use serde_json::{Value, json};
use volume_reaper::{config::SecretUrl, store::Store};

use crate::world::{On, World, world};

/// A world in which these threads were cleaned up, by one `serve` each time `sweeps` says so.
async fn cleaned(on: On, ids: &[&str]) -> World {
    let world = world(on).await;
    for id in ids {
        world.closed_with_volume(id).await;
        assert_eq!(world.sweep().await["removed"], json!(1), "{on:?} {id}");
    }
    world
}

async fn listed(world: &World, arguments: &[&str]) -> (Vec<String>, Option<String>) {
    let arguments: Vec<_> = ["receipts", "--json"].iter().chain(arguments).copied().collect();
    let found = world.json(&arguments).await;
    let ids = found["receipts"].as_array().expect("a list").iter();
    let ids = ids.map(|receipt| receipt["thread_id"].as_str().expect("an id").to_owned()).collect();
    (ids, found["next"].as_str().map(str::to_owned))
}

/// Exit code and report of a verification.
async fn verified(world: &World) -> (Option<i32>, Value) {
    let output = world.run(&["receipts", "verify", "--json"]).await;
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("a report"))
}

async fn flaws(world: &World) -> Vec<String> {
    let output = world.run(&["receipts", "verify"]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[..lines.len() - 1].to_vec()
}

#[tokio::test]
async fn receipts_are_listed_by_filters_and_in_pages_the_latest_first() {
    for on in On::ALL {
        let world = cleaned(on, &["a", "b", "c"]).await;
        let earlier = world.moment(Utc::now() - TimeDelta::days(3));
        world.execute(&format!("UPDATE volume_removals SET removed_at = '{earlier}' WHERE thread_id = 'a'")).await;
        assert_eq!(listed(&world, &[]).await, (vec!["c".to_owned(), "b".to_owned(), "a".to_owned()], None), "{on:?}");
        let (first, next) = listed(&world, &["--limit", "2"]).await;
        assert_eq!(first, ["c", "b"], "{on:?}");
        let next = next.expect("there is more");
        assert_eq!(listed(&world, &["--limit", "2", "--after", &next]).await, (vec!["a".to_owned()], None), "{on:?}");
        for (arguments, expected) in [
            (&["--since", "1d"][..], &["c", "b"][..]),
            (&["--until", "1d"], &["a"]),
            (&["--thread", "b"], &["b"]),
            (&["--outcome", "not_found"], &[]),
            (&["--host", "default"], &["c", "b", "a"]),
            (&["--host", "elsewhere"], &[]),
        ] {
            assert_eq!(listed(&world, arguments).await.0, expected, "{on:?} {arguments:?}");
        }
        let csv = world.run(&["receipts", "--csv", "--thread", "b"]).await;
        let csv = String::from_utf8(csv.stdout).expect("text");
        let lines: Vec<_> = csv.lines().collect();
        assert!(lines.len() == 2 && lines[0].starts_with("id,removed_at,thread_id,"), "{on:?}: {csv}");
        assert!(lines[1].contains(&format!(",b,{},removed,sweep,", world.volume("b"))), "{on:?}: {csv}");
        let refused = world.run(&["receipts", "--since", "yesterday"]).await;
        assert_eq!(refused.status.code(), Some(1), "{on:?}");
    }
}

#[tokio::test]
async fn receipts_that_nobody_touched_are_whole_over_replicas_and_restarts() {
    for on in On::ALL {
        let world = cleaned(on, &["by-hand"]).await;
        for round in ["x", "y"] {
            let serving = world.serve().await;
            for number in 0..5 {
                let id = format!("{round}{number}");
                world.closed_with_volume(&id).await;
                world.publish_closed(&id).await;
                world.until_marked(&id).await;
            }
            assert_eq!(serving.stop().await, Some(0), "{on:?}");
        }
        let (code, report) = verified(&world).await;
        assert_eq!(
            (code, &report["receipts"], &report["flaws"]),
            (Some(0), &json!(11), &json!([])),
            "{on:?}: {report}"
        );
        let open = "SELECT id FROM volume_reaper_chains WHERE closed_at IS NULL";
        assert!(world.texts(open).await.is_empty(), "{on:?}: whoever stops closes its chains");
    }
}

#[tokio::test]
async fn a_receipt_that_is_changed_taken_away_or_put_in_is_named() {
    for on in On::ALL {
        let world = world(on).await;
        let serving = world.serve().await;
        for id in ["a", "b", "c", "d"] {
            world.closed_with_volume(id).await;
            world.publish_closed(id).await;
            world.until_marked(id).await;
        }
        assert_eq!(serving.stop().await, Some(0));
        assert_eq!(verified(&world).await.0, Some(0), "{on:?}");

        world.execute("UPDATE volume_removals SET outcome = 'not_found' WHERE thread_id = 'b'").await;
        let id = &world
            .texts(&format!("SELECT {} FROM volume_removals WHERE thread_id = 'b'", world.as_text("id")))
            .await[0];
        assert_eq!(flaws(&world).await, [format!("receipt {id} (thread b) was changed")], "{on:?}");
        world.execute("UPDATE volume_removals SET outcome = 'removed' WHERE thread_id = 'b'").await;
        assert_eq!(verified(&world).await.0, Some(0), "{on:?}: as it was");

        let columns = "thread_id, volume_name, outcome, source, replica, removed_at";
        let now = world.moment(Utc::now());
        let values = format!("'new', 'v', 'removed', 'event', 'r', '{now}'");
        world.execute(&format!("INSERT INTO volume_removals ({columns}) VALUES ({values})")).await;
        let put_in = flaws(&world).await;
        assert!(put_in.len() == 1 && put_in[0].ends_with("(thread new) was put in by hand"), "{on:?}: {put_in:?}");
        world.execute("DELETE FROM volume_removals WHERE thread_id = 'new'").await;

        for id in ["d", "a"] {
            world.execute(&format!("DELETE FROM volume_removals WHERE thread_id = '{id}'")).await;
            let missing = flaws(&world).await;
            assert!(missing.iter().any(|line| line.ends_with("is missing")), "{on:?} {id}: {missing:?}");
        }
    }
}

#[tokio::test]
async fn receipts_whose_time_is_over_go_and_the_rest_is_whole() {
    for on in On::ALL {
        let world = world(on).await;
        let url = SecretUrl::parse(&world.settings["DATABASE_URL"], &["postgres", "sqlite", "mysql"]).expect("valid");
        let serving = world.serve().await;
        for id in ["a", "b", "c"] {
            world.closed_with_volume(id).await;
            world.publish_closed(id).await;
            world.until_marked(id).await;
        }
        assert_eq!(serving.stop().await, Some(0));
        let store = Store::new(&url, ThreadsTable::default(), "r".to_owned(), 2).await.expect("a pool");
        let day = std::time::Duration::from_hours(24);
        assert_eq!(store.forget_receipts(day).await, Ok(0), "{on:?}: they are young");
        let a_moment = std::time::Duration::from_millis(1);
        assert_eq!(store.forget_receipts(a_moment).await, Ok(0), "{on:?}: they were not counted yet");
        let ids = "SELECT thread_id FROM volume_removals ORDER BY id";
        let of_b = format!("SELECT {} FROM volume_removals WHERE thread_id = 'b'", world.as_text("id"));
        store.roll_up(world.texts(&of_b).await[0].parse().expect("an id")).await.expect("counted");
        assert_eq!(store.forget_receipts(a_moment).await, Ok(2), "{on:?}");
        assert_eq!(world.texts(ids).await, ["c"], "{on:?}");
        let (code, report) = verified(&world).await;
        assert_eq!((code, &report["receipts"]), (Some(0), &json!(1)), "{on:?}: {report}");
        // What is left can't go unnoticed.
        world.execute("DELETE FROM volume_removals").await;
        let missing = flaws(&world).await;
        assert!(missing.len() == 1 && missing[0].ends_with("is missing"), "{on:?}: {missing:?}");
    }
}
