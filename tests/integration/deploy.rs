//! What is in `deploy/`: every setting there exists, and what can run here runs.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::LazyLock,
};

use bollard::{
    models::VolumeCreateRequest,
    query_parameters::{RemoveVolumeOptions, StartContainerOptions},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
};
use volume_reaper::{
    config::{Config, SETTINGS},
    queue::Queues,
};

use crate::{
    tls::free_port,
    world::{On, PrivateBroker, World, eventually, server, world},
};

pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(crate) async fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().await.expect("it runs")
}

/// The settings of a file in `deploy/`, all of which have to exist, and to be of use together.
pub(crate) fn settings_are_known(file: &str, env: HashMap<String, String>) {
    assert!(!env.is_empty(), "{file}");
    for name in env.keys() {
        assert!(SETTINGS.iter().any(|setting| setting.env == name), "{file}: there is no setting {name}");
    }
    // Those files are on the hosts that it is deployed to.
    let env = env.into_iter().filter(|(name, _)| !name.starts_with("DOCKER_TLS") && !name.starts_with("DOCKER_CERT"));
    Config::load(|_| None, &env.collect(), None).unwrap_or_else(|error| panic!("{file}: {error}"));
}

pub(crate) fn texts(fields: &Value) -> HashMap<String, String> {
    let fields = fields.as_object().expect("a map").iter();
    fields
        .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect()
}

// --- Images and compose ---

/// The texts of files that are written down in the compose file.
fn config_of_compose(name: &str) -> Value {
    yaml(yaml(&read("compose.yaml"))["configs"][name]["content"].as_str().unwrap_or_else(|| panic!("no {name}")))
}

#[tokio::test]
async fn prometheus_of_compose_takes_its_configuration_and_scrapes_the_service() {
    let mut config = config_of_compose("prometheus");
    assert_eq!(config["rule_files"], json!(["/etc/prometheus/alerts.yaml"]));
    config["rule_files"] = json!([deploy("prometheus/alerts.yaml")]);
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let file = dir.path().join("prometheus.json");
    std::fs::write(&file, config.to_string()).expect("written");
    let checked = run("promtool", &["check", "config", &file.display().to_string()]).await;
    assert!(checked.status.success(), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("1 rule files found"), "{checked:?}");
    let targets = &config["scrape_configs"][0]["static_configs"][0]["targets"];
    let port = image_configuration().into_iter().find(|(name, _)| name == "EXPOSE").expect("a port").1;
    assert_eq!(*targets, json!([format!("reaper:{port}")]));
}

#[test]
fn what_compose_mounts_is_there_and_grafana_looks_where_it_is_mounted() {
    let compose = yaml(&read("compose.yaml"));
    let configs = compose["configs"].as_object().expect("configs");
    for (name, config) in configs {
        if let Some(file) = config["file"].as_str() {
            assert!(deploy(file).is_file(), "{name}: {file}");
        }
    }
    let mut targets = HashMap::new();
    for service in compose["services"].as_object().expect("services").values() {
        for config in service["configs"].as_array().into_iter().flatten() {
            let [source, target] = ["source", "target"].map(|field| config[field].as_str().expect("text").to_owned());
            assert!(configs.contains_key(&source), "{source}");
            targets.insert(source, target);
        }
    }
    assert_eq!(targets.len(), configs.len(), "each is used");
    let folder = config_of_compose("grafana-dashboards")["providers"][0]["options"]["path"].clone();
    assert!(targets["dashboard"].starts_with(folder.as_str().expect("a path")), "{targets:?}");
    let home = &compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    assert_eq!(*home, json!(targets["dashboard"]));
    assert_eq!(config_of_compose("grafana-datasource")["datasources"][0]["isDefault"], json!(true));
}

#[test]
fn the_settings_in_compose_are_settings() {
    let compose = yaml(&read("compose.yaml"));
    let mut env = texts(&compose["services"]["reaper"]["environment"]);
    // Without a value they are handed on if they are set.
    env.retain(|name, value| {
        assert!(SETTINGS.iter().any(|setting| setting.env == name), "there is no setting {name}");
        value != "null"
    });
    for value in env.values_mut() {
        *value = value
            .replace("${RABBITMQ_PASSWORD:-volume-reaper}", "x")
            .replace("${POSTGRES_PASSWORD:-volume-reaper}", "x");
    }
    settings_are_known("compose.yaml", env);
    assert_eq!(compose["services"]["reaper"]["stop_grace_period"], "30s", "longer than the grace period");
}

