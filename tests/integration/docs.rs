//! The documents: their programs are run as they stand there, and what they refer to is there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use tokio::process::Command;
use volume_reaper::config::Config;

use crate::world::{On, World, connect, eventually, with_image, world};

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
    let file = amqplib().await.join("publish.mjs");
    std::fs::write(&file, block("publish.md", "javascript")).expect("written");
    let mut node = Command::new("node");
    node.arg(file);
    publishes(node).await;
}

/// A directory with amqplib.
async fn amqplib() -> PathBuf {
    let dir = root().join("target").join("amqplib");
    if !dir.join("node_modules").join("amqplib").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&dir).arg("amqplib@2.3.1");
        let output = npm.output().await.expect("npm, which deploy/local/install installs");
        assert!(output.status.success(), "{output:?}");
    }
    dir
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
async fn the_page_of_the_first_minutes_works_as_it_stands() {
    let mut world = World::without_schema(On::Sqlite).await;
    let commands = blocks("first-minutes.md", "bash");
    let [before, first, after, second] = &commands[..] else { panic!("{commands:?}") };
    world.set("VOLUME_REAPER_UNKNOWN_THREADS", "record");
    let serving = world.serve_idle().await;
    bash(&world, before).await;

    // With names of the test's own, and the image that is here.
    with_image().await;
    let own = |commands: &str| {
        let commands = commands.replace("ha_ws_", &world.volume("")).replace("agent", &world.name);
        commands.replace("alpine", "volume-reaper-empty:latest")
    };
    bash(&world, &own(first)).await;
    world.until_marked("first").await;
    assert!(!world.has_volume("first").await);
    bash(&world, &own(after)).await;
    assert_eq!(world.receipts("first").await, ["removed/event"]);

    let (used, removed) = second.split_once("docker rm").expect("its end");
    bash(&world, &own(used)).await;
    assert!(world.has_volume("second").await, "a container uses it");
    bash(&world, &format!("docker rm{}", own(removed))).await;
    world.until_marked("second").await;
    assert!(!world.has_volume("second").await);
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
    let (tables, mut commands) = (blocks("adopt.md", "sql"), blocks("adopt.md", "bash"));
    commands.retain(|commands| !commands.contains(SEVERAL_VOLUMES) && !commands.contains(VOLUMES_TABLE));
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

/// What the commands for a thread with several volumes have in them.
const SEVERAL_VOLUMES: &str = "VOLUME_REAPER_VOLUME_NAMES";

#[tokio::test]
async fn the_commands_for_a_thread_with_several_volumes_clean_up_after_all_of_them() {
    let thread = "7f1c2a30-9f55-4f0e-8a77-0f6f1f4f1b11";
    let commands = blocks("adopt.md", "bash").into_iter().find(|commands| commands.contains(SEVERAL_VOLUMES));
    for on in On::ALL {
        let world = world(on).await;
        world.closed_with_volume(thread).await;
        // With names of the test's own.
        let commands = commands.as_ref().expect("commands").replace("ha_", &format!("{}_", world.name));
        bash(&world, &commands).await;
        assert!(!world.has_volume(thread).await && world.mark(thread).await.is_some(), "{on:?}");
        let receipts = world.receipts(thread).await;
        assert_eq!(receipts, ["removed/sweep", "not_found/sweep"], "{on:?}");
    }
}

/// What the commands for a table of volumes have in them.
const VOLUMES_TABLE: &str = "VOLUME_REAPER_VOLUMES_TABLE";

#[tokio::test]
async fn the_commands_for_a_table_of_volumes_clean_up_after_what_its_rows_name() {
    let thread = "7f1c2a30-9f55-4f0e-8a77-0f6f1f4f1b11";
    let tables: Vec<_> =
        blocks("adopt.md", "sql").into_iter().filter(|sql| sql.contains("workspace_volumes")).collect();
    let commands = blocks("adopt.md", "bash").into_iter().find(|commands| commands.contains(VOLUMES_TABLE));
    for (on, tables, threads) in [
        (On::Postgres, &tables[0], "\"Thread\""),
        (On::Mysql, &tables[1], "`Thread`"),
        (On::Sqlite, &tables[1], "`Thread`"),
    ] {
        let world = World::without_schema(on).await;
        world.execute(tables).await;
        world.execute(&format!("INSERT INTO {threads} (id, status) VALUES ('{thread}', 'closed')")).await;
        let row = format!("VALUES ('{thread}', '{thread}', '{}')", world.volume("named-otherwise"));
        world.execute(&format!("INSERT INTO workspace_volumes (id, thread_id, volume_name) {row}")).await;
        world.create_volume("named-otherwise").await;
        bash(&world, commands.as_ref().expect("commands")).await;
        assert!(!world.has_volume("named-otherwise").await, "{on:?}");
        assert_eq!(world.receipts(thread).await, ["removed/sweep"], "{on:?}");
        let marked = "SELECT 'marked' FROM workspace_volumes WHERE removed_at IS NOT NULL";
        assert_eq!(world.texts(marked).await, ["marked"], "{on:?}");
    }
}

// --- What needs no server ---

/// All documents, by their path below the root.
fn documents() -> BTreeMap<PathBuf, String> {
    let is_document = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let files = ["", "docs", "docs/decisions"].into_iter().flat_map(|dir| {
        let entries = std::fs::read_dir(root().join(dir)).expect("a directory");
        entries.map(move |entry| Path::new(dir).join(entry.expect("readable").file_name()))
    });
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).expect("readable");
        (path, text)
    };
    files.filter(is_document).map(read).collect()
}

