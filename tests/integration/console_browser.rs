//! The console in a real browser: with the keyboard alone, without scripts, and kept up to date by itself.

use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    api::{ADMIN, OPERATOR, VIEWER, with_tokens},
    browser::{Browser, Manner, USUAL},
    pages::{self, begin_to_listen},
    world::{On, Serving, World, eventually, world},
};

/// What WebDriver calls the key.
const ENTER: char = '\u{e007}';
const TAB: char = '\u{e004}';
const ESCAPE: char = '\u{e00c}';
/// Pages by the key that leads there after a `g`, with the end of their address.
const KEYS: [(char, &str); 10] = [
    ('w', "/threads"),
    ('d', "/dead-letters"),
    ('r', "/removals"),
    ('s', "/sweeps"),
    ('h', "/hosts"),
    ('p', "/orphans"),
    ('k', "/holds"),
    ('a', "/activity"),
    ('e', "/health"),
    ('o', "/"),
];

/// A service that has something to show on each page.
async fn busy(world: &mut World) -> Serving {
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(world).await;
    world.closed_with_volume("gone").await;
    world.publish_closed("gone").await;
    world.until_marked("gone").await;
    world.closed_with_volume("waits").await;
    world.create_volume("orphan").await;
    assert!(world.run(&["hold", "held", "--reason", "<b>audit</b>"]).await.status.success());
    world.publish(b"no event").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
    serving
}

async fn log_in(browser: &Browser, serving: &Serving, token: &str) {
    log_in_at(browser, &format!("http://{}/", serving.http), token).await;
}

async fn log_in_at(browser: &Browser, address: &str, token: &str) {
    browser.open(address).await;
    // That there was no token yet is what the browser complains of.
    browser.until("the field has the focus", "return document.activeElement.matches('input[name=token]')").await;
    browser.press(&format!("{token}{ENTER}")).await;
    browser.until("it is logged in", "return document.querySelector('nav') !== null").await;
    browser.complaints().await;
}

/// Fails if the page that is open took anything from elsewhere, or more than it may.
async fn check_what_was_loaded(browser: &Browser, root: &str) {
    let loaded = browser
        .run(
            "return performance.getEntries().filter((e) => e.encodedBodySize !== undefined && !e.name.includes('/live'))
             .map((e) => [e.name, e.encodedBodySize])",
        )
        .await;
    let loaded = loaded.as_array().expect("a list");
    assert!(loaded.len() >= 3, "a page, its style and its script: {loaded:?}");
    let elsewhere: Vec<_> =
        loaded.iter().filter(|entry| !entry[0].as_str().is_some_and(|name| name.starts_with(root))).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    let bytes: u64 = loaded.iter().filter_map(|entry| entry[1].as_u64()).sum();
    assert!(bytes > 0 && bytes < 100_000, "{bytes} bytes: {loaded:?}");
}

/// The script that looks whether everybody can use a page.
fn axe() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/axe-core");
    let output = std::process::Command::new(script).output().expect("it runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let path = String::from_utf8(output.stdout).expect("a path");
    std::fs::read_to_string(path.trim()).expect("readable")
}

/// Fails if somebody could not use the page that is open.
async fn check_for_everybody(browser: &Browser, axe: &str, page: &str) {
    browser.run(axe).await;
    let found = browser
        .run_until_called("const done = arguments[arguments.length - 1]; axe.run().then((r) => done(r.violations))")
        .await;
    let found: Vec<_> = found
        .as_array()
        .expect("violations")
        .iter()
        .map(|violation| format!("{}: {}", violation["help"], violation["nodes"][0]["html"]))
        .collect();
    assert!(found.is_empty(), "{page}: {found:#?}");
}

#[tokio::test]
async fn every_page_is_reached_by_keys_and_usable_by_everybody() {
    let mut world = world(On::Sqlite).await;
    let serving = busy(&mut world).await;
    let axe = axe();
    for manner in [USUAL, Manner { is_dark: true, size: (400, 800), ..USUAL }] {
        let browser = Browser::start(manner).await;
        log_in(&browser, &serving, ADMIN).await;
        for (key, end) in KEYS {
            browser.press_on(&format!("g{key}")).await;
            assert!(browser.address().await.ends_with(end), "g {key} leads to {end}");
            // Not while it asks again for what is not known yet.
            browser.until("all is on it", "return document.querySelector('[data-again]') === null").await;
            let wide = browser.run("return document.documentElement.scrollWidth - window.innerWidth").await;
            assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "{end} {manner:?}: {wide} wider than its window");
            check_for_everybody(&browser, &axe, end).await;
            check_what_was_loaded(&browser, &format!("http://{}/", serving.http)).await;
            let complaints = browser.complaints().await;
            assert!(complaints.is_empty(), "{end}: {complaints:?}");
        }
        browser.close().await;
    }
}

