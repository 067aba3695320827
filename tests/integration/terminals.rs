//! What a terminal shows: lists that fit it, that work goes on, colors as asked for; and pipes whose reader has seen
//! enough.

use std::process::{Output, Stdio};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};

use crate::world::{On, World, world};

const PROGRAM: &str = env!("CARGO_BIN_EXE_volume-reaper");

/// A shell's command line, on a terminal of so many columns: script(1) of util-linux gives it one.
fn on_a_terminal(world: &World, columns: u32, line: &str) -> Command {
    let line = format!("stty rows 24 cols {columns}; {line}");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm");
    script.envs(&world.settings).current_dir(world.dir.path()).stdin(Stdio::null()).kill_on_drop(true);
    script
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn each_list_fits_its_terminal_and_is_complete_elsewhere() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
    let serving = world.serve_idle().await;
    let id = "a-thread-with-a-name-that-is-longer-than-a-narrow-terminal-has-columns";
    world.closed_with_volume(id).await;
    world.publish_closed(id).await;
    world.until_marked(id).await;
    world.create_volume(&format!("{id}-too")).await;
    world.publish(format!(r#"{{"thread_id": "{id}", "unreadable"#).as_bytes()).await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
    assert_eq!(serving.stop().await, Some(0));

    for (list, json, whole) in [
        ("receipts", "receipts --json", world.volume(id)),
        ("orphans", "orphans --json", world.volume(&format!("{id}-too"))),
        ("dead-letters list", "dead-letters list --json", "undecodable".to_owned()),
        ("hosts list", "hosts list --json", "pinned".to_owned()),
    ] {
        let shown =
            on_a_terminal(&world, 60, &format!("{PROGRAM} {list} 2>/dev/null")).output().await.expect("it runs");
        let shown = text(&shown);
        let longest = shown.lines().map(|line| line.trim_end_matches('\r').chars().count()).max();
        assert!(longest.is_some_and(|longest| (20..=60).contains(&longest)), "{list}: {shown}");
        assert!(list == "hosts list" || shown.contains('…'), "{list}: {shown}");
        // Nor is anything cut where no terminal is.
        let words: Vec<_> = list.split(' ').collect();
        assert!(!text(&world.run(&words).await).contains('…'), "{list}");
        let json = world.json(&json.split(' ').collect::<Vec<_>>()).await;
        assert!(json.to_string().contains(&whole), "{list}: {json}");
    }
}

#[tokio::test]
async fn who_waits_at_a_terminal_is_shown_after_a_second_that_it_goes_on() {
    let mut world = world(On::Sqlite).await;
    let service = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    world.set("RUST_LOG", "off");
    world.set("VOLUME_REAPER_SERVER", format!("http://{}/", service.local_addr().expect("an address")));
    let mut command = on_a_terminal(&world, 80, &format!("{PROGRAM} status"));
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut output = child.stdout.take().expect("a pipe");
    // It is not answered before it shows that it waits.
    let (mut connection, _) = service.accept().await.expect("it asks");
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains(" 1s") {
        assert_ne!(output.read_buf(&mut shown).await.expect("readable"), 0, "it ended");
    }
    let refusal = "HTTP/1.1 403 Forbidden\r\ncontent-length: 7\r\nconnection: close\r\n\r\nbusy :(";
    connection.write_all(refusal.as_bytes()).await.expect("answered");
    output.read_to_end(&mut shown).await.expect("readable");
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.lines().last().is_some_and(|line| line.contains("403 Forbidden: busy :(")), "{shown}");
    assert_eq!(child.wait().await.expect("it ends").code(), Some(1));
}

#[tokio::test]
async fn log_lines_have_colors_where_they_are_wanted() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_LOG_FORMAT", "pretty");
    world.closed_with_volume("t1").await;
    for (variables, colors) in
        [(&[][..], false), (&[("CLICOLOR_FORCE", "1")], true), (&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false)]
    {
        let output = world.command(&["sweep"]).envs(variables.iter().copied()).output().await.expect("it runs");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!log.is_empty() && log.contains("\x1b[") == colors, "{variables:?}: {log:?}");
    }
    for (variable, colors) in [("", true), ("NO_COLOR=1", false)] {
        let line = format!("{variable} {PROGRAM} sweep >/dev/null");
        let log = on_a_terminal(&world, 80, &line).output().await.expect("it runs");
        assert_eq!(text(&log).contains("\x1b[2m"), colors, "{variable:?}: {}", text(&log));
    }
}

#[tokio::test]
async fn a_pipe_whose_reader_has_seen_enough_ends_a_command_quietly() {
    let mut world = world(On::Sqlite).await;
    let rows: Vec<_> = (0..3000).map(|number| format!("('t{number}', 'closed')")).collect();
    world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await;
    assert_eq!(world.sweep().await["not_found"], 3000);
    world.set("RUST_LOG", "off");
    for command in ["receipts --csv", "receipts --json", "receipts --limit 3000", "completions bash"] {
        let line = format!("{PROGRAM} {command} | head -c 100 >/dev/null; exit ${{PIPESTATUS[0]}}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &line]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let output = bash.envs(&world.settings).current_dir(world.dir.path()).output().await.expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*error), (Some(0), ""), "{command}");
    }
}
