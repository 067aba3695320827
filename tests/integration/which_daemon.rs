//! Whose answers count: two daemons behind one address, a cloned host, a disk that is not mounted, a plugin that is
//! gone.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
};
use volume_reaper::{
    cleanup::{Identity, Removal, Volumes},
    config::Endpoint,
    docker::Docker,
    failure::{Dependency, Failure, Verdict},
    volume_name::{ThreadId, VolumeName, VolumeNames},
};

use crate::{
    scripted_daemon::{Answer, Scripted},
    world::{On, PrivateHost, World, eventually, world},
};

const TIMEOUT: Duration = Duration::from_secs(20);
const THREADS: usize = 2_000;
/// As after so many starts of the service: each meets the address for the first time.
const STARTS: usize = 20;

fn volume(id: &str) -> VolumeName {
    VolumeNames::of_prefix("ha_ws_").expect("valid").volume_of(&ThreadId::parse(id).expect("valid"))
}

fn identity(text: &str) -> Identity {
    Identity::from_text(text.to_owned())
}

/// A coin that falls on both sides, and not in turn.
fn coin() -> bool {
    uuid::Uuid::new_v4().as_u128() & 1 == 0
}

/// Removes all threads' volumes, by one adapter after the other. Returns those that were said to be gone, and the
/// failures.
async fn remove_all(endpoint: &Endpoint, pinned: &Identity) -> (Vec<String>, Vec<Failure>) {
    let (mut gone, mut failures) = (Vec::new(), Vec::new());
    for start in 0..STARTS {
        let docker = Docker::new(endpoint.clone(), TIMEOUT);
        docker.pin(pinned.clone());
        let ids = (0..THREADS / STARTS).map(|number| format!("t{start}-{number}"));
        let removals = stream::iter(ids.map(async |id| (docker.remove(&volume(&id)).await, id))).buffer_unordered(4);
        for (removal, id) in removals.collect::<Vec<_>>().await {
            match removal {
                Ok(Removal::Removed | Removal::NotFound) => gone.push(id),
                Ok(Removal::Missing | Removal::Referenced { .. } | Removal::NotSent) => panic!("{id}: {removal:?}"),
                Err(failure) => failures.push(failure),
            }
        }
    }
    (gone, failures)
}

#[tokio::test]
async fn of_two_daemons_that_share_connections_neither_vouches_for_the_other() {
    let [host, other] = PrivateHost::several().await;
    let pinned = Docker::new(Endpoint::parse(&host.endpoint(), None).expect("valid"), TIMEOUT).identify().await;
    let pinned = pinned.expect("it is there");
    let names =
        (0..STARTS).flat_map(|start| (0..THREADS / STARTS).map(move |number| format!("ha_ws_t{start}-{number}")));
    stream::iter(names).for_each_concurrent(8, async |name| host.create_volume(&name).await).await;

    let dir = TempDir::new().expect("a directory");
    let socket = dir.path().join("shared.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let sockets = [host.socket(), other.socket()];
    let balancing = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = sockets[usize::from(coin())].clone();
            tokio::spawn(async move {
                let mut daemon = UnixStream::connect(target).await.expect("it listens");
                let _ = copy_bidirectional(&mut client, &mut daemon).await;
            });
        }
    });
    let endpoint = Endpoint::Unix(socket.display().to_string());
    let (gone, failures) = remove_all(&endpoint, &pinned).await;
    let volumes =
        host.docker.list_volumes(None::<bollard::query_parameters::ListVolumesOptions>).await.expect("a list");
    let left: HashSet<_> = volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect();
    let wrong: Vec<_> = gone.iter().filter(|id| left.contains(&format!("ha_ws_{id}"))).collect();
    println!("{} gone, {} failures, {} wrong marks of {THREADS}", gone.len(), failures.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(gone.len() + left.len(), THREADS, "what is gone was said to be");
    assert!(!gone.is_empty() && !failures.is_empty(), "both daemons were met");
    assert!(failures.iter().all(|failure| failure.verdict == Verdict::Unavailable(Dependency::Docker)), "{failures:?}");
    balancing.abort();
}

/// Two daemons of which either answers each request; `a` has what is in `volumes`.
async fn two_daemons(
    volumes: Arc<Mutex<HashSet<String>>>,
    is_a: impl Fn() -> bool + Send + Sync + 'static,
) -> Scripted {
    Scripted::tcp(move |_, request| {
        let daemon = if is_a() { "a" } else { "b" };
        answer(daemon, request, |volume| daemon == "a" && volumes.lock().expect("lock").remove(volume))
    })
    .await
}

