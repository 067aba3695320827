//! The API: it answers what the commands print, as its description says, and only who may.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{On, Serving, World, eventually, world};

pub(crate) const VIEWER: &str = "viewer-viewer-viewer-viewer";
pub(crate) const OPERATOR: &str = "operator-operator-operator";
pub(crate) const ADMIN: &str = "admin-admin-admin-admin-admin";

/// What came back.
pub(crate) struct Answer {
    pub(crate) code: u16,
    headers: String,
    pub(crate) text: String,
}

impl Answer {
    /// The body, if it came in pieces too.
    pub(crate) fn body(&self) -> String {
        if self.header("transfer-encoding") != Some("chunked") {
            return self.text.clone();
        }
        let (mut body, mut rest) = (String::new(), self.text.as_str());
        while let Some((length, after)) = rest.split_once("\r\n") {
            let length = usize::from_str_radix(length, 16).expect("a length");
            body += &after[..length];
            rest = after[length..].strip_prefix("\r\n").expect("the end of a piece");
        }
        body
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {} {}", self.code, self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Sends one request: its first line's method and path, header lines, and a body.
pub(crate) async fn ask(serving: &Serving, request: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = TcpStream::connect(&serving.http).await.expect("it listens");
    let mut head = format!("{request} HTTP/1.1\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    if !headers.iter().any(|line| line.starts_with("Host:")) {
        head += "Host: localhost\r\n";
    }
    for line in headers {
        head += line;
        head += "\r\n";
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.expect("written");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("read");
    let (head, text) = response.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    Answer { code, headers: head.to_owned(), text: text.to_owned() }
}

async fn get(serving: &Serving, path: &str) -> Value {
    let answer = ask(serving, &format!("GET /api/v1{path}"), &[], "").await;
    assert_eq!(answer.code, 200, "{path}: {}", answer.text);
    answer.json()
}

/// Tells the API to do something, by the holder of a token.
pub(crate) async fn tell(serving: &Serving, token: &str, path: &str, body: &Value) -> Answer {
    let authorization = format!("Authorization: Bearer {token}");
    let headers = [authorization.as_str(), "Content-Type: application/json"];
    ask(serving, &format!("POST /api/v1{path}"), &headers, &body.to_string()).await
}

fn write_tokens(world: &World, lines: &[(&str, &str, &str)]) -> String {
    let file = world.dir.path().join("tokens");
    let lines: Vec<_> = lines.iter().map(|(role, name, token)| format!("{role}:{name}:{token}")).collect();
    std::fs::write(&file, lines.join("\n")).expect("written");
    file.to_string_lossy().into_owned()
}

pub(crate) async fn with_tokens(world: &mut World) -> Serving {
    let lines = [("viewer", "vera", VIEWER), ("operator", "otto", OPERATOR), ("admin", "anna", ADMIN)];
    let file = write_tokens(world, &lines);
    world.set("VOLUME_REAPER_HTTP_TOKENS_FILE", file);
    world.serve_idle().await
}

/// Without what changes from one moment to the next.
fn still(mut value: Value) -> Value {
    for moving in ["/backlog/oldest_seconds", "/sweeper/expires_at", "/sweeper/current"] {
        if let Some(found) = value.pointer_mut(moving) {
            *found = json!("moving");
        }
    }
    value
}

/// The schema of the answer to a request, out of the service's own description.
fn schema_of(description: &Value, path: &str, method: &str, code: &str) -> jsonschema::Validator {
    let answers = &description["paths"][path][method]["responses"];
    let content = answers[code]["content"].as_object().unwrap_or_else(|| panic!("{method} {path} {code}: {answers}"));
    let mut schema = content.values().next().expect("a content")["schema"].clone();
    schema["components"] = description["components"].clone();
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .build(&schema)
        .expect("a valid schema")
}

fn check(description: &Value, path: &str, method: &str, code: &str, answer: &Value) {
    let errors: Vec<_> =
        schema_of(description, path, method, code).iter_errors(answer).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{method} {path} {code}: {errors:?}\n{answer}");
}

#[tokio::test]
async fn it_answers_what_the_commands_print_as_its_description_says() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve_idle().await;
        world.closed_with_volume("gone").await;
        world.publish_closed("gone").await;
        world.until_marked("gone").await;
        world.closed_with_volume("held").await;
        assert!(world.run(&["hold", "held", "--reason", "<b>audit</b>"]).await.status.success());
        world.create_volume("orphan").await;
        world.publish(b"no event").await;
        serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
        // The broker counts it a moment after it has confirmed it.
        let counted = async || (world.messages(&world.dead_letter_queue()).await == 1).then_some(());
        eventually("the broker counts it", counted).await;

        let description = get(&serving, "/openapi.json").await;
        assert_eq!(description["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
        for (path, documented, command) in [
            ("/status", "/api/v1/status", &["status", "--json"][..]),
            ("/threads/gone", "/api/v1/threads/{id}", &["explain", "gone", "--json"]),
            ("/threads/held", "/api/v1/threads/{id}", &["explain", "held", "--json"]),
            ("/threads/nobody", "/api/v1/threads/{id}", &["explain", "nobody", "--json"]),
            ("/hosts", "/api/v1/hosts", &["hosts", "list", "--json"]),
        ] {
            let answer = get(&serving, path).await;
            check(&description, documented, "get", "200", &answer);
            assert_eq!(still(answer), still(world.json(command).await), "{on:?} {path}");
        }
        let orphans = get(&serving, "/orphans").await;
        check(&description, "/api/v1/orphans", "get", "200", &orphans);
        assert_eq!(orphans["orphans"], world.json(&["orphans", "--json"]).await["orphans"], "{on:?}");
        assert_eq!(orphans["orphans"][0]["thread_id"], "orphan");
        let letters = get(&serving, "/dead-letters").await;
        check(&description, "/api/v1/dead-letters", "get", "200", &letters);
        let listed = world.json(&["dead-letters", "list", "--json"]).await;
        for field in ["total", "matching", "by_reason", "messages"] {
            assert_eq!(letters[field], listed[field], "{on:?} {field}");
        }
        assert_eq!(letters["groups"][0]["messages"], 1);
        let doctor = get(&serving, "/doctor").await;
        check(&description, "/api/v1/doctor", "get", "200", &doctor);
        let names = |report: &Value| {
            let checks = report["checks"].as_array().expect("checks").iter();
            checks.map(|check| (check["name"].clone(), check["status"].clone())).collect::<Vec<_>>()
        };
        assert_eq!(names(&doctor), names(&world.json(&["doctor", "--json"]).await), "{on:?}");

        let waiting = get(&serving, "/threads").await;
        check(&description, "/api/v1/threads", "get", "200", &waiting);
        assert_eq!(waiting["threads"][0]["thread_id"], "held", "{waiting}");
        assert_eq!((&waiting["threads"][0]["waits_for"], &waiting["next"]), (&json!("held"), &Value::Null));
        let removals = get(&serving, "/removals").await;
        check(&description, "/api/v1/removals", "get", "200", &removals);
        assert_eq!(removals["removals"][0]["thread_id"], "gone");
        let holds = get(&serving, "/holds").await;
        check(&description, "/api/v1/holds", "get", "200", &holds);
        assert_eq!(holds["holds"][0]["reason"], "<b>audit</b>");
        for (path, list) in [("/sweeps", "sweeps"), ("/actions", "actions"), ("/stats", "stats")] {
            let answer = get(&serving, path).await;
            check(&description, &format!("/api/v1{path}"), "get", "200", &answer);
            assert!(answer[list].is_array(), "{on:?} {answer}");
        }
        assert_eq!(get(&serving, "/actions").await["actions"][0]["action"], "hold", "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn lists_go_on_where_the_page_before_ended_and_are_filtered() {
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_RETENTION", "30d");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = world.serve_idle().await;
    for id in ["a1", "a2", "b1", "b2", "b3"] {
        world.open_thread(id).await;
        world.close_thread(id).await;
    }
    world.execute("UPDATE threads SET closed_at = '2020-01-01T00:00:00Z' WHERE id = 'b2'").await;
    let ids = |page: &Value| {
        let threads = page["threads"].as_array().expect("threads").iter();
        threads.map(|thread| thread["thread_id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    let all_of = async |query: &str| {
        let (mut after, mut all) = (String::new(), Vec::new());
        loop {
            let page = get(&serving, &format!("/threads?{query}&after={after}")).await;
            all.extend(ids(&page));
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => return all,
            }
        }
    };
    assert_eq!(all_of("limit=2").await, ["a1", "a2", "b1", "b2", "b3"]);
    assert_eq!(ids(&get(&serving, "/threads?prefix=a").await), ["a1", "a2"]);
    assert_eq!(ids(&get(&serving, "/threads?waits_for=sweep").await), ["b2"]);
    assert_eq!(ids(&get(&serving, "/threads?older_than=1d").await), ["b2"]);
    assert_eq!(ids(&get(&serving, "/threads?waits_for=failing").await), [""; 0]);
    // What is written down of a thread is the way to it, and need not be about one that waits.
    for held in ["b1", "no-row", "a1"] {
        assert!(world.run(&["hold", held, "--reason", "r"]).await.status.success());
    }
    let failures = "volume_reaper_failures (thread_id, attempts, first_failed_at, failed_at, error, replica)";
    for failed in ["b2", "a1"] {
        world.execute(&format!("INSERT INTO {failures} VALUES ('{failed}', 1, now(), now(), 'e', 'r')")).await;
    }
    assert_eq!(all_of("waits_for=held&limit=1").await, ["a1", "b1"]);
    assert_eq!(all_of("waits_for=held&prefix=b").await, ["b1"]);
    assert_eq!(all_of("waits_for=failing&limit=1").await, ["b2"], "the other one is held");
    assert_eq!(all_of("waits_for=not_due").await, ["a2", "b3"]);
    for wrong in ["limit=0", "limit=1001", "limit=x", "older_than=soon", "colour=red", "waits_for=godot"] {
        let answer = ask(&serving, &format!("GET /api/v1/threads?{wrong}"), &[], "").await;
        assert_eq!((answer.code, answer.header("content-type")), (400, Some("application/problem+json")), "{wrong}");
    }
    let answer = ask(&serving, "GET /api/v1/threads/-%2e%2e", &[], "").await;
    assert_eq!(answer.code, 400, "{}", answer.text);
}

#[tokio::test]
async fn without_tokens_only_this_machine_may_look_and_nobody_may_act() {
    let mut world = world(On::Sqlite).await;
    let serving = world.serve().await;
    assert_eq!(ask(&serving, "GET /api/v1/status", &["Host: 127.0.0.1:9464"], "").await.code, 200);
    let answer = ask(&serving, "POST /api/v1/pause", &["Content-Type: application/json"], r#"{"reason": "r"}"#).await;
    assert_eq!((answer.code, answer.header("content-type")), (403, Some("application/problem+json")));
    assert_eq!(get(&serving, "/status").await["pause"], Value::Null);
    for headers in [
        &["Host: reaper.example"][..],
        &["Host: localhost.evil.example"],
        &["Host: localhost", "X-Forwarded-For: 10.0.0.1"],
        &["Host: localhost", "Forwarded: for=10.0.0.1"],
        &["Host: localhost", "X-Real-IP: 10.0.0.1"],
    ] {
        let answer = ask(&serving, "GET /api/v1/status", headers, "").await;
        assert_eq!(answer.code, 403, "{headers:?}: {}", answer.text);
        assert!(answer.json()["detail"].as_str().is_some_and(|why| why.contains("VOLUME_REAPER_HTTP_TOKENS_FILE")));
        for health in ["/livez", "/metrics"] {
            assert_eq!(ask(&serving, &format!("GET {health}"), headers, "").await.code, 200, "{headers:?} {health}");
        }
    }
    assert_eq!(serving.stop().await, Some(0));

    world.set("VOLUME_REAPER_HTTP_ADDR", "0.0.0.0:0");
    let serving = world.start().await;
    let answer = ask(&serving, "GET /api/v1/status", &[], "").await;
    assert_eq!(answer.code, 403, "a port for everybody: {}", answer.text);
}

#[tokio::test]
async fn each_role_may_what_it_may_and_a_wrong_token_is_counted_and_not_logged() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    assert_eq!(ask(&serving, "GET /api/v1/status", &[], "").await.code, 401);
    let basic = "Authorization: Basic dmVyYTp2aWV3ZXItdmlld2VyLXZpZXdlci12aWV3ZXI=";
    assert_eq!(ask(&serving, "GET /api/v1/status", &[basic, "Host: reaper.example"], "").await.code, 200);
    let wrong = "wrong-wrong-wrong-wrong-wrong";
    let answer = ask(&serving, "GET /api/v1/status", &[&format!("Authorization: Bearer {wrong}")], "").await;
    assert_eq!((answer.code, answer.header("www-authenticate").is_some()), (401, true));
    assert_eq!(serving.metric("volume_reaper_http_auth_failures_total").await, 1);
    serving.until_line(|line| line["message"].as_str().is_some_and(|text| text.starts_with("a token that is"))).await;
    let tokens = [wrong, VIEWER, OPERATOR, ADMIN];
    assert!(serving.lines().iter().all(|line| !tokens.iter().any(|token| line.to_string().contains(token))));

    let reason = json!({"reason": "a test"});
    for (path, body, least) in [
        ("/pause", &reason, OPERATOR),
        ("/resume", &json!({}), OPERATOR),
        ("/threads/t1/hold", &reason, OPERATOR),
        ("/threads/t1/release", &json!({}), OPERATOR),
        ("/dead-letters/replay", &json!({}), OPERATOR),
        ("/dead-letters/purge", &json!({"expected": 0}), ADMIN),
        ("/sweep", &json!({}), OPERATOR),
        ("/sweep", &json!({"dry_run": true}), VIEWER),
    ] {
        for token in [VIEWER, OPERATOR, ADMIN] {
            let rank = |token| [VIEWER, OPERATOR, ADMIN].iter().position(|known| *known == token);
            // A release of what another role released before finds nothing.
            let may = if rank(token) >= rank(least) { &[200, 404][..] } else { &[403] };
            let answer = tell(&serving, token, path, body).await;
            assert!(may.contains(&answer.code), "{token} {path}: {} {}", answer.code, answer.text);
        }
    }

    // The file counts as it is now.
    write_tokens(&world, &[("viewer", "otto", OPERATOR)]);
    assert_eq!(tell(&serving, ADMIN, "/sweep", &json!({})).await.code, 401);
    assert_eq!(tell(&serving, OPERATOR, "/pause", &reason).await.code, 403);
    std::fs::write(world.dir.path().join("tokens"), "nonsense\n").expect("written");
    assert_eq!(tell(&serving, OPERATOR, "/pause", &reason).await.code, 403, "the tokens from before count");
}

#[tokio::test]
async fn what_the_breaker_paused_only_an_administrator_resumes() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    let paused = tell(&serving, OPERATOR, "/pause", &json!({"reason": "a look"})).await.json();
    assert_eq!((&paused["is_new"], &paused["pause"]["paused_by"]), (&json!(true), &json!("otto over HTTP")));
    assert_eq!(tell(&serving, OPERATOR, "/resume", &json!({})).await.json()["pauses"][0]["reason"], "a look");
    assert!(world.run(&["pause", "--reason", "by hand"]).await.status.success());
    assert_eq!(tell(&serving, OPERATOR, "/resume", &json!({})).await.code, 403);
    assert_eq!(tell(&serving, ADMIN, "/resume", &json!({})).await.json()["pauses"][0]["reason"], "by hand");
    let answer = tell(&serving, OPERATOR, "/pause", &json!({"reason": " "})).await;
    assert_eq!(answer.code, 400, "{}", answer.text);
    let answer = tell(&serving, OPERATOR, "/pause", &json!({"reason": "r", "host": "nowhere"})).await;
    assert_eq!(answer.code, 404, "{}", answer.text);
}

#[tokio::test]
async fn what_it_is_told_is_done_as_the_commands_do_it() {
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    let authorization = format!("Authorization: Bearer {VIEWER}");
    let description = ask(&serving, "GET /api/v1/openapi.json", &[&authorization], "").await.json();
    let checked = |path: &str, answer: &Answer| {
        check(&description, path, "post", &answer.code.to_string(), &answer.json());
        answer.json()
    };
    world.closed_with_volume("t1").await;
    let answer = tell(&serving, OPERATOR, "/threads/t1/hold", &json!({"reason": "audit", "until": "7d"})).await;
    assert_eq!(checked("/api/v1/threads/{id}/hold", &answer)["thread"], "kept");
    let answer = tell(&serving, OPERATOR, "/sweep", &json!({})).await;
    let swept = checked("/api/v1/sweep", &answer);
    assert_eq!((&swept["held"], &swept["removed"]), (&json!(1), &json!(0)), "{swept}");
    let answer = tell(&serving, OPERATOR, "/threads/t1/release", &json!({})).await;
    assert_eq!(checked("/api/v1/threads/{id}/release", &answer)["hold"]["reason"], "audit");
    let answer = tell(&serving, OPERATOR, "/threads/t1/clean", &json!({})).await;
    assert_eq!((answer.code, &checked("/api/v1/threads/{id}/clean", &answer)["published"]), (202, &json!(true)));
    world.until_marked("t1").await;
    assert_eq!(world.receipts("t1").await, ["removed/event"]);
    assert_eq!(tell(&serving, OPERATOR, "/threads/t1/clean", &json!({})).await.code, 409, "it is gone already");
    assert_eq!(tell(&serving, OPERATOR, "/threads/t9/clean", &json!({})).await.code, 404);

    world.publish(b"one").await;
    world.publish(b"two").await;
    eventually("both are parked", async || (world.messages(&world.dead_letter_queue()).await == 2).then_some(())).await;
    let answer = tell(&serving, OPERATOR, "/dead-letters/replay", &json!({})).await;
    let replayed = checked("/api/v1/dead-letters/replay", &answer);
    assert_eq!((&replayed["replayed"], &replayed["no_event"]), (&json!(0), &json!(2)), "{replayed}");
    let purge = async |body: Value| tell(&serving, ADMIN, "/dead-letters/purge", &body).await;
    assert_eq!(purge(json!({})).await.code, 400, "it has to be said how many");
    assert_eq!(purge(json!({"expected": 3})).await.code, 409, "they are not so many");
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 2, "nothing was deleted");
    let purged = purge(json!({"expected": 2})).await;
    assert_eq!(checked("/api/v1/dead-letters/purge", &purged)["purged"], 2);
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
}

#[tokio::test]
async fn pages_of_others_and_bodies_that_are_no_json_are_refused() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    let token = format!("Authorization: Bearer {OPERATOR}");
    let json_body = "Content-Type: application/json";
    for from_elsewhere in [
        &["Sec-Fetch-Site: cross-site"][..],
        &["Sec-Fetch-Site: same-site"],
        &["Origin: https://evil.example"],
        &["Origin: null"],
    ] {
        let headers = [from_elsewhere, &[token.as_str(), json_body]].concat();
        let answer = ask(&serving, "POST /api/v1/pause", &headers, r#"{"reason": "r"}"#).await;
        assert_eq!(answer.code, 403, "{from_elsewhere:?}: {}", answer.text);
    }
    let answer = ask(&serving, "POST /api/v1/pause", &[&token, "Content-Type: text/plain"], r#"{"reason": "r"}"#).await;
    assert_eq!(answer.code, 415, "{}", answer.text);
    for body in ["{", "[]", r#"{"reason": "r", "colour": "red"}"#, r#"{"reason": 1}"#] {
        let answer = ask(&serving, "POST /api/v1/pause", &[&token, json_body], body).await;
        assert_eq!((answer.code, answer.header("content-type")), (400, Some("application/problem+json")), "{body}");
    }
    let answer = ask(&serving, "POST /api/v1/pause", &[&token, json_body], &"x".repeat(20_000)).await;
    assert_eq!(answer.code, 413, "{}", answer.text);
    assert_eq!(ask(&serving, "GET /api/v1/nothing", &[&token], "").await.code, 404);
    assert_eq!(ask(&serving, "GET /api/v1/pause", &[&token], "").await.code, 405);
    let report = ask(&serving, "GET /api/v1/openapi.json", &[&token], "").await;
    let policy = report.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let tag = format!("If-None-Match: {}", report.header("etag").expect("a tag"));
    assert_eq!(ask(&serving, "GET /api/v1/openapi.json", &[&token, &tag], "").await.code, 304);
    let stopped = ask(&serving, "GET /api/v1/status", &[&token], "").await.json();
    assert_eq!(stopped["pause"], Value::Null, "nothing was paused");
}
