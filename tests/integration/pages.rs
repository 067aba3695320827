//! The pages: what they say, who may press what, and that nothing from outside becomes a part of them.

use serde_json::json;

use crate::{
    api::{ADMIN, OPERATOR, VIEWER, ask, with_tokens},
    world::{On, Serving, World, eventually, world},
};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";

/// The page at a path, for who has this cookie; its code and text.
async fn page(serving: &Serving, path: &str, cookie: &str) -> (u16, String) {
    let answer = ask(serving, &format!("GET {path}"), &[&format!("Cookie: {cookie}")], "").await;
    (answer.code, answer.text)
}

/// Logs in as a browser does, and returns its cookie.
async fn log_in(serving: &Serving, token: &str) -> String {
    let answer = ask(serving, "POST /login", &[FORM, "Sec-Fetch-Site: same-origin"], &format!("token={token}")).await;
    assert_eq!(answer.code, 303, "{}", answer.text);
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(token), "{cookie}");
    cookie.split(';').next().expect("its value").to_owned()
}

async fn press(serving: &Serving, path: &str, cookie: &str, form: &str) -> u16 {
    let cookie = format!("Cookie: {cookie}");
    let headers = [FORM, "Sec-Fetch-Site: same-origin", cookie.as_str()];
    ask(serving, &format!("POST {path}"), &headers, form).await.code
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
    assert!(text.contains("<h1>All is well</h1>"), "{text}");
    assert!(!text.contains("<form action=\"/pause\""), "nobody may act without tokens");
    assert!(world.run(&["pause", "--reason", HOSTILE]).await.status.success());
    let paused = async || {
        let (_, text) = page(&serving, "/", "").await;
        text.contains("<h1>Removal is paused: ").then_some(text)
    };
    let text = eventually("the page says so", paused).await;
    assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
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
    assert!(list.contains("<a href=\"/find?id=t1\">t1</a>"), "{list}");
    assert_eq!(
        ask(&serving, "GET /find?id=t1", &[&format!("Cookie: {cookie}")], "").await.header("location"),
        Some("/threads/t1")
    );
    let encoded: String = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    assert_eq!(press(&serving, "/threads/t1/hold", &cookie, &format!("reason={encoded}&until=7d")).await, 303);
    let (_, text) = page(&serving, "/threads/t1", &cookie).await;
    assert!(text.contains("the thread is held since") && text.contains("action=\"/threads/t1/release\""), "{text}");
    assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
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
    let (_, text) = page(&serving, "/dead-letters?reason=undecodable&thread=", &cookie).await;
    assert!(text.contains("<h1>2 dead letters</h1>") && text.contains("Replay these 2"), "{text}");
    assert!(!text.contains("<script"), "{text}");
    let purge = async |typed: &str| {
        press(&serving, "/dead-letters/purge", &cookie, &format!("reason=&thread=&expected={typed}")).await
    };
    assert_eq!((purge("").await, purge("3").await), (400, 409));
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 2);
    assert_eq!(purge("2").await, 303);
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
}

#[tokio::test]
async fn who_is_not_logged_in_sees_only_where_to_do_so_and_a_form_of_another_page_is_refused() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    for path in ["/", "/threads", "/threads/t1", "/dead-letters"] {
        let (code, text) = page(&serving, path, "").await;
        assert_eq!((code, text.contains("action=\"/login\"")), (401, true), "{path}");
        assert!(text.contains("Token") && !text.contains("Waiting"), "{path}");
    }
    assert_eq!(ask(&serving, "POST /login", &[FORM], "token=nonsense").await.code, 401);
    let viewer = log_in(&serving, VIEWER).await;
    let (_, text) = page(&serving, "/", &viewer).await;
    assert!(text.contains("vera (viewer)") && !text.contains("action=\"/pause\""), "{text}");
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
}