/// The lines of a document that are no code, and with their number.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence && !line.starts_with("    ")).then_some((index + 1, line))
    })
}

/// The targets of the links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).map(|rest| rest.split_once(')').expect("a link ends").0)
}

/// The anchors that GitHub makes of a document's headings: lower case, no punctuation, dashes for spaces.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(|(_, heading)| anchor(heading)).collect()
}

/// Where a relative link leads: a path below the root, and an anchor there; `None` for an address.
fn target<'a>(from: &Path, link: &'a str) -> Option<(PathBuf, Option<&'a str>)> {
    if link.contains("://") {
        return None;
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let mut path = if file.is_empty() { from.to_owned() } else { from.parent().expect("a folder").to_owned() };
    for part in Path::new(file) {
        if part == ".." {
            assert!(path.pop(), "{}: {link} leads out of the repository", from.display());
        } else {
            path.push(part);
        }
    }
    Some((path, anchor))
}

/// The links of the documents that lead nowhere.
fn broken(documents: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let mut broken = Vec::new();
    for (from, text) in documents {
        for (number, line) in prose(text) {
            for link in links(line) {
                let Some((path, anchor)) = target(from, link) else { continue };
                let is_there = match (documents.get(&path), anchor) {
                    (Some(text), Some(anchor)) => anchors(text).contains(anchor),
                    (Some(_), None) => true,
                    (None, anchor) => anchor.is_none() && root().join(&path).exists(),
                };
                if !is_there {
                    broken.push(format!("{}:{number}: {link}", from.display()));
                }
            }
        }
    }
    broken
}

#[test]
fn every_link_and_anchor_in_the_documents_leads_somewhere() {
    assert_eq!(broken(&documents()), [""; 0]);
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page =
        "# A page\n[a](b.md) [b](#a-page) [c](#no-page) [d](../Cargo.toml) [e](../no.toml) [f](https://a.example)\n";
    let documents = BTreeMap::from([(PathBuf::from("docs/a.md"), page.to_owned())]);
    assert_eq!(broken(&documents), ["docs/a.md:2: b.md", "docs/a.md:2: #no-page", "docs/a.md:2: ../no.toml"]);
}

#[test]
fn every_document_is_reached_from_the_readme() {
    let documents = documents();
    let mut reached = BTreeSet::new();
    let mut next = vec![PathBuf::from("README.md")];
    while let Some(page) = next.pop() {
        let Some(text) = documents.get(&page) else { continue };
        let links = prose(text).flat_map(|(_, line)| links(line)).filter_map(|link| target(&page, link));
        next.extend(links.map(|(path, _)| path).filter(|path| !reached.contains(path)));
        reached.insert(page);
    }
    let unreached: Vec<_> = documents.keys().filter(|page| !reached.contains(*page)).collect();
    assert!(unreached.is_empty(), "{unreached:?}");
}

#[test]
fn the_book_has_every_page_once() {
    let documents = documents();
    let summary = Path::new("docs/SUMMARY.md");
    let links = documents[summary].lines().flat_map(links);
    let mut pages: Vec<_> = links.filter_map(|link| target(summary, link)).map(|(path, _)| path).collect();
    pages.sort();
    let expected: Vec<_> = documents.into_keys().filter(|page| page != summary).collect();
    assert_eq!(pages, expected);
}

#[test]
fn the_files_that_the_documents_name_are_of_this_version() {
    let mut named = 0;
    for (page, text) in documents() {
        for before in ["volume-reaper_", "volume-reaper-", "volume-reaper-chart-", "volume-reaper:"] {
            for rest in text.split(before).skip(1) {
                let version: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
                // 1.2.3 stands for any.
                let is_it = ["", "1.2.3", env!("CARGO_PKG_VERSION")].contains(&version.trim_end_matches('.'));
                assert!(is_it, "{}: {before}{version}", page.display());
                named += usize::from(version == env!("CARGO_PKG_VERSION"));
            }
        }
    }
    assert!(named > 5, "{named}");
}

#[test]
fn the_readme_has_at_most_150_lines() {
    let lines = documents()[Path::new("README.md")].lines().count();
    assert!(lines <= 150, "{lines} lines");
}

/// What a text calls as a command of ours: the words behind `volume-reaper`.
fn commands(text: &str) -> BTreeSet<String> {
    let words =
        text.split("volume-reaper ").skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '-'));
    words
        .filter_map(|mut words| words.next())
        .filter(|word| !word.is_empty() && !word.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_documents_name_no_command_that_is_not_there_and_the_readme_has_them_all() {
    let there: BTreeSet<_> =
        volume_reaper::cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for (page, text) in documents() {
        let unknown: Vec<_> = commands(&text).difference(&there).cloned().collect();
        assert_eq!(unknown, [""; 0], "{}", page.display());
    }
    let readme = &documents()[Path::new("README.md")];
    let missing: Vec<_> = there.iter().filter(|name| !readme.contains(&format!("`volume-reaper {name}"))).collect();
    assert_eq!(missing, ["man", "release", "resume"], "and these stand beside completions, hold and pause");
    assert!(readme.contains("`release THREAD_ID`") && readme.contains("`resume [--on HOST]`"));
}

#[test]
fn the_page_about_operating_has_the_metrics_of_the_code_and_no_other() {
    let names = |text: &str, before: char| -> BTreeSet<String> {
        let ends = text.split(before).filter_map(|rest| rest.strip_prefix("volume_reaper_"));
        ends.map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()).collect()
    };
    let page = &documents()[Path::new("docs/operate.md")];
    let table: String = page.lines().filter(|line| line.starts_with("| `volume_reaper_")).collect();
    assert_eq!(names(&table, '`'), names(include_str!("../../src/metrics/mod.rs"), '"'));
}

