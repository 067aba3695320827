//! Events through consume, remove, mark and acknowledge, beside the daemon's own rate of removals: how many a second,
//! and what each costs in processor time and system calls.
//!
//! The events wait in the queue when a round begins, so that neither the publisher nor the program's start is in it.

use crate::{
    bare_client,
    processes::{SystemCalls, Used, part_the_cores, share_the_cores},
    setup::{Result, Setup, create, docker, fill, float, rate, send, spread, stop, until},
};

/// What a volume holds, how many there are in a round, and which cores the processes have.
pub(crate) struct Case {
    title: &'static str,
    rounds: usize,
    volumes: usize,
    files: usize,
    daemon_has_a_core: bool,
}

pub(crate) const EMPTY: Case =
    Case { title: "empty volumes", rounds: 5, volumes: 1500, files: 0, daemon_has_a_core: false };
pub(crate) const APART: Case =
    Case { title: "empty volumes, the daemon on a core of its own", rounds: 3, daemon_has_a_core: true, ..EMPTY };
pub(crate) const FILES: Case =
    Case { title: "300 files of 2 KB in each volume", rounds: 3, volumes: 100, files: 300, ..EMPTY };

pub(crate) async fn run(case: &Case) -> Result<()> {
    println!("\nEvents: {} rounds of {}, {}", case.rounds, case.volumes, case.title);
    if !case.daemon_has_a_core {
        return compare(case).await;
    }
    part_the_cores()?;
    let done = compare(case).await;
    share_the_cores()?;
    done
}

async fn compare(case: &Case) -> Result<()> {
    for setup in Setup::both().await? {
        let (mut alone, mut ours, mut costs) = (Vec::new(), Vec::new(), Vec::new());
        let mut own_cost = Vec::new();
        for round in 0..case.rounds {
            let names = make_volumes(case, &format!("bench_own_{round}")).await?;
            let (rate, cost) = bare_client::remove(&names).await?;
            alone.push(rate);
            own_cost.push(cost);
            let done = through_the_reaper(&setup, case, round, false).await?;
            ours.push(done.rate);
            costs.push(done.used);
        }
        let counted = through_the_reaper(&setup, case, case.rounds, true).await?;
        let ratios = ours.iter().zip(&alone).map(|(ours, alone)| ours / alone).collect();
        println!("  {}", setup.name);
        println!("    the daemon alone, a second   {}", spread(alone));
        println!("    the events, a second         {}", spread(ours));
        println!("    ratio                        {}", spread(ratios));
        println!("    the daemon alone, ms each    {}", spread(own_cost));
        costs.sort_by_key(|used| used.ours());
        let median = costs[costs.len() / 2];
        println!("    processor time, ms an event  {}", median.each(case.volumes));
        let calls = counted.calls.map(|calls| format!("{:.1}", float(calls) / float(case.volumes as u64)));
        let calls = calls.unwrap_or_else(|| "not counted: that takes perf, and the right to trace".to_owned());
        println!("    our system calls an event    {calls}");
    }
    Ok(())
}

struct Done {
    rate: f64,
    used: Used,
    calls: Option<u64>,
}

async fn make_volumes(case: &Case, prefix: &str) -> Result<Vec<String>> {
    let names: Vec<_> = (0..case.volumes).map(|number| format!("{prefix}-{number}")).collect();
    create(&docker()?, &names).await?;
    if case.files > 0 {
        fill(&docker()?, &names, case.files).await?;
    }
    Ok(names)
}

async fn through_the_reaper(setup: &Setup, case: &Case, round: usize, counts_calls: bool) -> Result<Done> {
    let names = make_volumes(case, &format!("ha_ws_r{round}")).await?;
    let ids: Vec<_> = names.iter().map(|name| name.trim_start_matches("ha_ws_").to_owned()).collect();
    let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'open')")).collect();
    setup.execute("DELETE FROM volume_removals").await?;
    setup.execute("DELETE FROM threads").await?;
    setup.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await?;

    // Its first sweep is over before there is anything to do, and the next one is far away: events do the work.
    let mut serve = setup.serve().await?;
    send(&serve, "STOP")?;
    setup.execute("UPDATE threads SET status = 'closed'").await?;
    setup.publish(&ids)?;
    let calls = if counts_calls { SystemCalls::count(serve.id())? } else { None };
    let before = Used::now(&[serve.id()])?;
    let began = chrono::Utc::now();
    send(&serve, "CONT")?;
    let count = "SELECT CAST(count(*) AS text) FROM volume_removals";
    until("every thread is marked", async || Ok(setup.text(count).await? == case.volumes.to_string())).await?;
    let used = Used::now(&[serve.id()])?.since(before);
    let calls = calls.map(SystemCalls::end).transpose()?.flatten();
    stop(&mut serve)?;

    let removed = setup.text(&format!("{count} WHERE source = 'event'")).await?;
    if removed != case.volumes.to_string() {
        return Err(format!("only {removed} of {} were removed by their event", case.volumes).into());
    }
    let last = setup.time("SELECT max(removed_at) FROM volume_removals").await?;
    Ok(Done { rate: rate(case.volumes, (last - began).to_std()?), used, calls })
}
