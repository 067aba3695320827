//! The first day: an old table full of closed threads whose volumes are long gone, and none of them marked.
//!
//! Beside it the old way that this service replaces: thread by thread, asking Docker which containers hold the volume
//! and removing it by force, the newest 100 a minute. It is measured on a sample and extrapolated.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveVolumeOptionsBuilder};

use crate::{
    least, platform,
    processes::Used,
    setup::{Result, Setup, docker, mebibytes},
};

const THREADS: u32 = 1_000_000;
const SAMPLE: u32 = 500;
/// As many as a sweep marks at once.
const PAGE: u32 = 2000;
/// As long as they are in a receipt.
pub(crate) const DAEMON: &str = "ABCD:EFGH:IJKL:MNOP:QRST:UVWX:YZ23:4567:ABCD:EFGH:IJKL:MNOP /var/lib/docker";
pub(crate) const CHAIN: &str = "01934c6e-0000-7000-8000-000000000000";
const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OLD_WAY_A_MINUTE: u32 = 100;

pub(crate) async fn run() -> Result<()> {
    println!("\nFirst day: {THREADS} closed threads without a mark, whose volumes are gone");
    for setup in Setup::both().await? {
        let insert =
            "INSERT INTO threads (id, status, closed_at) SELECT 't' || n, 'closed', CURRENT_TIMESTAMP FROM numbers";
        let insert = if setup.is_postgres() {
            insert.replacen("SELECT", &format!("{} SELECT", setup.numbers(THREADS)), 1)
        } else {
            format!("{} {insert}", setup.numbers(THREADS))
        };
        setup.execute(&insert).await?;
        let (began, before) = (Instant::now(), used()?);
        let (report, peak) = setup.sweep().await?;
        let (took, used_by_all) = (began.elapsed(), used()?.since(before));
        if report["not_found"] != THREADS {
            return Err(format!("not all were marked: {report}").into());
        }
        println!(
            "  {:<10}  one sweep, the program's start included: {took:.1?}, peak memory {}",
            setup.name,
            mebibytes(peak)
        );
        println!("  {:<10}    microseconds of processor time for a thread: {}", setup.name, each(used_by_all));
        let (again, peak) = setup.sweep().await?;
        println!("  {:<10}  the next sweep: {} ms, peak memory {}", setup.name, again["duration_ms"], mebibytes(peak));
        forget(&setup).await?;
        let began = Instant::now();
        let (_, waits) = platform::beside(&setup, setup.sweep()).await?;
        let took = began.elapsed();
        println!("  {:<10}  beside a platform that writes 50 rows a second: {took:.1?}; {waits}", setup.name);
        forget(&setup).await?;
        let (began, before) = (Instant::now(), used()?);
        least::mark_absent(&setup, THREADS).await?;
        let (took, used_by_all) = (began.elapsed(), used()?.since(before));
        println!("  {:<10}  the least of it: {took:.1?}", setup.name);
        println!("  {:<10}    microseconds of processor time for a thread: {}", setup.name, each(used_by_all));
        let alone = database_alone(&setup).await?;
        println!("  {:<10}  the database alone, marks and receipts made by itself: {alone:.1?}", setup.name);
    }
    let each = old_way().await?;
    println!("  the old way, {SAMPLE} threads measured: {each:.2?} of Docker's time for a thread");
    println!("    all of them, extrapolated: {} of Docker's time", days(each * THREADS));
    println!(
        "    at {OLD_WAY_A_MINUTE} a minute, extrapolated: {}, if it ever got beyond the newest {OLD_WAY_A_MINUTE}: it \
         remembers none",
        days(Duration::from_mins((THREADS / OLD_WAY_A_MINUTE).into()))
    );
    Ok(())
}

/// This process counts for all that it started.
fn used() -> Result<Used> {
    Used::now(&[std::process::id()])
}

fn each(used: Used) -> String {
    used.micros_each(THREADS as usize)
}

/// As if nothing had been marked.
async fn forget(setup: &Setup) -> Result<()> {
    setup.execute("UPDATE threads SET workspace_volume_removed_at = NULL").await?;
    setup.execute("DELETE FROM volume_removals").await?;
    if setup.is_postgres() {
        setup.execute("VACUUM threads").await?;
        setup.execute("VACUUM volume_removals").await?;
    }
    Ok(())
}

/// How long the database takes for as many marks and receipts, when nobody has to read or send one.
async fn database_alone(setup: &Setup) -> Result<Duration> {
    forget(setup).await?;
    let began = Instant::now();
    for first in (1..=THREADS).step_by(PAGE as usize) {
        let last = THREADS.min(first + PAGE - 1);
        let page = format!("FROM numbers WHERE n BETWEEN {first} AND {last}");
        let with = if setup.is_postgres() {
            format!("WITH numbers(n) AS (SELECT generate_series({first}, {last}))")
        } else {
            format!(
                "WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})"
            )
        };
        let receipts = format!(
            "INSERT INTO volume_removals (thread_id, volume_name, outcome, source, replica, removed_at, host, daemon, \
             chain_id, chain_sequence, chain_hash) {with} SELECT 't' || n, 'ha_ws_t' || n, 'not_found', 'sweep', \
             'replica-1', CURRENT_TIMESTAMP, 'default', '{DAEMON}', '{CHAIN}', n, '{HASH}' {page}"
        );
        setup
            .execute(&format!(
                "BEGIN; UPDATE threads SET workspace_volume_removed_at = CURRENT_TIMESTAMP WHERE id IN ({with} SELECT \
                 't' || n {page}); {receipts}; COMMIT"
            ))
            .await?;
    }
    Ok(began.elapsed())
}

/// Docker's time for one thread.
async fn old_way() -> Result<Duration> {
    let docker = docker()?;
    let began = Instant::now();
    for number in 0..SAMPLE {
        let name = format!("ha_ws_t{number}");
        let filters = HashMap::from([("volume", vec![name.as_str()])]);
        let list = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        docker.list_containers(Some(list)).await?;
        docker.remove_volume(&name, Some(RemoveVolumeOptionsBuilder::default().force(true).build())).await?;
    }
    Ok(began.elapsed() / SAMPLE)
}

fn days(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 86_400.0 {
        format!("{:.1} minutes", seconds / 60.0)
    } else {
        format!("{:.1} days", seconds / 86_400.0)
    }
}