#[test]
fn the_file_in_the_page_about_settings_is_taken() {
    let file = block("settings.md", "toml");
    let config = Config::load(|_| None, &HashMap::new(), Some((PathBuf::from("settings.toml"), file)));
    let config = config.expect("valid");
    assert_eq!(
        (config.host_names(), config.retry_delays.len()),
        (vec![volume_reaper::host::Host::Named("docker-1".to_owned())], 3)
    );
}

#[test]
fn the_documents_name_no_word_of_make_that_is_not_there() {
    let makefile = include_str!("../../Makefile");
    for (page, text) in documents() {
        for rest in text.split("`make ").skip(1).chain(text.split("\n    make ").skip(1)) {
            let word: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            assert!(makefile.contains(&format!("\n{word}: ")), "{}: make {word}", page.display());
        }
    }
}

#[test]
fn the_documents_name_no_setting_that_is_not_there() {
    let is_there = |name: &str| {
        name == volume_reaper::config::CONFIG_ENV
            || volume_reaper::config::SETTINGS.iter().any(|setting| setting.env == name)
    };
    for (page, text) in documents() {
        for rest in text.split("VOLUME_REAPER_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(rest.len());
            let name = format!("VOLUME_REAPER_{}", &rest[..end]);
            // `VOLUME_REAPER_*` and `VOLUME_REAPER_THREADS_...` stand for several.
            assert!(name.ends_with('_') || is_there(&name), "{}: {name}", page.display());
        }
    }
}