#[tokio::test]
async fn who_begins_at_the_overview_finds_replays_and_pauses_with_the_keyboard_alone() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1s");
    let serving = busy(&mut world).await;
    world.publish_closed("late").await;
    let unknown = "volume_reaper_settlements_total{settlement=\"dead_letter\"}";
    serving.until_metric(unknown, 2).await;
    let browser = Browser::start(USUAL).await;
    log_in(&browser, &serving, OPERATOR).await;
    browser.press("?").await;
    browser.until_text("dialog", "find a thread").await;
    browser.press(&ESCAPE.to_string()).await;
    browser.until("the list of keys is closed", "return document.querySelector('dialog[open]') === null").await;

    // Why is a volume still there?
    browser.press_on(&format!("/{}{ENTER}", world.volume("waits"))).await;
    browser.until_text("h1", "Thread waits").await;
    browser.until_text(".answer", "sweep").await;

    // The cause is mended: the row is there.
    world.closed_with_volume("late").await;
    browser.press_on("gd").await;
    browser.until_text("main", "unknown_thread").await;
    browser.tab_to("button[aria-label*='unknown_thread']").await;
    browser.press_on(&ENTER.to_string()).await;
    browser.until_text("#operation", "1 messages were published again").await;
    world.until_marked("late").await;

    browser.press_on("go").await;
    browser.until("it is the overview", "return document.getElementById('now') !== null").await;
    browser.tab_to(".brake summary").await;
    browser.press_on(&format!("{ENTER}{TAB}because{ENTER}")).await;
    browser.until_text("#banners", "because").await;
    assert_eq!(world.json(&["status", "--json"]).await["pause"]["reason"], "because");
    assert!(browser.complaints().await.is_empty());
    browser.close().await;
}

#[tokio::test]
async fn every_act_is_done_with_the_keyboard_alone() {
    let mut world = world(On::Sqlite).await;
    let serving = busy(&mut world).await;
    let browser = Browser::start(USUAL).await;
    log_in(&browser, &serving, ADMIN).await;
    let enter = ENTER.to_string();

    browser.press_on("gk").await;
    browser.until_text("h1", "Threads that are held").await;
    browser.tab_to("input[name=thread]").await;
    browser.press_on(&format!("other{TAB}a reason{TAB}7d{ENTER}")).await;
    browser.until_text("table", "a reason").await;
    browser.tab_to("button[aria-label='Release other']").await;
    browser.press_on(&enter).await;
    browser.until("it is released", "return document.querySelector('[aria-label=\"Release other\"]') === null").await;

    browser.press_on(&format!("/waits{ENTER}")).await;
    browser.until_text("h1", "Thread waits").await;
    browser.tab_to("form[action$='/hold'] input[name=reason]").await;
    browser.press_on(&format!("audit{ENTER}")).await;
    browser.until_text(".timeline", "It was held").await;
    browser.tab_to("form[action$='/release'] button").await;
    browser.press_on(&enter).await;
    browser.until("it may be held", "return document.querySelector('form[action$=\"/hold\"]') !== null").await;

    browser.press_on("gs").await;
    browser.until_text("h1", "Sweeps").await;
    browser.tab_to("button[value=true]").await;
    browser.press_on(&enter).await;
    browser.until_text("#operation", "A dry run that anna asked for").await;
    browser.until_text("#operation", "1 would be removed").await;
    let list = browser
        .run_until_called(
            "const done = arguments[arguments.length - 1];
             fetch(document.querySelector('#operation a[download]').href).then((r) => r.text()).then(done)",
        )
        .await;
    let list = list.as_str().expect("text");
    assert_eq!(
        list.lines().collect::<Vec<_>>(),
        ["host,thread_id,volume,would", &format!(",waits,{},remove", world.volume("waits")),]
    );
    browser.tab_to("button[value=false]").await;
    browser.press_on(&enter).await;
    browser.until_text("#operation", "A sweep that anna asked for").await;
    world.until_marked("waits").await;

    world.closed_with_volume("again").await;
    browser.press_on(&format!("/again{ENTER}")).await;
    browser.until_text("h1", "Thread again").await;
    browser.tab_to("form[action$='/clean'] button").await;
    browser.press_on(&enter).await;
    world.until_marked("again").await;

    browser.press_on("gd").await;
    browser.until_text("main", "undecodable").await;
    browser.tab_to(".acts a").await;
    browser.press_on(&enter).await;
    browser.until_text("main", "Messages of undecodable").await;
    browser.tab_to("form[action$='/purge'] input[name=expected]").await;
    browser.press_on(&format!("1{ENTER}")).await;
    browser.until_text("#operation", "1 messages were deleted").await;
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);

    browser.press_on("gp").await;
    browser.until_text("main", "orphan").await;
    browser.tab_to("input[name=older_than]").await;
    browser.press_on(&format!("0s{ENTER}")).await;
    browser.until_text("main", "To remove this volume").await;
    browser.tab_to("input[name=expected]").await;
    browser.press_on(&format!("1{ENTER}")).await;
    browser.until_text("#operation", "1 volumes were removed").await;
    assert!(!world.has_volume("orphan").await);
    assert_eq!(world.texts("SELECT actor FROM volume_removals WHERE thread_id = 'orphan'").await, ["anna"]);

    browser.tab_to(".brake summary").await;
    browser.press_on(&format!("{ENTER}{TAB}because{ENTER}")).await;
    browser.until_text("#banners", "because").await;
    browser.tab_to(".brake summary").await;
    browser.press_on(&format!("{ENTER}{TAB}{ENTER}")).await;
    browser.until("it is resumed", "return document.querySelector('.banner') === null").await;

    browser.tab_to("footer button[value=dark]").await;
    browser.press_on(&enter).await;
    browser.until("it is dark", "return document.documentElement.dataset.look === 'dark'").await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    browser.tab_to("form[action$='logout'] button").await;
    browser.press_on(&enter).await;
    browser.until("it asks for a token", "return document.querySelector('input[name=token]') !== null").await;

    // Who only looks has nothing to press but a dry run.
    log_in(&browser, &serving, VIEWER).await;
    for (key, end) in KEYS {
        browser.press_on(&format!("g{key}")).await;
        assert!(browser.address().await.ends_with(end), "g {key} leads to {end}");
        let forms = browser.run("return document.querySelectorAll('main form[method=post], .brake').length").await;
        assert_eq!(forms, u64::from(end == "/sweeps"), "forms of {end}");
    }
    browser.close().await;
}

