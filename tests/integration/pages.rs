//! The pages: what they say, who may press what, and that nothing from outside becomes a part of them.

use std::{process::Stdio, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{
    api::{ADMIN, OPERATOR, VIEWER, ask, with_tokens},
    proxy::CountingProxy,
    world::{On, Serving, World, eventually, world},
};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";

/// All pages that need no more than their path.
pub(crate) const PAGES: [&str; 10] =
    ["/", "/threads", "/dead-letters", "/removals", "/sweeps", "/hosts", "/orphans", "/holds", "/activity", "/health"];

/// What was typed by somebody with bad intentions became text, and nothing else.
fn assert_harmless(text: &str) {
    assert_eq!(text.matches("<script").count(), 1, "{text}");
    assert!(text.contains("<script src=") && !text.contains("<img") && !text.contains("onerror=a\""), "{text}");
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The page at a path, for who has this cookie; its code and text.
async fn page(serving: &Serving, path: &str, cookie: &str) -> (u16, String) {
    let answer = ask(serving, &format!("GET {path}"), &[&format!("Cookie: {cookie}")], "").await;
    (answer.code, answer.text)
}

/// Logs in as a browser does, and returns its cookie.
pub(crate) async fn log_in(serving: &Serving, token: &str) -> String {
    let answer = ask(serving, "POST /login", &[FORM, "Sec-Fetch-Site: same-origin"], &format!("token={token}")).await;
    assert_eq!(answer.code, 303, "{}", answer.text);
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(token), "{cookie}");
    cookie.split(';').next().expect("its value").to_owned()
}

/// Opens a connection and sends a request's head and what of its body is given.
async fn begin(serving: &Serving, request: &str, cookie: &str, rest: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&serving.http).await.expect("it listens");
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n{rest}");
    stream.write_all(head.as_bytes()).await.expect("written");
    stream
}

/// A page that is open, and is kept up to date if there is a turn for it.
pub(crate) async fn begin_to_listen(serving: &Serving, cookie: &str) -> Option<TcpStream> {
    let mut stream = begin(serving, "GET /live", cookie, "\r\n").await;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.expect("a status line");
    match &status {
        b"HTTP/1.1 200" => Some(stream),
        b"HTTP/1.1 503" => None,
        other => panic!("{}", String::from_utf8_lossy(other)),
    }
}

async fn press(serving: &Serving, path: &str, cookie: &str, form: &str) -> u16 {
    let cookie = format!("Cookie: {cookie}");
    let headers = [FORM, "Sec-Fetch-Site: same-origin", cookie.as_str()];
    ask(serving, &format!("POST {path}"), &headers, form).await.code
}

/// The page at a path, once it says this.
async fn until_page(serving: &Serving, path: &str, cookie: &str, wanted: &str) -> String {
    let says = async || Some(page(serving, path, cookie).await.1).filter(|text| text.contains(wanted));
    eventually(&format!("{path} says {wanted:?}"), says).await
}

async fn park(world: &World, bodies: &[&[u8]]) {
    for body in bodies {
        world.publish(body).await;
    }
    let expected = u32::try_from(bodies.len()).expect("few");
    let parked = async || (world.messages(&world.dead_letter_queue()).await == expected).then_some(());
    eventually("all are parked", parked).await;
}

#[tokio::test]
async fn one_page_says_that_all_is_well_or_what_is_not() {
    let world = world(On::Sqlite).await;
    let serving = world.serve_idle().await;
    let (code, text) = page(&serving, "/", "").await;
    assert_eq!(code, 200, "{text}");
    assert!(text.contains("<h1 id=\"heading\">All is well</h1>"), "{text}");
    assert!(!text.contains("action=\"./pause\""), "nobody may act without tokens");
    assert!(world.run(&["pause", "--reason", HOSTILE]).await.status.success());
    let paused = async || {
        let (_, text) = page(&serving, "/", "").await;
        text.contains("<h1 id=\"heading\">Removal is paused: ").then_some(text)
    };
    let text = eventually("the page says so", paused).await;
    assert_harmless(&text);
    assert_eq!(ask(&serving, "GET /", &["Host: reaper.example"], "").await.code, 403);
    assert_eq!(
        ask(&serving, "GET /assets/console.css", &[], "").await.header("content-type"),
        Some("text/css; charset=utf-8")
    );
}

