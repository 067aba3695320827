//! Redundant servers, and what happens to them: a cluster of three brokers with quorum queues, a database with a
//! streaming standby, and two Docker hosts.
//!
//! Brokers are killed, frozen, cut off from each other and restarted one after the other. The primary is killed, the
//! standby promoted and the clients led to it, and the old primary comes back and is asked before it is fenced for
//! good. Daemons are killed, frozen, taken for each other, and their disks are full. Replicas are killed, stopped,
//! frozen, and their clocks jump. Meanwhile the platform does all that it does in the soak, poison included. When the
//! faults are over the same account is made, from what the servers and the replicas' logs say, and a last sweep may
//! find nothing to do. Of a thread that is not as it should be, all that is known is printed.
//!
//! `CHAOS_MINUTES` (of faults, 3) and `CHAOS_RATE` (messages a second, 40) change the run. `CHAOS_SEED` decides on the
//! threads, and on each fault, its time, its target and how long it lasts: the same plan runs again, what meets what is
//! up to the machine. It is for root, who alone can make networks.

mod bare_clients;
mod broker_nodes;
mod daemons;
mod database_pair;
mod fault_plan;
mod strikes;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::Mutex, time::Instant};

pub(crate) use self::bare_clients::part_brokers;
use self::{broker_nodes::Nodes, daemons::Daemons, database_pair::Pair, fault_plan::Planned, strikes::Strikes};
use crate::{
    Place, Try,
    account::{Notes, Seen, line},
    account_for,
    acknowledged::Acknowledged,
    conclude, declare, free_addresses, number, open,
    plan::{self, Dice, HOSTS},
    platform::{PREFIX, Platform},
    print_faults,
    replica::{Program, Replica},
    say_progress,
    servers::Proxy,
    settings, settle,
    shape::{On, Shape},
    some_seed,
};

const REPLICAS: usize = 2;
/// How the platform keeps its volumes; `SOAK_SHAPE` has no say in it.
const SHAPE: Shape = Shape::Prefix;
/// Where Debian's package `libfaketime` has it, on any architecture.
const FAKETIME: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"];
/// With a fault each second, and messages besides that end a connection, some events are on twenty that are lost.
const MOST_RETURNED_OF_THOUSAND: usize = 2;
/// Half a minute of looks: longer than any delay.
const LOOKS: usize = 5;
/// Of what is asked of a daemon whose disk is full.
const OF_FULL_DISKS: [&str; 2] = ["docker at removing", "docker: no space left"];

/// The whole run.
pub(crate) async fn suffer() -> Try {
    let seed = number("CHAOS_SEED", some_seed())?;
    let minutes = number("CHAOS_MINUTES", 3)?;
    let rate = number("CHAOS_RATE", 40)?;
    let lasts = Duration::from_secs(minutes * 60);
    let run = format!("CHAOS_SEED={seed} CHAOS_MINUTES={minutes} CHAOS_RATE={rate}");
    println!("\n{run}");
    let notes = Arc::new(Notes::new());
    let mut dice = Dice(seed);
    let mut for_plan = dice.clone();
    let events = usize::try_from(minutes * 60 * rate)?;
    let stage = Box::pin(Stage::set(events, &notes, &mut dice)).await?;
    let version = stage.strikes.nodes.version().await?;
    let plan = fault_plan::plan(&mut for_plan, lasts, REPLICAS);
    println!("\n{} faults within {lasts:?}, {REPLICAS} replicas, RabbitMQ {version}", plan.len());
    if stands_still_when_parted(&version) {
        println!("Its delay queues may stand still when it was parted: then the nodes are restarted in the end");
    }
    Box::pin(stage.play(&plan, lasts, dice, &notes, stands_still_when_parted(&version))).await?;
    conclude(&notes, &run)
}

/// All that takes part.
struct Stage {
    platform: Arc<Platform>,
    strikes: Arc<Strikes>,
    program: Program,
    replicas: Vec<Replica>,
    // The last to be dropped: where all servers are.
    _base: TempDir,
}

