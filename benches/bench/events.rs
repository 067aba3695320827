//! Events per second through consume, remove, mark and acknowledge, beside the daemon's own rate of removals. The time
//! of a round of events is that from its first receipt to its last: neither the program's start nor the publishing is
//! in it.

use crate::setup::{Result, Setup, create, daemon_alone, docker, rate, spread, stop, until};

const ROUNDS: usize = 5;
const VOLUMES: usize = 1000;

pub(crate) async fn run() -> Result<()> {
    println!("\nEvents: {ROUNDS} rounds of {VOLUMES} empty volumes; volumes per second");
    for setup in Setup::both().await? {
        let (mut own, mut ours) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            own.push(daemon_alone(&docker()?, VOLUMES).await?);
            ours.push(through_the_reaper(&setup, round).await?);
        }
        let ratios = ours.iter().zip(&own).map(|(ours, own)| ours / own).collect();
        println!("  {}", setup.name);
        println!("    the daemon alone            {}", spread(own));
        println!("    consume, remove, mark, ack  {}", spread(ours));
        println!("    ratio                       {}", spread(ratios));
    }
    Ok(())
}

async fn through_the_reaper(setup: &Setup, round: usize) -> Result<f64> {
    let ids: Vec<_> = (0..VOLUMES).map(|number| format!("r{round}-{number}")).collect();
    create(&docker()?, &ids.iter().map(|id| format!("ha_ws_{id}")).collect::<Vec<_>>()).await?;
    let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'open')")).collect();
    setup.execute("DELETE FROM volume_removals").await?;
    setup.execute("DELETE FROM threads").await?;
    setup.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await?;

    // Its first sweep is over before there is anything to do, and the next one is far away: events do the work.
    let mut serve = setup.serve().await?;
    setup.execute("UPDATE threads SET status = 'closed'").await?;
    publish(setup, &ids)?;
    let count = "SELECT CAST(count(*) AS text) FROM volume_removals";
    until("every thread is marked", async || Ok(setup.text(count).await? == VOLUMES.to_string())).await?;
    stop(&mut serve)?;

    let removed = setup.text(&format!("{count} WHERE source = 'event'")).await?;
    if removed != VOLUMES.to_string() {
        return Err(format!("only {removed} of {VOLUMES} were removed by their event").into());
    }
    let first = setup.time("SELECT min(removed_at) FROM volume_removals").await?;
    let last = setup.time("SELECT max(removed_at) FROM volume_removals").await?;
    Ok(rate(VOLUMES, (last - first).to_std()?))
}

fn publish(setup: &Setup, ids: &[String]) -> Result<()> {
    let list = setup.dir.path().join("ids");
    std::fs::write(&list, ids.join("\n"))?;
    let status = setup.reaper(&["publish"]).stdin(std::fs::File::open(&list)?).status()?;
    if status.success() { Ok(()) } else { Err("publishing failed".into()) }
}