#[tokio::test]
async fn a_volume_that_is_still_there_is_found_held_and_tried() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    world.closed_with_volume("t1").await;
    let cookie = log_in(&serving, OPERATOR).await;
    let (_, list) = page(&serving, "/threads?waits_for=&host=&older_than=&prefix=", &cookie).await;
    assert!(list.contains("<a href=\"./find?id=t1\">t1</a>"), "{list}");
    assert_eq!(
        ask(&serving, "GET /find?id=t1", &[&format!("Cookie: {cookie}")], "").await.header("location"),
        Some("./threads/t1")
    );
    let form = format!("reason={}&until=7d", encoded(HOSTILE));
    assert_eq!(press(&serving, "/threads/t1/hold", &cookie, &form).await, 303);
    let (_, text) = page(&serving, "/threads/t1", &cookie).await;
    assert!(text.contains("the thread is held since") && text.contains("action=\"../threads/t1/release\""), "{text}");
    assert_harmless(&text);
    assert_eq!(press(&serving, "/threads/t1/release", &cookie, "").await, 303);
    assert_eq!(press(&serving, "/threads/t1/clean", &cookie, "").await, 303);
    world.until_marked("t1").await;
    let (_, text) = page(&serving, "/threads/t1", &cookie).await;
    assert!(text.contains("The volume was removed by replica-1"), "{text}");
    let (code, _) = page(&serving, "/find?id=%3Cscript%3E", &cookie).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn dead_letters_are_grouped_and_deleted_only_when_their_number_is_typed() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    park(&world, &[b"<script>1</script>", b"<script>2</script>"]).await;
    let cookie = log_in(&serving, ADMIN).await;
    // A long look through the queue has a page of its own.
    let text = until_page(&serving, "/dead-letters?reason=undecodable&thread=", &cookie, "Replay these 2").await;
    assert!(text.contains("<h1 id=\"heading\">2 dead letters</h1>"), "{text}");
    assert_harmless(&text);
    let purge = async |typed: &str| {
        press(&serving, "/dead-letters/purge", &cookie, &format!("reason=&thread=&expected={typed}")).await
    };
    assert_eq!(purge("").await, 400);
    // Whether it was refused at once or is told later depends on how long the walk takes.
    assert!([303, 409].contains(&purge("3").await));
    until_page(&serving, "/dead-letters", &cookie, "and 3 were expected").await;
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 2);
    // A group by itself, in which no message is an event: it is replayed, and comes back.
    let text = until_page(&serving, "/dead-letters", &cookie, "dead-letters?group=").await;
    let group = text.split_once("dead-letters?group=").expect("a group").1.split('"').next().expect("its end");
    let of_group = format!("/dead-letters?group={group}");
    let of_group = until_page(&serving, &of_group, &cookie, "Messages of undecodable").await;
    assert!(of_group.contains("Selected: 2."), "{of_group}");
    let form = format!("reason=&thread=&group={group}&expected=2");
    assert_eq!(press(&serving, "/dead-letters/replay", &cookie, &form).await, 303);
    until_page(&serving, "/dead-letters", &cookie, "2 messages were published again").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 4).await;
    until_page(&serving, "/dead-letters", &cookie, ">2 once<").await;
    assert_eq!(press(&serving, "/dead-letters/replay", &cookie, "reason=&thread=&group=x&expected=2").await, 400);
    assert_eq!(purge("2").await, 303);
    until_page(&serving, "/dead-letters", &cookie, "2 messages were deleted").await;
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
}

