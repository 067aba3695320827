//! The packages for Debian and for RPM: made, looked at, and used in a tree of Debian.

use std::{
    collections::BTreeSet,
    fs::{Permissions, set_permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    deploy::{deploy, run, static_program, yaml},
    proxy::CountingProxy,
    tls::free_port,
    transport::is_root,
    world::{On, World},
};

/// A folder that is in a tree of Debian too, since this project's is.
fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory")
}

/// The packages of a version, for Debian and for RPM.
async fn packages(dir: &Path, version: &str) -> [String; 2] {
    let dir = dir.display().to_string();
    let made = run(deploy("package/build"), &[static_program(), &dir, version]).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let paths = String::from_utf8(made.stdout).expect("paths");
    let mut paths = paths.lines().map(str::to_owned);
    [paths.next().expect("the .deb is first"), paths.next().expect("the .rpm follows")]
}

#[tokio::test]
async fn the_packages_are_installed_remove_a_first_volume_and_are_upgraded_removed_and_purged() {
    let dir = folder();
    let world = World::without_schema(On::Sqlite).await;
    world.create_volume("first").await;
    // The daemon's own socket is not in that tree, and this one is for its user too.
    let proxy = CountingProxy::start(dir.path());
    let open = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).expect("ours");
    open(dir.path(), 0o755);
    open(Path::new(proxy.endpoint().trim_start_matches("unix://")), 0o666);
    let settings = dir.path().join("settings");
    let lines = [
        ("amqp_url", world.broker().to_owned()),
        ("docker_host", proxy.endpoint()),
        ("volume_prefix", world.volume("")),
        ("queue_prefix", world.name.clone()),
        ("exchange", format!("{}.threads", world.name)),
        ("unknown_threads", "record".to_owned()),
        ("http_addr", format!("127.0.0.1:{}", free_port())),
    ];
    let lines = lines.map(|(key, value)| format!("{key} = {value:?}\n"));
    std::fs::write(&settings, lines.concat()).expect("written");
    let ([first, first_rpm], [second, second_rpm]) =
        (packages(dir.path(), "1.0.0").await, packages(dir.path(), "1.0.1").await);
    let (debian, script) = (deploy("local/debian"), deploy("package/try").display().to_string());
    let settings = settings.display().to_string();
    let arguments = ["--small", "trixie", &script, &settings, &first, &second, &first_rpm, &second_rpm];
    let tried = if is_root() {
        run(debian, &arguments).await
    } else {
        let debian = debian.display().to_string();
        run("sudo", &[&[debian.as_str()], &arguments[..]].concat()).await
    };
    assert!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stderr));
    let facts = String::from_utf8(tried.stdout).expect("text");
    let (versions, others): (Vec<_>, Vec<_>) = facts.lines().partition(|line| line.contains("version: "));
    assert_eq!(versions.len(), 2, "{facts}");
    for version in versions {
        assert!(version.contains(&format!("version: volume-reaper {} (", env!("CARGO_PKG_VERSION"))), "{version}");
    }
    assert_eq!(
        others,
        [
            "user: in volume-reaper docker, home /var/lib/volume-reaper",
            "config: root:volume-reaper 640",
            "manual: 1",
            "completions: 1",
            "unit: verified",
            "ready: as volume-reaper",
            "first: \"outcome\":\"removed\"",
            "stopped: with 0",
            "database: volume-reaper 600",
            "upgraded: 1.0.1",
            "kept: 1, root:volume-reaper 640",
            "changed: 1, the new one beside it: # A setting of 1.0.2.",
            "removed: the program, neither settings nor data",
            "purged: settings and data",
            "rpm-user: in volume-reaper docker, home /var/lib/volume-reaper",
            "rpm-config: root:volume-reaper 640",
            "rpm-upgraded: 1.0.1",
            "rpm-kept: 1, root:volume-reaper 640",
            "rpm-removed: the program, and its settings are set aside",
        ]
    );
    assert!(!world.has_volume("first").await);
}

#[tokio::test]
async fn lintian_has_nothing_to_say_that_is_not_explained() {
    let dir = folder();
    let [deb, _] = packages(dir.path(), "1.0.0").await;
    let lintian = run("lintian", &["--fail-on", "error,warning", "--tag-display-limit", "0", &deb]).await;
    assert!(lintian.status.success(), "{}", String::from_utf8_lossy(&lintian.stdout));
}