/// What a daemon answers that has no containers; `remove` says whether a volume was there.
fn answer(id: &str, request: &str, remove: impl Fn(&str) -> bool) -> Answer {
    match request.strip_prefix("DELETE /volumes/") {
        Some(volume) if remove(volume) => Answer::Say(204, String::new()),
        Some(volume) => Answer::Say(404, json!({"message": format!("get {volume}: no such volume")}).to_string()),
        None if request == "GET /info" => {
            Answer::Say(200, json!({"ID": id, "DockerRootDir": "/data", "Plugins": {"Volume": ["local"]}}).to_string())
        }
        None if request == "GET /version" => Answer::Say(200, json!({"Version": "29.0.0"}).to_string()),
        None if request.starts_with("GET /volumes/") => {
            let volume = request.trim_start_matches("GET /volumes/");
            Answer::Say(404, json!({"message": format!("get {volume}: no such volume")}).to_string())
        }
        None if request.starts_with("GET /volumes") => Answer::Say(200, json!({"Volumes": []}).to_string()),
        None if request.starts_with("GET /containers/json") => Answer::Say(200, "[]".to_owned()),
        None => Answer::Say(200, "OK".to_owned()),
    }
}

#[tokio::test]
async fn of_two_daemons_that_share_requests_neither_vouches_for_the_other() {
    let names =
        (0..STARTS).flat_map(|start| (0..THREADS / STARTS).map(move |number| format!("ha_ws_t{start}-{number}")));
    let volumes = Arc::new(Mutex::new(names.collect::<HashSet<_>>()));
    let daemon = two_daemons(Arc::clone(&volumes), coin).await;
    let (gone, failures) = remove_all(&daemon.endpoint(), &identity("a@/data")).await;
    let left = volumes.lock().expect("lock").clone();
    let wrong: Vec<_> = gone.iter().filter(|id| left.contains(&format!("ha_ws_{id}"))).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(left.len(), THREADS, "nothing is removed while it is unclear who answers");
    assert_eq!(failures.len(), THREADS);
    for failure in &failures {
        assert_eq!(failure.verdict, Verdict::Unavailable(Dependency::Docker));
        assert!(failure.message.contains("two daemons seem to answer at this address"), "{failure}");
    }
    // Nor is one of them pinned.
    let first = Docker::new(daemon.endpoint(), TIMEOUT).identify().await.expect_err("two");
    assert!(first.message.contains("two daemons seem to answer at this address"), "{first}");
}

#[tokio::test]
async fn an_absence_is_not_proven_by_a_connection_that_ended_before_the_identity() {
    let daemon = Scripted::tcp(|_, request| match answer("a", request, |_| false) {
        Answer::Say(404, body) => Answer::SayLast(404, body),
        other @ (Answer::Say(..) | Answer::SayLast(..) | Answer::Close) => other,
    })
    .await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    docker.pin(identity("a@/data"));
    let removal = docker.remove(&volume("t1")).await.expect_err("not proven");
    assert_eq!(removal.verdict, Verdict::Transient, "{removal}");
    let has = docker.has(&volume("t1")).await.expect_err("not proven");
    assert_eq!(has.verdict, Verdict::Transient, "{has}");
}

/// A daemon that has no volumes and counts how often it is asked who it is; `says` changes what it answers to the
/// question that is asked so often already.
async fn counted(says: impl Fn(usize) -> &'static str + Send + Sync + 'static) -> (Scripted, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let daemon = Scripted::tcp({
        let asked = Arc::clone(&asked);
        move |_, request| {
            let before = if request == "GET /info" { asked.fetch_add(1, Ordering::Relaxed) } else { 0 };
            answer(says(before), request, |_| false)
        }
    })
    .await;
    (daemon, asked)
}

