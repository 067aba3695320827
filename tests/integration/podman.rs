//! The clean-up against Podman, by its Docker-compatible API.

use std::{path::Path, process::Stdio, time::Duration};

use bollard::{
    body_full,
    models::{ContainerCreateBody, ContainerStateStatusEnum as State, HostConfig, ResourcesUlimits},
    query_parameters::{
        CreateContainerOptions, CreateImageOptionsBuilder, InspectContainerOptions, StartContainerOptions,
    },
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use volume_reaper::{
    cleanup::{Removal, Volumes},
    config::Endpoint,
    docker::Docker,
    failure::Failure,
    volume_name::{ThreadId, VolumeNames},
};

use crate::{
    transport::is_root,
    world::{On, World, eventually, world},
};

/// `nobody`, on Debian and elsewhere.
const NOBODY: u32 = 65534;
const IMAGE: &str = "localhost/volume-reaper-empty";

/// Whose Podman it is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Rootful,
    Rootless,
}

impl Kind {
    /// Those that who runs the tests can start.
    fn all() -> &'static [Self] {
        if is_root() { &[Self::Rootful, Self::Rootless] } else { &[Self::Rootless] }
    }
}

/// A Podman that only one test uses, with its own storage.
struct Podman {
    kind: Kind,
    dir: TempDir,
    service: Option<Child>,
}

impl Podman {
    async fn start(kind: Kind) -> Self {
        let dir = TempDir::with_prefix("vr-").expect("a temporary directory");
        if is_root() && matches!(kind, Kind::Rootless) {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("theirs");
        }
        let mut podman = Self { kind, dir, service: None };
        podman.serve().await;
        // Two blocks of zeros end a tarball, and this one is over before anything is in it.
        podman.import("latest", vec![0; 1024]).await;
        podman
    }

    async fn import(&self, tag: &str, tarball: Vec<u8>) {
        // Podman 4 takes no tag beside the name.
        let image = CreateImageOptionsBuilder::default().from_src("-").repo(&format!("{IMAGE}:{tag}")).build();
        let imported = self.client().create_image(Some(image), Some(body_full(tarball.into())), None);
        imported.for_each(|step| async { drop(step.expect("imported")) }).await;
    }

    /// A container that uses the thread's volume and runs; with no `words` for its program, until that has ended.
    /// Returns its id.
    async fn run_container(&self, world: &World, id: &str, words: &[&str]) -> String {
        let ulimit = |name: &str| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(1024), hard: Some(1024) };
        let body = ContainerCreateBody {
            image: Some(format!("{IMAGE}:program")),
            cmd: Some(["/program"].iter().chain(words).map(|&word| word.to_owned()).collect()),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{}:/workspace", world.volume(id))]),
                network_mode: Some("none".to_owned()),
                // No more than any machine gives; Podman asks for more by itself.
                ulimits: Some(["nofile", "nproc"].map(ulimit).to_vec()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let client = self.client();
        let container = client.create_container(None::<CreateContainerOptions>, body).await.expect("created").id;
        client.start_container(&container, None::<StartContainerOptions>).await.expect("started");
        let wanted = if words.is_empty() { State::EXITED } else { State::RUNNING };
        eventually(&format!("it is {wanted}"), async || {
            let found = client.inspect_container(&container, None::<InspectContainerOptions>).await.ok()?;
            (found.state?.status? == wanted).then_some(())
        })
        .await;
        container
    }

    /// Starts the service, once more if it is gone.
    async fn serve(&mut self) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let mut service = if is_root() && matches!(self.kind, Kind::Rootless) {
            let mut nobodys = Command::new("setpriv");
            let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
            nobodys.args([&user, &group, "--clear-groups", "podman"]);
            nobodys
        } else {
            Command::new("podman")
        };
        service.env("HOME", at("")).env("XDG_RUNTIME_DIR", at(""));
        service.args(["--root", &at("root"), "--runroot", &at("run"), "--storage-driver", "vfs"]);
        service.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--tmpdir", &at("tmp")]);
        service.args(["system", "service", "--time", "0", &self.endpoint()]);
        // Rootless, it is two processes.
        let service = service.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.service = Some(service.expect("podman"));
        eventually("podman answers", async || {
            Path::new(&at("podman.sock")).exists().then_some(())?;
            self.client().ping().await.ok()
        })
        .await;
    }