#[tokio::test]
async fn orphans_are_removed_only_as_many_and_those_that_were_seen() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    let cookie = log_in(&serving, ADMIN).await;
    world.create_volume("a").await;
    world.create_volume("used").await;
    world.create_container("used").await;
    let shown = "type 1 <input name=\"expected\"";
    let text = until_page(&serving, "/orphans?older_than=0s", &cookie, shown).await;
    let seen = text.split_once("name=\"seen\" value=\"").expect("what was seen").1;
    let seen = seen.split('"').next().expect("its end");
    let remove = async |expected: &str, seen: &str| {
        let form = format!("older_than=0s&expected={expected}&seen={seen}");
        press(&serving, "/orphans/remove", &cookie, &form).await
    };
    assert_eq!(remove("", seen).await, 400);
    assert!([303, 409].contains(&remove("2", seen).await));
    until_page(&serving, "/orphans", &cookie, "and 2 were expected").await;
    assert!([303, 409].contains(&remove("1", "0123456789abcdef").await));
    until_page(&serving, "/orphans", &cookie, "these volumes are others").await;
    let operator = log_in(&serving, OPERATOR).await;
    let form = format!("older_than=0s&expected=1&seen={seen}");
    assert_eq!(press(&serving, "/orphans/remove", &operator, &form).await, 403);
    assert!(world.has_volume("a").await);
    assert_eq!(remove("1", seen).await, 303);
    until_page(&serving, "/orphans", &cookie, "1 volumes were removed").await;
    assert!(!world.has_volume("a").await && world.has_volume("used").await);
    assert_eq!(world.receipts("a").await, ["removed/orphan"]);
    assert_eq!(world.texts("SELECT actor FROM volume_removals").await, ["anna"]);
    until_page(&serving, "/activity", &cookie, "orphans remove").await;
}

#[tokio::test]
async fn a_running_sweep_is_stopped_whoever_makes_it() {
    let mut world = world(On::Postgres).await;
    let proxy = CountingProxy::start_holding_removals(world.dir.path());
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.set("VOLUME_REAPER_LOCK_LIMIT", "1m");
    world.set("DOCKER_HOST", proxy.endpoint());
    let serving = with_tokens(&mut world).await;
    let cookie = log_in(&serving, OPERATOR).await;
    world.closed_with_volume("t1").await;

    // One of another process, which hears of it by the list.
    let mut other = world.command(&["sweep"]);
    let mut other = other.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
    let mut log = BufReader::new(other.stderr.take().expect("a pipe")).lines();
    let text = until_page(&serving, "/sweeps", &cookie, "/stop\" method=\"post\"").await;
    let path = text.split_once("action=\"./sweeps/").expect("a form").1.split('"').next().expect("its end");
    assert_eq!(press(&serving, &format!("/sweeps/{path}"), &cookie, "").await, 303);
    loop {
        let line = log.next_line().await.expect("readable").expect("it says that it was stopped");
        if line.contains("a person stops this sweep") {
            break;
        }
    }
    proxy.release_removals();
    assert_eq!(other.wait().await.expect("it ends").code(), Some(1), "it was not done to its end");
    until_page(&serving, "/sweeps", &cookie, "not to its end: stopped by otto").await;
    assert_eq!(press(&serving, &format!("/sweeps/{path}"), &cookie, "").await, 409, "it does not run any more");
    assert_eq!(press(&serving, "/operation/stop", &cookie, "").await, 409, "nothing runs");

    // One of this process, which is told at once.
    proxy.hold_removals();
    world.closed_with_volume("t2").await;
    assert_eq!(press(&serving, "/sweeps", &cookie, "dry_run=false").await, 303);
    until_page(&serving, "/sweeps", &cookie, "/operation/stop\"").await;
    assert_eq!(press(&serving, "/operation/stop", &cookie, "back=sweeps").await, 303);
    proxy.release_removals();
    until_page(&serving, "/sweeps", &cookie, "not to its end: it was stopped").await;
}

