//! Real volumes removed by a sweep, beside the daemon's own rate of removals.

use crate::{
    bare_client,
    setup::{Result, Setup, create, docker, expect_no_volumes, rate, spread},
};

const ROUNDS: usize = 3;
const VOLUMES: usize = 3000;

pub(crate) async fn run() -> Result<()> {
    println!("\nRemovals by a sweep: {ROUNDS} rounds of {VOLUMES} empty volumes; volumes per second");
    for setup in Setup::both().await? {
        let (mut own, mut ours) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let names: Vec<_> = (0..VOLUMES).map(|number| format!("bench_own_{number}")).collect();
            create(&docker()?, &names).await?;
            own.push(bare_client::remove(&names).await?.0);
            ours.push(by_a_sweep(&setup, round).await?);
        }
        let ratios = ours.iter().zip(&own).map(|(ours, own)| ours / own).collect();
        println!("  {}", setup.name);
        println!("    the daemon alone  {}", spread(own));
        println!("    a sweep           {}", spread(ours));
        println!("    ratio             {}", spread(ratios));
    }
    Ok(())
}

async fn by_a_sweep(setup: &Setup, round: usize) -> Result<f64> {
    let ids: Vec<_> = (0..VOLUMES).map(|number| format!("r{round}-{number}")).collect();
    create(&docker()?, &ids.iter().map(|id| format!("ha_ws_{id}")).collect::<Vec<_>>()).await?;
    let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'closed')")).collect();
    setup.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await?;
    let (report, _) = setup.sweep().await?;
    if report["removed"] != VOLUMES {
        return Err(format!("not all were removed: {report}").into());
    }
    expect_no_volumes(&docker()?).await?;
    let took = std::time::Duration::from_millis(report["duration_ms"].as_u64().ok_or("no duration")?);
    Ok(rate(VOLUMES, took))
}
