//! Volumes without a thread: listed, and removed only by a person.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, ChildStdout, Command},
};

use crate::world::{On, World, world};

const METRIC: &str = "volume_reaper_orphan_volumes";

async fn orphans(world: &World) -> Value {
    let output = world.run(&["orphans", "--json"]).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn remove(world: &World, older_than: &str) -> (Option<i32>, String) {
    let output = world.run(&["orphans", "remove", "--older-than", older_than, "--yes"]).await;
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn volumes_without_a_thread_are_listed_with_their_age_and_their_containers() {
    for on in On::ALL {
        let world = world(on).await;
        world.create_volume("first").await;
        world.create_volume("held").await;
        let container = world.create_container("held").await;
        world.open_thread("open").await;
        world.create_volume("open").await;
        world.closed_with_volume("closed").await;

        let listed = orphans(&world).await;
        assert_eq!(listed["volumes"], 4, "{listed}");
        let found = listed["orphans"].as_array().expect("a list");
        assert_eq!(found.len(), 2, "{listed}");
        assert_eq!(found[0]["thread_id"], "first");
        assert_eq!(found[0]["volume"], world.volume("first"));
        assert!(found[0]["created_at"].is_string() && found[0]["size_bytes"].is_null());
        assert_eq!(found[1]["users"], serde_json::json!([container]));

        let output = world.run(&["orphans"]).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("{}  age ", world.volume("first"))), "{text}");
        assert!(text.contains("2 of 4 volumes belong to no thread"), "{text}");
    }
}

#[tokio::test]
async fn a_sweep_counts_orphans_and_leaves_them() {
    let world = world(On::Sqlite).await;
    world.create_volume("orphan").await;
    let serving = world.serve().await;
    serving.until_metric(METRIC, 1).await;
    assert!(world.has_volume("orphan").await);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_person_removes_the_orphans_that_are_old_enough_and_not_held() {
    let world = world(On::Sqlite).await;
    for id in ["free", "held", "open"] {
        world.create_volume(id).await;
    }
    world.create_container("held").await;
    world.open_thread("open").await;

    let (code, text) = remove(&world, "1d").await;
    assert_eq!(code, Some(0));
    assert!(text.contains("2 of 3 volumes belong to no thread; 0 of them are older than 1day"), "{text}");
    assert!(world.has_volume("free").await);

    let (code, text) = remove(&world, "0s").await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("{}  removed", world.volume("free"))), "{text}");
    assert!(!world.has_volume("free").await);
    assert!(world.has_volume("held").await && world.has_volume("open").await);
    assert_eq!(world.receipts("free").await, ["removed/orphan"]);
}

#[tokio::test]
async fn a_held_thread_that_is_still_to_come_keeps_its_volume_and_a_pause_keeps_all() {
    let world = world(On::Sqlite).await;
    world.create_volume("coming").await;
    let output = world.run(&["hold", "coming", "--reason", "restored tomorrow"]).await;
    assert!(output.status.success(), "{output:?}");
    let (code, text) = remove(&world, "0s").await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("kept: its thread is held"), "{text}");

    assert!(world.run(&["release", "coming"]).await.status.success());
    assert!(world.run(&["pause", "--reason", "disk moves"]).await.status.success());
    let output = world.run(&["orphans", "remove", "--older-than", "0s", "--yes"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("removal is paused (disk moves): `volume-reaper resume` first"), "{error}");
    assert!(world.has_volume("coming").await);
}