#[tokio::test]
async fn absences_that_share_a_proof_need_a_connection_on_which_the_daemon_was_asked_often() {
    let volumes: Vec<_> = (0..40).map(|number| volume(&format!("t{number}"))).collect();
    let (daemon, asked) = counted(|_| "a").await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    docker.pin(identity("a@/data"));
    for expected in [16, 17, 18] {
        assert_eq!(docker.have(&volumes).await, vec![Ok(false); volumes.len()]);
        assert_eq!(asked.load(Ordering::Relaxed), expected);
    }
    // One alone needs no more than one question, and none at all nothing.
    assert_eq!(docker.have(&volumes[..1]).await, [Ok(false)]);
    assert_eq!(docker.have(&[]).await, []);
    assert_eq!((asked.load(Ordering::Relaxed), daemon.connections()), (19, 1));

    // The first contact came to an agreement over another connection; who answers on this one says so only at first.
    let (daemon, asked) = counted(|before| if before < 18 { "a" } else { "b" }).await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    assert_eq!(docker.identify().await, Ok(identity("a@/data")));
    docker.pin(identity("a@/data"));
    let answers = docker.have(&volumes).await;
    assert_eq!(asked.load(Ordering::Relaxed), 19);
    for failure in answers.into_iter().map(|answer| answer.expect_err("two daemons")) {
        assert_eq!(failure.verdict, Verdict::Unavailable(Dependency::Docker));
        assert!(failure.message.contains("two daemons seem to answer at this address"), "{failure}");
    }
}

#[tokio::test]
async fn absences_are_not_proven_by_another_connection_than_the_one_that_they_were_said_over() {
    let daemon = Scripted::tcp(|_, request| match answer("a", request, |_| false) {
        Answer::Say(404, body) if request.ends_with("t1") => Answer::SayLast(404, body),
        other @ (Answer::Say(..) | Answer::SayLast(..) | Answer::Close) => other,
    })
    .await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    docker.pin(identity("a@/data"));
    for answer in docker.have(&["t0", "t1", "t2"].map(volume)).await {
        let failure = answer.expect_err("not proven");
        assert!(failure.verdict == Verdict::Transient && failure.message.contains("connection ended"), "{failure}");
    }
    assert_eq!(daemon.connections(), 3, "it was asked once more, and the second connection ended too");
}

#[tokio::test]
async fn a_connection_that_ends_before_the_proof_costs_a_question_and_no_attempt() {
    let daemon = Scripted::tcp(|connection, request| match answer("a", request, |_| false) {
        Answer::Say(404, body) if connection == 1 && request.ends_with("t1") => Answer::SayLast(404, body),
        other @ (Answer::Say(..) | Answer::SayLast(..) | Answer::Close) => other,
    })
    .await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    docker.pin(identity("a@/data"));
    assert_eq!(docker.have(&["t0", "t1", "t2"].map(volume)).await, vec![Ok(false); 3]);
}

#[tokio::test]
async fn a_list_whose_connection_ended_before_the_identity_proves_no_absence() {
    let daemon = Scripted::tcp(|_, request| match answer("a", request, |_| false) {
        Answer::Say(200, body) if request.starts_with("GET /volumes") => Answer::SayLast(200, body),
        other @ (Answer::Say(..) | Answer::SayLast(..) | Answer::Close) => other,
    })
    .await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    docker.pin(identity("a@/data"));
    let prefix = VolumeNames::of_prefix("ha_ws_").expect("valid");
    let list = docker.inventory(&prefix).await.expect_err("not proven");
    assert_eq!(list.verdict, Verdict::Transient, "{list}");
}

#[tokio::test]
async fn the_daemon_is_down_after_a_contradiction_until_all_answers_agree_again() {
    let is_a = Arc::new(Mutex::new(true));
    let volumes = Arc::new(Mutex::new(HashSet::from(["ha_ws_t1".to_owned()])));
    let daemon = two_daemons(volumes, {
        let is_a = Arc::clone(&is_a);
        move || *is_a.lock().expect("lock")
    })
    .await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    docker.pin(identity("a@/data"));
    assert_eq!(docker.probe().await, Ok(()));
    assert_eq!(docker.remove(&volume("t1")).await, Ok(Removal::Removed));
    *is_a.lock().expect("lock") = false;
    let other = docker.remove(&volume("t1")).await.expect_err("another daemon lacks it");
    assert_eq!(other.verdict, Verdict::Unavailable(Dependency::Docker));
    assert!(other.message.contains("another daemon answers than the one that is pinned"), "{other}");
    assert!(docker.probe().await.is_err(), "it answers, and is another");
    *is_a.lock().expect("lock") = true;
    eventually("it is up again", async || docker.probe().await.ok()).await;
    assert_eq!(docker.remove(&volume("t1")).await, Ok(Removal::NotFound));
}