#[tokio::test]
async fn behind_a_proxy_with_a_prefix_all_of_it_works() {
    let mut world = world(On::Sqlite).await;
    let serving = busy(&mut world).await;
    let proxy = Nginx::before(&serving).await;
    let root = format!("http://127.0.0.1:{}/volume-reaper/", proxy.port);
    let browser = Browser::start(USUAL).await;
    log_in_at(&browser, &root, OPERATOR).await;
    for (key, end) in KEYS {
        browser.press_on(&format!("g{key}")).await;
        assert_eq!(browser.address().await, format!("{}{}", root.trim_end_matches('/'), end));
        check_what_was_loaded(&browser, &root).await;
    }
    assert!(world.run(&["pause", "--reason", "elsewhere"]).await.status.success());
    browser.until_text("#banners", "elsewhere").await;
    browser.until_text(".brake", "Resume removal").await;
    assert!(world.run(&["resume"]).await.status.success());
    browser.until_text(".brake", "Pause removal").await;
    browser.press_on(&format!("/waits{ENTER}")).await;
    browser.until_text("h1", "Thread waits").await;
    browser.tab_to("form[action$='/hold'] input[name=reason]").await;
    browser.press_on(&format!("audit{ENTER}")).await;
    browser.until_text(".timeline", "It was held").await;
    assert_eq!(browser.address().await, format!("{root}threads/waits"));
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    browser.close().await;
}

/// nginx, set up as the document about the console says.
struct Nginx {
    _process: Child,
    port: u16,
    _dir: TempDir,
}

impl Nginx {
    async fn before(serving: &Serving) -> Self {
        let document = include_str!("../../docs/console.md");
        let (_, location) = document.split_once("    location ").expect("it says how");
        let location = location.split_inclusive('\n').take_while(|line| line.starts_with("    ") || line.contains('{'));
        let location: String = location.collect();
        let location = location.replace("127.0.0.1:9464", &serving.http);
        let (dir, free) =
            (TempDir::new().expect("a directory"), std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let at = dir.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {at}/{kind};\n")).concat();
        // One process, since a worker would outlive a master that is killed.
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/errors;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}\
             server {{\nlisten 127.0.0.1:{port};\nlocation {location}\n}}\n}}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).expect("written");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(dir.path().join("nginx.conf")).arg("-p").arg(dir.path()).kill_on_drop(true);
        let process = command.stderr(Stdio::null()).spawn().expect("nginx, which deploy/local/install installs");
        let is_there = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop);
        eventually("nginx listens", is_there).await;
        Self { _process: process, port, _dir: dir }
    }
}

