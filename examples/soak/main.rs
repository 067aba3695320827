//! A soak: thousands of events on real servers, with a fault every second, and an account of all of them afterwards.
//!
//! `make soak` runs it with a RabbitMQ, a PostgreSQL and a Docker daemon of its own. It plays the platform, which
//! closes threads and publishes events at an even pace, and messages that nobody should send between them; the
//! orchestrator, which starts replicas of the service again; and chaos, which kills the servers, pauses the daemon,
//! cuts connections, kills and stops replicas, locks rows, opens connections and leaves them, deletes the exchange,
//! sets policies, fills disks, and has wrong servers answer in the right ones' places. When the faults are over, it
//! waits until there is nothing left to do, and checks what the service promises. A line that begins with `ok` is a
//! claim that was checked; what does not hold is said, and the exit code is 1. The replicas' logs are kept in
//! `target/soak/`.
//!
//! Then comes the race: threads that are closed and reopened all the time, none of which may lose its new volume. Then
//! one row is locked for minutes while an event comes each second. Last a platform writes to SQLite's file while a
//! sweep removes volumes.
//!
//! `SOAK_SHAPE` says how the platform keeps its volumes: one a thread by a `prefix`, two by `templates`, or two with
//! rows in a `table`. `SOAK_DATABASE` is `postgres`, `mariadb` or `sqlite`: with the latter two, the faults that only
//! PostgreSQL is prepared for are left out. `SOAK_EVENTS`, `SOAK_SECONDS` (of faults), `SOAK_CYCLES` (of the race on
//! PostgreSQL; the others have a share of it), `SOAK_LOCKED_SECONDS`, `SOAK_VOLUMES` (of the sweep) and `SOAK_SEED`
//! change the run; what has none of its own is left out. The seed decides on the threads and throws the dice for the
//! faults; what meets what is up to the machine.
//!
//! `make chaos` runs the same account over a cluster of three brokers, a database with a standby and two Docker hosts:
//! see [`redundant`].

mod account;
mod acknowledged;
mod broker;
mod chaos;
mod locked;
mod meanwhile;
mod others;
mod plan;
mod platform;
mod poison;
mod race;
#[path = "../../tests/integration/raw_publisher.rs"]
mod raw_publisher;
mod redundant;
mod replica;
mod servers;
mod shape;
mod stories;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fmt, fs,
    path::PathBuf,
    process::{self, ExitCode, Stdio},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use chrono::Utc;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    account::{Logs, Notes, Rows, Seen, check_events, check_volumes, line},
    broker::DeadLetter,
    chaos::Chaos,
    others::Others,
    plan::{Dice, Fate},
    platform::{PREFIX, Platform},
    replica::{Life, Order, Program, Replica},
    servers::Servers,
    shape::{On, Shape, new_database},
};

const REPLICAS: usize = 2;
/// A short retry schedule, so that events come to its end within the run.
const RETRY_DELAYS: &str = "200ms,1s,2s,5s,10s";
/// For one request to a server that is up.
const SOON: Duration = Duration::from_secs(30);
/// From the end of the faults until nothing is left to do. A lease of a dead holder lasts 30 s, a wait for a server at
/// most 15 s, the retries 18 s.
const SETTLE_DEADLINE: Duration = Duration::from_mins(4);
/// The broker counts its messages every 5 s: empty is what is so at two looks.
const LOOK_EVERY: Duration = Duration::from_secs(6);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

type Try<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let stop = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(error) => eprintln!("soak: {error}"),
    };
    let soaked = tokio::select! {
        soaked = run() => soaked,
        () = stop(SignalKind::interrupt()) => Err("interrupted".into()),
        () = stop(SignalKind::terminate()) => Err("terminated".into()),
    };
    match soaked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nsoak: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Try {
    match env::args().nth(1).as_deref() {
        None => soak().await,
        Some("redundant") => Box::pin(redundant::suffer()).await,
        Some("brokers") => Box::pin(redundant::part_brokers()).await,
        Some(other) => Err(format!("{other:?} is no run: it is none, `redundant` or `brokers`").into()),
    }
}