impl Stage {
    async fn set(events: usize, notes: &Arc<Notes>, dice: &mut Dice) -> Try<Self> {
        let place = Place::find()?;
        let base = base()?;
        let (brokers, pair, daemons) =
            tokio::try_join!(Nodes::start(base.path()), Pair::start(base.path()), Daemons::start(base.path()))?;
        notes.say("three brokers, two databases and two daemons are up");
        // The platform's connections are led to the right servers at once, and are never cut.
        let (for_platform, for_replicas) = (Doors::open(&brokers, &pair).await?, Doors::open(&brokers, &pair).await?);
        let mut settings = settings(for_replicas.amqp_url(), for_replicas.database_url());
        let listed = HOSTS.iter().zip(&daemons.proxies).map(|(host, proxy)| format!("{host}=tcp://{}", proxy.address));
        settings.insert("VOLUME_REAPER_DOCKER_HOSTS", listed.collect::<Vec<_>>().join(","));
        settings.extend(SHAPE.settings(PREFIX));
        // As many as the rate makes it.
        settings.insert("VOLUME_REAPER_BUDGET_PER_HOUR", "off".to_owned());
        let program = Program { binary: place.binary, settings, logs: place.logs };

        let threads = plan::threads(events, HOSTS.len(), dice);
        let sockets: Vec<_> = daemons.sockets.iter().map(String::as_str).collect();
        let (database_url, amqp_url) = (for_platform.database_url(), for_platform.amqp_url());
        let platform = Platform::new(threads, (On::Postgres, SHAPE), &database_url, amqp_url, &sockets).await?;
        let platform = Arc::new(platform);
        declare(&program, &platform, async || brokers.waiting().await).await?;
        brokers.write_down_queues().await?;
        let program = program.with("VOLUME_REAPER_MIGRATE", "false");
        open(&platform, notes).await?;

        let mut replicas = Vec::new();
        let mut clocks = Vec::new();
        let http = free_addresses(REPLICAS).await?;
        for (number, http) in http.iter().enumerate() {
            let (program, clock) = with_clock(&program.with("VOLUME_REAPER_HTTP_ADDR", http), number)?;
            replicas.push(Replica::start(number + 1, program, Arc::clone(notes)));
            clocks.push(clock);
        }
        let strikes = Strikes {
            nodes: brokers,
            pair,
            daemons,
            for_platform,
            for_replicas,
            replicas: replicas.iter().map(|replica| replica.orders.clone()).collect(),
            http,
            clocks,
            platform: Arc::clone(&platform),
            notes: Arc::clone(notes),
            replica_turns: (0..REPLICAS).map(|_| tokio::sync::Mutex::default()).collect(),
        };
        Ok(Self { platform, strikes: Arc::new(strikes), program, replicas, _base: base })
    }

    async fn play(self, plan: &[Planned], lasts: Duration, dice: Dice, notes: &Notes, may_stand_still: bool) -> Try {
        // The last to be dropped is the first here.
        let Self { _base, platform, strikes, program, replicas } = self;
        println!("\nThe faults begin");
        let stories = tokio::spawn(Arc::clone(&platform).live(dice, lasts.mul_f64(0.95)));
        let progress = tokio::spawn(say_progress(Arc::clone(&platform), Arc::clone(&strikes.notes)));
        let faults = Arc::clone(&strikes).reign(plan).await;
        notes.say(&format!("the faults are over; {} messages are published", platform.published().len()));
        let faults_ended = Instant::now();
        let stuck = Mutex::new(Stuck::default());
        let waiting = async || {
            let waiting = strikes.nodes.waiting().await?;
            if may_stand_still && stuck.lock().await.is_so(&waiting) {
                notes.say(&format!("what stands still in the broker, whose nodes are restarted: {waiting:?}"));
                strikes.nodes.roll().await?;
                let waiting = strikes.nodes.waiting().await?;
                notes.say(&format!("the nodes are restarted; what waits now: {waiting:?}"));
                return Ok(vec!["whatever comes with the restart".to_owned()]);
            }
            Ok(waiting)
        };
        settle(&platform, waiting, stories, notes).await;
        let settled_after = faults_ended.elapsed();
        progress.abort();

        let acknowledged = &strikes.for_replicas.acknowledged;
        let seen = Seen { acknowledged, returned_of_thousand: MOST_RETURNED_OF_THOUSAND };
        let end = account_for(&platform, &program, replicas, seen, notes).await?;
        check_quiet(&program, notes).await?;
        end.logs.print(notes, &OF_FULL_DISKS);
        end.rows.print(&platform.threads);
        line("seconds from the last fault's end until all is settled", format!("{:.1}", settled_after.as_secs_f64()));
        print_faults(&faults, &platform, &end.lives);
        platform.meanwhile.print(&end.rows, &platform.threads, &platform.published(), &end.letters, &end.logs);
        strikes.nodes.keep_logs(&program.logs)?;
        let logs: Vec<_> = end.lives.iter().flat_map(|life| life.logs.clone()).collect();
        platform.stories.tell(&notes.incidents(), &platform.threads, &logs, &platform.meanwhile)
    }
}

