//! The programs in `docs/`, as they stand there.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::world::{On, World, connect, eventually, world};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The one block of code in that language.
fn block(page: &str, language: &str) -> String {
    blocks(page, language).swap_remove(0)
}

/// All blocks of code in that language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs").join(page)).expect("readable");
    let begin = format!("```{language}\n");
    let blocks: Vec<_> =
        text.split(&begin).skip(1).map(|rest| rest.split_once("```").expect("an end").0.to_owned()).collect();
    assert!(!blocks.is_empty(), "{page} has no {language}");
    blocks
}

/// Runs commands as they stand in a document, with this program and the settings of the world.
async fn bash(world: &World, commands: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_volume-reaper")).parent().expect("a directory");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("a path"));
    let mut bash = Command::new("bash");
    bash.args(["-euc", commands]).env_clear().envs(&world.settings).env("PATH", path).current_dir(world.dir.path());
    let output = bash.output().await.expect("it runs");
    assert!(output.status.success(), "{output:?}");
}

/// A world on the exchange of the documents.
async fn documented(on: On) -> World {
    let mut world = world(on).await;
    world.set("VOLUME_REAPER_EXCHANGE", "threads");
    world
}

/// Has a program publish the event of a thread, and waits for what has to come of it.
async fn publishes(mut program: Command) {
    let world = documented(On::Sqlite).await;
    let serving = world.serve_idle().await;
    world.closed_with_volume("documented").await;
    let output = program.arg("documented").env("AMQP_URL", world.broker()).output().await.expect("it runs");
    assert!(output.status.success(), "{output:?}");
    world.until_marked("documented").await;
    assert_eq!(world.receipts("documented").await, ["removed/event"]);
    assert_eq!(world.texts("SELECT event_id FROM volume_removals").await[0].len(), 36, "a message id");
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn the_program_in_python_publishes() {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", &block("publish.md", "python")]);
    publishes(python).await;
}

#[tokio::test]
async fn the_program_in_javascript_publishes() {
    let Some(modules) = amqplib().await else {
        println!("skipped: npm is not available, and amqplib comes with it");
        return;
    };
    let file = modules.join("publish.mjs");
    std::fs::write(&file, block("publish.md", "javascript")).expect("written");
    let mut node = Command::new("node");
    node.arg(file);
    publishes(node).await;
}

/// A directory with amqplib; none without npm, which CI has.
async fn amqplib() -> Option<PathBuf> {
    let dir = root().join("target").join("amqplib");
    if !dir.join("node_modules").join("amqplib").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&dir).arg("amqplib@2.3.1");
        match npm.output().await {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) if std::env::var_os("CI").is_some() => panic!("npm: {error}"),
            Err(_) => return None,
        }
    }
    Some(dir)
}

#[tokio::test]
async fn the_program_in_rust_publishes() {
    let example = std::fs::read_to_string(root().join("examples").join("publish.rs")).expect("readable");
    assert_eq!(block("publish.md", "rust"), example);
    let built = Path::new(env!("CARGO_BIN_EXE_volume-reaper")).with_file_name("examples").join("publish");
    publishes(Command::new(built)).await;
}

#[tokio::test]
async fn the_outbox_in_sql_publishes() {
    let world = documented(On::Postgres).await;
    world.execute(&block("publish.md", "sql")).await;
    let serving = world.serve_idle().await;
    world.closed_with_volume("documented").await;

    bash(&world, &block("publish.md", "bash")).await;
    world.until_marked("documented").await;
    assert_eq!(world.receipts("documented").await, ["removed/event"]);
    assert_eq!(world.texts("SELECT thread_id FROM closed_thread_outbox").await, [""; 0]);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn the_page_for_who_has_no_shared_database_works_as_it_stands() {
    let mut world = World::without_schema(On::Sqlite).await;
    let commands = blocks("own-database.md", "bash");
    bash(&world, &commands[0]).await;

    let database = format!("sqlite://{}", world.dir.path().join("volume-reaper.db").display());
    world.db = connect(&database).await;
    world.set("DATABASE_URL", database);
    world.set("VOLUME_REAPER_UNKNOWN_THREADS", "record");
    let serving = world.serve().await;
    bash(&world, &commands[1]).await;
    let status = async || world.texts("SELECT status FROM threads WHERE id = '7f1c'").await;
    eventually("it was reopened", async || (status().await == ["open"]).then_some(())).await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn the_page_for_who_wants_to_try_it_on_a_copy_works_as_it_stands() {
    let world = World::without_schema(On::Postgres).await;
    let commands = blocks("dry-run.md", "bash");
    bash(&world, &commands[1]).await;
    assert_eq!(world.serve().await.stop().await, Some(0));
    world.closed_with_volume("documented").await;

    let arguments: Vec<_> = commands[0].split_whitespace().skip(1).map(|word| word.replace("9465", "0")).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let journal = world.dir.path().join("journal");
    let file = std::fs::File::create(&journal).expect("a file");
    let serving = world.start_as(&arguments, file.into()).await;
    let entry = eventually("it is decided on", async || {
        let line = std::fs::read_to_string(&journal).ok()?.lines().next()?.to_owned();
        serde_json::from_str::<serde_json::Value>(&line).ok()
    });
    let entry = entry.await;
    assert_eq!((&entry["thread_id"], &entry["outcome"]), (&"documented".into(), &"removed".into()));
    assert!(world.has_volume("documented").await);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn the_page_for_who_has_a_table_of_their_own_works_as_it_stands() {
    let (tables, commands) = (blocks("adopt.md", "sql"), blocks("adopt.md", "bash"));
    let (down, up) = commands.split_last().expect("commands");
    let thread = "7f1c2a30-9f55-4f0e-8a77-0f6f1f4f1b11";
    for (on, table) in [(On::Postgres, &tables[0]), (On::Mysql, &tables[1])] {
        let world = World::without_schema(on).await;
        world.execute(table).await;
        let (insert, schema) = match on {
            On::Mysql => ("INSERT INTO Thread (id, threadStatus)", "DATABASE()"),
            On::Postgres | On::Sqlite => ("INSERT INTO \"Thread\" (id, \"threadStatus\")", "'public'"),
        };
        world.execute(&format!("{insert} VALUES ('{thread}', 'CLOSED')")).await;
        bash(&world, &[up.concat(), "volume-reaper sweep".to_owned()].concat()).await;
        assert_eq!(world.receipts(thread).await, ["not_found/sweep"], "{on:?}");
        bash(&world, &[&commands[0], down.as_str()].concat()).await;
        let columns = format!(
            "SELECT {} FROM information_schema.columns WHERE table_name = 'Thread' AND table_schema = {schema} \
             ORDER BY ordinal_position",
            world.as_text("column_name")
        );
        assert_eq!(world.texts(&columns).await, ["id", "threadStatus", "closedAt"], "{on:?}");
    }
}
