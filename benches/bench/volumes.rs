//! Events of threads with three volumes, beside as many volumes with one each: what a volume costs.

use crate::{
    events::{self, Case},
    processes::Used,
    setup::{Result, Setup, spread},
};

pub(crate) async fn run() -> Result<()> {
    let cases = [&events::EMPTY, &events::THREE];
    println!("\nVolumes: {} rounds of {}, with one and with three a thread", cases[0].rounds, cases[0].volumes);
    for mut setup in Setup::both().await? {
        let mut done = cases.map(|case| (case, Vec::new(), Vec::new()));
        for round in 0..cases[0].rounds {
            // In turn, since machines drift.
            for (case, rates, costs) in &mut done {
                setup.settings = case.settings();
                let round = events::through_the_reaper(&setup, case, round, false).await?;
                rates.push(round.rate);
                costs.push(round.used);
            }
        }
        println!("  {}", setup.name);
        let [one, three] = done.map(|(case, rates, costs)| print(case, rates, costs));
        println!("    cost of a volume with three, of that with one: {:.2}", three / one);
    }
    Ok(())
}

/// Prints the figures of a case. Returns the milliseconds of processor time that a volume cost, all processes together.
fn print(case: &Case, rates: Vec<f64>, mut costs: Vec<Used>) -> f64 {
    costs.sort_by_key(|used| used.all());
    let median = costs[costs.len() / 2];
    let title = if case.settings().is_empty() { "one a thread" } else { "three a thread" };
    println!("    {title:<15} volumes a second          {}", spread(rates));
    println!("    {title:<15} processor time, ms each   {}", median.each(case.volumes));
    median.all_each(case.volumes)
}
