//! TLS to the broker and to the database, with certificates that each test makes for itself.

use std::{
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use sea_orm::{ConnectionTrait, DatabaseConnection};
use tempfile::TempDir;

use crate::{
    mysql_servers::PrivateMySql,
    world::{On, PrivateBroker, World, connect, eventually, servers, world},
};

/// Somebody who signs certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub(crate) struct Certified {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn certify(&self, params: &CertificateParams) -> Certified {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Certified { certificate, key: key.serialize_pem() }
    }

    /// For a server that is reached as `localhost`, and not as `127.0.0.1`.
    pub(crate) fn server(&self) -> Certified {
        self.certify(&server_params())
    }

    fn expired_server(&self) -> Certified {
        let mut params = server_params();
        params.not_after = date_time_ymd(2001, 1, 1);
        self.certify(&params)
    }

    pub(crate) fn client(&self, name: &str) -> Certified {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        self.certify(&params)
    }
}

fn server_params() -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a host name");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

impl Certified {
    /// Writes `NAME.pem` and `NAME.key`.
    fn write(&self, dir: &Path, name: &str) {
        write(dir, &format!("{name}.pem"), &self.certificate);
        write(dir, &format!("{name}.key"), &self.key);
    }
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().expect("UTF-8").to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A broker with a TLS port, and the files around it.
struct TlsBroker {
    broker: PrivateBroker,
    port: u16,
    files: TempDir,
    authority: Authority,
}

impl TlsBroker {
    async fn start(wants_client_certificate: bool) -> Self {
        let files = TempDir::new().expect("a temporary directory");
        let authority = Authority::new("the broker's authority");
        write(files.path(), "ca.pem", &authority.pem);
        write(files.path(), "other-authority.pem", &Authority::new("another authority").pem);
        authority.server().write(files.path(), "server");
        let port = free_port();
        let verify = if wants_client_certificate { "verify_peer" } else { "verify_none" };
        let dir = files.path().display();
        let config = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {dir}/ca.pem\n\
             ssl_options.certfile = {dir}/server.pem\n\
             ssl_options.keyfile = {dir}/server.key\n\
             ssl_options.verify = {verify}\n\
             ssl_options.fail_if_no_peer_cert = {wants_client_certificate}\n\
             auth_mechanisms.1 = PLAIN\n\
             auth_mechanisms.2 = EXTERNAL\n\
             ssl_cert_login_from = common_name\n"
        );
        let config = PathBuf::from(write(files.path(), "broker.conf", &config));
        Self { broker: PrivateBroker::start_with(config).await, port, files, authority }
    }

    /// A world whose program speaks TLS to this broker.
    async fn world(&self) -> World {
        let mut world = world(On::Sqlite).await;
        world.use_broker(&self.broker);
        world.set("AMQP_URL", format!("amqps://guest:guest@localhost:{}/%2f", self.port));
        world.set("VOLUME_REAPER_AMQP_CA_FILE", path(&self.files, "ca.pem"));
        world
    }

    /// From now on the broker shows this certificate.
    async fn show(&self, server: &Certified) {
        server.write(self.files.path(), "server");
        self.broker.rabbitmqctl(&["eval", "ssl:clear_pem_cache()."]).await;
    }

    /// Lets clients log in by their certificate alone.
    async fn enable_external(&self) {
        let plugins = self.broker.dir.path().join("broker/enabled_plugins");
        std::fs::write(&plugins, "[rabbitmq_auth_mechanism_ssl].").expect("written");
        let ensure = format!("rabbit_plugins:ensure(\"{}\").", plugins.display());
        self.broker.rabbitmqctl(&["eval", &ensure]).await;
    }
}

/// A port below those that the kernel gives to outgoing connections, and of no other test.
pub(crate) fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 4_000).expect("small");
    std::iter::repeat_with(|| first + TRIED.fetch_add(1, Ordering::Relaxed))
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("one is free")
}

