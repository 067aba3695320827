//! A replica with nothing to do: processor time and memory.

use std::time::Duration;

use crate::setup::{Result, Setup, mebibytes, memory_peak, stop};

const WATCHED: Duration = Duration::from_mins(3);

pub(crate) async fn run() -> Result<()> {
    println!("\nIdle replica: serve on PostgreSQL for {WATCHED:?}, sweeping every minute");
    let setup = Setup::postgres().await?;
    let mut serve = setup.reaper(&["serve"]).env("VOLUME_REAPER_RECONCILE_INTERVAL", "60s").spawn()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = processor_time(serve.id())?;
    tokio::time::sleep(WATCHED).await;
    let used = processor_time(serve.id())?.saturating_sub(before);
    let peak = memory_peak(serve.id()).ok_or("serve has ended")?;
    stop(&mut serve)?;
    let share = used.as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
    println!("  {used:.2?} of processor time ({share:.2} % of one core), peak memory {}", mebibytes(peak));
    Ok(())
}

/// User and system time of a process (proc(5), fields 14 and 15 of `stat`, in hundredths of a second).
fn processor_time(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no fields")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