#[tokio::test]
async fn who_is_not_logged_in_sees_only_where_to_do_so_and_a_form_of_another_page_is_refused() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    for path in PAGES.into_iter().chain(["/threads/t1", "/removals.csv", "/live", "/nothing"]) {
        let (code, text) = page(&serving, path, "").await;
        assert_eq!((code, text.contains("/login\"")), (401, true), "{path}");
        assert!(text.contains("Token") && !text.contains("Waiting"), "{path}");
    }
    assert_eq!(ask(&serving, "POST /login", &[FORM], "token=nonsense").await.code, 401);
    let viewer = log_in(&serving, VIEWER).await;
    let (_, text) = page(&serving, "/", &viewer).await;
    assert!(text.contains("vera (viewer)") && !text.contains("action=\"./pause\""), "{text}");
    assert_eq!(press(&serving, "/pause", &viewer, "reason=r").await, 403);
    let operator = log_in(&serving, OPERATOR).await;
    let cookie = format!("Cookie: {operator}");
    let elsewhere = [FORM, "Sec-Fetch-Site: cross-site", cookie.as_str()];
    assert_eq!(ask(&serving, "POST /pause", &elsewhere, "reason=r").await.code, 403);
    assert_eq!(world.json(&["status", "--json"]).await["pause"], json!(null));
    assert_eq!(press(&serving, "/pause", &operator, "reason=r").await, 303);
    assert_eq!(world.json(&["status", "--json"]).await["pause"]["paused_by"], "otto over HTTP");
    assert_eq!(press(&serving, "/resume", &operator, "").await, 303);
    assert_eq!(world.json(&["status", "--json"]).await["pause"], json!(null));
    // What was paused otherwise is an administrator's.
    assert!(world.run(&["pause", "--reason", "r"]).await.status.success());
    let (_, text) = page(&serving, "/holds", &operator).await;
    assert!(text.contains("an administrator resumes it") && !text.contains("action=\"./resume\""), "{text}");
    assert_eq!(press(&serving, "/resume", &operator, "").await, 403);
    let admin = log_in(&serving, ADMIN).await;
    assert!(page(&serving, "/holds", &admin).await.1.contains("action=\"./resume\""));
}

#[tokio::test]
async fn every_page_says_what_there_is_and_nothing_from_outside_becomes_a_part_of_it() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    let cookie = log_in(&serving, OPERATOR).await;
    for (path, empty) in [
        ("/threads", "No thread waits"),
        ("/dead-letters", "Nothing is parked"),
        ("/removals", "No volume has gone yet"),
        ("/orphans", "None of 0 volumes"),
        ("/holds", "No thread is held"),
        ("/activity", "Nobody has done anything yet"),
    ] {
        until_page(&serving, path, &cookie, empty).await;
    }
    world.closed_with_volume("gone").await;
    world.publish_closed("gone").await;
    world.until_marked("gone").await;
    world.create_volume("orphan").await;
    let hostile = encoded(HOSTILE);
    assert_eq!(press(&serving, "/holds", &cookie, &format!("thread=t2&reason={hostile}&until=")).await, 303);
    assert_eq!(press(&serving, "/pause", &cookie, &format!("reason={hostile}&back=holds")).await, 303);
    // What was looked at before somebody looked again is ten seconds old at most.
    let orphans = async || page(&serving, "/orphans", &cookie).await.1.contains("orphan</a>").then_some(());
    eventually("the orphan is seen", orphans).await;
    for (path, shown) in [
        ("/", "Removed, last day</dt><dd>1</dd>"),
        (
            "/removals?thread=gone&host=&outcome=removed&since=1h&until=&after=",
            ">gone</a></td><td data-label=\"Outcome\">removed</td>",
        ),
        ("/sweeps", "looked at 0"),
        ("/hosts", "class=\"well\""),
        ("/holds", "action=\"./threads/t2/release\""),
        ("/activity", ">otto</td><td data-label=\"By\">console</td><td data-label=\"What\">hold</td>"),
        ("/health", "<code>database.rights</code>"),
    ] {
        let (code, text) = page(&serving, path, &cookie).await;
        assert!(code == 200 && text.contains(shown), "{path}: {code} {text}");
    }
    for path in PAGES {
        let (code, text) = page(&serving, path, &cookie).await;
        assert_eq!(code, 200, "{path}: {text}");
        assert!(text.contains("&#60;script&#62;alert"), "{path} says why removal is paused: {text}");
        assert_harmless(&text);
        assert!(!text.contains("=\"/"), "{path}: every link is relative: {text}");
        let nav = text.split_once("<nav").and_then(|(_, rest)| rest.split_once("</nav>")).expect("links").0;
        assert_eq!((nav.matches("<a ").count(), nav.matches("aria-current").count()), (PAGES.len(), 1), "{path}");
    }
    let (code, text) = page(&serving, "/removals?since=yesterday", &cookie).await;
    assert!(code == 400 && text.contains("is neither a time") && text.contains("<nav"), "{code} {text}");
    let (code, text) = page(&serving, "/nothing", &cookie).await;
    assert!(code == 404 && text.contains("no such page") && text.contains("<nav"), "{code} {text}");
}

