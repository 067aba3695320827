//! A replica with nothing to do: processor time, and memory before and after it had much to do.

use std::time::Duration;

use crate::{
    processes::processor_time,
    setup::{Result, Setup, mebibytes, memory, memory_peak, stop, until},
};

const WATCHED: Duration = Duration::from_mins(3);
/// Of each load, and how many there are.
const EVENTS: u32 = 20_000;
const LOADS: u32 = 3;

pub(crate) async fn run() -> Result<()> {
    println!("\nIdle replica: serve on PostgreSQL for {WATCHED:?}, sweeping every minute");
    let setup = Setup::postgres().await?;
    let mut serve = setup.reaper(&["serve"]).env("VOLUME_REAPER_RECONCILE_INTERVAL", "60s").spawn()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = processor_time(serve.id());
    tokio::time::sleep(WATCHED).await;
    let used = processor_time(serve.id()).saturating_sub(before);
    let share = used.as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
    println!("  {used:.2?} of processor time ({share:.2} % of one core)");
    told(serve.id(), "idle")?;
    for load in 1..=LOADS {
        let ids: Vec<_> = (0..EVENTS).map(|number| format!("{load}-{number}")).collect();
        let insert = "INSERT INTO threads (id, status) SELECT";
        let numbers = format!("FROM generate_series(0, {}) n", EVENTS - 1);
        setup.execute(&format!("{insert} '{load}-' || n, 'closed' {numbers}")).await?;
        setup.publish(&ids)?;
        let left = "SELECT CAST(count(*) AS text) FROM threads WHERE workspace_volume_removed_at IS NULL";
        until("every thread is marked", async || Ok(setup.text(left).await? == "0")).await?;
        told(serve.id(), &format!("after {} events", load * EVENTS))?;
    }
    stop(&mut serve)
}

fn told(serve: u32, when: &str) -> Result<()> {
    let [now, peak] = [memory(serve), memory_peak(serve)].map(|bytes| bytes.ok_or("serve has ended"));
    println!("  {when}: {} of memory, {} at the most", mebibytes(now?), mebibytes(peak?));
    Ok(())
}
