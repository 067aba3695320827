//! A week of made-up traffic, compressed in time: threads that a platform closes, and the product's own consumer,
//! clean-up, sweep, receipts, counts and metrics, by a clock that this sets. Only the daemon is made up, so that it has
//! any sizes, and a disk that is full for a while.

use std::{
    cell::Cell,
    collections::HashMap,
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use futures_util::future::join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use volume_reaper::{
    cleanup::{
        Cleaner, Container, ContainerId, ContainerRemoval, Containers, Context, Inventory, Pauses, Policy, Removal,
        Volumes, fleet::Fleet, policy::Limits,
    },
    clock::Clock,
    config::SecretUrl,
    delivery::consumer::{Consumer, Message},
    failure::{Dependency, Failure},
    health::Health,
    host::Host,
    metrics,
    store::{Store, locking},
    sweep::{Sweeper, observe_backlog},
    volume_name::{VolumeName, VolumeNames},
};

use crate::world::World;

/// From one look at the metrics to the next.
pub(crate) const TICK: TimeDelta = TimeDelta::minutes(10);
const TICKS: i32 = 7 * 24 * 6;
/// What happens is over so long before the metrics are looked at.
const BEFORE: TimeDelta = TimeDelta::minutes(3);

/// Hours in which the daemon's disk is full, removal is paused, and volumes without a thread lie about.
const FULL: std::ops::Range<i32> = 60..70;
const PAUSED: std::ops::Range<i32> = 100..103;
const LITTERED: std::ops::Range<i32> = 130..140;
const ORPHANS: usize = 110;

/// The alerts that have to come of that, each with the hours after which and before which it fires.
pub(crate) const ALERTS: [(&str, std::ops::Range<i32>); 4] = [
    ("VolumeReaperBacklogOld", 66..72),
    ("VolumeReaperFailing", 60..72),
    ("VolumeReaperOrphansGrow", 130..141),
    ("VolumeReaperPaused", 100..104),
];

thread_local! {
    /// What time it is for the product, in milliseconds. A test with one thread has its own.
    static NOW: Cell<i64> = const { Cell::new(0) };
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(NOW.get()).expect("a time")
}

/// A daemon with volumes of known and unknown sizes.
#[derive(Default)]
struct Daemon(Mutex<Disk>);

#[derive(Default)]
struct Disk {
    volumes: HashMap<VolumeName, Option<u64>>,
    /// Of volumes that are gone, until somebody asks.
    sizes: HashMap<VolumeName, u64>,
    is_full: bool,
}

/// Nothing of theirs is ever asked for.
impl Containers for Daemon {
    async fn look_at(&self, container: &ContainerId) -> Result<Option<Container>, Failure> {
        unreachable!("{container}: no rule lets containers be removed")
    }

    async fn remove_container_by(&self, container: &ContainerId, _: Instant) -> Result<ContainerRemoval, Failure> {
        unreachable!("{container}: no rule lets containers be removed")
    }
}

impl Volumes for Daemon {
    async fn remove_by(&self, volume: &VolumeName, _latest: Option<Instant>) -> Result<Removal, Failure> {
        let mut disk = self.0.lock().expect("lock");
        if disk.is_full {
            metrics::docker_request(None, "remove_volume", "500");
            return Err(Failure::transient("no space left on device"));
        }
        let Some(size) = disk.volumes.remove(volume) else {
            metrics::docker_request(None, "remove_volume", "404");
            return Ok(Removal::NotFound);
        };
        disk.sizes.extend(size.map(|size| (volume.clone(), size)));
        metrics::docker_request(None, "remove_volume", "ok");
        metrics::removal(None, Duration::from_millis(20));
        Ok(Removal::Removed)
    }

    async fn probe(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn has(&self, volume: &VolumeName) -> Result<bool, Failure> {
        Ok(self.0.lock().expect("lock").volumes.contains_key(volume))
    }

    async fn inventory(&self, _names: &VolumeNames) -> Result<Inventory, Failure> {
        let present = self.0.lock().expect("lock").volumes.keys().cloned().collect();
        Ok(Inventory { present, ..Inventory::default() })
    }

    fn daemon(&self) -> Option<String> {
        Some("made-up".to_owned())
    }

    fn take_size(&self, volume: &VolumeName) -> Option<u64> {
        self.0.lock().expect("lock").sizes.remove(volume)
    }
}

/// What the platform and the daemon know of the week: the product has to come to the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) removed: u64,
    pub(crate) not_found: u64,
    pub(crate) bytes: u64,
    pub(crate) unsized_volumes: u64,
}

/// The week when it is over.
pub(crate) struct Week {
    pub(crate) began: DateTime<Utc>,
    pub(crate) ended: DateTime<Utc>,
    pub(crate) truth: Truth,
    /// What a Prometheus would have that had scraped the service all the time, as OpenMetrics has it.
    pub(crate) samples: String,
    /// What the service's metrics say at the end.
    pub(crate) metrics: String,
}

struct Traffic<'a> {
    world: &'a World,
    names: VolumeNames,
    random: fastrand::Rng,
    threads: usize,
    truth: Truth,
}

