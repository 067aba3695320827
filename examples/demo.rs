//! Volume Reaper at work: plays the platform beside a `volume-reaper serve`, on real servers.
//!
//! `make demo` runs it with a RabbitMQ and a Docker daemon of its own (`AMQP_URL`, `DOCKER_HOST`), and with SQLite in
//! a temporary directory. It opens threads with volumes, closes most of them, loses some of the events, and holds on
//! to some of the volumes with containers. A line that begins with `ok` is a claim that was checked, in Docker, in the
//! database or in the service's metrics; the first one that does not hold ends the demo with exit code 1.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    fs::OpenOptions,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use bollard::{
    Docker, body_full,
    models::{ContainerCreateBody, HostConfig, VolumeCreateRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptions,
        RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions,
    },
};
use chrono::{DateTime, SubsecRound, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, QueryResult, Statement, Value,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

/// Threads that stay open.
const OPEN: usize = 40;
/// Threads that close, by what there is of their volume: one that nobody uses any more, ...
const FREE: usize = 200;
/// ... none, ...
const ABSENT: usize = 40;
/// ... one that a container holds.
const HELD: usize = 20;
const CLOSED: usize = FREE + ABSENT + HELD;
/// Of the threads that close, so many do without an event.
const EVENTS_LOST: usize = 30;
/// The service is idle in between, so that the times from close to mark are its own and not a queue's.
const CLOSES_PER_SECOND: u32 = 100;
const RECONCILE_INTERVAL: &str = "2s";
const IMAGE: &str = "volume-reaper-demo";
/// For what takes milliseconds to seconds, and a busy machine a little more.
const SOON: Duration = Duration::from_secs(30);
/// For what takes some sweeps.
const SOME_SWEEPS: Duration = Duration::from_secs(60);

type Try<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    match play().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn play() -> Try {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let platform = Platform::new().await?;
    let shown = tokio::select! {
        shown = platform.show() => shown,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    };
    let cleaned_up = platform.clean_up().await;
    if let Err(error) = shown {
        let log = platform.log();
        let _ = platform.dir.keep();
        return Err(format!("{error}\ndemo: the service's log is kept: {}", log.display()).into());
    }
    cleaned_up?;
    println!(
        "\nFor a broker, a daemon and a database that you have, `volume-reaper sweep --dry-run` says first what it would \
         do:\n\n    export DATABASE_URL=postgres://user:password@host/database\n    \
         export AMQP_URL=amqp://user:password@host:5672/%2f\n    \
         export DOCKER_HOST=unix:///var/run/docker.sock\n    volume-reaper serve"
    );
    Ok(())
}

/// What there is of a thread's volume, and what becomes of the thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    StaysOpen,
    Free,
    Absent,
    Held,
}

struct Thread {
    id: String,
    fate: Fate,
    event_lost: bool,
}

impl Thread {
    fn volume(&self) -> String {
        format!("ha_ws_{}", self.id)
    }

    fn container(&self) -> String {
        format!("workspace-{}", &self.id[..8])
    }
}

/// All threads, in the order of their random ids: fates and lost events are mixed.
fn threads() -> Vec<Thread> {
    let fates = [(Fate::StaysOpen, OPEN), (Fate::Free, FREE), (Fate::Absent, ABSENT), (Fate::Held, HELD)];
    let mut threads: Vec<_> = (fates.into_iter())
        .flat_map(|(fate, count)| std::iter::repeat_n(fate, count))
        .map(|fate| Thread { id: uuid::Uuid::new_v4().to_string(), fate, event_lost: false })
        .collect();
    threads.sort_by(|a, b| a.id.cmp(&b.id));
    for (index, thread) in threads.iter_mut().filter(|thread| thread.fate != Fate::StaysOpen).enumerate() {
        thread.event_lost = index * EVENTS_LOST / CLOSED != (index + 1) * EVENTS_LOST / CLOSED;
    }
    threads
}

/// A row of `volume_removals`, with the time since the thread's close.
struct Receipt {
    thread: String,
    outcome: String,
    source: String,
    close_to_mark: Duration,
}

/// The platform: its threads, its database and its daemon.
struct Platform {
    threads: Vec<Thread>,
    dir: TempDir,
    db: DatabaseConnection,
    docker: Docker,
    /// What the service is told, besides where to serve HTTP.
    settings: HashMap<&'static str, String>,
}

