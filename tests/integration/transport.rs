//! The daemon over TLS and over ssh.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use bollard::models::VolumeCreateRequest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    tls::{Authority, Certified, free_port, write},
    world::{On, PrivateHost, World, eventually, server, servers, world},
};

/// A daemon that only one test uses, which listens with TLS and wants to know who asks.
struct TlsDaemon {
    dir: TempDir,
    files: TempDir,
    port: u16,
    authority: Authority,
}

impl TlsDaemon {
    async fn start() -> Self {
        // A short path: the servers' sockets below it have a limit.
        let dir = TempDir::with_prefix("vr-").expect("a temporary directory");
        let files = TempDir::with_prefix("vr-").expect("a temporary directory");
        let authority = Authority::new("the daemon's authority");
        write(files.path(), "ca.pem", &authority.pem);
        let Certified { certificate, key } = authority.server();
        let (certificate, key) =
            (write(files.path(), "server.pem", &certificate), write(files.path(), "server.key", &key));
        let port = free_port();
        let options = format!(
            "--host tcp://127.0.0.1:{port} --tlsverify --tlscacert {}/ca.pem --tlscert {certificate} --tlskey {key}",
            files.path().display()
        );
        let daemon = Self { dir, files, port, authority };
        let mut start = servers("start", daemon.dir.path());
        let status = start.arg("docker").env("EXTRA_DOCKER_OPTIONS", options).status().await.expect("it runs");
        assert!(status.success());
        daemon
    }

    /// A folder as `DOCKER_CERT_PATH` names it.
    fn certificates(&self, name: &str, authority: &Authority, client: &Certified) -> String {
        let dir = self.files.path().join(name);
        std::fs::create_dir(&dir).expect("a folder");
        write(&dir, "ca.pem", &authority.pem);
        write(&dir, "cert.pem", &client.certificate);
        write(&dir, "key.pem", &client.key);
        dir.display().to_string()
    }

    /// A world on this daemon, with a closed thread's volume on it.
    async fn world(&self) -> World {
        let mut world = world(On::Sqlite).await;
        let socket = format!("unix://{}", self.dir.path().join("docker.sock").display());
        world.docker = bollard::Docker::connect_with_unix(&socket, 60, bollard::API_DEFAULT_VERSION).expect("a client");
        world.set("DOCKER_HOST", format!("tcp://localhost:{}", self.port));
        world.set("DOCKER_TLS_VERIFY", "1");
        world.closed_with_volume("t1").await;
        world
    }
}