impl Traffic<'_> {
    /// Closes some threads now, as the platform does. Returns the ids whose events are published.
    async fn close(&mut self, daemon: &Daemon) -> Vec<String> {
        let (mut rows, mut told) = (Vec::new(), Vec::new());
        let closed_at = self.world.moment(now());
        for _ in 0..self.random.usize(3..10) {
            self.threads += 1;
            let id = format!("week-{}", self.threads);
            rows.push(format!("('{id}', 'closed', '{closed_at}')"));
            let volume = self.names.volume_of(&crate::fakes::thread(&id));
            let size = self.random.u64(0..50_000_000_000);
            let size = match self.random.u8(0..20) {
                0..3 => None,
                3..6 => Some(None),
                _ => Some(Some(size)),
            };
            match size {
                None => self.truth.not_found += 1,
                Some(None) => self.truth.unsized_volumes += 1,
                Some(Some(bytes)) => self.truth.bytes += bytes,
            }
            if let Some(size) = size {
                self.truth.removed += 1;
                daemon.0.lock().expect("lock").volumes.insert(volume, size);
            }
            // Some events are lost on their way, and some platforms publish none.
            if self.random.u8(0..10) < 7 {
                told.push(id);
            }
        }
        self.world.execute(&format!("INSERT INTO threads (id, status, closed_at) VALUES {}", rows.join(", "))).await;
        told
    }
}

