//! Volume Reaper at work: plays the platform beside a `volume-reaper serve`, on real servers.
//!
//! `make demo` runs it with a RabbitMQ and a Docker daemon of its own (`AMQP_URL`, `DOCKER_HOST`), and with SQLite in
//! a temporary directory. It opens threads with volumes, closes most of them, loses some of the events, and holds on
//! to some of the volumes with containers. A line that begins with `ok` is a claim that was checked, in Docker, in the
//! database or in the service's metrics; the first one that does not hold ends the demo with exit code 1.
//!
//! The scenes are here; [`platform`] has what a platform does, [`service`] the child process.

mod platform;
mod service;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, Instant},
};

use platform::{Fate, Platform, Receipt, Thread};
use serde_json::{Value, json};
use service::Service;
use tokio::{
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
/// Short, so that nobody has to wait; the default is a minute.
const RECONCILE_INTERVAL: &str = "2s";

/// For what takes milliseconds to seconds, and a busy machine a little more.
const SOON: Duration = Duration::from_secs(30);
/// For what takes some sweeps.
const SOME_SWEEPS: Duration = Duration::from_mins(1);

const FAREWELL: &str = "
With a broker, a daemon and a database that you have (`volume-reaper sweep --dry-run` only says what it would do):

    export DATABASE_URL=postgres://user:password@host/database
    export AMQP_URL=amqp://user:password@host:5672/%2f
    export DOCKER_HOST=unix:///var/run/docker.sock
    volume-reaper serve";

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
    let mut shown = tokio::select! {
        shown = show(&platform) => shown,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    };
    if let Ok(service) = &shown
        && std::env::var_os("KEEP").is_some_and(|keep| !keep.is_empty())
    {
        println!("\n7. Its console, until Ctrl-C: {}", service.console());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    // It ends before its volumes and its database go. The terminal's Ctrl-C may have ended it already.
    if let Ok(service) = &mut shown {
        let _ = service.stop().await;
    }
    let shown = shown.map(drop);
    let cleaned_up = platform.clean_up().await;
    if let Err(error) = shown {
        return Err(format!("{error}\ndemo: the service's log is kept: {}", platform.keep_log().display()).into());
    }
    cleaned_up?;
    println!("{FAREWELL}");
    Ok(())
}

/// All scenes. Returns the service, which still runs.
async fn show(platform: &Platform) -> Try<Service> {
    println!("\n1. volume-reaper serve, sweeping every {RECONCILE_INTERVAL}; its log: {}", platform.log().display());
    let service = Service::start(platform).await?;

    println!("\n2. The platform opens {} threads", platform.threads.len());
    platform.open_threads().await?;
    println!("   Docker has {} volumes, {HELD} of them held by containers", platform.volumes().await?.len());

    println!("\n3. {CLOSED} threads close, {CLOSES_PER_SECOND} a second; {EVENTS_LOST} of them without an event");
    tokio::try_join!(platform.close_threads(), watch(platform))?;

    let freed = platform.with(Fate::Held).next().ok_or("no thread is held")?;
    println!("\n4. A container is removed: {}", freed.container());
    platform.remove_container(freed).await?;
    let is_marked = async || Ok(!platform.unmarked().await?.contains(&freed.id));
    let took = until("its volume is removed too", SOME_SWEEPS, is_marked).await?;
    println!("   ok  its volume followed after {took:.1?}");

    println!("\n5. What became of the {} threads", platform.threads.len());
    account(platform, freed).await?;

    println!("\n6. Again, and after a restart: nothing to do");
    repeat(platform, service, freed).await
}

/// Says how far it is until every closed thread is marked, or held by a container.
async fn watch(platform: &Platform) -> Try {
    let held: BTreeSet<_> = platform.with(Fate::Held).map(|thread| thread.id.clone()).collect();
    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (unmarked, receipts) = (platform.unmarked().await?, platform.receipts().await?);
        let removed = receipts.iter().filter(|receipt| receipt.outcome == "removed").count();
        let not_found = receipts.len() - removed;
        let referenced = unmarked.intersection(&held).count();
        let to_do = unmarked.len() - referenced;
        let secs = began.elapsed().as_secs_f64();
        println!(
            "   {secs:>4.1} s   removed {removed:>3}   not found {not_found:>2}   referenced {referenced:>2}   \
             to do {to_do:>3}"
        );
        if to_do == 0 && receipts.len() + unmarked.len() == CLOSED {
            return Ok(());
        }
        if began.elapsed() > SOME_SWEEPS {
            return Err(format!("{to_do} threads are still to do after {SOME_SWEEPS:?}").into());
        }
    }
}