#[tokio::test]
async fn an_open_page_is_kept_up_to_date_until_somebody_stops_it() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_HTTP_TIMEOUT", "10m");
    let serving = busy(&mut world).await;
    let browser = Browser::start(USUAL).await;
    log_in(&browser, &serving, VIEWER).await;
    browser.run("window.isTheSame = true").await;
    assert!(world.run(&["pause", "--reason", "first"]).await.status.success());
    browser.until_text("#banners", "first").await;
    browser.until_text("#now", "Removal is paused: first").await;
    // Of all turns it has one, and leaves it to others while it is in the background.
    let cookie = pages::log_in(&serving, VIEWER).await;
    let mut others = Vec::new();
    while let Some(other) = begin_to_listen(&serving, &cookie).await {
        others.push(other);
    }
    assert_eq!(others.len(), 63);
    assert!(browser.complaints().await.is_empty());
    let hide = "Object.defineProperty(document, 'hidden', { value: true, configurable: true });";
    let tell = "document.dispatchEvent(new Event('visibilitychange'));";
    browser.run(&format!("{hide} {tell}")).await;
    eventually("its turn is free", async || begin_to_listen(&serving, &cookie).await).await;
    drop(others);
    browser.run(&format!("delete document.hidden; {tell}")).await;
    // What is selected stays.
    browser.run("document.getSelection().selectAllChildren(document.querySelector('.checks'))").await;
    assert!(world.run(&["resume"]).await.status.success());
    let is_gone = async || (!browser.text("#banners").await.contains("first")).then_some(());
    eventually("the banner goes", is_gone).await;
    assert!(browser.text("#now").await.contains("Removal is paused: first"), "it is selected");
    browser.run("document.getSelection().removeAllRanges()").await;
    browser.until_text("#now", "Removal is not paused").await;
    // It may have come back before the others' turns were free.
    browser.complaints().await;
    assert_eq!(browser.run("return window.isTheSame").await, Value::Bool(true), "it was not loaded again");
    // What somebody points at stays too, and is news once they point elsewhere.
    browser.until_text("#heading", "1 dead letter is parked").await;
    browser.point_at("#now .checks a").await;
    world.publish(b"no event either").await;
    browser.until_text("#heading", "2 dead letters are parked").await;
    assert!(browser.text("#now").await.contains("1 dead letter is parked"), "somebody may be about to press");
    browser.point_at("header strong").await;
    browser.until_text("#now", "2 dead letters are parked").await;
    // So is a sweep in the list of sweeps.
    browser.press_on("gs").await;
    browser.run("window.isTheSame = true").await;
    assert!(world.run(&["sweep"]).await.status.success());
    browser.until_text("#sweeps", "looked at 1; 1 removed").await;
    assert_eq!(browser.run("return window.isTheSame").await, Value::Bool(true), "it was not loaded again");
    browser.press(".").await;
    assert_eq!(browser.run("return document.getElementById('hold-still').ariaPressed").await, "true");
    browser.open(&format!("http://{}/holds", serving.http)).await;
    assert_eq!(
        browser.run("return document.getElementById('hold-still').ariaPressed").await,
        "true",
        "it is remembered"
    );
    assert!(browser.complaints().await.is_empty());
    // A service that is gone is said to be.
    browser.press(".").await;
    browser.until("it listens", "return document.getElementById('hold-still').ariaPressed === 'false'").await;
    assert_eq!(serving.stop().await, Some(0));
    browser.until_text("#stale", "Nothing is heard from the service").await;
    browser.close().await;
}

#[tokio::test]
async fn all_of_it_works_without_a_script() {
    let mut world = world(On::Sqlite).await;
    let serving = busy(&mut world).await;
    let browser = Browser::start(Manner { runs_scripts: false, ..USUAL }).await;
    browser.open(&format!("http://{}/", serving.http)).await;
    browser.fill("input[name=token]", OPERATOR).await;
    browser.click("main button").await;
    browser.until_text("#now", "Volumes that went").await;
    for (path, selector, text) in [
        ("", "#now", "Volumes that went"),
        ("threads", "table", "waits"),
        ("removals", "table", "gone"),
        ("holds", "table", "<b>audit</b>"),
        ("health", ".checks", "database"),
    ] {
        browser.open(&format!("http://{}/{path}", serving.http)).await;
        browser.until_text(selector, text).await;
    }
    browser.open(&format!("http://{}/holds", serving.http)).await;
    browser.click("button[aria-label='Release held']").await;
    browser.until_text("main", "No thread is held").await;
    browser.click("footer button[value=dark]").await;
    browser.until_text("html[data-look=dark] main", "No thread is held").await;
    browser.click(".brake summary").await;
    browser.fill(".brake input[name=reason]", "because").await;
    browser.click(".brake button").await;
    browser.until_text("#banners", "because").await;
    browser.close().await;
}
