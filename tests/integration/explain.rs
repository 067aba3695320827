//! `explain`: each reason on real servers, with a real container as user.

use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::CreateContainerOptionsBuilder,
};
use serde_json::{Value, json};

use crate::{
    proxy::CountingProxy,
    world::{On, World, world},
};

/// What `explain` said.
struct Explained {
    code: Option<i32>,
    text: String,
    json: Value,
}

impl Explained {
    fn reasons(&self) -> Vec<&str> {
        self.json["reasons"].as_array().expect("reasons").iter().map(|reason| reason.as_str().expect("text")).collect()
    }

    /// The first line of the text.
    fn answer(&self) -> &str {
        self.text.lines().next().expect("an answer")
    }

    #[track_caller]
    fn is(&self, code: i32, reasons: &[&str], answer: &str) {
        assert_eq!(self.reasons(), reasons, "{}", self.text);
        assert_eq!(self.code, Some(code), "{}", self.text);
        assert!(self.answer().contains(answer), "{}", self.text);
        assert_eq!(self.json["answer"], json!(self.answer()));
    }
}

/// Twice: for people and as JSON.
async fn explain(world: &World, id: &str) -> Explained {
    let (text, json) = (world.run(&["explain", id]).await, world.run(&["explain", id, "--json"]).await);
    assert_eq!(text.status.code(), json.status.code());
    let json = serde_json::from_slice(&json.stdout).unwrap_or_else(|error| panic!("{error}: {json:?}"));
    Explained { code: text.status.code(), text: String::from_utf8(text.stdout).expect("text"), json }
}

/// A world whose daemon is pinned and in which somebody sweeps, or so it seems.
async fn swept(on: On) -> World {
    let world = world(on).await;
    world.sweep().await;
    let lease = "('sweep', 'replica-1/x', 1, '2100-01-01 00:00:00')";
    world.execute(&format!("INSERT INTO volume_reaper_leases (name, holder, epoch, expires_at) VALUES {lease}")).await;
    world
}

#[tokio::test]
async fn a_held_volume_names_the_container_that_holds_it() {
    for on in On::ALL {
        let world = swept(on).await;
        world.closed_with_volume("t1").await;
        let id = world.create_container("t1").await;
        let name = world.docker.inspect_container(&id, None).await.expect("it is there").name.expect("a name");
        let name = name.trim_start_matches('/');

        let explained = explain(&world, "t1").await;
        let short = &id[..12];
        let volume = world.volume("t1");
        let answer =
            format!("thread t1: its volume {volume} is still there: container \"{name}\" ({short}, created since 2");
        explained.is(0, &["referenced"], &answer);
        assert!(explained.answer().ends_with(", image volume-reaper-empty:latest) uses it"), "{}", explained.text);
        let user = &explained.json["users"][0];
        assert_eq!((&user["id"], &user["name"], &user["state"]), (&json!(id), &json!(name), &json!("created")));
        assert_eq!(user["image"], json!("volume-reaper-empty:latest"));
        world.remove_container(&id).await;
    }
}