#[tokio::test]
async fn a_removal_whose_answer_was_lost_is_asked_again_and_not_called_removed() {
    let volumes = Arc::new(Mutex::new(HashSet::from(["ha_ws_t1".to_owned()])));
    let daemon = Scripted::tcp(move |_, request| {
        match answer("a", request, |volume| volumes.lock().expect("lock").remove(volume)) {
            // It is removed, and nobody hears of it.
            Answer::Say(204, _) => Answer::Close,
            other @ (Answer::Say(..) | Answer::SayLast(..) | Answer::Close) => other,
        }
    })
    .await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    docker.pin(identity("a@/data"));
    assert_eq!(docker.remove(&volume("t1")).await, Ok(Removal::NotFound));
    assert_eq!(daemon.connections(), 2);
}

#[tokio::test]
async fn a_removal_without_an_answer_is_no_outcome() {
    let daemon =
        Scripted::tcp(
            |_, request| {
                if request.starts_with("DELETE ") { Answer::Close } else { answer("a", request, |_| false) }
            },
        )
        .await;
    let docker = Docker::new(daemon.endpoint(), TIMEOUT);
    docker.pin(identity("a@/data"));
    let removal = docker.remove(&volume("t1")).await.expect_err("no answer");
    assert_eq!(removal.verdict, Verdict::Unavailable(Dependency::Docker), "{removal}");
}

#[tokio::test]
async fn an_identity_that_was_pinned_without_its_data_root_gets_it_at_the_first_contact() {
    let world = world(On::Sqlite).await;
    assert!(world.run(&["sweep"]).await.status.success());
    let pinned = world.texts("SELECT identity FROM volume_reaper_daemons").await;
    let (id, root) = pinned[0].split_once('@').expect("id and data root");
    assert!(root.starts_with('/'), "{root}");
    world.execute(&format!("UPDATE volume_reaper_daemons SET identity = '{id}'")).await;
    let status = world.json(&["status", "--json"]).await;
    assert_eq!(status["daemons"][0]["answers"], json!(true), "{status}");
    assert!(world.run(&["sweep"]).await.status.success());
    assert_eq!(world.texts("SELECT identity FROM volume_reaper_daemons").await, pinned);
}