#[test]
fn the_code_map_has_the_folders_that_there_are_and_names_files_that_are_there() {
    let page = &documents()[Path::new("ARCHITECTURE.md")];
    let entries = std::fs::read_dir(root().join("src")).expect("a directory").map(|entry| entry.expect("readable"));
    let folders = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string());
    for folder in folders.map(|name| name.expect("Unicode")).filter(|name| name != "snapshots") {
        assert!(page.contains(&format!("\n| `src/{folder}/` |")), "the map lacks src/{folder}/");
    }
    let is_path = |name: &&str| {
        let ends = name.ends_with('/') || Path::new(name).extension().is_some_and(|extension| extension == "rs");
        ends && name.contains('/')
    };
    let names: Vec<_> = page.split('`').skip(1).step_by(2).filter(is_path).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(root().join(name).exists() || root().join("src").join(name).exists(), "{name} is not there");
    }
}

/// The names of all tests that run against real servers.
fn tests() -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join("tests/integration")).expect("readable").flatten();
    let texts = files.map(|file| std::fs::read_to_string(file.path()).expect("readable"));
    let names = |text: String| {
        let after = text.split("#[tokio::test").skip(1).filter_map(|rest| rest.split_once("async fn "));
        after.map(|(_, rest)| rest.split('(').next().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    texts.flat_map(names).collect()
}

#[test]
fn every_case_that_is_not_believed_has_its_test() {
    let tests = tests();
    let page = std::fs::read_to_string(root().join("docs/what-it-refuses-to-believe.md")).expect("readable");
    let is_case = |line: &&str| line.starts_with("| ") && !line.ends_with("| test |");
    let mut cases = 0;
    for line in page.lines().filter(is_case) {
        let last = line.trim_end_matches(" |").rsplit(" | ").next().expect("a last column");
        for name in last.split(", ") {
            assert!(tests.contains(name.trim_matches('`')), "there is no test {name}: {line}");
        }
        cases += 1;
    }
    assert!(cases > 20, "{cases}");
}

/// The names of all tests that there are, of whatever target.
fn tests_everywhere() -> BTreeSet<String> {
    let mut files = Vec::new();
    let mut folders: Vec<_> = ["src", "tests", "migrations/src"].map(|folder| root().join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    let sources = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let names = |path: PathBuf| {
        let text = std::fs::read_to_string(path).expect("readable");
        let after = text.split("#[test]").chain(text.split("#[tokio::test")).skip(1).map(str::to_owned);
        let name = |rest: String| Some(rest.split_once("fn ")?.1.split('(').next()?.to_owned());
        after.filter_map(name).collect::<Vec<_>>()
    };
    sources.flat_map(names).collect()
}

#[test]
fn the_page_of_proofs_names_tests_that_are_there() {
    let (tests, page) = (tests_everywhere(), &documents()[Path::new("docs/proof.md")]);
    let named = page.lines().filter(|line| line.starts_with("| ")).flat_map(|line| line.split('`').skip(1).step_by(2));
    let mut known = 0;
    for name in named.filter(|name| name.contains('_') && !name.contains(' ')) {
        assert!(tests.contains(name), "there is no test {name}");
        known += 1;
    }
    assert!(known > 20, "{known}");
}
