//! One test's world: a database, names of its own on the shared broker and daemon, and the program run against them.
//!
//! The servers are the ones that `deploy/local/servers run` started for `make test`, and no others.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bollard::{
    models::{ContainerCreateBody, HostConfig, VolumeCreateRequest},
    query_parameters::{CreateContainerOptions, InspectContainerOptions, RemoveContainerOptionsBuilder},
};
use chrono::{DateTime, Utc};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    sync::OnceCell,
};

/// How long a condition may take to come true. Far more than it takes; a test that fails waits so long.
const DEADLINE: Duration = Duration::from_mins(1);

/// The empty image that containers are made from, imported once.
static IMAGE: OnceCell<()> = OnceCell::const_new();

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Which database a test runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On {
    Sqlite,
    Postgres,
    /// MariaDB, as Debian has it, unless `MYSQL_ROOT` made it MySQL.
    Mysql,
}

impl On {
    pub(crate) const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Mysql];
}

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) settings: HashMap<String, String>,
    pub(crate) db: DatabaseConnection,
    pub(crate) docker: bollard::Docker,
    /// Where the test itself speaks to the broker, past any proxy.
    broker: String,
    /// What this test's volumes, queues and exchange are called before anything else.
    pub(crate) name: String,
}

/// A table `numbers` with the numbers `n` of so many digits, for MySQL and MariaDB alike.
pub(crate) fn numbers_of_digits(count: u32) -> String {
    let digit = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
                 SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    let digits: Vec<_> = (0..count).map(|place| format!("{digit} AS d{place}")).collect();
    let values: Vec<_> = (0..count).map(|place| format!("d{place}.d * {}", 10_u64.pow(place))).collect();
    format!("(SELECT {} AS n FROM {}) AS numbers", values.join(" + "), digits.join(" CROSS JOIN "))
}

/// An address of a server that `make test` started.
pub(crate) fn server(variable: &str) -> String {
    assert!(std::env::var_os("VOLUME_REAPER_TEST_SERVERS").is_some(), "run the tests with `make test`");
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run the tests with `make test`"))
}

/// A world whose database has the schema.
pub(crate) async fn world(on: On) -> World {
    let world = World::without_schema(on).await;
    let output = world.run(&["migrate"]).await;
    assert!(output.status.success(), "{output:?}");
    world
}

