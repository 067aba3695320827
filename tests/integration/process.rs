//! The program as its users see it: exit codes, error lines, HTTP, signals, and what it says of itself.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::{
    proxy::CountingProxy,
    world::{On, Serving, World, eventually, world},
};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_with_one_line_and_exit_code_2() {
    for (variable, value) in [
        ("VOLUME_REAPER_PREFETCH", "many"),
        ("VOLUME_REAPER_VOLUME_PREFIX", ""),
        ("VOLUME_REAPER_VOLUME_PREFIX", "ha"),
        ("VOLUME_REAPER_RECONCILE_INTERVAL", "60"),
        ("VOLUME_REAPER_NO_SUCH_SETTING", "1"),
        ("DATABASE_URL", "oracle://u:s3cret@h/d"),
        ("AMQP_URL", "http://u:s3cret@h"),
        ("DOCKER_HOST", "ftp://h"),
        ("VOLUME_REAPER_CONFIG", "no-such-file.toml"),
    ] {
        let mut world = World::without_schema(On::Sqlite).await;
        world.set(variable, value);
        let output = world.run(&["serve"]).await;
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{variable}: {error}");
        assert_eq!(error.lines().count(), 1, "{variable}: {error}");
        assert!(error.contains(variable) || error.contains("no-such-file.toml"), "{variable}: {error}");
        assert!(!error.contains("s3cret"), "{variable}: {error}");
    }
}