async fn soak() -> Try {
    let seed = number("SOAK_SEED", some_seed())?;
    let events = usize::try_from(number("SOAK_EVENTS", 20_000)?)?;
    let cycles = usize::try_from(number("SOAK_CYCLES", 20_000)?)?;
    let volumes = usize::try_from(number("SOAK_VOLUMES", 3_000)?)?;
    let lasts = Duration::from_secs(number("SOAK_SECONDS", 240)?);
    let locked = Duration::from_secs(number("SOAK_LOCKED_SECONDS", 300)?);
    let (on, shape) = (On::given()?, Shape::given()?);
    println!("\nSOAK_SEED={seed} SOAK_SHAPE={shape:?} SOAK_DATABASE={on:?}");
    let notes = Arc::new(Notes::new());
    let place = Place::find()?;
    if events > 0 {
        Box::pin(suffer(events, (on, shape), lasts, &place, Dice(seed), &notes)).await?;
    }
    if cycles > 0 {
        race::races(cycles, shape, &place, Dice(seed), &notes).await?;
    }
    if !locked.is_zero() {
        locked::lock_a_row(locked, &place, &notes).await?;
    }
    if volumes > 0 {
        writer::write(volumes, place.logs, place.binary, &notes).await?;
    }
    conclude(&notes, &format!("SOAK_SEED={seed}"))
}

fn some_seed() -> u64 {
    Utc::now().timestamp_micros().unsigned_abs() % 1_000_000
}

/// The last word, and the exit code.
fn conclude(notes: &Notes, run: &str) -> Try {
    match notes.incidents().as_slice() {
        [] => {
            println!("\nNothing is lost, nothing is left, nothing was touched that should not have been.");
            Ok(())
        }
        incidents => Err(format!("with {run}:\n - {}", incidents.join("\n - ")).into()),
    }
}

/// Events under faults, and their account.
async fn suffer(
    events: usize,
    on: (On, Shape),
    lasts: Duration,
    place: &Place,
    mut dice: Dice,
    notes: &Arc<Notes>,
) -> Try {
    println!("\n{events} events, a fault every second for {lasts:?}, {REPLICAS} replicas");
    let stage = Stage::set(events, on, place, notes, &mut dice).await?;
    let (platform, servers) = (Arc::clone(&stage.platform), Arc::clone(&stage.servers));

    println!("\nThe faults begin");
    let stories = tokio::spawn(Arc::clone(&platform).live(dice.clone(), lasts.mul_f64(0.95)));
    let progress = tokio::spawn(say_progress(Arc::clone(&platform), Arc::clone(notes)));
    let faults = stage.chaos.reign(dice, lasts).await;
    servers.control("start", None).await?;
    let faults_ended = Instant::now();
    notes.say(&format!("the faults are over; {} messages are published", platform.published().len()));

    settle(&platform, async || servers.waiting().await, stories, notes).await;
    let settled_after = faults_ended.elapsed();
    progress.abort();
    let seen = Seen { acknowledged: &stage.servers.acknowledged, returned_of_thousand: 0 };
    let end = account_for(&platform, &stage.program, stage.replicas, seen, notes).await?;
    end.logs.print(notes, &[]);
    end.rows.print(&platform.threads);
    line("seconds from the last fault's end until all is settled", format!("{:.1}", settled_after.as_secs_f64()));
    print_faults(&faults, &platform, &end.lives);
    platform.meanwhile.print(&end.rows, &platform.threads, &platform.published(), &end.letters, &end.logs);
    stage.others.leave().await
}

/// What the servers and the replicas say in the end.
struct End {
    lives: Vec<Life>,
    letters: Vec<DeadLetter>,
    rows: Rows,
    logs: Logs,
}

/// Lets go of the held volumes, stops the replicas, and checks what is left in Docker, the database and the broker.
async fn account_for(
    platform: &Platform,
    program: &Program,
    replicas: Vec<Replica>,
    seen: Seen<'_>,
    notes: &Notes,
) -> Try<End> {
    println!("\nThe account");
    check_volumes(platform, true, notes).await?;
    platform.let_go().await?;
    // What of these is not marked is seen below, with the other rows.
    let _ = timeout(SETTLE_DEADLINE, until_unmarked(platform, &BTreeSet::new())).await;
    check_volumes(platform, false, notes).await?;

    let lives = end(replicas).await?;
    let letters = take_dead_letters(program, notes).await?;
    let rows = Rows::read(platform).await?;
    let logs = Logs::read(&lives.iter().flat_map(|life| life.logs.clone()).collect::<Vec<_>>())?;
    rows.check(&platform.threads, platform.shape.per_thread(), notes);
    check_events(&platform.published(), &letters, (&logs, seen), notes);
    Ok(End { lives, letters, rows, logs })
}