impl World {
    pub(crate) async fn without_schema(on: On) -> Self {
        let name = format!("t{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = TempDir::new().expect("a temporary directory");
        let database_url = match on {
            On::Sqlite => format!("sqlite://{}?mode=rwc", dir.path().join("reaper.db").display()),
            On::Postgres => new_database("DATABASE_URL", &name).await,
            On::Mysql => new_database("MYSQL_URL", &name).await,
        };
        let db = connect(&database_url).await;
        let docker_host = server("DOCKER_HOST");
        let docker = bollard::Docker::connect_with_unix(&docker_host, 60, bollard::API_DEFAULT_VERSION)
            .expect("the daemon's socket is there");
        let settings = [
            ("DATABASE_URL", database_url),
            ("AMQP_URL", server("AMQP_URL")),
            ("DOCKER_HOST", docker_host),
            ("VOLUME_REAPER_VOLUME_PREFIX", format!("{name}_ws_")),
            ("VOLUME_REAPER_QUEUE_PREFIX", name.clone()),
            ("VOLUME_REAPER_EXCHANGE", format!("{name}.threads")),
            ("VOLUME_REAPER_HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("VOLUME_REAPER_LOG_FORMAT", "json".to_owned()),
            ("VOLUME_REAPER_REPLICA", "replica-1".to_owned()),
            ("RUST_LOG", "info,volume_reaper=debug,sea_orm_migration=warn".to_owned()),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value)).into();
        Self { dir, settings, db, docker, broker: server("AMQP_URL"), name }
    }

    /// From now on this test's broker is a private one.
    pub(crate) fn use_broker(&mut self, broker: &PrivateBroker) {
        self.set("AMQP_URL", broker.url.clone());
        self.broker.clone_from(&broker.url);
    }

    /// Where the test itself speaks to the broker.
    pub(crate) fn broker(&self) -> &str {
        &self.broker
    }

    /// From now on this test's Docker hosts are these, by a comma-separated list.
    pub(crate) fn use_hosts(&mut self, hosts: &[PrivateHost]) {
        let hosts: Vec<_> = hosts.iter().map(|host| format!("{}={}", host.name, host.endpoint())).collect();
        self.settings.remove("DOCKER_HOST");
        self.set("VOLUME_REAPER_DOCKER_HOSTS", hosts.join(","));
    }

    /// Changes a setting.
    pub(crate) fn set(&mut self, variable: &str, value: impl Into<String>) {
        self.settings.insert(variable.to_owned(), value.into());
    }

    // --- The program ---

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_volume-reaper"));
        command.args(arguments).env_clear().envs(&self.settings).current_dir(self.dir.path()).kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).stdin(Stdio::null()).output();
        tokio::time::timeout(DEADLINE, output).await.expect("the command ends").expect("the command starts")
    }

    /// What a command prints as JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Runs `sweep --json` and returns its report.
    pub(crate) async fn sweep(&self) -> Value {
        self.json(&["sweep", "--json"]).await
    }

    /// Starts `serve` and waits until it is ready.
    pub(crate) async fn serve(&self) -> Serving {
        let serving = self.start().await;
        serving.until_ready().await;
        serving
    }

    /// Starts `serve` and waits until its first sweeps are over: what is closed from here on is the events' first.
    pub(crate) async fn serve_idle(&self) -> Serving {
        let serving = self.serve().await;
        // Each of several hosts has one of its own, and there is one of what is on none.
        let hosts = self.settings.get("VOLUME_REAPER_DOCKER_HOSTS").into_iter().flat_map(|hosts| hosts.split(','));
        let hosts: Vec<_> = hosts.filter_map(|host| host.split_once('=')).map(|(name, _)| name).collect();
        serving.until_metric("volume_reaper_sweep_seconds_count", hosts.len() as u64 + 1).await;
        for host in hosts.into_iter().chain(self.settings.get("VOLUME_REAPER_HOST").map(String::as_str)) {
            eventually(&format!("the first sweep of {host} is over"), async || {
                let swept = |line: &Value| line["message"] == "swept" && line["span"]["host"] == host;
                serving.lines().iter().any(swept).then_some(())
            })
            .await;
        }
        serving
    }

    /// Starts `serve` and waits until it answers HTTP.
    pub(crate) async fn start(&self) -> Serving {
        self.start_as(&["serve"], Stdio::inherit()).await
    }

    /// Starts the program with arguments and a standard output, and waits until it answers HTTP.
    pub(crate) async fn start_as(&self, arguments: &[&str], stdout: Stdio) -> Serving {
        let log = self.dir.path().join(format!("serve-{}.log", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&log).expect("a log file");
        let mut command = self.command(arguments);
        let child = command.stdout(stdout).stderr(file).stdin(Stdio::null()).spawn().expect("the program starts");
        let mut serving = Serving { child, log, http: String::new() };
        eventually("serve says where it listens", async || {
            let starting = serving.lines().into_iter().find(|line| line["message"] == "starting");
            starting.map(|line| line["http"].as_str().expect("an address").to_owned())
        })
        .await
        .clone_into(&mut serving.http);
        serving
    }

    /// Starts `serve`, and reads its log until it says where it listens. The rest waits to be read.
    pub(crate) async fn start_unread(&self) -> (Serving, BufReader<ChildStderr>) {
        let mut command = self.command(&["serve"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn();
        let mut child = child.expect("the program starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let http = loop {
            let mut line = String::new();
            log.read_line(&mut line).await.expect("readable");
            let line: Value = serde_json::from_str(&line).expect("a line of its log");
            if line["message"] == "starting" {
                break line["http"].as_str().expect("an address").to_owned();
            }
        };
        (Serving { child, log: PathBuf::new(), http }, log)
    }

    // --- The database ---

    pub(crate) async fn execute(&self, sql: &str) {
        self.db.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The rows of a query with one text column.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let statement = sea_orm::Statement::from_string(self.db.get_database_backend(), sql);
        let rows = self.db.query_all_raw(statement).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.iter().map(|row| row.try_get_by_index::<Option<String>>(0).expect("text").unwrap_or_default()).collect()
    }

    /// Waits until whatever was connected to this database of PostgreSQL's has ended: only then all that it read is
    /// counted.
    pub(crate) async fn until_alone(&mut self) {
        let looking = connect(&self.settings["DATABASE_URL"]).await;
        std::mem::replace(&mut self.db, looking).close().await.expect("closed");
        let others = "SELECT CAST(count(*) AS text) FROM pg_stat_activity WHERE datname = current_database() AND \
                      backend_type = 'client backend' AND query NOT LIKE '%pg_stat_%'";
        eventually("others have ended", async || (self.texts(others).await == ["0"]).then_some(())).await;
    }

    /// Whether the MySQL of this world is MariaDB.
    pub(crate) async fn is_mariadb(&self) -> bool {
        self.texts("SELECT version()").await.iter().any(|version| version.contains("MariaDB"))
    }

    /// An expression as text, in SQL.
    pub(crate) fn as_text(&self, expression: &str) -> String {
        let text = if self.is_mysql() { "char" } else { "text" };
        format!("CAST({expression} AS {text})")
    }

    /// A moment as it stands in a literal.
    pub(crate) fn moment(&self, at: DateTime<Utc>) -> String {
        if self.is_mysql() { at.format("%Y-%m-%d %H:%M:%S%.3f").to_string() } else { at.to_rfc3339() }
    }

    fn is_mysql(&self) -> bool {
        self.db.get_database_backend() == DbBackend::MySql
    }

    pub(crate) async fn open_thread(&self, id: &str) {
        self.execute(&format!("INSERT INTO threads (id, status) VALUES ('{id}', 'open')")).await;
    }

    pub(crate) async fn close_thread(&self, id: &str) {
        let update = format!("UPDATE threads SET status = 'closed', closed_at = CURRENT_TIMESTAMP WHERE id = '{id}'");
        self.execute(&update).await;
    }

    pub(crate) async fn reopen_thread(&self, id: &str) {
        self.execute(&format!("UPDATE threads SET status = 'open', closed_at = NULL WHERE id = '{id}'")).await;
    }

    /// A closed thread with a volume.
    pub(crate) async fn closed_with_volume(&self, id: &str) {
        self.create_volume(id).await;
        self.open_thread(id).await;
        self.close_thread(id).await;
    }

    /// The mark of a thread, as text; `None` if it is not marked.
    pub(crate) async fn mark(&self, id: &str) -> Option<String> {
        let mark = self.as_text("workspace_volume_removed_at");
        let mark = self.texts(&format!("SELECT {mark} FROM threads WHERE id = '{id}'")).await;
        mark.into_iter().next().filter(|mark| !mark.is_empty())
    }

    /// `outcome/source` of each of a thread's receipts.
    pub(crate) async fn receipts(&self, id: &str) -> Vec<String> {
        let select = "SELECT outcome || '/' || source FROM volume_removals";
        self.texts(&format!("{select} WHERE thread_id = '{id}' ORDER BY id")).await
    }

    pub(crate) async fn until_marked(&self, id: &str) {
        eventually(&format!("{id} is marked"), async || self.mark(id).await).await;
    }

    // --- Docker ---

    pub(crate) fn volume(&self, id: &str) -> String {
        format!("{}_ws_{id}", self.name)
    }

    pub(crate) async fn create_volume(&self, id: &str) {
        let request = VolumeCreateRequest { name: Some(self.volume(id)), ..VolumeCreateRequest::default() };
        self.docker.create_volume(request).await.expect("a volume can be created");
    }

    pub(crate) async fn has_volume(&self, id: &str) -> bool {
        self.docker.inspect_volume(&self.volume(id)).await.is_ok()
    }

    /// A container that references the thread's volume, created and never started. Returns its id.
    pub(crate) async fn create_container(&self, id: &str) -> String {
        with_image().await;
        let body = ContainerCreateBody {
            image: Some("volume-reaper-empty:latest".to_owned()),
            cmd: Some(vec!["never-started".to_owned()]),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{}:/workspace", self.volume(id))]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let created = self.docker.create_container(None::<CreateContainerOptions>, body).await;
        let container = created.expect("the image is there").id;
        self.docker.inspect_container(&container, None::<InspectContainerOptions>).await.expect("it is there");
        container
    }

    pub(crate) async fn remove_container(&self, container: &str) {
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker.remove_container(container, Some(force)).await.expect("the container is there");
    }

    // --- The broker ---

    pub(crate) fn work_queue(&self) -> String {
        format!("{}.thread-closed", self.name)
    }

    pub(crate) fn dead_letter_queue(&self) -> String {
        format!("{}.dead-letter", self.name)
    }

    pub(crate) async fn channel(&self) -> (Connection, lapin::Channel) {
        let properties = ConnectionProperties::default().with_connection_name("test".into());
        let connection = Connection::connect(&self.broker, properties).await.expect("the broker is there");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }

    /// Publishes a body to the work queue as it is.
    pub(crate) async fn publish(&self, body: &[u8]) {
        self.publish_with(BasicProperties::default(), body).await;
    }

    pub(crate) async fn publish_with(&self, properties: BasicProperties, body: &[u8]) {
        self.publish_by("", &self.work_queue(), properties, body).await;
    }

    /// Publishes as the platform does.
    pub(crate) async fn publish_to_exchange(&self, routing_key: &str, body: &[u8]) {
        let exchange = self.settings["VOLUME_REAPER_EXCHANGE"].clone();
        self.publish_by(&exchange, routing_key, BasicProperties::default(), body).await;
    }

    async fn publish_by(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        let (connection, channel) = self.channel().await;
        channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.expect("confirms");
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties);
        let confirm = confirm.await.expect("sent").await.expect("confirmed");
        assert!(confirm.is_ack() && confirm.take_message().is_none(), "the queue took the message");
        connection.close(200, "done".into()).await.expect("closed");
    }

    pub(crate) async fn publish_closed(&self, id: &str) {
        self.publish(format!(r#"{{"thread_id": "{id}"}}"#).as_bytes()).await;
    }

    pub(crate) async fn delete_queue(&self, queue: &str) {
        let (connection, channel) = self.channel().await;
        let delete = channel.queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default());
        delete.await.expect("deleted");
        connection.close(200, "done".into()).await.expect("closed");
    }

    pub(crate) async fn has_queue(&self, queue: &str) -> bool {
        let (connection, channel) = self.channel().await;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.is_ok();
        connection.close(200, "done".into()).await.expect("closed");
        found
    }

    /// Messages that are ready in a queue.
    pub(crate) async fn messages(&self, queue: &str) -> u32 {
        let (connection, channel) = self.channel().await;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.expect("the queue");
        connection.close(200, "done".into()).await.expect("closed");
        queue.message_count()
    }

    /// Waits for a message in the dead-letter queue and takes it.
    pub(crate) async fn dead_letter(&self) -> BasicGetMessage {
        self.take(&self.dead_letter_queue()).await
    }

    /// Waits for a message in a queue and takes it.
    pub(crate) async fn take(&self, queue: &str) -> BasicGetMessage {
        let (connection, channel) = self.channel().await;
        let message = eventually(&format!("a message is in {queue}"), async || {
            channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.expect("the queue")
        })
        .await;
        connection.close(200, "done".into()).await.expect("closed");
        message
    }
}

/// A header of a message as text; numbers too.
pub(crate) fn header(message: &BasicGetMessage, key: &str) -> Option<String> {
    use lapin::types::AMQPValue;
    let headers = message.delivery.properties.headers().as_ref()?;
    let value = headers.inner().get(key)?;
    if let AMQPValue::LongString(text) = value {
        return Some(text.to_string());
    }
    if let AMQPValue::LongLongInt(number) = value {
        return Some(number.to_string());
    }
    Some(format!("{value:?}"))
}

/// A broker that only one test uses, for faults that others must not feel.
pub(crate) struct PrivateBroker {
    pub(crate) dir: TempDir,
    url: String,
    /// A file with more of RabbitMQ's settings; an empty path if there are none.
    config: PathBuf,
}

impl PrivateBroker {
    pub(crate) async fn start() -> Self {
        Self::start_with(PathBuf::new()).await
    }

    pub(crate) async fn start_with(config: PathBuf) -> Self {
        // A short path: the servers' sockets below it have a limit.
        let dir = TempDir::with_prefix("vr-").expect("a temporary directory");
        let mut broker = Self { dir, url: String::new(), config };
        broker.control("start").await;
        let env = std::fs::read_to_string(broker.dir.path().join("env")).expect("readable");
        let url = env.lines().find_map(|line| line.strip_prefix("export AMQP_URL="));
        url.expect("the broker's URL").clone_into(&mut broker.url);
        broker
    }

    /// `start`, `stop`, `kill`, `pause` or `resume`, as `deploy/local/servers` has them.
    pub(crate) async fn control(&self, action: &str) {
        let mut command = servers(action, self.dir.path());
        let status = command.arg("broker").env("EXTRA_BROKER_CONFIG", &self.config).status().await.expect("it runs");
        assert!(status.success(), "{action}");
    }

    pub(crate) async fn rabbitmqctl(&self, arguments: &[&str]) {
        let output = Command::new(self.dir.path().join("rabbitmqctl")).args(arguments).output().await;
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for PrivateBroker {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers");
        let _ = std::process::Command::new(script).arg("stop").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

/// A Docker host of a test's own, one of several.
pub(crate) struct PrivateHost {
    pub(crate) name: String,
    dir: TempDir,
    pub(crate) docker: bollard::Docker,
}

impl PrivateHost {
    pub(crate) async fn start(name: &str) -> Self {
        let dir = TempDir::with_prefix("vr-").expect("a temporary directory");
        control_docker(&dir, "start").await;
        let socket = dir.path().join("docker.sock");
        let docker = bollard::Docker::connect_with_unix(&socket.to_string_lossy(), 60, bollard::API_DEFAULT_VERSION);
        Self { name: name.to_owned(), docker: docker.expect("the daemon's socket is there"), dir }
    }

    /// Several at once, called `a`, `b`, ...
    pub(crate) async fn several<const N: usize>() -> [Self; N] {
        let names: Vec<_> = ('a'..='z').take(N).map(String::from).collect();
        let hosts = futures_util::future::join_all(names.iter().map(|name| Self::start(name))).await;
        hosts.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
    }

    /// `start`, `kill`, `pause` or `resume`, as `deploy/local/servers` has them.
    pub(crate) async fn control(&self, action: &str) {
        control_docker(&self.dir, action).await;
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where the daemon keeps a volume's files.
    pub(crate) fn files_of(&self, volume: &str) -> PathBuf {
        self.dir.path().join("docker/data/volumes").join(volume).join("_data")
    }

    pub(crate) async fn create_volume(&self, volume: &str) {
        let request = VolumeCreateRequest { name: Some(volume.to_owned()), ..VolumeCreateRequest::default() };
        self.docker.create_volume(request).await.expect("a volume can be created");
    }

    pub(crate) async fn has_volume(&self, volume: &str) -> bool {
        self.docker.inspect_volume(volume).await.is_ok()
    }
}

impl Drop for PrivateHost {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers");
        let _ = std::process::Command::new(script).arg("remove").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

async fn control_docker(dir: &TempDir, action: &str) {
    let status = servers(action, dir.path()).arg("docker").status().await.expect("it runs");
    assert!(status.success(), "{action}");
}

/// The script that starts and stops servers, about to do so.
pub(crate) fn servers(action: &str, dir: &std::path::Path) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/servers"));
    command.arg(action).arg(dir).stderr(Stdio::null());
    command
}

/// A running `serve`.
pub(crate) struct Serving {
    pub(crate) child: Child,
    log: PathBuf,
    pub(crate) http: String,
}

impl Serving {
    /// The first line of its log that is as asked for. A thread of its own writes the log: what has happened may be in
    /// it a moment later.
    pub(crate) async fn until_line(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually("the log says so", async || self.lines().into_iter().find(|line| is_it(line))).await
    }

    /// The lines of its log.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Status code and body of a GET.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.http).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("read");
        let code = response.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        (code, response.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
    }

    pub(crate) async fn until_ready(&self) {
        eventually("serve is ready", async || (self.get("/readyz").await.0 == 200).then_some(())).await;
    }

    /// The value of a counter, such as `name{label="value"}`; 0 if it is not there yet.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a whole number"))
    }

    pub(crate) async fn until_metric(&self, name: &str, value: u64) {
        eventually(&format!("{name} is {value}"), async || (self.metric(name).await >= value).then_some(())).await;
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let status = std::process::Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(status.success());
    }

    /// Waits for its end and returns the exit code.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        tokio::time::timeout(DEADLINE, self.child.wait()).await.expect("it ends").expect("it ran").code()
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        self.exit_code().await
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of serve ---\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Waits until `condition` gives something, and fails with `what` if it does not do so in time.
pub(crate) async fn eventually<R>(what: &str, condition: impl AsyncFn() -> Option<R>) -> R {
    let wait = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if let Some(result) = condition().await {
                return result;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// A few connections to a database.
pub(crate) async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).max_connections(4).connect_lazy(true);
    Database::connect(options).await.expect("the database")
}

/// Returns once the daemon has the empty image, `volume-reaper-empty:latest`.
pub(crate) async fn with_image() {
    IMAGE.get_or_init(import_image).await;
}

async fn import_image() {
    let dir = PathBuf::from(server("VOLUME_REAPER_TEST_SERVERS"));
    let status = servers("import-image", &dir).status().await.expect("it runs");
    assert!(status.success(), "the image can be imported");
}

async fn new_database(on: &str, name: &str) -> String {
    let url = server(on);
    let admin = connect(&url).await;
    admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("a new database");
    admin.close().await.expect("closed");
    let (server, _) = url.rsplit_once('/').expect("a database in the URL");
    format!("{server}/{name}")
}