#[tokio::test]
async fn receipts_are_downloaded_as_a_table() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    let cookie = format!("Cookie: {}", log_in(&serving, VIEWER).await);
    for id in ["a", "b"] {
        world.closed_with_volume(id).await;
        world.publish_closed(id).await;
        world.until_marked(id).await;
    }
    let answer = ask(&serving, "GET /removals.csv?thread=b&host=&outcome=&since=&until=", &[&cookie], "").await;
    assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8"));
    assert!(answer.header("content-disposition").is_some_and(|value| value.contains("removals.csv")));
    let printed = world.run(&["receipts", "--csv", "--thread", "b"]).await;
    assert_eq!(answer.body(), String::from_utf8_lossy(&printed.stdout));
    let all = ask(&serving, "GET /removals.csv", &[&cookie], "").await;
    assert_eq!(all.body().lines().count(), 3, "{}", all.text);
}

#[tokio::test]
async fn a_sweep_is_tried_dry_and_made_and_how_it_ended_is_still_there_after_a_reload() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    world.closed_with_volume("t1").await;
    let viewer = log_in(&serving, VIEWER).await;
    assert_eq!(press(&serving, "/sweeps", &viewer, "dry_run=false").await, 403);
    assert_eq!(press(&serving, "/sweeps", &viewer, "dry_run=true").await, 303);
    let text = until_page(&serving, "/sweeps", &viewer, "1 would be removed").await;
    assert!(text.contains("A dry run that vera asked for"), "{text}");
    let answer = ask(&serving, "GET /sweeps/planned.csv", &[&format!("Cookie: {viewer}")], "").await;
    assert!(answer.text.contains(&format!(",t1,{},remove", world.volume("t1"))), "{}", answer.text);
    assert!(world.has_volume("t1").await && !text.contains("Sweep now"), "{text}");
    let operator = log_in(&serving, OPERATOR).await;
    assert_eq!(press(&serving, "/sweeps", &operator, "dry_run=false").await, 303);
    let text = until_page(&serving, "/sweeps", &viewer, ": looked at 1; 1 removed").await;
    assert!(text.contains("A sweep that otto asked for") && text.contains(">otto, on"), "{text}");
    assert!(!world.has_volume("t1").await);
}