impl Platform {
    async fn new() -> Try<Self> {
        let given = |name| env::var(name).map_err(|_| format!("{name} is not set: this is started by `make demo`"));
        let (amqp_url, docker_host) = (given("AMQP_URL")?, given("DOCKER_HOST")?);
        let dir = tempfile::tempdir()?;
        let database_url = format!("sqlite://{}?mode=rwc", dir.path().join("demo.db").display());
        let db = Database::connect(ConnectOptions::new(&database_url).max_connections(2).connect_lazy(true).to_owned());
        Ok(Self {
            threads: threads(),
            dir,
            db: db.await?,
            docker: Docker::connect_with_host(&docker_host)?,
            settings: HashMap::from([
                ("DATABASE_URL", database_url),
                ("AMQP_URL", amqp_url),
                ("DOCKER_HOST", docker_host),
                ("VOLUME_REAPER_RECONCILE_INTERVAL", RECONCILE_INTERVAL.to_owned()),
                ("VOLUME_REAPER_RECONCILE_COOLDOWN", "1s".to_owned()),
            ]),
        })
    }

    async fn show(&self) -> Try {
        println!("\n1. volume-reaper serve, sweeping every {RECONCILE_INTERVAL}; log: {}", self.log().display());
        let service = self.serve().await?;

        println!("\n2. The platform opens {} threads", self.threads.len());
        self.open_threads().await?;

        println!("\n3. {CLOSED} threads close, {CLOSES_PER_SECOND} a second; {EVENTS_LOST} of them without an event");
        tokio::try_join!(self.close_threads(), self.watch())?;

        let freed = self.with(Fate::Held).next().ok_or("no thread is held")?;
        println!("\n4. A container goes: {}", freed.container());
        soon("docker", self.docker.remove_container(&freed.container(), None::<RemoveContainerOptions>)).await?;
        let took =
            until("its volume is removed", SOME_SWEEPS, async || Ok(!self.unmarked().await?.contains(&freed.id)));
        println!("   ok  its volume was removed by a sweep {:.1?} later", took.await?);

        println!("\n5. What became of the {} volumes", self.threads.len() - ABSENT);
        self.account(freed).await?;

        println!("\n6. Once more, and after a restart: nothing");
        self.sweep_again(service, freed).await
    }

    /// Starts the service and waits until it is ready.
    async fn serve(&self) -> Try<Service> {
        // A port that was free a moment ago.
        let http = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.command("serve")?;
        command.env("VOLUME_REAPER_HTTP_ADDR", &http).stdin(Stdio::null()).stderr(log);
        let mut service = Service { process: command.spawn()?, http };
        let ready = until("the service is ready", SOON, async || match service.process.try_wait()? {
            Some(status) => Err(format!("the service ended, {status}").into()),
            None => Ok(service.get("/readyz").await.is_ok()),
        });
        println!("   ok  ready after {:.1?}: broker, database and Docker answer", ready.await?);
        Ok(service)
    }

    /// The binary that was built along with this one.
    fn command(&self, command: &str) -> Try<Command> {
        let demo = env::current_exe()?;
        let target = demo.ancestors().nth(2).ok_or("the demo is not in cargo's target directory")?;
        let mut process = Command::new(target.join("volume-reaper"));
        // Settings of whoever runs the demo are meant for another service.
        process.arg(command).env_clear().envs(&self.settings).kill_on_drop(true);
        Ok(process)
    }

    async fn open_threads(&self) -> Try {
        let rows: Vec<_> = self.threads.iter().map(|thread| format!("('{}', 'open')", thread.id)).collect();
        self.execute(format!("INSERT INTO threads (id, status) VALUES {}", rows.join(", ")), []).await?;

        let with_volume = self.threads.iter().filter(|thread| thread.fate != Fate::Absent);
        let create = stream::iter(with_volume)
            .map(|thread| {
                let volume = VolumeCreateRequest { name: Some(thread.volume()), ..VolumeCreateRequest::default() };
                self.docker.create_volume(volume)
            })
            .buffer_unordered(8)
            .try_for_each(async |_| Ok(()));
        soon("docker", create).await?;

        // An empty tar is enough for an image whose containers are never started: they hold their volumes all the same.
        let import = CreateImageOptionsBuilder::default().from_src("-").repo(IMAGE).tag("latest").build();
        let tar = body_full(vec![0_u8; 1024].into());
        soon("docker", self.docker.create_image(Some(import), Some(tar), None).try_for_each(async |_| Ok(()))).await?;
        for thread in self.with(Fate::Held) {
            let options = CreateContainerOptionsBuilder::default().name(&thread.container()).build();
            let binds = Some(vec![format!("{}:/workspace", thread.volume())]);
            let container = ContainerCreateBody {
                image: Some(IMAGE.to_owned()),
                cmd: Some(vec!["/never-started".to_owned()]),
                host_config: Some(HostConfig { binds, ..HostConfig::default() }),
                ..ContainerCreateBody::default()
            };
            soon("docker", self.docker.create_container(Some(options), container)).await?;
        }
        println!("   ok  Docker has {} volumes, {HELD} of them held by containers", self.volumes().await?.len());
        Ok(())
    }