/// The instructions of the Dockerfile's last stage that are about the image's configuration.
fn image_configuration() -> Vec<(String, String)> {
    let dockerfile = read("Dockerfile").replace("\\\n", " ");
    let (_, last_stage) = dockerfile.rsplit_once("\nFROM scratch\n").expect("the last stage");
    let instructions = last_stage.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let instructions = instructions.map(|line| line.split_once(' ').expect("an instruction"));
    let instructions = instructions.filter(|(name, _)| *name != "COPY");
    instructions.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_settings_in_the_dockerfile_are_settings() {
    let env = image_configuration().into_iter().filter(|(name, _)| name == "ENV");
    let env = env.map(|(_, value)| value.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
    settings_are_known("Dockerfile", env.map(|pair| pair.expect("name=value")).collect());
}

#[test]
fn what_the_dockerfile_runs_is_in_its_context() {
    let dockerfile = read("Dockerfile");
    assert!(
        dockerfile.contains("deploy/image/root \"$(BUILD_REVISION=$REVISION deploy/image/program)\" /image"),
        "as the test does"
    );
    let ignored = std::fs::read_to_string(deploy("../.dockerignore")).expect("readable");
    let ignored: Vec<_> = ignored.lines().collect();
    let position = |line| ignored.iter().position(|other| *other == line);
    assert!(position("deploy") < position("!deploy/image"), "the last line that matches a path decides");
}

/// The program that the image and the packages are made of, stripped as in a release, which it is not optimised as.
pub(crate) fn static_program() -> &'static str {
    static STRIPPED: LazyLock<String> = LazyLock::new(|| {
        let built = env!("CARGO_BIN_EXE_volume-reaper");
        assert!(built.contains("-musl/"), "what ships is static: run `make test`, or `deploy/image/cargo test`");
        let stripped = Path::new(env!("CARGO_TARGET_TMPDIR")).join("volume-reaper").display().to_string();
        let strip = std::process::Command::new("strip").args(["-o", &stripped, built]).status();
        assert!(strip.expect("strip, which a C compiler comes with").success());
        stripped
    });
    &STRIPPED
}

/// The image, packed as for a release, but for the profile that the program is built with.
async fn load_image(world: &World) -> String {
    let program = static_program();
    let (root, tar) = (world.dir.path().join("image"), world.dir.path().join("image.tar"));
    let [root, tar] = [root, tar].map(|path| path.display().to_string());
    let made = run(deploy("image/root"), &[program, &root]).await;
    assert!(made.status.success(), "{made:?}");
    let (pack, name) = (deploy("image/archive.py").display().to_string(), format!("{}:latest", world.name));
    let mut packed = Command::new("python3");
    packed.args([&pack, &root, &name, &tar]).env("SOURCE_DATE_EPOCH", "1700000000");
    let packed = packed.output().await.expect("it runs");
    assert!(packed.status.success(), "{packed:?}");
    let loaded = run("docker", &["--host", &server("DOCKER_HOST"), "load", "--input", &tar]).await;
    assert!(loaded.status.success(), "{loaded:?}");
    name
}

#[tokio::test]
async fn the_image_starts_as_nobody_serves_and_is_healthy() {
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_HTTP_ADDR", format!("127.0.0.1:{}", free_port()));
    let image = load_image(&world).await;
    let host = server("DOCKER_HOST");
    let socket = host.strip_prefix("unix://").expect("a socket");
    let docker = async |arguments: &[&str]| {
        let output = run("docker", &[&["--host", host.as_str()], arguments].concat()).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };

    let name = world.name.as_str();
    let mount = format!("{socket}:/var/run/docker.sock");
    let group = docker_group(socket);
    let mut settings: Vec<_> = world.settings.iter().map(|(key, value)| format!("--env={key}={value}")).collect();
    settings.push("--env=DOCKER_HOST=unix:///var/run/docker.sock".to_owned());
    let mut create = vec!["create", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL"];
    create.extend(["--security-opt", "no-new-privileges", "--volume", &mount, "--group-add", &group]);
    create.extend(settings.iter().map(String::as_str));
    create.push(&image);
    docker(&create).await;
    let inspected: Value = serde_json::from_str(&docker(&["inspect", name]).await).expect("JSON");
    let config = &inspected[0]["Config"];
    assert_eq!((&config["User"], &config["Cmd"]), (&json!("65532:65532"), &json!(["serve"])));
    assert_eq!(config["WorkingDir"], "/var/lib/volume-reaper");
    assert_eq!(config["Healthcheck"]["Interval"], 15_000_000_000_u64);

    let version = docker(&["run", "--rm", "--network", "none", &image, "--version"]).await;
    assert!(version.starts_with(&format!("volume-reaper {} (", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(version.contains(" static "), "{version}");
    // SQLite's file, by default, where its user may write.
    docker(&["run", "--rm", "--network", "none", &image, "migrate"]).await;
    world.closed_with_volume("t1").await;
    world.docker.start_container(name, None::<StartContainerOptions>).await.expect("started");
    world.until_marked("t1").await;
    assert!(!world.has_volume("t1").await);
    eventually("it is healthy", async || {
        let state = docker(&["inspect", "--format", "{{.State.Health.Status}}", name]).await;
        (state == "healthy").then_some(())
    })
    .await;
    docker(&["stop", "--time", "20", name]).await;
    let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", name]).await;
    assert_eq!(code, "0", "a clean end");
    docker(&["rm", "--force", "--volumes", name]).await;
    docker(&["rmi", "--force", &image]).await;
}

fn docker_group(socket: &str) -> String {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(socket).expect("the socket").gid().to_string()
}

#[tokio::test]
async fn health_says_whether_serve_lives_and_is_ready() {
    let mut world = world(On::Sqlite).await;
    let serving = world.serve().await;
    world.set("VOLUME_REAPER_HTTP_ADDR", serving.http.replace("127.0.0.1", "0.0.0.0"));
    for arguments in [&["health"][..], &["health", "--ready"]] {
        let output = world.run(arguments).await;
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(serving.stop().await, Some(0));
    let output = world.run(&["health"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/livez"), "{output:?}");
}

// --- systemd ---

#[tokio::test]
async fn the_unit_of_systemd_is_valid_and_hardened() {
    let unit = read("systemd/volume-reaper.service");
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let path = dir.path().join("volume-reaper.service");
    // Where it is not installed, any program will do.
    std::fs::write(&path, unit.replace("/usr/bin/volume-reaper", "/bin/true")).expect("written");
    let path = path.display().to_string();
    let verified = run("systemd-analyze", &["verify", &path]).await;
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    // Of a hundred, fewer are better.
    let rated = run("systemd-analyze", &["security", "--offline=true", "--threshold=20", &path]).await;
    assert!(rated.status.success(), "{}", String::from_utf8_lossy(&rated.stdout));
    assert!(unit.contains("TimeoutStopSec=35s"), "longer than the grace period");
}

// --- RabbitMQ ---

#[tokio::test]
async fn with_the_brokers_definitions_or_policies_serve_has_nothing_to_declare() {
    let broker = PrivateBroker::start().await;
    // The page's user, with no right to configure.
    let page = include_str!("../../docs/deploy.md");
    let permissions = page.lines().find_map(|line| line.strip_prefix("rabbitmqctl set_permissions volume-reaper "));
    let permissions = permissions.expect("the command").split(' ').map(|pattern| pattern.trim_matches('\''));
    broker.rabbitmqctl(&["add_user", "volume-reaper", "s3cret"]).await;
    let grant: Vec<_> = ["set_permissions", "volume-reaper"].into_iter().chain(permissions).collect();
    broker.rabbitmqctl(&grant).await;
    for file in ["definitions.json", "policies.json"] {
        let path = deploy("rabbitmq").join(file).display().to_string();
        broker.rabbitmqctl(&["import_definitions", &path]).await;
        let mut world = world(On::Sqlite).await;
        world.use_broker(&broker);
        world.set("AMQP_URL", world.broker().replace("guest:guest", "volume-reaper:s3cret"));
        for name in ["VOLUME_REAPER_QUEUE_PREFIX", "VOLUME_REAPER_EXCHANGE"] {
            world.settings.remove(name);
        }
        world.set("VOLUME_REAPER_TOPOLOGY", "check");
        let serving = world.serve_idle().await;
        world.closed_with_volume("t1").await;
        let published = world.run(&["publish", "t1", "unknown"]).await;
        assert!(published.status.success(), "{file}: {published:?}");
        world.until_marked("t1").await;
        // Through the delay queue of a second and back, to the one of five.
        serving.until_metric("volume_reaper_settlements_total{settlement=\"retry\"}", 2).await;
        assert_eq!(serving.stop().await, Some(0), "{file}");

        let config = Config::load(|_| None, &HashMap::new(), None).expect("the defaults");
        let queues = Queues::new(&config);
        let retries = queues.retry_delays.iter().map(|&delay| queues.retry(delay));
        for queue in retries.chain([queues.work(), queues.dead_letter()]) {
            broker.rabbitmqctl(&["delete_queue", &queue]).await;
        }
    }
}

#[test]
fn the_brokers_definitions_name_what_the_default_settings_name() {
    let config = Config::load(|_| None, &HashMap::new(), None).expect("the defaults");
    let queues = Queues::new(&config);
    let retries = queues.retry_delays.iter().map(|&delay| queues.retry(delay));
    let mut expected: Vec<_> = retries.chain([queues.work(), queues.dead_letter()]).collect();
    expected.sort();
    for file in ["definitions.json", "policies.json"] {
        let definitions: Value = serde_json::from_str(&read(&format!("rabbitmq/{file}"))).expect("JSON");
        let names = definitions["queues"].as_array().expect("queues").iter();
        let mut names: Vec<_> = names.map(|queue| queue["name"].as_str().expect("text").to_owned()).collect();
        names.sort();
        assert_eq!(names, expected, "{file}");
        assert_eq!(definitions["exchanges"][0]["name"], queues.exchange, "{file}");
        assert_eq!(definitions["bindings"][0]["routing_key"], queues.routing_key, "{file}");
        assert!(definitions.get("users").is_none(), "{file}: no passwords");
    }
}

// --- The socket proxy ---

struct SocketProxy {
    _haproxy: Child,
    socket: String,
}

impl SocketProxy {
    async fn start(world: &World) -> Self {
        Self::start_with(world, "proxy", &[("VOLUME_PREFIX", &world.volume(""))]).await
    }

    async fn start_with(world: &World, name: &str, env: &[(&str, &str)]) -> Self {
        let socket = world.dir.path().join(format!("{name}.sock")).display().to_string();
        let host = server("DOCKER_HOST");
        let mut haproxy = Command::new("/usr/sbin/haproxy");
        haproxy.arg("-db").arg("-f").arg(deploy("socket-proxy/haproxy.cfg"));
        haproxy.env("PROXY_BIND", format!("unix@{socket}")).envs(env.iter().copied());
        haproxy.env("DOCKER_SOCKET", host.strip_prefix("unix://").expect("a socket"));
        let haproxy = haproxy.stderr(Stdio::null()).kill_on_drop(true).spawn().expect("haproxy");
        eventually("haproxy listens", async || Path::new(&socket).exists().then_some(())).await;
        Self { _haproxy: haproxy, socket }
    }

    /// The status code of a request, sent as it is written here.
    async fn status(&self, method: &str, path: &str) -> u16 {
        let mut stream = UnixStream::connect(&self.socket).await.expect("it listens");
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
    }
}

#[tokio::test]
async fn through_the_socket_proxy_goes_all_that_is_needed() {
    let mut world = world(On::Sqlite).await;
    let proxy = SocketProxy::start(&world).await;
    world.set("DOCKER_HOST", format!("unix://{}", proxy.socket));
    for id in ["t1", "held"] {
        world.closed_with_volume(id).await;
    }
    let container = world.create_container("held").await;
    let serving = world.serve_idle().await;
    world.until_marked("t1").await;
    let explained = world.run(&["explain", "held"]).await;
    assert!(String::from_utf8_lossy(&explained.stdout).contains(&container[..12]), "{explained:?}");
    let doctor = world.run(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks").iter();
    let mut of_docker = checks.filter(|check| check["name"].as_str().is_some_and(|name| name.starts_with("docker.")));
    assert!(of_docker.all(|check| check["status"] != "fail"), "{report}");
    // Docker's events come through.
    world.remove_container(&container).await;
    world.until_marked("held").await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn the_socket_proxy_refuses_what_is_not_needed() {
    let world = world(On::Sqlite).await;
    let proxy = SocketProxy::start(&world).await;
    world.create_volume("t1").await;
    let container = world.create_container("t1").await;
    let (ours, foreign) = (world.volume("t1"), format!("{}-foreign", world.name));
    let request = VolumeCreateRequest { name: Some(foreign.clone()), ..VolumeCreateRequest::default() };
    world.docker.create_volume(request).await.expect("created");
    for (method, path) in [
        ("DELETE", format!("/volumes/{foreign}")),
        ("DELETE", format!("/volumes/{}", world.volume(""))),
        ("DELETE", format!("/volumes/{ours}?force=1")),
        // Docker reads this as `force=1` too.
        ("DELETE", format!("/volumes/{ours}?%66orce=1")),
        ("DELETE", format!("/volumes/{ours}/../{foreign}")),
        ("DELETE", format!("/volumes/..%2Fcontainers%2F{container}")),
        ("DELETE", format!("/containers/{container}")),
        ("GET", format!("/volumes/{foreign}")),
        ("GET", format!("/containers/{container}/logs?stdout=1")),
        ("GET", "/images/json".to_owned()),
        ("POST", "/volumes/create".to_owned()),
        ("POST", "/volumes/prune".to_owned()),
        ("POST", "/containers/create".to_owned()),
        ("POST", format!("/containers/{container}/start")),
        ("POST", format!("/containers/{container}/exec")),
    ] {
        assert_eq!(proxy.status(method, &path).await, 403, "{method} {path}");
    }
    // Not because it refuses everything: this answer is the daemon's.
    assert_eq!(proxy.status("DELETE", &format!("/volumes/{ours}")).await, 409);
    world.remove_container(&container).await;
    world.docker.remove_volume(&foreign, None::<RemoveVolumeOptions>).await.expect("still there");
}

/// What `doctor` says of the removal of containers, and of all else that is Docker's.
async fn doctor_of_docker(world: &World) -> (Value, Vec<Value>) {
    let report = world.json(&["doctor", "--json"]).await;
    let checks = report["checks"].as_array().expect("checks").clone();
    let is_dockers = |check: &Value| check["name"].as_str().is_some_and(|name| name.starts_with("docker."));
    let (of_containers, others): (Vec<_>, Vec<_>) =
        checks.into_iter().filter(is_dockers).partition(|check| check["name"] == "docker.remove_containers");
    (of_containers.into_iter().next().unwrap_or_default(), others)
}

#[tokio::test]
async fn doctor_says_that_the_socket_proxy_lets_no_container_be_removed_and_allowed_there_it_goes() {
    let mut world = world(On::Sqlite).await;
    let names = [world.volume(""), format!("{}_cache_", world.name)];
    world.set("VOLUME_REAPER_VOLUME_NAMES", names.clone().map(|name| format!("{name}{{id}}")).join(","));
    let cache = format!("{}t1", names[1]);
    let request = VolumeCreateRequest { name: Some(cache.clone()), ..VolumeCreateRequest::default() };
    world.docker.create_volume(request).await.expect("created");
    world.closed_with_volume("t1").await;
    let container = world.create_container("t1").await;
    // What is in front of the id, for several names.
    let prefixes = format!("({})", names.join("|"));
    let proxy = SocketProxy::start_with(&world, "without", &[("VOLUME_PREFIX", &prefixes)]).await;
    world.set("DOCKER_HOST", format!("unix://{}", proxy.socket));
    assert!(doctor_of_docker(&world).await.0.is_null(), "nobody wants it");
    world.set("VOLUME_REAPER_EXITED_CONTAINERS", "remove");
    world.set("VOLUME_REAPER_EXITED_GRACE", "0s");
    let (refused, others) = doctor_of_docker(&world).await;
    assert_eq!(refused["status"], "fail", "{refused}");
    assert!(refused["fix"].as_str().is_some_and(|fix| fix.contains("EXITED_CONTAINERS=remove")), "{refused}");
    assert!(others.iter().all(|check| check["status"] != "fail"), "{others:?}");
    let report = world.sweep().await;
    assert_eq!((&report["containers_removed"], &report["failed"]), (&0.into(), &1.into()), "{report}");
    assert!(world.has_volume("t1").await && world.mark("t1").await.is_none());

    let allowed = [("VOLUME_PREFIX", &*prefixes), ("EXITED_CONTAINERS", "remove")];
    let proxy = SocketProxy::start_with(&world, "with", &allowed).await;
    world.set("DOCKER_HOST", format!("unix://{}", proxy.socket));
    let (of_containers, others) = doctor_of_docker(&world).await;
    assert_eq!(of_containers["status"], "ok", "{of_containers}");
    assert!(others.iter().all(|check| check["status"] != "fail"), "{others:?}");
    for path in [format!("/containers/{container}?force=1"), format!("/containers/{}", &container[..12])] {
        assert_eq!(proxy.status("DELETE", &path).await, 403, "{path}");
    }
    // It failed before, and comes again in its time.
    world.set("VOLUME_REAPER_RECONCILE_COOLDOWN", "0s");
    let report = world.sweep().await;
    assert_eq!((&report["removed"], &report["containers_removed"]), (&1.into(), &1.into()), "{report}");
    assert!(!world.has_volume("t1").await && world.docker.inspect_volume(&cache).await.is_err());
    assert!(world.mark("t1").await.is_some());
}