#[tokio::test]
async fn an_open_page_hears_of_a_pause_by_itself() {
    let mut world = world(On::Sqlite).await;
    // As long as it takes on a machine that has much else to do.
    world.set("VOLUME_REAPER_HTTP_TIMEOUT", "10m");
    let serving = with_tokens(&mut world).await;
    let cookie = log_in(&serving, OPERATOR).await;
    let mut stream = begin(&serving, "GET /live?range=hour", &cookie, "\r\n").await;
    let mut heard = String::new();
    let until = async |stream: &mut TcpStream, heard: &mut String, what: &str| {
        while !heard.contains(what) {
            let mut piece = vec![0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut piece)).await;
            let read = read.expect("in time").expect("read");
            assert!(read > 0, "it ended before {what:?}: {heard}");
            *heard += &String::from_utf8_lossy(&piece[..read]);
        }
    };
    until(&mut stream, &mut heard, "All is well").await;
    assert!(heard.contains("content-type: text/event-stream") && !heard.contains("Removal is paused"), "{heard}");
    assert_eq!(press(&serving, "/pause", &cookie, "reason=because").await, 303);
    until(&mut stream, &mut heard, "because").await;
    // Who listens does not hold up the end.
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn who_has_all_pages_kept_up_to_date_takes_nothing_from_pages_health_and_metrics() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_HTTP_TIMEOUT", "10m");
    let serving = with_tokens(&mut world).await;
    let cookie = log_in(&serving, OPERATOR).await;
    let mut listening = Vec::new();
    while let Some(stream) = begin_to_listen(&serving, &cookie).await {
        listening.push(stream);
    }
    assert_eq!(listening.len(), 64);
    assert_eq!(page(&serving, "/", &cookie).await.0, 200, "the page is there, and has to be loaded again for news");
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(serving.get(path).await.0, 200, "{path}");
    }
    drop(listening);
    let freed = async || begin_to_listen(&serving, &cookie).await.map(drop);
    eventually("who went leaves their turns", freed).await;
}

#[tokio::test]
async fn more_than_are_answered_at_once_are_told_to_come_back_and_health_answers() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_HTTP_TIMEOUT", "10m");
    let serving = with_tokens(&mut world).await;
    let cookie = log_in(&serving, OPERATOR).await;
    // Forms that never come to their end, and more of them while a page finds a turn.
    let rest = format!("{FORM}\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 100\r\n\r\nreason=");
    let mut half_sent = Vec::new();
    while page(&serving, "/", &cookie).await.0 == 200 {
        half_sent.push(begin(&serving, "POST /pause", &cookie, &rest).await);
    }
    assert!(half_sent.len() >= 32, "{}", half_sent.len());
    let (_, text) = page(&serving, "/api/v1/status", &cookie).await;
    assert!(text.contains("too many ask at once: ask again in a moment"), "{text}");
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(serving.get(path).await.0, 200, "{path}");
    }
    world.closed_with_volume("meanwhile").await;
    world.publish_closed("meanwhile").await;
    world.until_marked("meanwhile").await;
    drop(half_sent);
    eventually("who went leaves their turns", async || (page(&serving, "/", &cookie).await.0 == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn light_or_dark_is_remembered_and_the_way_back_stays_with_us() {
    let world = world(On::Sqlite).await;
    let serving = world.serve_idle().await;
    let choose = async |form: &str| ask(&serving, "POST /look", &[FORM, "Sec-Fetch-Site: same-origin"], form).await;
    let answer = choose("look=dark&back=threads%3Fhost%3Da").await;
    assert_eq!((answer.code, answer.header("location")), (303, Some("./threads?host=a")));
    let cookie = answer.header("set-cookie").and_then(|value| value.split(';').next()).expect("a cookie");
    let (_, text) = page(&serving, "/holds", cookie).await;
    assert!(text.contains("data-look=\"dark\""), "{text}");
    assert_eq!(choose("look=%0d%0a&back=%2F%2Fevil.example").await.header("location"), Some("./evil.example"));
}