    /// What a platform does at a close: first the row is committed, then the event is published.
    async fn close_threads(&self) -> Try {
        let connect = Connection::connect(&self.settings["AMQP_URL"], ConnectionProperties::default());
        let connection = soon("broker", connect).await?;
        let channel = soon("broker", connection.create_channel()).await?;
        soon("broker", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let persistent = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());

        let mut confirmations = Vec::new();
        let mut pace = tokio::time::interval(Duration::from_secs(1) / CLOSES_PER_SECOND);
        for thread in self.threads.iter().filter(|thread| thread.fate != Fate::StaysOpen) {
            pace.tick().await;
            let closed_at = Utc::now().trunc_subsecs(3);
            let close = "UPDATE threads SET status = 'closed', closed_at = ? WHERE id = ?";
            self.execute(close, [closed_at.into(), thread.id.as_str().into()]).await?;
            if !thread.event_lost {
                let event = json!({ "thread_id": thread.id, "closed_at": closed_at }).to_string();
                let (exchange, key) = ("threads".into(), "thread.closed".into());
                let publish = channel.basic_publish(exchange, key, mandatory, event.as_bytes(), persistent.clone());
                confirmations.push(soon("broker", publish).await?);
            }
        }
        for confirmation in confirmations {
            match soon("broker", confirmation).await? {
                Confirmation::Ack(None) => {}
                other => return Err(format!("an event was not taken by the broker: {other:?}").into()),
            }
        }
        Ok(soon("broker", connection.close(200, "done".into())).await?)
    }