#[tokio::test]
async fn nothing_is_removed_where_nobody_can_be_asked() {
    let world = world(On::Sqlite).await;
    world.create_volume("orphan").await;
    let output = world.run(&["orphans", "remove", "--older-than", "0s"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("say --yes, or run it on a terminal to be asked"), "{error}");
    assert!(world.has_volume("orphan").await);
}

#[tokio::test]
async fn how_old_they_must_be_has_to_be_said() {
    let world = world(On::Sqlite).await;
    assert_eq!(world.run(&["orphans", "remove", "--yes"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn what_can_not_be_a_threads_or_has_a_foreign_prefix_is_somebody_elses_and_never_an_orphan() {
    let uuid = "7f1c2a30-9f55-4f0e-8a77-0f6f1f4f1b11";
    for (on, id, ours) in [(On::Postgres, "uuid", uuid), (On::Mysql, "bigint", "7"), (On::Sqlite, "text", "mine")] {
        let mut world = World::without_schema(on).await;
        let table = format!("CREATE TABLE threads (id {id} PRIMARY KEY, status varchar(9), closed_at timestamp NULL)");
        world.execute(&table).await;
        assert!(world.run(&["migrate"]).await.status.success());
        if matches!(on, On::Sqlite) {
            // Nobody can say by a text whether it is a thread's id.
            world.set("VOLUME_REAPER_FOREIGN_PREFIXES", format!("{}_ws_x_", world.name));
        }
        for volume in [ours, "x_1", &format!("x_{uuid}")] {
            world.create_volume(volume).await;
        }
        let listed = orphans(&world).await;
        let found: Vec<_> = listed["orphans"].as_array().expect("a list").iter().map(|it| &it["thread_id"]).collect();
        assert_eq!(found, [ours], "{on:?}: {listed}");
        assert_eq!(world.sweep().await["orphans"], 1, "{on:?}");
        let (code, text) = remove(&world, "0s").await;
        assert_eq!(code, Some(0), "{on:?}: {text}");
        assert!(!world.has_volume(ours).await && text.contains(&format!("{}  age ", world.volume(ours))), "{text}");
        assert!(world.has_volume("x_1").await && world.has_volume(&format!("x_{uuid}")).await, "{on:?}: {text}");
        let actors = world.texts("SELECT actor FROM volume_removals").await;
        assert!(actors.len() == 1 && !actors[0].is_empty(), "{on:?}: {actors:?}");
    }
}

#[tokio::test]
async fn a_thread_of_ours_whose_volume_has_a_foreign_prefix_is_neither_removed_nor_marked() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_FOREIGN_PREFIXES", format!("{}_ws_x_", world.name));
    world.closed_with_volume("x_1").await;
    let serving = world.serve_idle().await;
    world.publish_closed("x_1").await;
    let parked = world.dead_letter().await;
    let error = crate::world::header(&parked, "volume-reaper-error").expect("an error");
    assert!(error.contains("is somebody else's (VOLUME_REAPER_FOREIGN_PREFIXES)"), "{error}");
    assert_eq!(serving.stop().await, Some(0));
    assert_eq!(world.sweep().await["failed"], 1);
    assert!(world.has_volume("x_1").await && world.mark("x_1").await.is_none());
}

#[tokio::test]
async fn orphans_are_removed_within_the_budgets_and_use_them_up() {
    let mut world = world(On::Sqlite).await;
    for setting in ["VOLUME_REAPER_BUDGET_PER_HOUR", "VOLUME_REAPER_BUDGET_PER_SWEEP"] {
        world.set(setting, "2");
        for volume in ["a", "b", "c"] {
            world.create_volume(volume).await;
        }
        let (code, text) = remove(&world, "0s").await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("kept: removal is paused (the budget of 2 removals per "), "{text}");
        let left = ["a", "b", "c"].map(|volume| world.has_volume(volume));
        let left = futures_util::future::join_all(left).await.into_iter().filter(|is_left| *is_left).count();
        assert_eq!(left, 1, "{setting}: {text}");
        assert!(world.run(&["resume"]).await.status.success());
        assert_eq!(remove(&world, "0s").await.0, Some(0));
        world.set(setting, "off");
        world.execute("DELETE FROM volume_removals").await;
    }
}

/// Reads what a terminal shows until this is there.
async fn until_shown(output: &mut ChildStdout, what: &str) {
    let mut shown = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&shown).contains(what) {
            assert_ne!(output.read_buf(&mut shown).await.expect("readable"), 0, "it ended");
        }
    };
    let read = tokio::time::timeout(Duration::from_mins(1), read).await;
    assert!(read.is_ok(), "{what}: {}", String::from_utf8_lossy(&shown));
}

async fn type_line(input: &mut ChildStdin, line: &str) {
    input.write_all(format!("{line}\n").as_bytes()).await.expect("written");
}

#[tokio::test]
async fn who_confirms_is_asked_again_if_there_are_others_by_then() {
    let world = world(On::Sqlite).await;
    world.create_volume("first").await;
    // It gives the program a terminal.
    let mut script = Command::new("script");
    let program = format!("{} orphans remove --older-than 0s", env!("CARGO_BIN_EXE_volume-reaper"));
    script.args(["-qec", &program, "/dev/null"]).env_clear().envs(&world.settings).current_dir(world.dir.path());
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it runs");
    let (mut input, mut output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    until_shown(&mut output, "Type 1 to continue").await;
    world.create_volume("second").await;
    type_line(&mut input, "1").await;
    until_shown(&mut output, "Type 2 to continue").await;
    assert!(world.has_volume("first").await && world.has_volume("second").await);
    type_line(&mut input, "2").await;
    until_shown(&mut output, &format!("{}  removed", world.volume("second"))).await;
    assert!(!world.has_volume("first").await);
    child.kill().await.expect("it runs or has ended");
}
