//! What Volume Reaper costs and how fast it is, on real servers. `make bench` runs all parts, `make bench PARTS="events
//! idle"` some. Where there is something to compare with, both sides are measured in turn in the same run: what counts
//! is the ratio, since machines differ and drift.

mod bare_client;
mod console;
mod events;
mod first_day;
mod idle;
mod idle_sweep;
mod latency;
mod least;
mod platform;
mod processes;
mod removals;
mod setup;
mod volumes;
mod waiting;

use crate::setup::Result;

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let parts: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        return Err(format!("no part {unknown:?}; there are {}", PARTS.join(", ")).into());
    }
    if wanted("events") {
        events::run(&events::EMPTY).await?;
    }
    if wanted("events-apart") {
        events::run(&events::APART).await?;
    }
    if wanted("events-files") {
        events::run(&events::FILES).await?;
    }
    if wanted("volumes") {
        volumes::run().await?;
    }
    if wanted("latency") {
        latency::run().await?;
    }
    if wanted("waiting") {
        waiting::run().await?;
    }
    if wanted("removals") {
        removals::run().await?;
    }
    if wanted("first-day") {
        first_day::run().await?;
    }
    if wanted("idle-sweep") {
        idle_sweep::run().await?;
    }
    if wanted("idle") {
        idle::run().await?;
    }
    if wanted("console") {
        console::run().await?;
    }
    Ok(())
}

const PARTS: [&str; 11] = [
    "events",
    "events-apart",
    "events-files",
    "volumes",
    "latency",
    "waiting",
    "removals",
    "first-day",
    "idle-sweep",
    "idle",
    "console",
];