    async fn kill(&mut self) {
        let mut service = self.service.take().expect("it runs");
        assert!(kill_group(&service), "it is killed");
        service.wait().await.expect("killed");
        std::fs::remove_file(self.dir.path().join("podman.sock")).expect("its socket");
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.dir.path().join("podman.sock").display())
    }

    fn client(&self) -> bollard::Docker {
        bollard::Docker::connect_with_unix(&self.endpoint(), 60, bollard::API_DEFAULT_VERSION).expect("a client")
    }

    async fn world(&self) -> World {
        let mut world = world(On::Sqlite).await;
        world.docker = self.client();
        world.set("DOCKER_HOST", self.endpoint());
        world
    }

    /// A container that references the thread's volume, created and never started. Returns its id.
    async fn create_container(&self, world: &World, id: &str) -> String {
        let host =
            HostConfig { binds: Some(vec![format!("{}:/workspace", world.volume(id))]), ..HostConfig::default() };
        let body = ContainerCreateBody {
            image: Some(format!("{IMAGE}:latest")),
            cmd: Some(vec!["never-started".to_owned()]),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        let created = self.client().create_container(None::<CreateContainerOptions>, body).await;
        created.expect("the image is there").id
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Some(service) = &self.service {
            kill_group(service);
        }
        // Rootless, a process stays behind that keeps the namespace.
        if let Ok(pause) = std::fs::read_to_string(self.dir.path().join("tmp").join("pause.pid")) {
            let _ = std::process::Command::new("kill").args(["-s", "KILL", pause.trim()]).status();
        }
    }
}