impl Drop for TlsDaemon {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers");
        let _ = std::process::Command::new(script).arg("remove").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

/// A sweep that ends with this error, and leaves the volume.
async fn refused(world: &World, error: &str) {
    let output = world.run(&["sweep"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(error), "{output:?}");
    assert!(world.has_volume("t1").await);
}

async fn doctors_word(world: &World, check: &str) -> Value {
    let output = world.run(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks").iter();
    checks.clone().find(|found| found["name"] == check).cloned().unwrap_or_else(|| panic!("{report}"))
}

#[tokio::test]
async fn a_daemon_is_reached_with_mutual_tls_and_another_authority_is_not_believed() {
    let daemon = TlsDaemon::start().await;
    let mut world = daemon.world().await;
    let other_authority = Authority::new("another authority");
    let client = daemon.authority.client("reaper");

    // A daemon that our authority does not vouch for.
    world.set("DOCKER_CERT_PATH", daemon.certificates("wrong-ca", &other_authority, &client));
    refused(&world, "UnknownIssuer").await;
    // A client that the daemon's authority does not vouch for.
    world.set(
        "DOCKER_CERT_PATH",
        daemon.certificates("wrong-client", &daemon.authority, &other_authority.client("reaper")),
    );
    refused(&world, "docker at tcp://localhost").await;

    world.set("DOCKER_CERT_PATH", daemon.certificates("right", &daemon.authority, &client));
    assert_eq!(world.sweep().await["removed"], json!(1));
    assert!(!world.has_volume("t1").await);
    assert_eq!(doctors_word(&world, "docker.tls").await["status"], "ok");
    // Its events come that way too.
    let serving = world.serve_idle().await;
    world.closed_with_volume("t2").await;
    world.publish_closed("t2").await;
    world.until_marked("t2").await;
    serving.until_metric("volume_reaper_docker_events_connected", 1).await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn certificates_for_the_daemon_that_cant_be_used_are_refused_at_the_start() {
    let mut world = world(On::Sqlite).await;
    let dir = world.dir.path().display().to_string();
    world.set("DOCKER_HOST", "tcp://localhost:2376");
    world.set("DOCKER_CERT_PATH", dir.clone());
    let output = world.run(&["sweep"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("DOCKER_TLS_VERIFY is not"), "{output:?}");
    world.set("DOCKER_TLS_VERIFY", "1");
    let output = world.run(&["sweep"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("{dir}/ca.pem")), "{output:?}");
}

/// A private `sshd` that lets one key in, on whose side `docker` means the tests' daemon.
struct Sshd {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Sshd {
    async fn start() -> Self {
        let dir = TempDir::with_prefix("vr-").expect("a temporary directory");
        for key in ["host", "client"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join(key));
            assert!(keygen.status().await.expect("ssh-keygen").success());
        }
        let port = free_port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::copy(path("client.pub"), path("authorized")).expect("copied");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nSetEnv DOCKER_HOST={}\n",
            path("host"),
            path("authorized"),
            server("DOCKER_HOST")
        );
        let config = write(dir.path(), "sshd_config", &config);
        if is_root() {
            // Where Debian's sshd locks its helper in.
            std::fs::create_dir_all("/run/sshd").expect("a folder");
        }
        let mut sshd = Command::new("/usr/sbin/sshd");
        let child = sshd.args(["-D", "-f", &config]).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("sshd");
        let sshd = Self { child, dir, port };
        eventually("sshd listens", async || tokio::net::TcpStream::connect(("127.0.0.1", sshd.port)).await.ok()).await;
        sshd
    }

    /// A folder with a program `ssh` that has this client's settings, and not those of whoever runs the tests.
    fn client(&self) -> String {
        let dir = self.dir.path();
        let config = format!(
            "Port {}\nIdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\n",
            self.port,
            dir.join("client").display(),
            dir.join("known_hosts").display()
        );
        let config = write(dir, "ssh_config", &config);
        let bin = dir.join("bin");
        std::fs::create_dir(&bin).expect("a folder");
        let script = write(&bin, "ssh", &format!("#!/bin/sh\nexec /usr/bin/ssh -F {config} \"$@\"\n"));
        std::fs::set_permissions(Path::new(&script), PermissionsExt::from_mode(0o755)).expect("executable");
        bin.display().to_string()
    }
}

pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t"))
}

fn user() -> String {
    let output = std::process::Command::new("id").arg("-un").output().expect("id");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn a_daemon_is_reached_over_ssh() {
    let mut sshd = Sshd::start().await;
    let mut world = world(On::Sqlite).await;
    world.closed_with_volume("t1").await;
    world.set("DOCKER_HOST", format!("ssh://{}@127.0.0.1", user()));
    world.set("PATH", format!("{}:/usr/bin:/bin", sshd.client()));
    assert_eq!(world.sweep().await["removed"], json!(1));
    assert!(!world.has_volume("t1").await);

    let serving = world.serve_idle().await;
    world.closed_with_volume("t2").await;
    world.publish_closed("t2").await;
    world.until_marked("t2").await;
    assert_eq!(serving.stop().await, Some(0));

    sshd.child.kill().await.expect("killed");
    let output = world.run(&["sweep"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("docker at ssh://"), "{output:?}");
}

#[tokio::test]
async fn one_service_reaches_its_hosts_by_socket_by_tls_and_by_ssh() {
    let by_socket = PrivateHost::start("by-socket").await;
    let by_tls = TlsDaemon::start().await;
    let by_ssh = Sshd::start().await;
    let certificates = by_tls.certificates("right", &by_tls.authority, &by_tls.authority.client("reaper"));
    let mut world = World::without_schema(On::Sqlite).await;
    let config = format!(
        "[[docker.hosts]]\nname = 'by-socket'\nendpoint = '{}'\n\
         [[docker.hosts]]\nname = 'by-tls'\nendpoint = 'tcp://localhost:{}'\ncert_path = '{certificates}'\n\
         [[docker.hosts]]\nname = 'by-ssh'\nendpoint = 'ssh://{}@127.0.0.1'\n",
        by_socket.endpoint(),
        by_tls.port,
        user()
    );
    let config = write(world.dir.path(), "reaper.toml", &config);
    world.settings.remove("DOCKER_HOST");
    world.set("VOLUME_REAPER_CONFIG", config);
    world.set("PATH", format!("{}:/usr/bin:/bin", by_ssh.client()));
    assert!(world.run(&["migrate"]).await.status.success());

    let of_tls = format!("unix://{}", by_tls.dir.path().join("docker.sock").display());
    let of_tls = bollard::Docker::connect_with_unix(&of_tls, 60, bollard::API_DEFAULT_VERSION).expect("a client");
    let sweep = async |round: &str| {
        let threads = [("by-socket", &by_socket.docker), ("by-tls", &of_tls), ("by-ssh", &world.docker)];
        for (host, docker) in threads {
            let id = format!("{host}-{round}");
            let name = Some(world.volume(&id));
            docker.create_volume(VolumeCreateRequest { name, ..Default::default() }).await.expect("a volume");
            world.open_thread(&id).await;
            world.close_thread(&id).await;
        }
        let report = world.sweep().await;
        assert_eq!((&report["removed"], &report["skipped_reason"]), (&json!(3), &Value::Null), "{report}");
        for (host, docker) in threads {
            let volume = world.volume(&format!("{host}-{round}"));
            assert!(docker.inspect_volume(&volume).await.is_err(), "{volume}");
        }
    };
    sweep("first").await;
    sweep("again").await;
    assert_eq!(
        world.texts("SELECT name FROM volume_reaper_daemons ORDER BY name").await,
        ["by-socket", "by-ssh", "by-tls"]
    );
}
