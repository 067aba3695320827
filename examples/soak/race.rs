//! The race for a volume: 200 threads are closed and reopened all the time, while events and sweeps remove what is
//! closed. On each database, with a daemon that answers at once, late, and that is frozen now and then.
//!
//! After each reopening's commit the platform makes sure of the volume, and some milliseconds later, before it closes
//! the thread again, it looks whether that is there. None may be lost, but while the daemon is frozen for longer than
//! rows stay locked: how many that costs is measured.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bollard::{
    Docker, errors::Error::DockerResponseServerError, models::VolumeCreateRequest, query_parameters::ListVolumesOptions,
};
use parking_lot::Mutex;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    Place, Try,
    account::{Notes, line},
    broker::Broker,
    given, percentile,
    plan::Dice,
    replica::{Order, Program, Replica},
    servers::{Proxy, Servers},
    shape::{On, Shape, new_database},
    soon,
    writer::rate,
};

const THREADS: usize = 200;
const REPLICAS: usize = 2;
/// Between a close and the reopening, and between that and the next close.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// By how much the daemon's answers are late: more than rows stay locked on SQLite, less than on the others.
const LATE_BY: Duration = Duration::from_secs(1);
/// How long the daemon is frozen, and then runs: longer than rows stay locked.
const FROZEN_FOR: Duration = Duration::from_secs(4);
/// Connections of the platform: one for each thread that may wait for its row. Those to SQLite are threads.
const CONNECTIONS: [u32; 2] = [150, 8];
/// From the last reopening until nothing is under way that could still remove something.
const SETTLE: Duration = Duration::from_secs(5);
/// A daemon is asked 16 times who it is at the first contact, and may be late each time.
pub(crate) const START_DEADLINE: Duration = Duration::from_mins(2);
/// A reopening that waits for this long has been forgotten.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    Prompt,
    Late,
    Frozen,
}

/// Database, daemon, and how many of a thousand cycles.
const RACES: [(On, Daemon, usize); 7] = [
    (On::Postgres, Daemon::Prompt, 1000),
    (On::MariaDb, Daemon::Prompt, 150),
    (On::Sqlite, Daemon::Prompt, 150),
    (On::Postgres, Daemon::Late, 150),
    (On::MariaDb, Daemon::Late, 50),
    (On::Sqlite, Daemon::Late, 50),
    (On::Postgres, Daemon::Frozen, 150),
];

/// Runs all races, the longest with so many cycles.
pub(crate) async fn races(cycles: usize, shape: Shape, place: &Place, mut dice: Dice, notes: &Arc<Notes>) -> Try {
    for (number, (on, daemon, share)) in RACES.into_iter().enumerate() {
        let name = format!("race{number}");
        let logs = place.logs.join(&name);
        fs::create_dir(&logs)?;
        let program = Program { binary: place.binary.clone(), settings: HashMap::new(), logs };
        let race = Race::set(&name, (on, shape), daemon, program, notes).await?;
        race.run(cycles * share / 1000, &mut dice).await?;
    }
    Ok(())
}

struct Race {
    on: On,
    daemon: Daemon,
    course: Arc<Course>,
    servers: Servers,
    replicas: Vec<Replica>,
    /// Where the replicas answer HTTP.
    addresses: Vec<String>,
    notes: Arc<Notes>,
}

/// What the threads run on.
struct Course {
    name: String,
    on: On,
    shape: Shape,
    db: DatabaseConnection,
    docker: Docker,
    broker: Broker,
    /// Cycles that have not begun.
    left: AtomicUsize,
    lost: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
    /// How long reopenings took.
    reopenings: Mutex<Vec<Duration>>,
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = match self.on {
            On::Postgres => "PostgreSQL",
            On::MariaDb => "MariaDB",
            On::Sqlite => "SQLite",
        };
        match self.daemon {
            Daemon::Prompt => write!(f, "{database}"),
            Daemon::Late => write!(f, "{database}, the daemon's answers {LATE_BY:?} late"),
            Daemon::Frozen => write!(f, "{database}, the daemon frozen for {FROZEN_FOR:?} every {:?}", FROZEN_FOR * 2),
        }
    }
}