async fn refused_for_its_data_root(world: &World) {
    let output = world.run(&["sweep"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the same Docker id with another data root: an unmounted disk"), "{said}");
    let doctor: Value = world.json(&["doctor", "--json"]).await;
    let mut checks = doctor["checks"].as_array().expect("checks").iter();
    let identity = checks.find(|check| check["name"] == "docker.identity").expect("a check");
    assert_eq!(identity["status"], json!("fail"));
    assert!(identity["fix"].as_str().is_some_and(|fix| fix.contains("Mount the disk")), "{identity}");
}

#[tokio::test]
async fn the_same_id_with_another_data_root_is_refused_with_the_cause() {
    for unknown_threads in ["reject", "record"] {
        let mut world = world(On::Sqlite).await;
        world.set("VOLUME_REAPER_UNKNOWN_THREADS", unknown_threads);
        assert!(world.run(&["sweep"]).await.status.success());
        let update =
            "UPDATE volume_reaper_daemons SET identity = substr(identity, 1, instr(identity, '@')) || '/mnt/data'";
        world.execute(update).await;
        world.open_thread("t1").await;
        world.close_thread("t1").await;
        refused_for_its_data_root(&world).await;
        assert!(world.mark("t1").await.is_none());
    }
}

/// Where a private daemon has its data and its configuration.
fn files(host: &PrivateHost) -> PathBuf {
    host.files_of("any").ancestors().nth(4).expect("a folder").to_owned()
}

#[tokio::test]
async fn a_cloned_host_with_the_id_of_the_first_is_refused() {
    let [host, clone] = PrivateHost::several().await;
    clone.control("stop").await;
    // Where Docker keeps its id, from version 23 on and before.
    let ids = ["data/engine-id", "etc/key.json"].map(|file| (files(&host).join(file), files(&clone).join(file)));
    let copied = ids.iter().filter(|(from, to)| std::fs::copy(from, to).is_ok()).count();
    assert_ne!(copied, 0, "{ids:?}");
    clone.control("start").await;
    let mut world = world(On::Sqlite).await;
    world.set("DOCKER_HOST", host.endpoint());
    host.create_volume(&world.volume("t1")).await;
    world.open_thread("t1").await;
    assert!(world.run(&["sweep"]).await.status.success());
    world.close_thread("t1").await;
    world.set("DOCKER_HOST", clone.endpoint());
    refused_for_its_data_root(&world).await;
    assert!(world.mark("t1").await.is_none());
}

/// A volume driver that the test serves; it keeps its volumes nowhere.
struct Plugin {
    name: String,
    dir: TempDir,
    /// Where the daemon reads of it.
    spec: PathBuf,
    volumes: Arc<Mutex<HashSet<String>>>,
    server: Option<Scripted>,
}

impl Plugin {
    /// A plugin that this daemon knows.
    fn start(name: &str, host: &PrivateHost) -> Self {
        let specs = files(host).join("etc/plugins");
        std::fs::create_dir_all(&specs).expect("a folder");
        let dir = TempDir::with_prefix("vr-").expect("a directory");
        let spec = specs.join(format!("{name}.spec"));
        let mut plugin = Self { name: name.to_owned(), dir, spec, volumes: Arc::default(), server: None };
        plugin.serve();
        plugin
    }

    fn serve(&mut self) {
        let socket = self.dir.path().join("plugin.sock").display().to_string();
        let _ = std::fs::remove_file(&socket);
        std::fs::write(&self.spec, format!("unix://{socket}")).expect("written");
        let volumes = Arc::clone(&self.volumes);
        self.server = Some(Scripted::unix(&socket, move |request, body| {
            let asked: Value = serde_json::from_slice(body).unwrap_or_default();
            let name = asked["Name"].as_str().unwrap_or_default().to_owned();
            let found = |name: &str| json!({"Name": name, "Mountpoint": "/tmp"});
            let mut volumes = volumes.lock().expect("lock");
            let said = match request.trim_start_matches("POST /") {
                "Plugin.Activate" => json!({"Implements": ["VolumeDriver"]}),
                "VolumeDriver.Capabilities" => json!({"Capabilities": {"Scope": "local"}}),
                "VolumeDriver.List" => {
                    json!({"Volumes": volumes.iter().map(|name| found(name)).collect::<Vec<_>>(), "Err": ""})
                }
                "VolumeDriver.Get" if volumes.contains(&name) => json!({"Volume": found(&name), "Err": ""}),
                "VolumeDriver.Get" => json!({"Err": "no such volume"}),
                "VolumeDriver.Create" => {
                    volumes.insert(name);
                    json!({"Err": ""})
                }
                "VolumeDriver.Remove" => {
                    volumes.remove(&name);
                    json!({"Err": ""})
                }
                _ => json!({"Mountpoint": "/tmp", "Err": ""}),
            };
            Answer::Say(200, said.to_string())
        }));
    }

    fn stop(&mut self) {
        self.server = None;
        std::fs::remove_file(&self.spec).expect("removed");
    }
}

#[tokio::test]
async fn a_volume_whose_plugin_is_gone_after_a_restart_of_the_daemon_stays_unmarked() {
    let host = PrivateHost::start("a").await;
    let mut world = world(On::Sqlite).await;
    world.set("DOCKER_HOST", host.endpoint());
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    let mut plugin = Plugin::start(&world.name, &host);
    let request = bollard::models::VolumeCreateRequest {
        name: Some(world.volume("t1")),
        driver: Some(plugin.name.clone()),
        ..bollard::models::VolumeCreateRequest::default()
    };
    host.docker.create_volume(request).await.expect("created");
    let serving = world.serve_idle().await;

    plugin.stop();
    host.control("kill").await;
    host.control("start").await;
    serving.until_ready().await;
    world.open_thread("t1").await;
    world.close_thread("t1").await;
    let sweeps = serving.metric("volume_reaper_sweep_seconds_count").await;
    serving.until_metric("volume_reaper_sweep_seconds_count", sweeps + 3).await;
    assert!(world.mark("t1").await.is_none());
    assert!(plugin.volumes.lock().expect("lock").contains(&world.volume("t1")));

    plugin.serve();
    world.execute("DELETE FROM volume_reaper_failures").await;
    world.until_marked("t1").await;
    assert!(plugin.volumes.lock().expect("lock").is_empty(), "it was removed");
    assert_eq!(serving.stop().await, Some(0));
}