/// The files of the .rpm, as `rpm` lists them: path and mode; folders are left out.
async fn files_of_rpm(rpm: &Path) -> BTreeSet<String> {
    let format = "[%{FILENAMES} %{FILEMODES:perms}\n]";
    let listed = run("rpm", &["--query", "--package", "--queryformat", format, &rpm.display().to_string()]).await;
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let files = listed.lines().filter_map(|line| line.split_once(' ')).filter(|(_, mode)| !mode.starts_with('d'));
    files.map(|(path, mode)| format!("{path} {mode}")).collect()
}

/// The files of the .deb in the same form.
async fn files_of_deb(deb: &Path) -> BTreeSet<String> {
    let listed = run("dpkg-deb", &["--contents", &deb.display().to_string()]).await;
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let files = listed.lines().filter(|line| !line.starts_with('d'));
    let words = files.map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.map(|words| format!("{} {}", words[5].trim_start_matches('.'), words[0])).collect()
}

/// The files of a release, made of the program in a folder of its own, and their paths by the end of their names.
async fn release(dir: &Path) -> impl Fn(&str) -> PathBuf {
    let packed = run(deploy("release/pack"), &[static_program(), &dir.display().to_string()]).await;
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("readable").path());
    let files: Vec<_> = entries.collect();
    move |end| {
        let mut found = files.iter().filter(|file| file.to_str().is_some_and(|name| name.ends_with(end)));
        found.next().unwrap_or_else(|| panic!("no {end} in {files:?}")).clone()
    }
}

/// Fails unless the program in the archive starts, and has beside it what the compose file mounts.
async fn starts_without_rust(archive: &Path) {
    let dir = folder();
    let archive = archive.display().to_string();
    let out = dir.path().display().to_string();
    let unpacked = run("tar", &["--extract", "--strip-components=1", "--file", &archive, "--directory", &out]).await;
    assert!(unpacked.status.success(), "{unpacked:?}");
    let version = run(dir.path().join("volume-reaper"), &["--version"]).await;
    let version = String::from_utf8(version.stdout).expect("text");
    assert!(version.starts_with(&format!("volume-reaper {} (", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(version.contains(" static "), "{version}");
    let compose = yaml(&std::fs::read_to_string(dir.path().join("deploy/compose.yaml")).expect("readable"));
    let configs = compose["configs"].as_object().expect("configs").values();
    for mounted in configs.filter_map(|config| config["file"].as_str()) {
        assert!(dir.path().join("deploy").join(mounted).is_file(), "{mounted}");
    }
}

#[tokio::test]
async fn a_release_has_twice_the_same_bytes_the_same_files_in_both_packages_and_an_archive_that_starts() {
    let (dir, again) = (folder(), folder());
    let file = release(dir.path()).await;
    let path = dir.path().display().to_string();
    let checked = run("sh", &["-c", "cd \"$0\" && sha256sum --check SHA256SUMS", &path]).await;
    assert!(checked.status.success(), "{checked:?}");
    let sums = std::fs::read_to_string(file("SHA256SUMS")).expect("readable");
    assert_eq!(sums.lines().count(), 5, "archive, packages, image and chart: {sums}");
    let twice = release(again.path()).await;
    assert_eq!(std::fs::read_to_string(twice("SHA256SUMS")).expect("readable"), sums);

    let common = |files: BTreeSet<String>| -> BTreeSet<String> {
        let folders = ["/usr/share/doc/", "/usr/share/lintian/", "/usr/share/licenses/", "/usr/share/zsh/"];
        files.into_iter().filter(|file| !folders.iter().any(|folder| file.starts_with(folder))).collect()
    };
    let files = common(files_of_deb(&file(".deb")).await);
    assert_eq!(files, common(files_of_rpm(&file(".rpm")).await));
    for file in [
        "/usr/bin/volume-reaper -rwxr-xr-x",
        "/usr/lib/systemd/system/volume-reaper.service -rw-r--r--",
        "/usr/lib/sysusers.d/volume-reaper.conf -rw-r--r--",
        "/etc/volume-reaper/config.toml -rw-r-----",
        "/usr/share/man/man1/volume-reaper.1.gz -rw-r--r--",
    ] {
        assert!(files.contains(file), "{file}: {files:?}");
    }
    let rpm = file(".rpm").display().to_string();
    let settings = run("rpm", &["--query", "--configfiles", "--package", &rpm]).await;
    assert_eq!(String::from_utf8_lossy(&settings.stdout).trim(), "/etc/volume-reaper/config.toml");
    starts_without_rust(&file("-linux.tar.gz")).await;
}