impl Race {
    async fn set(
        name: &str,
        (on, shape): (On, Shape),
        daemon: Daemon,
        mut program: Program,
        notes: &Arc<Notes>,
    ) -> Try<Self> {
        let servers = Servers::from_env(&given("DATABASE_URL")?).await?;
        let socket = given("DOCKER_HOST")?.trim_start_matches("unix://").to_owned();
        let docker_host = match daemon {
            Daemon::Prompt | Daemon::Frozen => format!("unix://{socket}"),
            Daemon::Late => format!("tcp://{}", Proxy::start(&socket, LATE_BY).await?.address),
        };
        let database_url = match on {
            On::Postgres => new_database("DATABASE_URL", name).await?,
            On::MariaDb => new_database("MYSQL_URL", name).await?,
            On::Sqlite => format!("sqlite://{}?mode=rwc", program.logs.join("race.db").display()),
        };
        let (amqp_url, exchange) = (given("AMQP_URL")?, format!("{name}.threads"));
        program.settings = HashMap::from([
            ("AMQP_URL", amqp_url.clone()),
            ("DATABASE_URL", database_url.clone()),
            ("DOCKER_HOST", docker_host),
            ("VOLUME_REAPER_EXCHANGE", exchange.clone()),
            ("VOLUME_REAPER_QUEUE_PREFIX", name.to_owned()),
            ("VOLUME_REAPER_RETRY_DELAYS", "200ms,1s".to_owned()),
            ("VOLUME_REAPER_RECONCILE_INTERVAL", "1s".to_owned()),
            ("VOLUME_REAPER_HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("VOLUME_REAPER_LOG_FORMAT", "json".to_owned()),
            ("RUST_LOG", "info,lapin=off".to_owned()),
        ]);
        program.settings.extend(shape.settings(name));
        let mut options = ConnectOptions::new(&database_url);
        let connections = CONNECTIONS[usize::from(on == On::Sqlite)];
        options.sqlx_logging(false).max_connections(connections).acquire_timeout(STATEMENT_TIMEOUT);
        let db = Database::connect(options).await?;
        shape.make_tables(on, &db).await?;
        // One after the other: they make the schema and the queues.
        let (mut replicas, mut addresses) = (Vec::new(), Vec::new());
        for number in 1..=REPLICAS {
            replicas.push(Replica::start(number, program.clone(), Arc::clone(notes)));
            let log = program.logs.join(format!("replica-{number}-001.log"));
            let ready = timeout(START_DEADLINE, until_ready(&log)).await;
            addresses.push(ready.map_err(|_| format!("a replica is not ready after {START_DEADLINE:?}"))?);
        }
        let course = Course {
            name: name.to_owned(),
            on,
            shape,
            db,
            docker: Docker::connect_with_unix(&socket, 60, bollard::API_DEFAULT_VERSION)?,
            broker: Broker::new(amqp_url, exchange),
            left: AtomicUsize::new(0),
            lost: Mutex::default(),
            failed: Mutex::default(),
            reopenings: Mutex::default(),
        };
        Ok(Self { on, daemon, course: Arc::new(course), servers, replicas, addresses, notes: Arc::clone(notes) })
    }

    async fn run(self, cycles: usize, dice: &mut Dice) -> Try {
        println!("\nThe race on {self}: {cycles} cycles");
        let (began, course) = (Instant::now(), Arc::clone(&self.course));
        course.left.store(cycles, Ordering::Relaxed);
        let is_over = AtomicBool::new(false);
        let threads = async {
            let mut threads = JoinSet::new();
            for number in 0..THREADS {
                let (course, dice) = (Arc::clone(&course), Dice(dice.below(usize::MAX) as u64));
                threads.spawn(async move { course.thread(&format!("t{number}"), dice).await });
            }
            threads.join_all().await;
            is_over.store(true, Ordering::Relaxed);
            Ok(())
        };
        let ((), freezes) = tokio::try_join!(threads, self.freeze_until(&is_over))?;
        let took = began.elapsed();
        tokio::time::sleep(SETTLE).await;
        self.account(cycles, freezes, took).await?;
        for replica in self.replicas {
            replica.orders.send(Order::End).await?;
            replica.life.await?;
        }
        Ok(())
    }

    /// Freezes the daemon every now and then, if it is to be. Returns how often.
    async fn freeze_until(&self, is_over: &AtomicBool) -> Try<usize> {
        let mut freezes = 0;
        while self.daemon == Daemon::Frozen && !is_over.load(Ordering::Relaxed) {
            tokio::time::sleep(FROZEN_FOR).await;
            self.servers.control("pause", Some(&self.servers.docker)).await?;
            freezes += 1;
            tokio::time::sleep(FROZEN_FOR).await;
            self.servers.control("resume", Some(&self.servers.docker)).await?;
        }
        Ok(freezes)
    }

    async fn account(&self, cycles: usize, freezes: usize, took: Duration) -> Try {
        let (course, notes) = (&self.course, &self.notes);
        let there = course.volumes().await?;
        let expected = (0..THREADS).flat_map(|number| course.volumes_of(&format!("t{number}")));
        let mut lost = course.lost.lock().clone();
        lost.extend(expected.filter(|volume| !there.contains(volume)).map(|volume| format!("{volume} at the end")));
        let mut reopenings = course.reopenings.lock().clone();
        reopenings.sort();
        line("cycles a second", format!("{:.0}", rate(cycles, took)));
        line("volumes of open threads that were lost", lost.len());
        line("removals", self.metric("volume_reaper_cleanups_total", "outcome=\"removed\"").await?);
        line("removals that outlived their lock", self.metric("volume_reaper_locks_given_up_total", "").await?);
        line(
            "threads that were reopened meanwhile",
            self.metric("volume_reaper_reopened_while_removing_total", "").await?,
        );
        for (what, percent) in [("median", 50), ("p99", 99), ("longest", 100)] {
            line(&format!("milliseconds that a reopening took, {what}"), percentile(&reopenings, percent).as_millis());
        }
        match self.daemon {
            Daemon::Prompt | Daemon::Late => notes.claim("no volume of an open thread was lost", &lost),
            Daemon::Frozen => line("times that the daemon was frozen", freezes),
        }
        let failed = course.failed.lock().clone();
        match self.on {
            On::Postgres | On::MariaDb => notes.claim("every statement of the platform succeeded at once", &failed),
            // Its lock is the whole file's, and so many writers without a pause do not queue up for it.
            On::Sqlite => line("statements that were made again: the file was locked", failed.len()),
        }
        let has_a_mark = course.shape.has_a_mark();
        let wrong = format!("SELECT id FROM threads WHERE status <> 'open' OR {has_a_mark}");
        let wrong = course.db.query_all_raw(Statement::from_string(course.db.get_database_backend(), wrong)).await?;
        let wrong: Result<Vec<String>, _> = wrong.iter().map(|row| row.try_get_by_index(0)).collect();
        notes.claim("every thread is open, and none is marked", &wrong?);
        Ok(())
    }

    /// The sum of a metric's lines that contain some text, over the replicas.
    async fn metric(&self, name: &str, containing: &str) -> Try<f64> {
        let mut sum = 0.0;
        for address in &self.addresses {
            let metrics = soon("metrics", get(address, "/metrics")).await?;
            let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(containing));
            sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(sum)
    }
}

impl Course {
    /// The life of a thread: open at the beginning and at the end.
    async fn thread(&self, id: &str, mut dice: Dice) {
        for insert in self.shape.insert_threads(&self.name, &[id]) {
            self.execute(&insert).await;
        }
        self.create_volumes(id).await;
        let take = |left: usize| left.checked_sub(1);
        while let Ok(left) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            let now = self.on.now();
            self.execute(&format!("UPDATE threads SET status = 'closed', closed_at = {now} WHERE id = '{id}'")).await;
            let event = format!(r#"{{"thread_id": "{id}"}}"#);
            self.broker.publish(&format!("{id}/{left}"), event.as_bytes()).await;
            tokio::time::sleep(dice.up_to(LONGEST_WAIT)).await;
            let began = Instant::now();
            self.execute(&format!("UPDATE threads SET status = 'open', closed_at = NULL WHERE id = '{id}'")).await;
            self.reopenings.lock().push(began.elapsed());
            self.create_volumes(id).await;
            tokio::time::sleep(dice.up_to(LONGEST_WAIT)).await;
            for volume in self.volumes_of(id) {
                match self.docker.inspect_volume(&volume).await {
                    Ok(_) => {}
                    Err(DockerResponseServerError { status_code: 404, .. }) => {
                        self.create_volume(&volume).await;
                        self.lost.lock().push(volume);
                    }
                    Err(error) => self.failed.lock().push(error.to_string()),
                }
            }
        }
    }