/// Reads what is in the dead-letter queue as a person would, and deletes it.
async fn take_dead_letters(program: &Program, notes: &Notes) -> Try<Vec<DeadLetter>> {
    #[derive(Deserialize)]
    struct Shown {
        total: usize,
        messages: Vec<DeadLetter>,
    }
    let run = async |arguments: &[&str]| {
        let mut command = program.command(arguments);
        let output = command.stderr(Stdio::inherit()).output().await?;
        if !output.status.success() {
            return Err(format!("dead-letters {arguments:?}: {}", output.status).into());
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(output.stdout)
    };
    let shown = run(&["dead-letters", "show", "--limit", "1000000", "--json"]).await?;
    let shown: Shown = serde_json::from_slice(&shown)?;
    let purged: Value = serde_json::from_slice(&run(&["dead-letters", "purge", "--yes", "--json"]).await?)?;
    let count = shown.messages.len();
    let wrong = (count != shown.total || purged["purged"] != shown.total)
        .then(|| format!("{} are there, {count} shown, {} purged", shown.total, purged["purged"]));
    notes.claim("every dead letter is shown, and purged", wrong.as_slice());
    Ok(shown.messages)
}

/// What `make soak` has set.
fn given(name: &str) -> Try<String> {
    Ok(env::var(name).map_err(|_| format!("{name} is not set: this is started by `make soak`"))?)
}

fn number(name: &str, default: u64) -> Try<u64> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name} is not a whole number: {text:?}").into()),
        Err(_) => Ok(default),
    }
}

/// All that takes part.
struct Stage {
    servers: Arc<Servers>,
    platform: Arc<Platform>,
    chaos: Chaos,
    program: Program,
    others: Arc<Others>,
    replicas: Vec<Replica>,
}

impl Stage {
    async fn set(
        events: usize,
        (on, shape): (On, Shape),
        place: &Place,
        notes: &Arc<Notes>,
        dice: &mut Dice,
    ) -> Try<Self> {
        let amqp_url = given("AMQP_URL")?;
        let database_url = match on {
            On::Postgres => given("DATABASE_URL")?,
            On::MariaDb => new_database("MYSQL_URL", "soak").await?,
            On::Sqlite => format!("sqlite://{}?mode=rwc", place.logs.join("soak.db").display()),
        };
        let docker_host = given("DOCKER_HOST")?;
        let docker_socket = docker_host.strip_prefix("unix://").ok_or("DOCKER_HOST is not a socket")?;
        let amqp = authority(&amqp_url)?;
        let servers = Arc::new(Servers::from_env(&database_url).await?);
        let of_replicas = match &servers.database {
            None => database_url.clone(),
            Some(database) => database_url.replacen(authority(&database_url)?, &database.proxy.address, 1),
        };
        let mut settings = settings(amqp_url.replacen(amqp, &servers.broker.proxy.address, 1), of_replicas);
        settings.insert("DOCKER_HOST", format!("tcp://{}", servers.docker.proxy.address));
        settings.extend(shape.settings(PREFIX));
        let program = Program { binary: place.binary.clone(), settings, logs: place.logs.clone() };

        let threads = plan::threads(events, 1, dice);
        let platform = Platform::new(threads, (on, shape), &database_url, amqp_url, &[docker_socket]).await?;
        let platform = Arc::new(platform);
        servers.control("import-image", None).await?;
        platform.make_tables().await?;
        declare(&program, &platform, async || servers.waiting().await).await?;
        servers.write_down_queues().await?;
        // From here on an empty database is a wrong one.
        let program = program.with("VOLUME_REAPER_MIGRATE", "false");
        open(&platform, notes).await?;

        let others = Arc::new(Others::gather(&servers, &program, &platform, database_url).await?);

        let http = free_addresses(REPLICAS).await?;
        let start = |(number, http): (usize, &String)| {
            Replica::start(number + 1, program.with("VOLUME_REAPER_HTTP_ADDR", http), Arc::clone(notes))
        };
        let replicas: Vec<_> = http.iter().enumerate().map(start).collect();
        let chaos = Chaos {
            servers: Arc::clone(&servers),
            notes: Arc::clone(notes),
            replicas: replicas.iter().map(|replica| replica.orders.clone()).collect(),
            http,
            platform: Arc::clone(&platform),
            others: Arc::clone(&others),
        };
        Ok(Self { servers, platform, chaos, program, others, replicas })
    }
}