#[tokio::test]
async fn an_unknown_key_in_the_file_is_refused() {
    let world = World::without_schema(On::Sqlite).await;
    std::fs::write(world.dir.path().join("reaper.toml"), "prefetch = 16\nprefecth = 8\n").expect("written");
    let output = world.run(&["sweep", "--config", "reaper.toml"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "volume-reaper: reaper.toml: prefecth: there is no such setting\n");
}

#[tokio::test]
async fn a_clean_stop_on_either_signal_exits_with_0_and_finishes_what_is_in_flight() {
    for signal in ["TERM", "INT"] {
        let world = world(On::Sqlite).await;
        let mut serving = world.serve().await;
        for number in 0..50 {
            world.closed_with_volume(&format!("t{number}")).await;
        }
        let ids: Vec<_> = (0..50).map(|number| format!("t{number}")).collect();
        let arguments: Vec<_> = std::iter::once("publish").chain(ids.iter().map(String::as_str)).collect();
        assert!(world.run(&arguments).await.status.success());
        serving.signal(signal);
        assert_eq!(serving.exit_code().await, Some(0), "{signal}");

        // What was removed is marked, what was not is still there: nothing ended in the middle.
        let mut removed = 0;
        for id in &ids {
            assert_eq!(world.mark(id).await.is_some(), !world.has_volume(id).await, "{id}");
            removed += u32::from(world.mark(id).await.is_some());
        }
        let left = world.messages(&world.work_queue()).await;
        assert_eq!(removed + left, 50, "every event is settled or still in the queue");
    }
}

#[tokio::test]
async fn a_sweep_that_cannot_begin_prints_its_object_too() {
    for (variable, value) in
        [("DATABASE_URL", "postgres://u:s3cret@127.0.0.1:1/d"), ("DOCKER_HOST", "unix:///no/such.sock")]
    {
        let mut world = world(On::Sqlite).await;
        world.set(variable, value);
        world.set("RUST_LOG", "warn");
        let output = world.run(&["sweep", "--json"]).await;
        assert_eq!(output.status.code(), Some(1), "{variable}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("an object");
        assert!(report["skipped_reason"].is_string() && report["removed"] == json!(0), "{variable}: {report}");
        assert!(!report.to_string().contains("s3cret"), "{report}");
        assert_eq!(stderr(&output).lines().count(), 1, "{variable}: {output:?}");
    }
}

/// A world in which a removal takes so long that nobody waits for it any more.
async fn with_removal_that_takes_long(grace: &str) -> (World, CountingProxy, Serving) {
    let mut world = world(On::Sqlite).await;
    let proxy = CountingProxy::start_holding_removals(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    world.set("VOLUME_REAPER_LOCK_LIMIT", "100ms");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.set("VOLUME_REAPER_SHUTDOWN_GRACE", grace);
    let serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"removing\"}", 1).await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 1).await;
    serving.signal("TERM");
    (world, proxy, serving)
}

fn said(serving: &Serving, what: &str) -> Option<Value> {
    serving.lines().into_iter().find(|line| line["message"].as_str().is_some_and(|message| message.contains(what)))
}

#[tokio::test]
async fn a_stop_waits_for_removals_that_nobody_else_waits_for() {
    let (world, proxy, mut serving) = with_removal_that_takes_long("1h").await;
    eventually("it waits", async || said(&serving, "waiting for removals that take long")).await;
    assert!(world.mark("t1").await.is_none());
    proxy.release_removals();
    assert_eq!(serving.exit_code().await, Some(0));
    assert!(world.mark("t1").await.is_some());
    assert_eq!(world.receipts("t1").await, ["removed/event"]);
}

#[tokio::test]
async fn removals_that_outlast_the_grace_period_are_named() {
    let (_world, _proxy, mut serving) = with_removal_that_takes_long("1s").await;
    assert_eq!(serving.exit_code().await, Some(0));
    let left = said(&serving, "removals are left to the daemon").expect("a line");
    assert_eq!((&left["threads"], &left["removals"]), (&json!("t1"), &json!(1)));
}

#[tokio::test]
async fn a_database_file_that_we_make_is_for_nobody_else_to_read() {
    let mut world = World::without_schema(On::Sqlite).await;
    world.set("DATABASE_URL", "sqlite://ours.db?mode=rwc");
    assert!(world.run(&["migrate"]).await.status.success());
    let mode = world.dir.path().join("ours.db").metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_settings_file_with_a_password_that_everybody_can_read_draws_a_warning() {
    let world = World::without_schema(On::Sqlite).await;
    let path = world.dir.path().join("reaper.toml");
    let warning = async |text: &str, mode| {
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
        let output = world.run(&["migrate", "status", "--config", "reaper.toml"]).await;
        assert!(output.status.success(), "{output:?}");
        stderr(&output)
    };
    let secret = "management_url = 'http://user:s3cret@localhost:15672'";
    let warned = warning(secret, 0o644).await;
    assert!(warned.contains("WARN") && warned.contains("chmod 0640 reaper.toml"), "{warned}");
    assert!(!warned.contains("s3cret"), "{warned}");
    assert_eq!(warning(secret, 0o640).await, "");
    assert_eq!(warning("prefetch = 16", 0o644).await, "");
}

#[tokio::test]
async fn serve_is_live_at_once_and_ready_when_all_it_needs_is_there() {
    let mut world = world(On::Sqlite).await;
    world.set("AMQP_URL", "amqp://guest:s3cret@127.0.0.1:1/%2f");
    let serving = world.start().await;
    assert_eq!(serving.get("/livez").await.0, 200);
    let body = eventually("the broker's state is known", async || {
        let (code, body) = serving.get("/readyz").await;
        assert_eq!(code, 503);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let reason = body["dependencies"]["broker"]["reason"].as_str().expect("a reason").to_owned();
        (reason.contains("refused") && body["dependencies"]["docker"]["up"] == json!(true)).then_some(body)
    })
    .await;
    assert_eq!(body["ready"], json!(false));
    assert_eq!(body["dependencies"]["database"]["up"], json!(true));
    assert!(!format!("{body}{:?}", serving.lines()).contains("s3cret"));
    assert_eq!(serving.stop().await, Some(0), "a broker that is not there does not hold up the end");
}

#[tokio::test]
async fn a_wrong_password_at_the_broker_ends_the_start_with_a_clear_line() {
    let mut world = world(On::Sqlite).await;
    let url = world.settings["AMQP_URL"].replace("guest:guest", "guest:s3cret");
    world.set("AMQP_URL", url);
    let output = world.run(&["serve"]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("ACCESS") && error.contains("guest:***@"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn queues_with_other_arguments_end_the_start_with_what_differs_and_what_to_do() {
    let world = world(On::Sqlite).await;
    assert_eq!(world.serve().await.stop().await, Some(0));
    let connection = lapin::Connection::connect(&world.settings["AMQP_URL"], lapin::ConnectionProperties::default());
    let connection = connection.await.expect("the broker is there");
    let channel = connection.create_channel().await.expect("a channel");
    let queue = world.work_queue();
    channel.queue_delete(queue.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.expect("deleted");
    let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    let classic = channel.queue_declare(queue.as_str().into(), durable, lapin::types::FieldTable::default());
    classic.await.expect("declared");
    connection.close(200, "done".into()).await.expect("closed");

    let output = world.run(&["serve"]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("inequivalent arg") && error.contains(&queue) && error.contains("VOLUME_REAPER_TOPOLOGY=check"),
        "{error}"
    );
}

#[tokio::test]
async fn a_schema_that_is_not_there_is_said_where_it_may_not_be_created() {
    let mut world = World::without_schema(On::Sqlite).await;
    world.set("VOLUME_REAPER_MIGRATE", "false");
    let output = world.run(&["sweep"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("run `volume-reaper migrate up`"), "{output:?}");
    assert!(world.run(&["migrate", "up"]).await.status.success());
    assert!(world.run(&["sweep"]).await.status.success());
}

#[tokio::test]
async fn migrate_lists_what_is_applied() {
    let world = World::without_schema(On::Sqlite).await;
    let status = async || String::from_utf8_lossy(&world.run(&["migrate", "status"]).await.stdout).into_owned();
    assert_eq!(status().await.matches("pending").count(), 6);
    assert!(world.run(&["migrate"]).await.status.success());
    assert_eq!(status().await.matches("applied").count(), 6);
    assert!(world.run(&["migrate", "down"]).await.status.success());
    assert_eq!(status().await.matches("applied").count(), 5);
    assert!(world.run(&["migrate", "down", "--all"]).await.status.success());
    assert_eq!(status().await.matches("pending").count(), 6);
}

#[tokio::test]
async fn another_daemon_is_not_believed_until_it_is_adopted() {
    // Pointed at the wrong host, everything looks gone.
    let world = world(On::Sqlite).await;
    world.open_thread("t1").await;
    world.close_thread("t1").await;
    assert_eq!(world.sweep().await["not_found"], json!(1));
    world.execute("UPDATE volume_reaper_daemons SET identity = 'the-old-host'").await;
    world.open_thread("t2").await;
    world.close_thread("t2").await;

    let output = world.run(&["sweep", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("unknown daemon") && stderr(&output).contains("hosts adopt"), "{output:?}");
    assert!(world.mark("t2").await.is_none());
    let serving = world.start().await;
    eventually("it is not ready", async || serving.get("/readyz").await.1.contains("unknown daemon").then_some(()))
        .await;

    let output = world.run(&["hosts", "adopt"]).await;
    assert!(output.status.success(), "{output:?}");
    serving.until_ready().await;
    world.until_marked("t2").await;
}

#[tokio::test]
async fn publish_refuses_a_bad_id_before_it_publishes_any() {
    let world = world(On::Sqlite).await;
    assert_eq!(world.serve().await.stop().await, Some(0));
    let output = world.run(&["publish", "good", "../bad"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("thread id 2 (\"../bad\")"), "{output:?}");
    assert_eq!(world.messages(&world.work_queue()).await, 0);
}

#[tokio::test]
async fn the_metrics_are_those_of_the_contract() {
    let world = world(On::Sqlite).await;
    let serving = world.serve().await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"removed\"}", 1).await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"ack\"}", 1).await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
    // What is waiting is counted after a sweep.
    eventually("the rows are counted", async || {
        serving.get("/metrics").await.1.contains("volume_reaper_unmarked_threads ").then_some(())
    })
    .await;
    let (code, text) = serving.get("/metrics").await;
    assert_eq!(code, 200);
    for metric in [
        "volume_reaper_docker_requests_total{operation=\"remove_volume\",status=\"ok\"} 1",
        "volume_reaper_unmarked_threads ",
        "volume_reaper_oldest_unmarked_seconds ",
        "volume_reaper_removal_paused 0",
        "volume_reaper_close_to_mark_seconds_bucket{le=",
        "volume_reaper_dependency_up{dependency=\"broker\"} 1",
        "volume_reaper_dependency_up{dependency=\"database\"} 1",
        "volume_reaper_dependency_up{dependency=\"docker\"} 1",
    ] {
        assert!(text.contains(metric), "{metric}\n{text}");
    }
    assert!(!text.contains("t1\""), "no thread's id is a label");
    serving.until_line(|line| line["message"] == "removed the volume").await;
    let removed: Vec<_> = serving.lines().into_iter().filter(|line| line["message"] == "removed the volume").collect();
    assert_eq!(removed.len(), 1, "one line per removed volume");
    assert_eq!(removed[0]["level"], json!("INFO"));
    assert_eq!(removed[0]["thread.id"], json!("t1"));
}

#[tokio::test]
async fn init_finds_a_table_of_threads_and_what_it_prints_can_be_used() {
    for (on, table) in [
        (On::Postgres, "CREATE TABLE \"Thread\" (id uuid PRIMARY KEY, \"threadStatus\" text, \"closedAt\" timestamp)"),
        (On::Mysql, "CREATE TABLE `Thread` (id char(36) PRIMARY KEY, threadStatus varchar(16), closedAt datetime(3))"),
        (On::Sqlite, "CREATE TABLE \"Thread\" (id text PRIMARY KEY, threadStatus text, closedAt text)"),
    ] {
        let mut world = World::without_schema(on).await;
        world.execute(table).await;
        world.execute("CREATE TABLE orders (id int PRIMARY KEY, status varchar(16))").await;
        let quote = if matches!(on, On::Mysql) { "`" } else { "\"" };
        let row = "'7f1c2a30-9f55-4f0e-8a77-0f6f1f4f1b11', 'CLOSED'";
        world
            .execute(&format!("INSERT INTO {quote}Thread{quote} (id, {quote}threadStatus{quote}) VALUES ({row})"))
            .await;

        let printed = world.run(&["init"]).await;
        assert!(printed.status.success(), "{printed:?}");
        let printed = String::from_utf8(printed.stdout).expect("text");
        let set: Vec<_> = printed.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let expected = [
            "threads_table = \"Thread\"",
            "threads_status_column = \"threadStatus\"",
            "threads_closed_value = \"CLOSED\"",
            "threads_closed_at_column = \"closedAt\"",
        ];
        assert_eq!(set, expected, "{on:?}: {printed}");
        assert!(printed.contains("# Found: it looks like it; so do orders\n"), "{on:?}: {printed}");
        let port = world.broker();
        let port = port.rsplit(':').next().and_then(|rest| rest.split('/').next()).expect("a port");
        assert!(printed.contains(&format!(":{port}\n#amqp_url = ")), "{on:?}: {printed}");

        let file = world.dir.path().join("config.toml");
        std::fs::write(&file, &printed).expect("written");
        world.set("VOLUME_REAPER_CONFIG", file.display().to_string());
        let migrated = world.run(&["migrate"]).await;
        assert!(migrated.status.success(), "{on:?}: {migrated:?}");
        let swept = world.run(&["sweep", "--json"]).await;
        let report: serde_json::Value = serde_json::from_slice(&swept.stdout).expect("JSON");
        assert_eq!(report["candidates"], 1, "{on:?}: {report}");
    }
}

#[tokio::test]
async fn init_says_what_it_can_not_look_into_and_repeats_no_password() {
    let mut world = world(On::Postgres).await;
    world.set("DATABASE_URL", "postgres://reaper:s3cret@127.0.0.1:1/db");
    world.set("AMQP_URL", "amqp://reaper:s3cret@127.0.0.1:1/%2f");
    let printed = world.run(&["init"]).await;
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).expect("text");
    assert!(printed.contains("# Found: not looked into: ") && printed.contains("# Found: nothing on 127.0.0.1:1"));
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(printed.lines().all(|line| line.is_empty() || line.starts_with('#')), "{printed}");
}

#[tokio::test]
async fn completions_and_manual_pages_know_every_command() {
    let world = world(On::Sqlite).await;
    for shell in ["bash", "zsh", "fish"] {
        let script = world.run(&["completions", shell]).await;
        assert!(script.status.success(), "{script:?}");
        let script = String::from_utf8(script.stdout).expect("text");
        for word in ["dead-letters", "receipts", "retire"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let dir = world.dir.path().join("man");
    assert!(world.run(&["man", dir.to_str().expect("text")]).await.status.success());
    for page in ["volume-reaper.1", "volume-reaper-receipts-verify.1", "volume-reaper-hosts-retire.1"] {
        let text = std::fs::read_to_string(dir.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH "), "{page}");
    }
}

#[tokio::test]
async fn a_pipe_that_closes_early_ends_a_list_quietly() {
    let world = world(On::Sqlite).await;
    let columns = "thread_id, volume_name, outcome, source, replica, removed_at";
    let now = world.moment(chrono::Utc::now());
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)";
    let insert = format!(
        "INSERT INTO volume_removals ({columns}) {numbers} SELECT i, 'v', 'removed', 'event', 'r', '{now}' FROM n"
    );
    world.execute(&insert).await;
    let mut list = world.command(&["receipts", "--csv"]);
    let mut list =
        list.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("starts");
    // Far less than there is.
    let mut lines = tokio::io::BufReader::new(list.stdout.take().expect("piped"));
    let mut first = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut first).await.expect("a line");
    drop(lines);
    let ended = list.wait_with_output().await.expect("ends");
    assert!(first.starts_with("id,"), "{first}");
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}