    fn volumes_of(&self, id: &str) -> Vec<String> {
        self.shape.volumes(&self.name, id)
    }

    async fn create_volumes(&self, id: &str) {
        for volume in self.volumes_of(id) {
            self.create_volume(&volume).await;
        }
    }

    async fn create_volume(&self, volume: &str) {
        let request = VolumeCreateRequest { name: Some(volume.to_owned()), ..VolumeCreateRequest::default() };
        if let Err(error) = self.docker.create_volume(request).await {
            self.failed.lock().push(error.to_string());
        }
    }

    /// Executes a statement until it succeeds: what was not reopened must not be taken for open.
    async fn execute(&self, sql: &str) {
        while let Err(error) = soon(sql, self.db.execute_unprepared(sql)).await {
            self.failed.lock().push(error.to_string());
        }
    }

    async fn volumes(&self) -> Try<BTreeSet<String>> {
        let volumes = soon("docker", self.docker.list_volumes(None::<ListVolumesOptions>)).await?.volumes;
        Ok(volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }
}

/// Waits until the replica that writes this log is ready. Returns where it answers HTTP.
pub(crate) async fn until_ready(log: &std::path::Path) -> String {
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let address = lines.into_iter().find_map(|line| line["http"].as_str().map(str::to_owned));
        if let Some(address) = address
            && get(&address, "/readyz").await.is_ok_and(|body| body.starts_with("HTTP/1.1 200"))
        {
            return address;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The response to a GET, with its head.
pub(crate) async fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
