//! Real volumes removed by a sweep, beside the daemon's own rate of removals.

use crate::{
    bare_client, least, platform,
    setup::{Result, Setup, create, docker, expect_no_volumes, rate, spread},
};

const ROUNDS: usize = 3;
const VOLUMES: usize = 3000;

pub(crate) async fn run() -> Result<()> {
    println!("\nRemovals by a sweep: {ROUNDS} rounds of {VOLUMES} empty volumes; volumes per second");
    for setup in Setup::both().await? {
        let (mut own, mut ours, mut least) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let names: Vec<_> = (0..VOLUMES).map(|number| format!("bench_own_{number}")).collect();
            create(&docker()?, &names).await?;
            own.push(bare_client::remove(&names).await?.0);
            ours.push(by_a_sweep(&setup, round).await?);
            make_candidates(&setup, "least", round).await?;
            least.push(least::sweep(&setup, VOLUMES).await?.0);
        }
        let ratios = ours.iter().zip(&own).map(|(ours, own)| ours / own).collect();
        println!("  {}", setup.name);
        println!("    the daemon alone  {}", spread(own));
        println!("    a sweep           {}", spread(ours));
        println!("    ratio             {}", spread(ratios));
        println!("    the least of it   {}", spread(least));
        let (rate, waits) = platform::beside(&setup, by_a_sweep(&setup, ROUNDS)).await?;
        println!("    beside a platform that writes 50 rows a second: {rate:.0}/s; {waits}");
    }
    Ok(())
}

async fn by_a_sweep(setup: &Setup, round: usize) -> Result<f64> {
    make_candidates(setup, "ours", round).await?;
    let (report, _) = setup.sweep().await?;
    if report["removed"] != VOLUMES {
        return Err(format!("not all were removed: {report}").into());
    }
    expect_no_volumes(&docker()?).await?;
    let took = std::time::Duration::from_millis(report["duration_ms"].as_u64().ok_or("no duration")?);
    Ok(rate(VOLUMES, took))
}

/// Closed threads with their volumes.
async fn make_candidates(setup: &Setup, whose: &str, round: usize) -> Result<()> {
    let ids: Vec<_> = (0..VOLUMES).map(|number| format!("{whose}{round}-{number}")).collect();
    create(&docker()?, &ids.iter().map(|id| format!("ha_ws_{id}")).collect::<Vec<_>>()).await?;
    let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'closed')")).collect();
    setup.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await
}