    /// Says how far it is until every closed thread is marked, or held by a container.
    async fn watch(&self) -> Try {
        let held: BTreeSet<_> = self.with(Fate::Held).map(|thread| thread.id.clone()).collect();
        let began = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (unmarked, receipts) = (self.unmarked().await?, self.receipts().await?);
            let removed = receipts.iter().filter(|receipt| receipt.outcome == "removed").count();
            let not_found = receipts.len() - removed;
            let referenced = unmarked.intersection(&held).count();
            let to_do = unmarked.len() - referenced;
            println!(
                "   {:>4.1} s   removed {removed:>3}   not found {not_found:>2}   referenced {referenced:>2}   \
                 to do {to_do:>3}",
                began.elapsed().as_secs_f64()
            );
            if to_do == 0 && receipts.len() + unmarked.len() == CLOSED {
                return Ok(());
            }
            if began.elapsed() > SOME_SWEEPS {
                return Err(format!("{to_do} threads are still to do after {SOME_SWEEPS:?}").into());
            }
        }
    }

    /// Checks database and Docker against what was to happen, and prints the figures.
    async fn account(&self, freed: &Thread) -> Try {
        let receipts = self.receipts().await?;
        let removed = receipts.iter().filter(|receipt| receipt.outcome == "removed").count();
        let (is_held, volumes) = (|thread: &&Thread| thread.id != freed.id, self.volumes().await?);
        let example = self.with(Fate::Held).find(is_held).map(Thread::volume).unwrap_or_default();
        let holder = volumes.get(&example).cloned().flatten().ok_or("a held volume is not held")?;
        println!("   removed                        {removed:>4}");
        println!("   not found, so only marked      {:>4}", receipts.len() - removed);
        println!("   kept: the thread is open       {OPEN:>4}");
        println!("   kept: a container holds it     {:>4}   such as {holder} {example}", HELD - 1);

        println!("\n   from close to mark   threads    median       p99");
        // The freed one waited for its container, not for us.
        for source in ["event", "sweep"] {
            let ours = receipts.iter().filter(|receipt| receipt.source == source && receipt.thread != freed.id);
            let mut times: Vec<_> = ours.map(|receipt| receipt.close_to_mark).collect();
            times.sort();
            let percentile = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
            let (median, p99) =
                (percentile(50).copied().unwrap_or_default(), percentile(99).copied().unwrap_or_default());
            println!("   by {source:<15}   {:>7}   {median:>7.1?}   {p99:>7.1?}", times.len());
        }

        let marked: BTreeSet<_> = receipts.iter().map(|receipt| &receipt.thread).collect();
        let gone = self.threads.iter().filter(|thread| matches!(thread.fate, Fate::Free | Fate::Absent));
        let gone: BTreeSet<_> = gone.chain([freed]).map(|thread| &thread.id).collect();
        println!();
        claim("every closed thread that no container holds is marked, and no other", marked == gone)?;
        claim("each has one receipt, with the time of its mark", marked.len() == receipts.len())?;
        let lost = self.threads.iter().filter(|thread| thread.event_lost).map(|thread| &thread.id);
        let lost: BTreeSet<_> = lost.filter(|id| gone.contains(id)).collect();
        let swept = receipts.iter().filter(|receipt| receipt.source == "sweep" && lost.contains(&receipt.thread));
        claim("those without an event were found by sweeps", swept.count() == lost.len())?;
        self.check_volumes(freed).await
    }

    async fn sweep_again(&self, mut service: Service, freed: &Thread) -> Try {
        let requests = service.removal_requests().await?;
        service.two_more_sweeps().await?;
        println!("   Docker was asked {requests} times to remove a volume");
        claim("two sweeps later it is the same number", service.removal_requests().await? == requests)?;

        let mut sweep = self.command("sweep")?;
        let output = soon("sweep", sweep.arg("--json").output()).await?;
        let report = String::from_utf8(output.stdout)?;
        println!("   volume-reaper sweep --json\n   {}", report.trim());
        let report: serde_json::Value = serde_json::from_str(&report)?;
        let is = |key: &str, count: usize| report[key] == json!(count);
        let idle = is("removed", 0) && is("not_found", 0) && is("failed", 0) && is("referenced", HELD - 1);
        claim("it finds the held volumes and leaves them alone", idle && output.status.success())?;

        println!("   SIGTERM");
        claim("the exit code is 0", service.stop().await? == Some(0))?;
        let restarted = self.serve().await?;
        restarted.two_more_sweeps().await?;
        claim("two sweeps later, Docker was not asked to remove anything", restarted.removal_requests().await? == 0)?;
        claim("no receipt was added", self.receipts().await?.len() == FREE + ABSENT + 1)?;
        self.check_volumes(freed).await
    }

    async fn check_volumes(&self, freed: &Thread) -> Try {
        let there: BTreeSet<_> = self.volumes().await?.into_keys().collect();
        let open: BTreeSet<_> = self.with(Fate::StaysOpen).map(Thread::volume).collect();
        let held = self.with(Fate::Held).filter(|thread| thread.id != freed.id).map(Thread::volume).collect();
        claim("the volumes of all open threads are there", there.is_superset(&open))?;
        claim(
            "of the others, only the held ones are",
            there.difference(&open).cloned().collect::<BTreeSet<_>>() == held,
        )
    }

    /// Our volumes in Docker, each with the container that holds it.
    async fn volumes(&self) -> Try<HashMap<String, Option<String>>> {
        let ours: BTreeSet<_> = self.threads.iter().map(Thread::volume).collect();
        let volumes = soon("docker", self.docker.list_volumes(None::<ListVolumesOptions>)).await?;
        let volumes = volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name);
        let mut volumes: HashMap<_, _> = volumes.filter(|name| ours.contains(name)).map(|name| (name, None)).collect();
        let all = ListContainersOptionsBuilder::default().all(true).build();
        for container in soon("docker", self.docker.list_containers(Some(all))).await? {
            let name = container.names.unwrap_or_default().concat();
            for volume in container.mounts.unwrap_or_default().into_iter().filter_map(|mount| mount.name) {
                volumes.entry(volume).and_modify(|holder| *holder = Some(name.trim_start_matches('/').to_owned()));
            }
        }
        Ok(volumes)
    }

    async fn receipts(&self) -> Try<Vec<Receipt>> {
        // Only with the time of the mark is a receipt one.
        let rows = self.query(
            "SELECT thread_id, outcome, source, closed_at, removed_at FROM volume_removals JOIN threads ON \
             threads.id = thread_id AND workspace_volume_removed_at = removed_at",
        );
        let receipt = |row: &QueryResult| {
            let [closed_at, removed_at]: [DateTime<Utc>; 2] = [row.try_get_by_index(3)?, row.try_get_by_index(4)?];
            Ok(Receipt {
                thread: row.try_get_by_index(0)?,
                outcome: row.try_get_by_index(1)?,
                source: row.try_get_by_index(2)?,
                close_to_mark: (removed_at - closed_at).to_std().unwrap_or_default(),
            })
        };
        rows.await?.iter().map(receipt).collect()
    }

    /// The ids of the closed threads that are not marked.
    async fn unmarked(&self) -> Try<BTreeSet<String>> {
        let rows = self.query("SELECT id FROM threads WHERE status = 'closed' AND workspace_volume_removed_at IS NULL");
        rows.await?.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
    }

    async fn query(&self, sql: &str) -> Try<Vec<QueryResult>> {
        soon("database", self.db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql))).await
    }

    async fn execute(&self, sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Try {
        let statement = Statement::from_sql_and_values(DbBackend::Sqlite, sql, values);
        soon("database", self.db.execute_raw(statement)).await.map(drop)
    }

    fn with(&self, fate: Fate) -> impl Iterator<Item = &Thread> {
        self.threads.iter().filter(move |thread| thread.fate == fate)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("volume-reaper.log")
    }

    /// Leaves nothing of ours in Docker. The directory goes by itself.
    async fn clean_up(&self) -> Try {
        for (volume, holder) in self.volumes().await? {
            if let Some(holder) = holder {
                soon("docker", self.docker.remove_container(&holder, None::<RemoveContainerOptions>)).await?;
            }
            soon("docker", self.docker.remove_volume(&volume, None::<RemoveVolumeOptions>)).await?;
        }
        soon("docker", self.docker.remove_image(IMAGE, None::<RemoveImageOptions>, None)).await?;
        Ok(self.db.close_by_ref().await?)
    }
}