/// All threads, with their volumes.
async fn open(platform: &Platform, notes: &Notes) -> Try {
    platform.open_threads().await?;
    let volumes = platform.volumes().await?.len();
    notes.say(&format!("{} threads are open, {volumes} volumes are there", platform.with_row().count()));
    Ok(())
}

/// Where the replicas may listen, each time that they start: below the ports that the system gives to connections.
async fn free_addresses(count: usize) -> Try<Vec<String>> {
    let mut free = Vec::new();
    // Others may run beside this one, and want theirs.
    let first = 12_000 + process::id() % 80 * 100;
    for port in (first..20_000).chain(12_000..first) {
        let port = u16::try_from(port)?;
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            free.push(format!("127.0.0.1:{port}"));
        }
        if free.len() == count {
            return Ok(free);
        }
    }
    Err("no port is free".into())
}

/// The `host:port` of a URL that is of the form `scheme://user@host:port/path`.
fn authority(url: &str) -> Try<&str> {
    let authority = url.split_once('@').and_then(|(_, rest)| rest.split_once('/'));
    Ok(authority.ok_or_else(|| format!("not of the form scheme://user@host:port/path: {url}"))?.0)
}

/// The settings of the replicas, but for their hosts.
fn settings(amqp_url: String, database_url: String) -> HashMap<&'static str, String> {
    let text = str::to_owned;
    HashMap::from([
        ("AMQP_URL", amqp_url),
        ("DATABASE_URL", database_url),
        ("VOLUME_REAPER_DOCKER_TIMEOUT", text("5s")),
        ("VOLUME_REAPER_RETRY_DELAYS", text(RETRY_DELAYS)),
        ("VOLUME_REAPER_RECONCILE_INTERVAL", text("5s")),
        ("VOLUME_REAPER_RECONCILE_COOLDOWN", text("2s")),
        ("VOLUME_REAPER_HTTP_ADDR", text("127.0.0.1:0")),
        ("VOLUME_REAPER_LOG_FORMAT", text("json")),
        // Every settlement is a line: events are accounted for by them.
        ("RUST_LOG", text("info,volume_reaper::queue=debug,lapin=off")),
    ])
}

/// The binary that was built along with this one, and an empty directory for its logs.
struct Place {
    binary: PathBuf,
    logs: PathBuf,
}

impl Place {
    fn find() -> Try<Self> {
        let soak = env::current_exe()?;
        // target/PROFILE/examples/soak
        let ancestor = |number| soak.ancestors().nth(number).ok_or("the soak is not in cargo's target directory");
        let logs = ancestor(3)?.join("soak");
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
        Ok(Self { binary: ancestor(2)?.join("volume-reaper"), logs })
    }
}

/// The schema and the queues, before anything is killed.
async fn declare(program: &Program, platform: &Platform, waiting: impl AsyncFn() -> Try<Vec<String>>) -> Try {
    let mut first = program.start("first", &program.logs.join("first.log"))?;
    let ready = async {
        while platform.unmarked().await.is_err() || waiting().await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok::<(), &str>(())
    };
    soon("the first start", ready).await?;
    Ok(first.kill().await?)
}

async fn say_progress(platform: Arc<Platform>, notes: Arc<Notes>) {
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tick.tick().await;
        let unmarked = platform.unmarked().await.map_or("?".to_owned(), |unmarked| unmarked.len().to_string());
        let closed = platform.closed.load(Ordering::Relaxed);
        notes.say(&format!("published {:>6}   closed {closed:>6}   to mark {unmarked:>6}", platform.published().len()));
    }
}