/// By the shell, whose `kill` knows groups in every release; that of procps 4 does not.
fn kill_group(service: &Child) -> bool {
    let kill = format!("kill -s KILL -- -{}", service.id().unwrap_or_default());
    std::process::Command::new("sh").args(["-c", &kill]).status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_removal_is_told_from_an_absence_and_from_a_reference() {
    for &kind in Kind::all() {
        let podman = Podman::start(kind).await;
        let world = podman.world().await;
        let docker = Docker::new(Endpoint::parse(&podman.endpoint(), None).expect("valid"), Duration::from_mins(1));
        docker.pin(docker.identify().await.expect("it is there"));
        let names = VolumeNames::of_prefix(&format!("{}_ws_", world.name)).expect("valid");
        let volume = |id: &str| names.volume_of(&ThreadId::parse(id).expect("valid"));
        world.create_volume("there").await;
        world.create_volume("held").await;
        let container = podman.create_container(&world, "held").await;

        assert_eq!(docker.remove(&volume("there")).await, Ok(Removal::Removed));
        assert_eq!(docker.remove(&volume("there")).await, Ok(Removal::NotFound));
        let held: Result<Removal, Failure> = Ok(Removal::Referenced { containers: vec![container.clone()] });
        assert_eq!(docker.remove(&volume("held")).await, held);
        let inventory = docker.inventory(&names).await.expect("lists");
        assert_eq!(inventory.present, [volume("held")].into());
        assert_eq!(inventory.referenced, [(volume("held"), vec![container])].into());
    }
}

#[tokio::test]
async fn a_container_that_was_never_started_goes_before_its_volume_where_that_is_allowed() {
    for &kind in Kind::all() {
        let podman = Podman::start(kind).await;
        let mut world = podman.world().await;
        world.closed_with_volume("t1").await;
        let container = podman.create_container(&world, "t1").await;
        assert_eq!(world.sweep().await["referenced"], json!(1), "{kind:?}");
        world.set("VOLUME_REAPER_EXITED_CONTAINERS", "remove");
        assert_eq!(world.sweep().await["referenced"], json!(1), "{kind:?}: the grace");
        world.set("VOLUME_REAPER_EXITED_GRACE", "0s");
        let report = world.sweep().await;
        assert_eq!((&report["removed"], &report["containers_removed"]), (&json!(1), &json!(1)), "{kind:?}: {report}");
        assert!(!world.has_volume("t1").await, "{kind:?}");
        assert!(podman.client().inspect_container(&container, None).await.is_err(), "{kind:?}");
        assert!(world.receipts("t1").await.contains(&"container_removed/sweep".to_owned()), "{kind:?}");
    }
}

#[tokio::test]
async fn a_container_that_has_exited_goes_before_its_volume_and_one_that_runs_stays() {
    if !is_root() {
        println!("skipped: containers are run as root only");
        return;
    }
    let podman = Podman::start(Kind::Rootful).await;
    podman.import("program", crate::exited_containers::image().await).await;
    let mut world = podman.world().await;
    world.set("VOLUME_REAPER_EXITED_CONTAINERS", "remove");
    world.set("VOLUME_REAPER_EXITED_GRACE", "0s");
    for id in ["over", "runs"] {
        world.closed_with_volume(id).await;
    }
    let over = podman.run_container(&world, "over", &[]).await;
    let runs = podman.run_container(&world, "runs", &["wait"]).await;
    let report = world.sweep().await;
    let counts = ["removed", "containers_removed", "referenced", "failed"].map(|field| report[field].clone());
    assert_eq!(counts, [1, 1, 1, 0].map(Value::from), "{report}");
    let mut receipts = world.receipts("over").await;
    receipts.sort();
    assert_eq!(receipts, ["container_removed/sweep", "removed/sweep"]);
    let is_there = async |container: &str| podman.client().inspect_container(container, None).await.is_ok();
    assert!(!is_there(&over).await && !world.has_volume("over").await);
    assert!(is_there(&runs).await && world.has_volume("runs").await);
    let explained = world.json(&["explain", "runs", "--json"]).await;
    assert_eq!(explained["users"][0]["exited"]["kept"], "running", "{explained}");
    world.remove_container(&runs).await;
}

#[tokio::test]
async fn it_is_known_again_after_its_restart_although_it_says_another_id_each_time() {
    for &kind in Kind::all() {
        let mut podman = Podman::start(kind).await;
        let world = podman.world().await;
        world.closed_with_volume("t1").await;
        assert_eq!(world.sweep().await["removed"], json!(1));
        podman.kill().await;
        assert_eq!(world.run(&["sweep"]).await.status.code(), Some(1));
        podman.serve().await;
        world.open_thread("gone").await;
        world.close_thread("gone").await;
        assert_eq!(world.sweep().await["not_found"], json!(1));

        let doctor = world.run(&["doctor", "--json"]).await;
        let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("checks").iter();
        let mut of_docker =
            checks.filter(|check| check["name"].as_str().is_some_and(|name| name.starts_with("docker.")));
        assert!(of_docker.all(|check| check["status"] == "ok"), "{report}");
    }
}

#[tokio::test]
async fn events_are_consumed_and_a_held_volume_is_finished_when_its_container_ends() {
    for &kind in Kind::all() {
        let podman = Podman::start(kind).await;
        let mut world = podman.world().await;
        // Only the events count here.
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1d");
        let serving = world.serve_idle().await;
        serving.until_metric("volume_reaper_docker_events_connected", 1).await;
        world.closed_with_volume("t1").await;
        world.publish_closed("t1").await;
        world.until_marked("t1").await;
        assert!(!world.has_volume("t1").await);

        world.closed_with_volume("held").await;
        let container = podman.create_container(&world, "held").await;
        world.publish_closed("held").await;
        serving.until_metric("volume_reaper_cleanups_total{source=\"event\",outcome=\"referenced\"}", 1).await;
        world.remove_container(&container).await;
        world.until_marked("held").await;
        assert_eq!(world.receipts("held").await, ["removed/docker"]);
        assert_eq!(serving.stop().await, Some(0));
    }
}
