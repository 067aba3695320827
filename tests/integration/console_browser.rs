//! The console in a real browser: with the keyboard alone, without scripts, and kept up to date by itself.

use std::process::Command;

use serde_json::Value;

use crate::{
    api::{ADMIN, OPERATOR, VIEWER, with_tokens},
    browser::{Browser, Manner, USUAL},
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
    browser.open(&format!("http://{}/", serving.http)).await;
    // The field has the focus; that there was no token yet is what the browser complains of.
    browser.press(&format!("{token}{ENTER}")).await;
    let is_in = async || browser.run("return document.querySelector('nav') !== null").await.as_bool().filter(|is| *is);
    eventually("it is logged in", is_in).await;
    browser.complaints().await;
}

/// The script that looks whether everybody can use a page, if it is to be had.
fn axe() -> Option<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/axe-core");
    let output = Command::new(script).output().expect("it runs");
    if output.status.code() == Some(3) && std::env::var_os("CI").is_none() {
        println!("skipped: npm is not available, and axe-core comes with it");
        return None;
    }
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let path = String::from_utf8(output.stdout).expect("a path");
    Some(std::fs::read_to_string(path.trim()).expect("readable"))
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
            browser.press(&format!("g{key}")).await;
            let is_there = async || browser.address().await.ends_with(end).then_some(());
            eventually(&format!("g {key} leads to {end}"), is_there).await;
            let wide = browser.run("return document.documentElement.scrollWidth - window.innerWidth").await;
            assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "{end} {manner:?}: {wide} wider than its window");
            if let Some(axe) = &axe {
                check_for_everybody(&browser, axe, end).await;
            }
            let complaints = browser.complaints().await;
            assert!(complaints.is_empty(), "{end}: {complaints:?}");
        }
        browser.close().await;
    }
}

#[tokio::test]
async fn why_a_volume_is_there_is_found_and_removal_paused_with_the_keyboard_alone() {
    let mut world = world(On::Sqlite).await;
    let serving = busy(&mut world).await;
    let browser = Browser::start(USUAL).await;
    log_in(&browser, &serving, OPERATOR).await;
    browser.press("?").await;
    browser.until_text("dialog", "find a thread").await;
    browser.press(&ESCAPE.to_string()).await;
    let is_closed =
        async || (browser.run("return document.querySelector('dialog[open]') === null").await == true).then_some(());
    eventually("the list of keys is closed", is_closed).await;
    browser.press(&format!("/waits{ENTER}")).await;
    browser.until_text("h1", "Thread waits").await;
    // From the page's beginning to the brake: its summary opens with Enter, and the next field is the reason.
    browser.run("document.querySelector('summary').focus()").await;
    browser.press(&format!("{ENTER}{TAB}because{ENTER}")).await;
    browser.until_text("#banners", "because").await;
    assert!(browser.address().await.ends_with("/threads/waits"), "it is the page that it was pressed on");
    assert_eq!(world.json(&["status", "--json"]).await["pause"]["reason"], "because");
    assert!(browser.complaints().await.is_empty());
    browser.close().await;
}

#[tokio::test]
async fn an_open_page_is_kept_up_to_date_until_somebody_stops_it() {
    let mut world = world(On::Sqlite).await;
    let serving = busy(&mut world).await;
    let browser = Browser::start(USUAL).await;
    log_in(&browser, &serving, VIEWER).await;
    browser.run("window.isTheSame = true").await;
    assert!(world.run(&["pause", "--reason", "first"]).await.status.success());
    browser.until_text("#banners", "first").await;
    browser.until_text("#now", "Removal is paused: first").await;
    // What is selected stays.
    browser.run("document.getSelection().selectAllChildren(document.querySelector('.checks'))").await;
    assert!(world.run(&["resume"]).await.status.success());
    let is_gone = async || (!browser.text("#banners").await.contains("first")).then_some(());
    eventually("the banner goes", is_gone).await;
    assert!(browser.text("#now").await.contains("Removal is paused: first"), "it is selected");
    browser.run("document.getSelection().removeAllRanges()").await;
    browser.until_text("#now", "Removal is not paused").await;
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
    browser.until_text("main", "No thread is held").await;
    browser.click(".brake summary").await;
    browser.fill(".brake input[name=reason]", "because").await;
    browser.click(".brake button").await;
    browser.until_text("#banners", "because").await;
    browser.close().await;
}
