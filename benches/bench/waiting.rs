//! A long queue, and several replicas at it. The volumes are gone already, so that the daemon, which answers quickly
//! then, is not what is measured.

use std::time::Instant;

use crate::{
    processes::Used,
    setup::{Result, Setup, float, rate, send, stop, until},
};

const SHORT: u32 = 1_000;
const LONG: u32 = 100_000;
const REPLICAS: [usize; 3] = [1, 2, 4];

pub(crate) async fn run() -> Result<()> {
    println!("\nEvents that wait in the queue, of threads whose volumes are gone; events per second");
    let setup = Setup::postgres().await?;
    for (waiting, replicas) in [(SHORT, 1)].into_iter().chain(REPLICAS.map(|replicas| (LONG, replicas))) {
        drain(&setup, waiting, replicas).await?;
    }
    Ok(())
}

async fn drain(setup: &Setup, waiting: u32, replicas: usize) -> Result<()> {
    setup.execute("TRUNCATE volume_removals, threads").await?;
    setup
        .execute(&format!(
            "INSERT INTO threads (id, status) SELECT 't' || n, 'open' FROM generate_series(1, {waiting}) n"
        ))
        .await?;
    let ids: Vec<_> = (1..=waiting).map(|number| format!("t{number}")).collect();
    let mut serving = vec![setup.serve().await?];
    for _ in 1..replicas {
        // Another one sweeps.
        serving.push(setup.serve_beside().await?);
    }
    for serve in &serving {
        send(serve, "STOP")?;
    }
    setup.execute("UPDATE threads SET status = 'closed'").await?;
    setup.publish(&ids)?;
    let processes: Vec<_> = serving.iter().map(std::process::Child::id).collect();
    let before = Used::now(&processes)?;
    let began = Instant::now();
    for serve in &serving {
        send(serve, "CONT")?;
    }
    let left = "SELECT CAST(count(*) AS text) FROM threads WHERE workspace_volume_removed_at IS NULL";
    until("every thread is marked", async || Ok(setup.text(left).await? == "0")).await?;
    let took = began.elapsed();
    let used = Used::now(&processes)?.since(before);
    for serve in &mut serving {
        stop(serve)?;
    }
    let receipts = setup.text("SELECT CAST(count(*) AS text) FROM volume_removals").await?;
    let memory = "SELECT CAST(count(DISTINCT thread_id) AS text) FROM volume_removals";
    let threads = setup.text(memory).await?;
    if receipts != threads || threads != waiting.to_string() {
        return Err(format!("{receipts} receipts of {threads} threads, of {waiting}").into());
    }
    println!(
        "  {waiting:>7} waiting, {replicas} replicas  {:8.0}  ms an event: {}",
        rate(waiting as usize, took),
        used.each(waiting as usize)
    );
    println!(
        "    of it each replica had {:.0} % of a core",
        used.ours().as_secs_f64() * 100.0 / took.as_secs_f64() / float(replicas as u64)
    );
    Ok(())
}
