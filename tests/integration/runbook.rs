//! The runbook: each of its commands is run where there is something for it to do, on a terminal as a person would.

use std::{collections::BTreeSet, process::Stdio};

use chrono::Utc;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::world::{On, World, world};

/// A command of the runbook, what is typed when it asks, and what it has to say.
type Case = (&'static str, &'static str, &'static str);

/// What is in backquotes, where it is a command of ours or one for the database.
fn commands() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbook.md");
    let runbook = std::fs::read_to_string(path).expect("readable").replace('\n', " ");
    let code = runbook.split('`').skip(1).step_by(2);
    code.filter(|code| code.starts_with("volume-reaper ") || code.starts_with("DELETE ")).map(str::to_owned).collect()
}

/// Runs a command on a terminal, and returns its exit code and what was shown.
async fn on_a_terminal(world: &World, command: &str, typed: &str) -> (Option<i32>, String) {
    let command = command.replacen("volume-reaper", env!("CARGO_BIN_EXE_volume-reaper"), 1);
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    script.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm");
    script.envs(&world.settings).current_dir(world.dir.path()).kill_on_drop(true);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1) of util-linux");
    let mut stdin = script.stdin.take().expect("a pipe");
    stdin.write_all(typed.as_bytes()).await.expect("written");
    let output = script.wait_with_output().await.expect("it ends");
    drop(stdin);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn each_command_of_the_runbook_does_what_it_is_named_for() {
    let mut world = world(On::Postgres).await;
    let daemon = world.settings.remove("DOCKER_HOST").expect("a daemon");
    world.set("VOLUME_REAPER_DOCKER_HOSTS", format!("docker-1={daemon}"));
    world.execute("ALTER TABLE threads ADD COLUMN host text DEFAULT 'docker-1'").await;
    world.set("VOLUME_REAPER_THREADS_HOST_COLUMN", "host");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
    let serving = world.serve_idle().await;
    world.closed_with_volume("removed").await;
    world.publish_closed("removed").await;
    world.until_marked("removed").await;
    world.closed_with_volume("in-use").await;
    let container = world.create_container("in-use").await;
    world.create_volume("orphan").await;
    // A host that is gone, and what was on it.
    let pinned = format!("('gone', 'ID-GONE', '{}')", world.moment(Utc::now()));
    world.execute(&format!("INSERT INTO volume_reaper_daemons (name, identity, pinned_at) VALUES {pinned}")).await;
    world.execute("INSERT INTO threads (id, status, host) VALUES ('lost', 'closed', 'gone')").await;
    // An event that came before its row, which is there by now, and one that is none.
    for body in [&br#"{"thread_id": "late"}"#[..], b"no event"] {
        world.publish(body).await;
    }
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 2).await;
    world.closed_with_volume("late").await;

    let cases: [Case; 16] = [
        ("volume-reaper status", "", "closed threads are not marked"),
        ("volume-reaper health --ready", "", ""),
        ("volume-reaper doctor", "", "settings.docker_timeout"),
        ("volume-reaper hosts list", "", "docker-1"),
        ("volume-reaper hosts retire NAME --dry-run", "", "1 closed threads name this host"),
        ("volume-reaper hosts retire NAME", "1\n", "retired; 1 threads marked"),
        ("volume-reaper receipts --since 1h", "", "removed"),
        ("volume-reaper explain THREAD_ID", "", "container"),
        ("volume-reaper sweep --dry-run", "", "dry run: nothing was changed"),
        ("volume-reaper resume", "", "removal resumed; it was paused since"),
        ("volume-reaper dead-letters list", "", "2 messages are parked, 2 of them are selected"),
        ("volume-reaper dead-letters show --limit 1", "", "undecodable"),
        ("volume-reaper dead-letters replay", "", "replayed 1 messages"),
        ("volume-reaper dead-letters purge", "1\n", "purged 1 messages"),
        ("volume-reaper orphans", "", "1 of "),
        ("volume-reaper orphans remove --older-than 30d", "", "0 of them are older than 30days"),
    ];
    let clean = "DELETE FROM volume_reaper_failures";
    let mut run: BTreeSet<String> = [clean.to_owned()].into();
    let failed = format!("('in-use', 3, '{0}', '{0}', 'disk full', 'r')", world.moment(Utc::now()));
    let columns = "thread_id, attempts, first_failed_at, failed_at, error, replica";
    world.execute(&format!("INSERT INTO volume_reaper_failures ({columns}) VALUES {failed}")).await;
    world.execute(clean).await;
    assert!(world.texts("SELECT thread_id FROM volume_reaper_failures").await.is_empty());
    world.set("VOLUME_REAPER_HTTP_ADDR", serving.http.clone());
    for (command, typed, says) in cases {
        if command.ends_with("resume") {
            let paused = world.run(&["pause", "--reason", "a look"]).await;
            assert!(paused.status.success(), "{paused:?}");
        }
        run.insert(command.to_owned());
        let command = command.replace("THREAD_ID", "in-use").replace("NAME", "gone");
        let (code, shown) = on_a_terminal(&world, &command, typed).await;
        assert!(shown.contains(says), "{command}: {shown}");
        assert_eq!(code, Some(0), "{command}: {shown}");
    }
    world.until_marked("late").await;
    assert_eq!(commands(), run, "each of them, and no other");
    world.remove_container(&container).await;
    assert_eq!(serving.stop().await, Some(0));
}