/// Waits until there is nothing left to do, and says what is left if that does not come. `waiting` are the queues that
/// hold messages.
async fn settle(
    platform: &Platform,
    waiting: impl AsyncFn() -> Try<Vec<String>>,
    stories: JoinHandle<()>,
    notes: &Notes,
) {
    // What the faults left waiting takes its time.
    let limit = SETTLE_DEADLINE + Duration::from_millis(10) * u32::try_from(platform.published().len()).unwrap_or(0);
    let settled = timeout(limit, until_settled(platform, &waiting, stories, notes)).await;
    if !matches!(settled, Ok(Ok(()))) {
        say_what_is_left(platform, limit, &waiting, notes).await;
    }
}

/// Waits until the platform has done what it was to do, every closed thread is marked but the held ones, and all queues
/// but the parking lot are empty.
async fn until_settled(
    platform: &Platform,
    waiting: &impl AsyncFn() -> Try<Vec<String>>,
    stories: JoinHandle<()>,
    notes: &Notes,
) -> Try {
    stories.await?;
    notes.say("the platform has closed and published everything");
    until_unmarked(platform, &held(platform)).await;
    notes.say("every closed thread is marked but the held ones");
    let mut looks_at_empty = 0;
    while looks_at_empty < 2 {
        let is_empty = waiting().await.is_ok_and(|waiting| waiting.is_empty());
        looks_at_empty = if is_empty { looks_at_empty + 1 } else { 0 };
        tokio::time::sleep(LOOK_EVERY).await;
    }
    notes.say("the work queue and the delay queues are empty");
    Ok(())
}

fn held(platform: &Platform) -> BTreeSet<String> {
    platform.with(Fate::Held).map(|thread| thread.id.clone()).collect()
}

/// Waits until these are the closed threads that are not marked.
async fn until_unmarked(platform: &Platform, these: &BTreeSet<String>) {
    while !matches!(platform.unmarked().await, Ok(unmarked) if unmarked == *these) {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn say_what_is_left(
    platform: &Platform,
    limit: Duration,
    waiting: &impl AsyncFn() -> Try<Vec<String>>,
    notes: &Notes,
) {
    let unmarked = platform.unmarked().await.unwrap_or_default();
    let held = held(platform);
    notes.incident(format!(
        "not everything was done within {limit:?} of the last fault, so the account is one of a moment in which much \
         went on: unmarked: {:?}; held and marked: {:?}; queues: {:?}; {} messages published",
        unmarked.difference(&held).take(5).collect::<Vec<_>>(),
        held.difference(&unmarked).collect::<Vec<_>>(),
        waiting().await,
        platform.published().len(),
    ));
}

/// Stops the replicas for good.
async fn end(replicas: Vec<Replica>) -> Try<Vec<Life>> {
    let mut lives = Vec::new();
    for replica in replicas {
        replica.orders.send(Order::End).await?;
        lives.push(replica.life.await?);
    }
    Ok(lives)
}

fn print_faults<F: fmt::Debug>(faults: &BTreeMap<F, usize>, platform: &Platform, lives: &[Life]) {
    let peak_kib = lives.iter().map(|life| life.peak_kib).max().unwrap_or_default();
    line("MiB of memory that a replica had at most", peak_kib / 1024);
    line("starts of replicas", lives.iter().map(|life| life.logs.len()).sum::<usize>());
    line("times that the platform published again", platform.broker.repeated.load(Ordering::Relaxed));
    line("  since no queue took it", platform.broker.returned.load(Ordering::Relaxed));
    println!();
    line("faults", faults.values().sum::<usize>());
    for (fault, count) in faults {
        line(&format!("  {fault:?}"), count);
    }
}

/// So many of a hundred, which are sorted, are no more than this.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

/// Waits for what should take moments.
async fn soon<T, E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Try<T> {
    match timeout(SOON, work).await {
        Ok(result) => result.map_err(|error| format!("{what}: {}", error.into()).into()),
        Err(_) => Err(format!("{what}: no answer within {SOON:?}").into()),
    }
}