/// A running `volume-reaper serve`; killed if it is dropped.
struct Service {
    process: Child,
    http: String,
}

impl Service {
    async fn get(&self, path: &str) -> Try<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.http).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut response = String::new();
            stream.read_to_string(&mut response).await.map(|_| response)
        };
        let response = soon("http", exchange).await?;
        let is_ok = response.split_whitespace().nth(1) == Some("200");
        if is_ok { Ok(response) } else { Err(response.lines().next().unwrap_or_default().into()) }
    }

    /// The sum of a metric over the series with this label.
    async fn metric(&self, name: &str, label: &str) -> Try<u64> {
        let metrics = self.get("/metrics").await?;
        let series = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    async fn removal_requests(&self) -> Try<u64> {
        self.metric("volume_reaper_docker_requests_total{", r#"operation="remove_volume""#).await
    }

    async fn two_more_sweeps(&self) -> Try<Duration> {
        let sweeps = async || self.metric("volume_reaper_sweep_seconds_count", "").await;
        let enough = sweeps().await? + 2;
        until("two more sweeps", SOME_SWEEPS, async || Ok(sweeps().await? >= enough)).await
    }

    async fn stop(&mut self) -> Try<Option<i32>> {
        let id = self.process.id().ok_or("the service has ended by itself")?;
        // The shell's: the standard library knows no signal but SIGKILL.
        soon("kill", Command::new("sh").arg("-c").arg(format!("kill -s TERM {id}")).status()).await?;
        Ok(soon("the service's end", self.process.wait()).await?.code())
    }
}

fn claim(what: &str, holds: bool) -> Try {
    if !holds {
        return Err(format!("this does not hold: {what}").into());
    }
    println!("   ok  {what}");
    Ok(())
}

/// Waits for what should take moments.
async fn soon<T, E: Into<Box<dyn std::error::Error>>>(what: &str, work: impl Future<Output = Result<T, E>>) -> Try<T> {
    match timeout(SOON, work).await {
        Ok(result) => result.map_err(|error| format!("{what}: {}", error.into()).into()),
        Err(_) => Err(format!("{what}: no answer within {SOON:?}").into()),
    }
}

/// Waits until a condition holds. Returns how long that took.
async fn until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Try<bool>) -> Try<Duration> {
    let began = Instant::now();
    while !condition().await? {
        if began.elapsed() > limit {
            return Err(format!("waited {limit:?} in vain until {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(began.elapsed())
}