/// Lives through a week that ends now. Prometheus can only be asked about what has been.
pub(crate) async fn live(world: &World) -> Week {
    let ended = Utc::now().duration_trunc(TimeDelta::minutes(1)).expect("a time");
    let began = ended - TICK * TICKS;
    NOW.set((began - BEFORE).timestamp_millis());
    // On this thread alone: other tests have metrics too.
    let recorder = metrics::recorder().expect("buckets");
    let handle = recorder.handle();
    let _recording = ::metrics::set_default_local_recorder(&recorder);
    metrics::begin();
    metrics::leads(None, Some(DateTime::<Utc>::MAX_UTC));

    let url = SecretUrl::parse(&world.settings["DATABASE_URL"], &["postgres", "sqlite"]).expect("valid");
    let store = Store::new(&url, migrations::ThreadsTable::default(), "week".to_owned(), 4).await.expect("a pool");
    let names = VolumeNames::of_prefix(&world.settings["VOLUME_REAPER_VOLUME_PREFIX"]).expect("valid");
    let limits = Limits { locking: locking(&url, None), timeout: Duration::from_mins(1) };
    let context = Context::new(store, names.clone(), Policy::default(), limits).with_clock(Clock::new(now));
    let cleaner = Arc::new(Cleaner::new(Host::Only, Daemon::default(), 8, Arc::new(context)));
    let health = Arc::new(Health::new());
    Dependency::ALL.into_iter().for_each(|dependency| health.up(dependency));
    let sweeper = Sweeper::new(Arc::clone(&cleaner), Arc::clone(&health), Duration::ZERO);
    let fleet = Arc::new(Fleet::new(vec![Arc::clone(&cleaner)], &health, 128));
    let consumer = Consumer { fleet, health, retry_delays: vec![Duration::from_secs(1)] };
    let mut traffic =
        Traffic { world, names, random: fastrand::Rng::with_seed(7), threads: 0, truth: Truth::default() };
    let (stop, mut samples) = (CancellationToken::new(), String::new());
    let store = cleaner.threads();
    for tick in 0..=TICKS {
        let at = began + TICK * tick;
        NOW.set((at - BEFORE).timestamp_millis());
        if tick % 6 == 0 {
            act(tick / 6, &cleaner, &traffic).await;
        }
        match tick % 6 {
            2 | 5 => {
                let told = traffic.close(&cleaner.volumes).await;
                join_all(told.iter().map(|id| handle_event(&consumer, id))).await;
            }
            0 | 3 => {
                let mut report = sweeper.sweep(false, &stop).await;
                // Whatever somebody else had locked, no thread of the week is left.
                while tick == TICKS && report.candidates > report.removed + report.not_found {
                    tokio::task::yield_now().await;
                    report = sweeper.sweep(false, &stop).await;
                }
                observe_backlog(&cleaner.context).await;
            }
            _ => {}
        }
        if tick % 36 == 0 {
            store.roll_up(store.latest_receipt().await.expect("receipts")).await.expect("counted");
        }
        NOW.set(at.timestamp_millis());
        sample(&handle, at, &mut samples);
    }
    store.note_chains(true).await.expect("noted");
    samples.push_str("# EOF\n");
    Week { began, ended, truth: traffic.truth, samples, metrics: metrics::render(&handle) }
}

/// What is not ordinary.
async fn act(hour: i32, cleaner: &Cleaner<Daemon, Store>, Traffic { world, names, .. }: &Traffic<'_>) {
    let store = cleaner.threads();
    if hour == PAUSED.start {
        store.pause_removal(None, "a look at the numbers").await.expect("paused");
    }
    if hour == PAUSED.end {
        store.resume_removal(None).await.expect("resumed");
    }
    if hour == FULL.end {
        // As the runbook has it: failures are remembered by the clock on the wall, and would be for too long here.
        world.execute("DELETE FROM volume_reaper_failures").await;
    }
    let mut disk = cleaner.volumes.0.lock().expect("lock");
    disk.is_full = FULL.contains(&hour);
    for number in 0..ORPHANS {
        let orphan = names.volume_of(&crate::fakes::thread(&format!("orphan-{number}")));
        if hour == LITTERED.start {
            disk.volumes.insert(orphan, Some(1));
        } else if hour == LITTERED.end {
            disk.volumes.remove(&orphan);
        }
    }
}

async fn handle_event(consumer: &Consumer<Daemon, Store>, id: &str) {
    let body = format!(r#"{{"thread_id": "{id}"}}"#);
    let message = Message {
        body: body.as_bytes(),
        content_type: Some("application/json"),
        headers: Vec::new(),
        id: Some(id),
        came_as_reopened: false,
        host: None,
        failed_attempts: 0,
    };
    let settlement = consumer.handle(&message).await;
    metrics::settlement(settlement.as_str());
}

/// Writes down what a scrape would find now, without the buckets of histograms.
fn sample(handle: &PrometheusHandle, at: DateTime<Utc>, samples: &mut String) {
    let scraped = "job=\"reaper\",instance=\"week\"";
    let text = metrics::render(handle);
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let series = match series.split_once('{') {
            Some((name, labels)) => format!("{name}{{{scraped},{labels}"),
            None => format!("{series}{{{scraped}}}"),
        };
        writeln!(samples, "{series} {value} {}", at.timestamp()).expect("written");
    }
}
