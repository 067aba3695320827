//! Containers that have exited and keep a closed thread's volume, on a real daemon: each state that one can be in.

use std::{collections::HashMap, process::Stdio};

use bollard::{
    models::{
        ContainerCreateBody, ContainerStateStatusEnum as State, HostConfig, RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{
        CreateContainerOptions, InspectContainerOptions, KillContainerOptions, RemoveContainerOptionsBuilder,
        StartContainerOptions,
    },
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command, sync::OnceCell};

use crate::{
    proxy::CountingProxy,
    world::{On, World, eventually, server, world},
};

const IMAGE: &str = "volume-reaper-waits:latest";
/// Ends at once, or with an argument never.
const PROGRAM: &str =
    "#include <unistd.h>\nint main(int count, char **words) { while (count > 1) pause(); return 0; }\n";

/// The image with that program, imported once.
static IMPORTED: OnceCell<()> = OnceCell::const_new();

/// An image with that program, as a tarball.
pub(crate) async fn image() -> Vec<u8> {
    let dir = tempfile::TempDir::new().expect("a directory");
    std::fs::write(dir.path().join("program.c"), PROGRAM).expect("written");
    let mut command = Command::new("sh");
    command.args(["-ec", "cc -static -o program program.c && tar --create program"]).current_dir(dir.path());
    let built = command.output().await.expect("it runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    built.stdout
}

async fn import_image() {
    let mut command = Command::new("docker");
    command.args(["--host", &server("DOCKER_HOST"), "import", "-", IMAGE]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut import = command.spawn().expect("it runs");
    let mut stdin = import.stdin.take().expect("a pipe");
    stdin.write_all(&image().await).await.expect("written");
    drop(stdin);
    assert!(import.wait().await.expect("it ends").success(), "the image can be imported");
}

/// A container to be.
#[derive(Clone, Default)]
struct Wanted {
    waits: bool,
    restart: Option<RestartPolicyNameEnum>,
    label: Option<&'static str>,
    /// Another volume, mounted too.
    other: Option<String>,
}

/// A container that mounts the thread's volume, not started. Returns its id.
async fn create(world: &World, id: &str, wanted: Wanted) -> String {
    IMPORTED.get_or_init(import_image).await;
    let mut binds = vec![format!("{}:/workspace", world.volume(id))];
    binds.extend(wanted.other.map(|other| format!("{other}:/other")));
    let command = if wanted.waits { vec!["/program", "wait"] } else { vec!["/program"] };
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(command.into_iter().map(str::to_owned).collect()),
        labels: wanted.label.map(|label| HashMap::from([(label.to_owned(), "x".to_owned())])),
        host_config: Some(HostConfig {
            binds: Some(binds),
            restart_policy: wanted.restart.map(|name| RestartPolicy { name: Some(name), maximum_retry_count: None }),
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let created = world.docker.create_container(None::<CreateContainerOptions>, body).await;
    created.expect("the image is there").id
}

async fn start(world: &World, container: &str) {
    world.docker.start_container(container, None::<StartContainerOptions>).await.expect("started");
}

async fn state(world: &World, container: &str) -> Option<State> {
    let found = world.docker.inspect_container(container, None::<InspectContainerOptions>).await.ok()?;
    found.state?.status
}

async fn until(world: &World, container: &str, wanted: State) {
    let is_it = async || (state(world, container).await == Some(wanted)).then_some(());
    eventually(&format!("the container is {wanted}"), is_it).await;
}

/// A container that ran and has exited.
async fn exited(world: &World, id: &str, wanted: Wanted) -> String {
    let waits = wanted.waits;
    let container = create(world, id, wanted).await;
    start(world, &container).await;
    if waits {
        until(world, &container, State::RUNNING).await;
        world.docker.kill_container(&container, None::<KillContainerOptions>).await.expect("it runs");
    }
    until(world, &container, State::EXITED).await;
    container
}

async fn remove(world: &World, container: &str) {
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    world.docker.remove_container(container, Some(force)).await.expect("the container is there");
}

/// A world in which containers that have exited are removed at once.
async fn removing(on: On) -> World {
    let mut world = world(on).await;
    world.set("VOLUME_REAPER_EXITED_CONTAINERS", "remove");
    world.set("VOLUME_REAPER_EXITED_GRACE", "0s");
    world
}

/// What a sweep came to: volumes removed, containers removed, volumes referenced.
async fn swept(world: &World) -> [u64; 3] {
    let report = world.sweep().await;
    ["removed", "containers_removed", "referenced"].map(|field| report[field].as_u64().expect(field))
}

async fn explain(world: &World, id: &str) -> Value {
    world.json(&["explain", id, "--json"]).await
}

#[tokio::test]
async fn a_container_that_has_exited_goes_with_its_volume_and_both_have_receipts() {
    for on in On::ALL {
        let world = removing(on).await;
        world.closed_with_volume("t1").await;
        let container = exited(&world, "t1", Wanted::default()).await;
        assert_eq!(swept(&world).await, [1, 1, 0], "{on:?}");
        assert_eq!(state(&world, &container).await, None, "{on:?}");
        assert!(!world.has_volume("t1").await && world.mark("t1").await.is_some(), "{on:?}");
        let mut receipts = world.receipts("t1").await;
        receipts.sort();
        assert_eq!(receipts, ["container_removed/sweep", "removed/sweep"], "{on:?}");
        let ids = world.texts("SELECT container_id FROM volume_removals WHERE outcome = 'container_removed'").await;
        assert_eq!(ids, [container.as_str()], "{on:?}");

        let output = world.run(&["explain", "t1"]).await;
        let text = String::from_utf8(output.stdout).expect("text");
        let (answer, rest) = text.split_once('\n').expect("lines");
        assert!(answer.contains("was removed at") && answer.contains("in a sweep"), "{on:?}: {text}");
        assert!(rest.contains(&format!("({}) at", &container[..12])), "{on:?}: {text}");
    }
}

#[tokio::test]
async fn one_that_was_never_started_goes_too_and_so_does_one_of_several() {
    let world = removing(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    let created = create(&world, "t1", Wanted::default()).await;
    let stopped = exited(&world, "t1", Wanted { waits: true, ..Wanted::default() }).await;
    assert_eq!(swept(&world).await, [1, 2, 0]);
    assert_eq!((state(&world, &created).await, state(&world, &stopped).await), (None, None));
}

#[tokio::test]
async fn one_that_mounts_several_volumes_of_its_thread_goes_once_and_all_of_them_follow() {
    let mut world = removing(On::Postgres).await;
    let cache = |world: &World, id: &str| format!("{}_cache_{id}", world.name);
    world.set("VOLUME_REAPER_VOLUME_NAMES", format!("{0}_ws_{{id}},{0}_cache_{{id}}", world.name));
    for id in ["swept", "half"] {
        world.closed_with_volume(id).await;
        let container = exited(&world, id, Wanted { other: Some(cache(&world, id)), ..Wanted::default() }).await;
        if id == "half" {
            // Now nothing mounts its cache, and one that has exited its workspace.
            remove(&world, &container).await;
            exited(&world, id, Wanted::default()).await;
        }
    }
    let report = world.json(&["sweep", "--dry-run", "--json"]).await;
    assert_eq!((&report["removed"], &report["containers_removed"]), (&json!(2), &json!(2)), "{report}");
    assert_eq!(swept(&world).await, [2, 2, 0]);
    let receipts = world.texts("SELECT outcome FROM volume_removals WHERE thread_id = 'swept' ORDER BY outcome").await;
    assert_eq!(receipts, ["container_removed", "removed", "removed"]);

    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
    let serving = world.serve_idle().await;
    world.closed_with_volume("event").await;
    exited(&world, "event", Wanted { other: Some(cache(&world, "event")), ..Wanted::default() }).await;
    world.publish_closed("event").await;
    world.until_marked("event").await;
    serving.until_metric("volume_reaper_containers_removed_total{source=\"event\"}", 1).await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn an_event_removes_both_within_its_clean_up() {
    let mut world = removing(On::Postgres).await;
    // Only the events count here.
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
    let serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    let container = exited(&world, "t1", Wanted::default()).await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    assert_eq!(state(&world, &container).await, None);
    serving.until_metric("volume_reaper_containers_removed_total{source=\"event\"}", 1).await;
    serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"removed\"}", 1).await;
    assert_eq!(serving.stop().await, Some(0));
    let mut receipts = world.receipts("t1").await;
    receipts.sort();
    assert_eq!(receipts, ["container_removed/event", "removed/event"]);
}

#[tokio::test]
async fn one_that_has_just_exited_stays_for_the_grace_and_explain_says_until_when() {
    let mut world = removing(On::Sqlite).await;
    world.set("VOLUME_REAPER_EXITED_GRACE", "1h");
    world.closed_with_volume("t1").await;
    let container = exited(&world, "t1", Wanted::default()).await;
    assert_eq!(swept(&world).await, [0, 0, 1]);
    assert_eq!(state(&world, &container).await, Some(State::EXITED));
    let explained = explain(&world, "t1").await;
    assert_eq!(explained["reasons"][1], json!("exited_containers"), "{explained}");
    let from = explained["users"][0]["exited"]["removable_from"].as_str().expect("a time");
    let from = chrono::DateTime::parse_from_rfc3339(from).expect("a time").to_utc();
    let minutes = (from - chrono::Utc::now()).num_minutes();
    assert!((50..=60).contains(&minutes), "{minutes}");
    let answer = explained["answer"].as_str().expect("text");
    assert!(answer.contains("\" would be removed at 2") && answer.contains(", and then the volume"), "{answer}");

    world.set("VOLUME_REAPER_EXITED_GRACE", "0s");
    let explained = explain(&world, "t1").await;
    assert!(
        explained["answer"]
            .as_str()
            .expect("text")
            .contains("would be removed with the next sweep, and then the volume")
    );
    assert_eq!(swept(&world).await, [1, 1, 0]);
}

#[tokio::test]
async fn without_the_setting_nothing_of_it_happens() {
    let world = world(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    let container = exited(&world, "t1", Wanted::default()).await;
    assert_eq!(swept(&world).await, [0, 0, 1]);
    let explained = explain(&world, "t1").await;
    assert_eq!(explained["reasons"][0], json!("referenced"));
    assert_eq!(explained["users"][0].get("exited"), None);
    assert_eq!(state(&world, &container).await, Some(State::EXITED));
    remove(&world, &container).await;
}

#[tokio::test]
async fn one_that_somebody_may_still_want_stays_and_explain_says_why() {
    let world = removing(On::Sqlite).await;
    world.create_volume("other").await;
    let always = Some(RestartPolicyNameEnum::ALWAYS);
    let on_failure = Some(RestartPolicyNameEnum::ON_FAILURE);
    let wanted = [
        ("running", "running", Wanted { waits: true, ..Wanted::default() }),
        ("paused", "paused", Wanted { waits: true, ..Wanted::default() }),
        ("always", "restart_policy", Wanted { waits: true, restart: always, ..Wanted::default() }),
        ("failed", "restart_policy", Wanted { waits: true, restart: on_failure, ..Wanted::default() }),
        ("label", "label", Wanted { label: Some("volume-reaper.keep"), ..Wanted::default() }),
        ("compose", "managed", Wanted { label: Some("com.docker.compose.project"), ..Wanted::default() }),
        ("swarm", "managed", Wanted { label: Some("com.docker.swarm.service.id"), ..Wanted::default() }),
        ("both", "other_volume", Wanted { other: Some(world.volume("other")), ..Wanted::default() }),
    ];
    let mut containers = Vec::new();
    for (id, kept, wanted) in wanted {
        world.closed_with_volume(id).await;
        let container = match kept {
            "running" | "paused" => {
                let container = create(&world, id, wanted).await;
                start(&world, &container).await;
                if kept == "paused" {
                    world.docker.pause_container(&container).await.expect("it runs");
                }
                container
            }
            _ => exited(&world, id, wanted).await,
        };
        containers.push((id, kept, container));
    }
    assert_eq!(swept(&world).await, [0, 0, containers.len() as u64]);
    for (id, kept, container) in &containers {
        let explained = explain(&world, id).await;
        assert_eq!(explained["users"][0]["exited"]["kept"], json!(kept), "{id}: {explained}");
        let reasons = explained["reasons"].as_array().expect("reasons");
        assert!(reasons.contains(&json!("referenced")) && !reasons.contains(&json!("exited_containers")), "{id}");
        assert!(world.has_volume(id).await && state(&world, container).await.is_some(), "{id}");
    }
    let output = world.run(&["explain", "both"]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains(&format!("kept since it mounts {:?} too", world.volume("other"))), "{text}");

    let mut world = world;
    world.set("VOLUME_REAPER_EXITED_MANAGED", "remove");
    assert_eq!(swept(&world).await, [2, 2, containers.len() as u64 - 2]);
    for (id, _, container) in &containers {
        let is_gone = state(&world, container).await.is_none();
        assert_eq!(is_gone, ["compose", "swarm"].contains(id), "{id}");
        if !is_gone {
            remove(&world, container).await;
        }
    }
}

#[tokio::test]
async fn one_that_was_stopped_by_hand_is_not_started_again_unless_always() {
    let world = removing(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    let unless_stopped = Some(RestartPolicyNameEnum::UNLESS_STOPPED);
    exited(&world, "t1", Wanted { waits: true, restart: unless_stopped, ..Wanted::default() }).await;
    assert_eq!(swept(&world).await, [1, 1, 0]);
}

#[tokio::test]
async fn one_of_two_containers_that_stays_keeps_the_other() {
    let world = removing(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    let over = exited(&world, "t1", Wanted::default()).await;
    let runs = create(&world, "t1", Wanted { waits: true, ..Wanted::default() }).await;
    start(&world, &runs).await;
    assert_eq!(swept(&world).await, [0, 0, 1]);
    assert_eq!(state(&world, &over).await, Some(State::EXITED));
    for container in [over, runs] {
        remove(&world, &container).await;
    }
}

#[tokio::test]
async fn one_that_is_started_in_the_last_moment_is_refused_by_the_daemon() {
    let mut world = removing(On::Sqlite).await;
    world.set("VOLUME_REAPER_LOCK_LIMIT", "30s");
    world.closed_with_volume("t1").await;
    let container = exited(&world, "t1", Wanted { waits: true, ..Wanted::default() }).await;
    let proxy = CountingProxy::start_holding_containers(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    let (found, ()) = tokio::join!(swept(&world), async {
        proxy.until_container_removal().await;
        start(&world, &container).await;
        proxy.release_removals();
    });
    assert_eq!(found, [0, 0, 1]);
    assert_eq!(state(&world, &container).await, Some(State::RUNNING));
    assert!(world.has_volume("t1").await && world.mark("t1").await.is_none());
    assert_eq!(world.receipts("t1").await, [""; 0]);
    remove(&world, &container).await;
}

#[tokio::test]
async fn the_row_is_locked_while_a_container_is_removed() {
    let mut world = removing(On::Postgres).await;
    world.set("VOLUME_REAPER_LOCK_LIMIT", "30s");
    world.closed_with_volume("t1").await;
    exited(&world, "t1", Wanted::default()).await;
    let proxy = CountingProxy::start_holding_containers(world.dir.path());
    world.set("DOCKER_HOST", proxy.endpoint());
    let free = "SELECT id FROM threads WHERE id = 't1' FOR NO KEY UPDATE SKIP LOCKED";
    let (found, ()) = tokio::join!(swept(&world), async {
        proxy.until_container_removal().await;
        assert_eq!(world.texts(free).await, [""; 0]);
        proxy.release_removals();
    });
    assert_eq!(found, [1, 1, 0]);
    assert_eq!(world.texts(free).await, ["t1"]);
}

#[tokio::test]
async fn a_container_that_is_gone_has_its_receipt_although_its_volume_stays() {
    for on in On::ALL {
        let mut world = removing(on).await;
        world.set("VOLUME_REAPER_LOCK_LIMIT", "30s");
        world.closed_with_volume("t1").await;
        let over = exited(&world, "t1", Wanted::default()).await;
        let proxy = CountingProxy::start_holding_containers(world.dir.path());
        world.set("DOCKER_HOST", proxy.endpoint());
        let (found, next) = tokio::join!(swept(&world), async {
            proxy.until_container_removal().await;
            // Somebody else takes the volume, which only the daemon can know.
            let next = create(&world, "t1", Wanted::default()).await;
            proxy.release_removals();
            next
        });
        assert_eq!(found, [0, 1, 1], "{on:?}");
        assert_eq!(state(&world, &over).await, None, "{on:?}");
        assert_eq!(world.receipts("t1").await, ["container_removed/sweep"], "{on:?}");
        assert!(world.has_volume("t1").await && world.mark("t1").await.is_none(), "{on:?}");
        remove(&world, &next).await;
    }
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_removed_and_removes_nothing() {
    let world = removing(On::Sqlite).await;
    // The exchange, and the pinned daemon.
    assert_eq!(world.serve().await.stop().await, Some(0));
    world.closed_with_volume("t1").await;
    let container = exited(&world, "t1", Wanted::default()).await;
    let report = world.json(&["sweep", "--dry-run", "--json"]).await;
    assert_eq!((&report["removed"], &report["containers_removed"]), (&json!(1), &json!(1)));

    let journal = world.dir.path().join("journal");
    let file = std::fs::File::create(&journal).expect("a file");
    let serving = world.start_as(&["serve", "--dry-run"], file.into()).await;
    let entry = async |outcome: &str| {
        eventually(&format!("the journal has {outcome}"), async || {
            let text = std::fs::read_to_string(&journal).expect("readable");
            let mut entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            entries.find(|entry| entry["outcome"] == outcome)
        })
        .await
    };
    let removed = entry("container_removed").await;
    assert_eq!((&removed["thread_id"], &removed["container_id"]), (&json!("t1"), &json!(container)));
    assert_eq!(entry("removed").await["thread_id"], json!("t1"));
    assert_eq!(serving.stop().await, Some(0));
    assert!(world.has_volume("t1").await && world.mark("t1").await.is_none());
    assert_eq!(state(&world, &container).await, Some(State::EXITED));
    assert_eq!(world.receipts("t1").await, [""; 0]);
    remove(&world, &container).await;
}

#[tokio::test]
async fn holds_pauses_and_budgets_count_containers_as_they_count_volumes() {
    for on in On::ALL {
        let mut world = removing(on).await;
        world.closed_with_volume("t1").await;
        let container = exited(&world, "t1", Wanted::default()).await;
        assert!(world.run(&["hold", "t1", "--reason", "a dispute"]).await.status.success(), "{on:?}");
        assert_eq!(world.sweep().await["held"], json!(1), "{on:?}");
        assert!(world.run(&["release", "t1"]).await.status.success(), "{on:?}");
        assert!(world.run(&["pause", "--reason", "a restore"]).await.status.success(), "{on:?}");
        assert_eq!(world.sweep().await["paused"], json!(1), "{on:?}");
        assert!(world.run(&["resume"]).await.status.success(), "{on:?}");

        // Two removals, and a budget of one.
        world.set("VOLUME_REAPER_BUDGET_PER_SWEEP", "1");
        let report = world.sweep().await;
        assert_eq!(report["paused"], json!(1), "{on:?}: {report}");
        assert!(report["skipped_reason"].as_str().expect("why").contains("the budget of 1 removals per sweep"));
        assert!(world.run(&["resume"]).await.status.success(), "{on:?}");
        world.set("VOLUME_REAPER_BUDGET_PER_SWEEP", "off");
        world.set("VOLUME_REAPER_BUDGET_PER_HOUR", "1");
        assert_eq!(swept(&world).await, [0, 0, 1], "{on:?}");
        let reasons = world.texts("SELECT reason FROM volume_reaper_pauses WHERE paused_at IS NOT NULL").await;
        assert_eq!(reasons, ["the budget of 1 removals per hour is used up"], "{on:?}");
        assert_eq!(state(&world, &container).await, Some(State::EXITED), "{on:?}");
        assert!(world.run(&["resume"]).await.status.success(), "{on:?}");

        // A budget of two is enough, and then it is used up.
        world.set("VOLUME_REAPER_BUDGET_PER_HOUR", "2");
        assert_eq!(swept(&world).await, [1, 1, 0], "{on:?}");
        world.closed_with_volume("t2").await;
        assert_eq!(world.sweep().await["paused"], json!(1), "{on:?}");
    }
}