/// Whether a partition can bring delay queues to a stand. Before 4.2, a sender whose message was lost between two nodes
/// does not send it again, and what it sends afterwards is not enqueued (rabbitmq-server, pull request 14589). A client
/// gets no confirmation then, and publishes anew. The broker's own dead-lettering waits, until its queue's leader is
/// another one: nothing is lost.
fn stands_still_when_parted(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) < (4, 2)
}

/// What queues held when they were looked at.
#[derive(Default)]
struct Stuck {
    queues: Vec<String>,
    looks: usize,
    has_been: bool,
}

impl Stuck {
    /// Whether it is time to help: once, when the queues hold just as much as at several looks before, or nothing that
    /// the broker would tell of.
    fn is_so(&mut self, waiting: &[String]) -> bool {
        self.looks = if waiting == self.queues { self.looks + 1 } else { 0 };
        self.queues = waiting.to_vec();
        let is_so = !self.has_been && (waiting.is_empty() || self.looks >= LOOKS);
        self.has_been |= is_so;
        is_so
    }
}

/// What is marked costs nothing any more: a sweep finds no row to look at.
async fn check_quiet(program: &Program, notes: &Notes) -> Try {
    let output = program.command(&["sweep", "--json"]).output().await?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("sweep: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    let is_quiet = ["candidates", "removed", "drift", "failed"].iter().all(|count| report[count] == 0)
        && report["skipped_reason"].is_null();
    notes.claim("a last sweep finds nothing to do", &if is_quiet { vec![] } else { vec![report.to_string()] });
    Ok(())
}

/// The program with a clock of its own, as far as there is one, and the file that sets it.
fn with_clock(program: &Program, number: usize) -> Try<(Program, Option<PathBuf>)> {
    let Some(library) = FAKETIME.iter().find(|library| fs::exists(library).unwrap_or(false)) else {
        return Ok((program.clone(), None));
    };
    let clock = program.logs.join(format!("clock-{}", number + 1));
    fs::write(&clock, "+0")?;
    let program = program
        .with("LD_PRELOAD", library)
        .with("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
        // Read again every second. Only the wall clock jumps: the other one never does.
        .with("FAKETIME_CACHE_DURATION", "1")
        .with("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Ok((program, Some(clock)))
}

/// What leads to the broker and the database.
struct Doors {
    broker: Proxy,
    database: Proxy,
    /// What was acknowledged through the first.
    acknowledged: Arc<Acknowledged>,
}

impl Doors {
    async fn open(nodes: &Nodes, pair: &Pair) -> Try<Self> {
        let acknowledged = Arc::default();
        let broker = Proxy::of_broker("", &acknowledged).await?;
        broker.swap(&nodes.addresses());
        Ok(Self { broker, database: Proxy::start(&pair.address(0), Duration::ZERO).await?, acknowledged })
    }

    fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.broker.address)
    }

    fn database_url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.database.address)
    }
}

/// The directory of all servers; their sockets' paths may not be long.
fn base() -> Try<TempDir> {
    let base = tempfile::Builder::new().prefix("volume-reaper-chaos.").tempdir_in("/tmp")?;
    // The database runs as another user.
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755))?;
    Ok(base)
}