#[tokio::test]
async fn a_container_that_is_bound_to_another_volume_holds_nothing() {
    let world = swept(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    world.create_volume("t1.other").await;
    let other = world.create_container("t1.other").await;
    // The daemon's own filter would take the place in the container for the volume.
    let body = ContainerCreateBody {
        image: Some("volume-reaper-empty:latest".to_owned()),
        cmd: Some(vec!["never-started".to_owned()]),
        host_config: Some(HostConfig {
            binds: Some(vec![format!("{}:/{}", world.volume("t1.other"), world.volume("t1"))]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&world.name).build();
    let same_place = world.docker.create_container(Some(options), body).await.expect("created").id;
    explain(&world, "t1").await.is(0, &["waiting"], "is still there and nothing uses it: the next sweep removes it");
    for container in [other, same_place] {
        world.remove_container(&container).await;
    }
}

#[tokio::test]
async fn a_thread_that_is_open_or_unknown_is_called_so() {
    for on in On::ALL {
        let world = swept(on).await;
        world.open_thread("t1").await;
        world.create_volume("t1").await;
        explain(&world, "t1").await.is(0, &["not_closed"], "it is not closed (its status is \"open\"), so its volume");
        explain(&world, "nobody").await.is(0, &["unknown_thread"], "there is no such thread, and no volume");
        world.create_volume("nobody").await;
        explain(&world, "nobody").await.is(0, &["unknown_thread"], "a volume without a thread is never touched");
    }
}

#[tokio::test]
async fn a_volume_that_went_says_when_and_who_did_it() {
    for on in On::ALL {
        let world = swept(on).await;
        world.closed_with_volume("t1").await;
        assert_eq!(world.sweep().await["removed"], json!(1));
        let explained = explain(&world, "t1").await;
        explained.is(0, &["gone"], "was removed at 2");
        assert!(explained.answer().ends_with("Z by replica-1 in a sweep"), "{}", explained.text);
        let receipt = &explained.json["receipts"][0];
        assert_eq!((&receipt["outcome"], &receipt["source"]), (&json!("removed"), &json!("sweep")), "{on:?}");
        assert_eq!(explained.json["thread"]["marked"], json!(true));

        world.execute("UPDATE volume_removals SET source = 'event', event_id = 'm-1', outcome = 'not_found'").await;
        let explained = explain(&world, "t1").await;
        explained.is(0, &["gone"], "was found to be gone at 2");
        assert!(explained.answer().ends_with("Z by replica-1 for the event m-1"), "{}", explained.text);
    }
}

#[tokio::test]
async fn a_mark_and_a_volume_that_disagree_are_told() {
    let world = swept(On::Sqlite).await;
    world.open_thread("t1").await;
    world.close_thread("t1").await;
    explain(&world, "t1").await.is(0, &["not_marked_yet"], "is not there, and the thread is not marked yet");
    world.sweep().await;
    world.create_volume("t1").await;
    explain(&world, "t1").await.is(0, &["drift"], "is there although the thread is marked");
}

#[tokio::test]
async fn a_failing_thread_says_how_often_why_and_when_it_is_tried_again() {
    for on in On::ALL {
        let mut world = swept(on).await;
        world.closed_with_volume("t1").await;
        let proxy = CountingProxy::start_failing_removals(world.dir.path());
        world.set("DOCKER_HOST", proxy.endpoint());
        assert_eq!(world.sweep().await["failed"], json!(1));
        let explained = explain(&world, "t1").await;
        explained.is(0, &["failing"], "cleaning up failed once since 2");
        assert!(
            explained.answer().contains("no space left on device; sweeps try it again from 2"),
            "{}",
            explained.text
        );
        let failure = &explained.json["failure"];
        assert_eq!((&failure["attempts"], &failure["replica"]), (&json!(1), &json!("replica-1")), "{on:?}");
        let time =
            |key: &str| chrono::DateTime::parse_from_rfc3339(failure[key].as_str().expect("text")).expect("a time");
        assert_eq!((time("next_try_at") - time("failed_at")).num_minutes(), 10, "the cooldown");
    }
}

#[tokio::test]
async fn what_waits_while_nobody_sweeps_says_so() {
    let world = world(On::Sqlite).await;
    world.sweep().await;
    world.closed_with_volume("t1").await;
    explain(&world, "t1").await.is(0, &["waiting", "nobody_sweeps"], "no replica sweeps now");
}

#[tokio::test]
async fn a_daemon_that_is_not_the_pinned_one_proves_nothing() {
    let world = swept(On::Sqlite).await;
    world.open_thread("t1").await;
    world.close_thread("t1").await;
    world.execute("UPDATE volume_reaper_daemons SET identity = 'another'").await;
    explain(&world, "t1").await.is(0, &["other_daemon"], "than the pinned one (another)");
    world.execute("DELETE FROM volume_reaper_daemons").await;
    explain(&world, "t1").await.is(0, &["no_daemon_pinned"], "no Docker daemon is pinned yet");
}

#[tokio::test]
async fn docker_that_is_down_is_named_and_the_rest_is_told() {
    let mut world = swept(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    world.set("DOCKER_HOST", "tcp://127.0.0.1:1");
    let explained = explain(&world, "t1").await;
    explained.is(1, &["docker_down"], "Docker does not answer, so whether the volume");
    assert_eq!(explained.json["thread"]["status"], json!("closed"));
    assert!(explained.json["errors"]["docker"].as_str().expect("why").contains("127.0.0.1:1"));
}

#[tokio::test]
async fn a_database_that_is_down_is_named_and_no_file_is_made() {
    let mut world = swept(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    let file = world.dir.path().join("none.db");
    world.set("DATABASE_URL", format!("sqlite://{}?mode=rwc", file.display()));
    let explained = explain(&world, "t1").await;
    explained.is(1, &["database_down"], "the database could not be read: database at sqlite://");
    assert_eq!(explained.json["volume_found"]["driver"], json!("local"));
    assert!(!file.exists());
}

#[tokio::test]
async fn an_id_that_can_name_no_volume_is_refused_with_exit_code_2() {
    let world = World::without_schema(On::Sqlite).await;
    let output = world.run(&["explain", "a/\x1b[2Jb"]).await;
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.starts_with("volume-reaper: thread id \"a/\\u{1b}[2Jb\": ") && error.lines().count() == 1,
        "{error:?}"
    );
}

#[tokio::test]
async fn the_answer_has_the_fields_of_the_contract_and_changes_nothing() {
    let world = swept(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    let explained = explain(&world, "t1").await;
    let fields: Vec<_> = explained.json.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut contract = vec![
        "thread_id",
        "volume",
        "answer",
        "reasons",
        "thread",
        "receipts",
        "hold",
        "due_at",
        "pause",
        "failure",
        "volume_found",
        "users",
        "daemon",
        "sweeper",
        "errors",
    ];
    contract.sort_unstable();
    assert_eq!(fields, contract);
    assert!(world.has_volume("t1").await && world.mark("t1").await.is_none());
}