#[tokio::test]
async fn events_are_published_and_consumed_over_tls_with_an_authority_of_our_own() {
    let broker = TlsBroker::start(false).await;
    let world = broker.world().await;
    let serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    let output = world.run(&["publish", "t1"]).await;
    assert!(output.status.success(), "{output:?}");
    world.until_marked("t1").await;
    assert_eq!(world.receipts("t1").await, ["removed/event"]);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_broker_whose_certificate_does_not_verify_ends_the_start_with_what_is_wrong() {
    let broker = TlsBroker::start(false).await;
    let mut world = broker.world().await;
    let refused = async |world: &World, expected: &str| {
        let output = world.run(&["serve"]).await;
        let error = stderr(&output);
        let lines: Vec<_> = error.lines().filter(|line| line.starts_with("volume-reaper: ")).collect();
        assert_eq!((output.status.code(), lines.len()), (Some(1), 1), "{error}");
        assert!(lines[0].contains(expected), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    };
    let url = |host: &str| format!("amqps://guest:s3cret@{host}:{}/%2f", broker.port);

    world.set("AMQP_URL", url("127.0.0.1"));
    refused(&world, "the server's certificate is for another host name").await;
    world.set("AMQP_URL", url("localhost"));
    world.set("VOLUME_REAPER_AMQP_CA_FILE", path(&broker.files, "other-authority.pem"));
    refused(&world, "unknown issuer").await;
    refused(&world, "VOLUME_REAPER_AMQP_CA_FILE").await;
    world.set("VOLUME_REAPER_AMQP_CA_FILE", path(&broker.files, "ca.pem"));
    broker.show(&broker.authority.expired_server()).await;
    refused(&world, "the server's certificate has expired").await;
    // The port without TLS.
    let plain = world.broker().replace("amqp://", "amqps://").replace("127.0.0.1", "localhost");
    world.set("AMQP_URL", plain);
    refused(&world, "does not speak TLS").await;
}

#[tokio::test]
async fn a_certificate_that_expires_later_is_said_in_readyz_and_waited_for() {
    let broker = TlsBroker::start(false).await;
    let world = broker.world().await;
    let serving = world.serve().await;
    broker.show(&broker.authority.expired_server()).await;
    broker.broker.rabbitmqctl(&["close_all_connections", "test"]).await;
    eventually("it is not ready, and says why", async || {
        serving.get("/readyz").await.1.contains("the server's certificate has expired").then_some(())
    })
    .await;
    broker.show(&broker.authority.server()).await;
    serving.until_ready().await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_broker_that_wants_a_client_certificate_gets_ours_and_refuses_those_without() {
    let broker = TlsBroker::start(true).await;
    let mut world = broker.world().await;
    let output = world.run(&["serve"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = stderr(&output);
    assert!(
        error.contains("the server wants a client certificate") && error.contains("VOLUME_REAPER_AMQP_CERT_FILE"),
        "{error}"
    );
    let output = world.run(&["doctor"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("fail  broker.reachable") && report.contains("wants a client certificate"), "{report}");

    broker.authority.client("guest").write(broker.files.path(), "client");
    world.set("VOLUME_REAPER_AMQP_CERT_FILE", path(&broker.files, "client.pem"));
    world.set("VOLUME_REAPER_AMQP_KEY_FILE", path(&broker.files, "client.key"));
    assert_eq!(world.serve().await.stop().await, Some(0));
    let output = world.run(&["doctor"]).await;
    assert!(output.status.success(), "{output:?}");

    // The same certificate instead of a password.
    broker.enable_external().await;
    world.set("AMQP_URL", format!("amqps://localhost:{}/%2f?auth_mechanism=external", broker.port));
    let serving = world.serve().await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    assert_eq!(serving.stop().await, Some(0));

    // Renewed by somebody else: it is read at every connect.
    Authority::new("another authority").client("guest").write(broker.files.path(), "client");
    let output = world.run(&["serve"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("the server refused the TLS connection"), "{output:?}");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_with_one_line_and_exit_code_2() {
    let authority = Authority::new("an authority");
    let files = TempDir::new().expect("a temporary directory");
    let ca = write(files.path(), "ca.pem", &authority.pem);
    authority.client("one").write(files.path(), "one");
    authority.client("two").write(files.path(), "two");
    let [one, other_key] = ["one.pem", "two.key"].map(|name| path(&files, name));
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("CERT", &one)], "VOLUME_REAPER_AMQP_CERT_FILE is set and VOLUME_REAPER_AMQP_KEY_FILE is not"),
        (&[("KEY", &other_key)], "VOLUME_REAPER_AMQP_KEY_FILE is set and VOLUME_REAPER_AMQP_CERT_FILE is not"),
        (&[("CERT", &one), ("KEY", &other_key)], "can't be used together"),
        (&[("CA", &other_key)], "holds no certificate in PEM form"),
        (&[("CA", "/no/such/ca.pem")], "VOLUME_REAPER_AMQP_CA_FILE \"/no/such/ca.pem\": No such file"),
    ];
    let refused = async |url: &str, files: &[(&str, &str)], expected: &str| {
        let mut world = World::without_schema(On::Sqlite).await;
        world.set("AMQP_URL", url);
        for (which, path) in files {
            world.set(&format!("VOLUME_REAPER_AMQP_{which}_FILE"), *path);
        }
        let output = world.run(&["serve"]).await;
        let error = stderr(&output);
        assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
        assert!(error.contains(expected) && !error.contains("s3cret"), "{error}\n{expected}");
    };
    for (files, expected) in cases {
        refused("amqps://guest:s3cret@localhost:1/%2f", files, expected).await;
    }
    let without_tls = "AMQP_URL is amqp://guest:***@localhost:1/%2f, without TLS";
    refused("amqp://guest:s3cret@localhost:1/%2f", &[("CA", &ca)], without_tls).await;
}

/// A PostgreSQL that lets the user `reaper` in over TLS only, and `certified` only with a certificate of that name.
struct TlsDatabase {
    dir: TempDir,
    admin: DatabaseConnection,
    /// `localhost:PORT/postgres`.
    place: String,
}

impl TlsDatabase {
    async fn start(authority: &Authority) -> Self {
        let dir = TempDir::with_prefix("vr-").expect("a temporary directory");
        let status = servers("start", dir.path()).arg("postgres").status().await.expect("it runs");
        assert!(status.success());
        let env = std::fs::read_to_string(dir.path().join("env")).expect("readable");
        let url = env.lines().find_map(|line| line.strip_prefix("export DATABASE_URL=")).expect("the URL");
        let place = url.rsplit_once('@').expect("a user in the URL").1.replace("127.0.0.1", "localhost");
        let database = Self { admin: connect(url).await, dir, place };
        let server = authority.server();
        // The names that PostgreSQL looks for.
        database.give("server.crt", &server.certificate);
        database.give("server.key", &server.key);
        database.give("root.crt", &authority.pem);
        let rules = "host all postgres 127.0.0.1/32 trust\n\
                     hostssl all reaper 127.0.0.1/32 trust\n\
                     hostssl all certified 127.0.0.1/32 cert\n";
        std::fs::write(database.dir.path().join("postgres/data/pg_hba.conf"), rules).expect("written");
        for sql in [
            "CREATE ROLE reaper LOGIN SUPERUSER",
            "CREATE ROLE certified LOGIN SUPERUSER",
            "ALTER SYSTEM SET ssl_ca_file = 'root.crt'",
            "ALTER SYSTEM SET ssl = on",
            "SELECT pg_reload_conf()",
        ] {
            database.admin.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        database
    }

    /// A file that the server, which may run as another user, accepts as its own.
    fn give(&self, name: &str, text: &str) {
        let data = self.dir.path().join("postgres/data");
        let file = data.join(name);
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("ours");
        let owner = std::fs::metadata(&data).expect("it is there");
        chown(&file, Some(owner.uid()), Some(owner.gid())).expect("ours");
    }
}

impl Drop for TlsDatabase {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers");
        let _ = std::process::Command::new(script).arg("stop").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

/// A MariaDB that lets the user `reaper` in over TLS only, and `certified` only with a certificate.
struct TlsMariaDb {
    _server: PrivateMySql,
    /// The server's own certificate.
    _files: TempDir,
    /// `localhost:PORT/reaper`.
    place: String,
}

impl TlsMariaDb {
    async fn start(authority: &Authority) -> Self {
        // For the server, which may run as another user.
        let files = TempDir::new().expect("a temporary directory");
        std::fs::set_permissions(files.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
        authority.server().write(files.path(), "server");
        let server = PrivateMySql::start(&format!(
            "ssl_cert = {}\nssl_key = {}\nssl_ca = {}\n",
            path(&files, "server.pem"),
            path(&files, "server.key"),
            write(files.path(), "ca.pem", &authority.pem)
        ))
        .await;
        for sql in [
            "CREATE DATABASE reaper",
            "CREATE USER reaper IDENTIFIED BY 's3cret' REQUIRE SSL",
            "CREATE USER certified IDENTIFIED BY 's3cret' REQUIRE X509",
            "GRANT ALL ON reaper.* TO reaper",
            "GRANT ALL ON reaper.* TO certified",
            "SET GLOBAL log_bin_trust_function_creators = 1",
        ] {
            server.admin.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let place = server.place().replace("127.0.0.1", "localhost");
        Self { place: format!("{place}/reaper"), _server: server, _files: files }
    }
}

#[tokio::test]
async fn mariadb_is_verified_in_full_or_refused_with_what_is_wrong() {
    let authority = Authority::new("the database's authority");
    let database = TlsMariaDb::start(&authority).await;
    let mut world = World::without_schema(On::Sqlite).await;
    let files = TempDir::new().expect("a temporary directory");
    let ca = write(files.path(), "ca.pem", &authority.pem);
    let other_authority = write(files.path(), "other-authority.pem", &Authority::new("another authority").pem);
    authority.client("certified").write(files.path(), "client");
    let [certificate, key] = ["client.pem", "client.key"].map(|name| path(&files, name));
    let place = &database.place;
    let full = "ssl-mode=VERIFY_IDENTITY&ssl-ca=";

    world.set("DATABASE_URL", format!("mariadb://reaper:s3cret@{place}?{full}{ca}"));
    let output = world.run(&["migrate"]).await;
    assert!(output.status.success(), "{output:?}");
    let with_certificate = format!("{full}{ca}&ssl-cert={certificate}&ssl-key={key}");
    world.set("DATABASE_URL", format!("mysql://certified:s3cret@{place}?{with_certificate}"));
    let output = world.run(&["sweep"]).await;
    assert!(output.status.success(), "{output:?}");
    let output = world.run(&["doctor"]).await;
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.lines().any(|line| line.contains("database.tls") && line.ends_with("encrypted")), "{report}");

    let by_address = place.replace("localhost", "127.0.0.1");
    for (url, expected) in [
        (format!("mysql://reaper:s3cret@{place}?{full}{other_authority}"), "unknown issuer"),
        (format!("mysql://reaper:s3cret@{place}?{full}{other_authority}"), "ssl-ca in DATABASE_URL"),
        (format!("mysql://reaper:s3cret@{by_address}?{full}{ca}"), "is for another host name"),
        (format!("mysql://certified:s3cret@{place}?{full}{ca}"), "Access denied"),
        (format!("mysql://reaper:s3cret@{place}?ssl-mode=DISABLED"), "Access denied"),
    ] {
        world.set("DATABASE_URL", url);
        let output = world.run(&["sweep"]).await;
        let error = stderr(&output);
        let lines: Vec<_> = error.lines().filter(|line| line.starts_with("volume-reaper: ")).collect();
        assert_eq!((output.status.code(), lines.len()), (Some(1), 1), "{error}");
        assert!(lines[0].contains(expected) && !error.contains("s3cret"), "{error}\n{expected}");
    }
}

#[tokio::test]
async fn postgresql_is_verified_in_full_or_refused_with_what_is_wrong() {
    let authority = Authority::new("the database's authority");
    let database = TlsDatabase::start(&authority).await;
    let mut world = World::without_schema(On::Sqlite).await;
    let files = TempDir::new().expect("a temporary directory");
    let ca = write(files.path(), "ca.pem", &authority.pem);
    let other_authority = write(files.path(), "other-authority.pem", &Authority::new("another authority").pem);
    authority.client("certified").write(files.path(), "client");
    let [certificate, key] = ["client.pem", "client.key"].map(|name| path(&files, name));
    let place = &database.place;
    let full = "sslmode=verify-full&sslrootcert=";

    world.set("DATABASE_URL", format!("postgres://reaper:s3cret@{place}?{full}{ca}"));
    eventually("PostgreSQL has read its configuration", async || {
        world.run(&["migrate"]).await.status.success().then_some(())
    })
    .await;
    let report = world.sweep().await;
    assert_eq!(report["candidates"], 0, "{report}");
    world.set(
        "DATABASE_URL",
        format!("postgres://certified:s3cret@{place}?{full}{ca}&sslcert={certificate}&sslkey={key}"),
    );
    let output = world.run(&["sweep"]).await;
    assert!(output.status.success(), "{output:?}");

    let by_address = place.replace("localhost", "127.0.0.1");
    for (url, expected) in [
        (format!("postgres://reaper:s3cret@{place}?{full}{other_authority}"), "unknown issuer"),
        (format!("postgres://reaper:s3cret@{place}?{full}{other_authority}"), "sslrootcert in DATABASE_URL"),
        (format!("postgres://reaper:s3cret@{by_address}?{full}{ca}"), "is for another host name"),
        (format!("postgres://certified:s3cret@{place}?{full}{ca}"), "requires a valid client certificate"),
        (format!("postgres://reaper:s3cret@{place}?sslmode=disable"), "no encryption"),
    ] {
        world.set("DATABASE_URL", url);
        let output = world.run(&["sweep"]).await;
        let error = stderr(&output);
        let lines: Vec<_> = error.lines().filter(|line| line.starts_with("volume-reaper: ")).collect();
        assert_eq!((output.status.code(), lines.len()), (Some(1), 1), "{error}");
        assert!(lines[0].contains(expected) && !error.contains("s3cret"), "{error}\n{expected}");
    }

    // `serve` waits, and says why.
    world.set("DATABASE_URL", format!("postgres://reaper:s3cret@{place}?{full}{other_authority}"));
    let serving = world.start().await;
    eventually("readyz says why", async || serving.get("/readyz").await.1.contains("unknown issuer").then_some(()))
        .await;
    assert_eq!(serving.stop().await, Some(0));
}