/// The figures, and whether database and Docker are as they should be.
async fn account(platform: &Platform, freed: &Thread) -> Try {
    let receipts = platform.receipts().await?;
    let removed = receipts.iter().filter(|receipt| receipt.outcome == "removed").count();
    println!("   removed                     {removed:>4}");
    println!("   not found, so only marked   {:>4}", receipts.len() - removed);
    println!("   kept: still open            {OPEN:>4}");
    let volumes = platform.volumes().await?;
    let mut held = platform.with(Fate::Held).filter(|thread| thread.id != freed.id);
    let example = held.next().map(Thread::volume).unwrap_or_default();
    let holder = volumes.get(&example).and_then(Option::as_deref).ok_or("a held volume is not held")?;
    println!("   kept: held by a container   {:>4}, as by {holder}: {example}", HELD - 1);

    println!("\n   from close to mark   threads    median       p99");
    for source in ["event", "sweep"] {
        // The freed one waited for its container, not for us.
        print_times(source, receipts.iter().filter(|receipt| receipt.source == source && receipt.thread != freed.id));
    }

    println!();
    let marked: BTreeSet<_> = receipts.iter().map(|receipt| &receipt.thread).collect();
    let gone = platform.with(Fate::Free).chain(platform.with(Fate::Absent)).chain([freed]);
    let gone: BTreeSet<_> = gone.map(|thread| &thread.id).collect();
    claim("every closed thread is marked unless a container holds its volume, and no other is", marked == gone)?;
    claim("each has one receipt, with the time of its mark", marked.len() == receipts.len())?;
    let lost = platform.threads.iter().filter(|thread| thread.event_lost).map(|thread| &thread.id);
    // The freed one was found by the end of its container.
    let lost: BTreeSet<_> = lost.filter(|id| gone.contains(id) && **id != freed.id).collect();
    let swept = receipts.iter().filter(|receipt| receipt.source == "sweep" && lost.contains(&receipt.thread));
    claim("the sweeps found those whose event was lost", swept.count() == lost.len())?;
    check_volumes(platform, freed).await
}

fn print_times<'a>(source: &str, receipts: impl Iterator<Item = &'a Receipt>) {
    let mut times: Vec<_> = receipts.map(|receipt| receipt.close_to_mark).collect();
    times.sort();
    let percentile = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).copied().unwrap_or_default()
    };
    println!("   by {source:<15}   {:>7}   {:>7.1?}   {:>7.1?}", times.len(), percentile(50), percentile(99));
}

/// Whoever sweeps again, even after a restart, finds nothing to do.
async fn repeat(platform: &Platform, mut service: Service, freed: &Thread) -> Try<Service> {
    let requests = service.removal_requests().await?;
    println!("   Docker was asked {requests} times to remove a volume");
    service.two_more_sweeps().await?;
    claim("two sweeps later it is the same number", service.removal_requests().await? == requests)?;

    let mut sweep = platform.command("sweep")?;
    let output = soon("sweep", sweep.arg("--json").output()).await?;
    let report = String::from_utf8(output.stdout)?;
    println!("   volume-reaper sweep --json\n   {}", report.trim());
    let report: Value = serde_json::from_str(&report)?;
    let is = |key: &str, count: usize| report[key] == json!(count);
    let idle = is("removed", 0) && is("not_found", 0) && is("failed", 0) && is("referenced", HELD - 1);
    claim("it finds the held volumes and leaves them alone", idle && output.status.success())?;

    println!("   SIGTERM, and volume-reaper serve once more");
    claim("it stopped with exit code 0", service.stop().await? == Some(0))?;
    let restarted = Service::start(platform).await?;
    restarted.two_more_sweeps().await?;
    claim("two sweeps later, Docker was not asked to remove anything", restarted.removal_requests().await? == 0)?;
    claim("no receipt was added", platform.receipts().await?.len() == FREE + ABSENT + 1)?;
    check_volumes(platform, freed).await?;
    Ok(restarted)
}

async fn check_volumes(platform: &Platform, freed: &Thread) -> Try {
    let there: BTreeSet<_> = platform.volumes().await?.into_keys().collect();
    let open: BTreeSet<_> = platform.with(Fate::StaysOpen).map(Thread::volume).collect();
    let held = platform.with(Fate::Held).filter(|thread| thread.id != freed.id).map(Thread::volume);
    claim("the volumes of all open threads are there", there.is_superset(&open))?;
    let others: BTreeSet<_> = there.difference(&open).cloned().collect();
    claim("of the others, only those that containers hold are", others == held.collect())
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
