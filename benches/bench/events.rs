//! Events through consume, remove, mark and acknowledge, beside the daemon's own rate of removals: how many a second,
//! and what each costs in processor time and system calls.
//!
//! The events wait in the queue when a round begins, so that neither the publisher nor the program's start is in it.

use crate::{
    bare_client, least,
    processes::{SystemCalls, Used, part_the_cores, share_the_cores},
    setup::{Result, Setup, create, docker, fill, float, rate, send, spread, stop, until},
};

/// Events that come before those that are measured: what each connection is asked first, once, is not in a round.
const WARM_UP: usize = 32;
const RECEIPTS: &str = "SELECT CAST(count(*) AS text) FROM volume_removals";

/// What a volume holds, how many there are in a round and of each thread, and which cores the processes have.
pub(crate) struct Case {
    title: &'static str,
    pub(crate) rounds: usize,
    pub(crate) volumes: usize,
    per_thread: usize,
    files: usize,
    daemon_has_a_core: bool,
}

pub(crate) const EMPTY: Case =
    Case { title: "empty volumes", rounds: 5, volumes: 1500, per_thread: 1, files: 0, daemon_has_a_core: false };
pub(crate) const APART: Case =
    Case { title: "empty volumes, the daemon on a core of its own", rounds: 3, daemon_has_a_core: true, ..EMPTY };
pub(crate) const FILES: Case =
    Case { title: "300 files of 2 KB in each volume", rounds: 3, volumes: 300, files: 300, ..EMPTY };

/// As many volumes, three of each thread.
pub(crate) const THREE: Case = Case { title: "three empty volumes a thread", per_thread: 3, ..EMPTY };

impl Case {
    /// How the program knows what the volumes of a thread are called.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        match self.per_thread {
            1 => Vec::new(),
            several => {
                let names: Vec<_> = (0..several).map(|number| name_of(number, "{id}")).collect();
                vec![("VOLUME_REAPER_VOLUME_NAMES", names.join(","))]
            }
        }
    }
}

/// What a volume of a thread is called.
fn name_of(number: usize, id: &str) -> String {
    if number == 0 { format!("ha_ws_{id}") } else { format!("ha_more{number}_{id}") }
}

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
        let (mut own_cost, mut least) = (Vec::new(), Vec::new());
        for round in 0..case.rounds {
            let names: Vec<_> = (0..case.volumes).map(|number| format!("bench_own_{round}-{number}")).collect();
            make_volumes(case, &names).await?;
            let (rate, cost) = bare_client::remove(&names).await?;
            alone.push(rate);
            own_cost.push(cost);
            let done = through_the_reaper(&setup, case, round, false).await?;
            ours.push(done.rate);
            costs.push(done.used);
            let ids = ids(case, round);
            make_threads(&setup, case, &ids).await?;
            setup.execute("UPDATE threads SET status = 'closed'").await?;
            setup.publish(&ids)?;
            least.push(least::clean(&setup, case.volumes).await?);
        }
        let counted = through_the_reaper(&setup, case, case.rounds, true).await?;
        let ratios = ours.iter().zip(&alone).map(|(ours, alone)| ours / alone).collect();
        println!("  {}", setup.name);
        println!("    the daemon alone, a second   {}", spread(alone));
        println!("    the events, a second         {}", spread(ours));
        println!("    ratio                        {}", spread(ratios));
        println!("    the daemon alone, ms each    {}", spread(own_cost));
        println!("    processor time, ms an event  {}", median(costs).each(case.volumes));
        println!("    the least of it, a second    {}", spread(least.iter().map(|(rate, _)| *rate).collect()));
        println!(
            "    the least of it, ms an event {}",
            median(least.iter().map(|(_, used)| *used).collect()).each(case.volumes)
        );
        let calls = counted.calls.map(|calls| format!("{:.1}", float(calls) / float(case.volumes as u64)));
        let calls = calls.unwrap_or_else(|| "not counted: that takes perf, and the right to trace".to_owned());
        println!("    our system calls an event    {calls}");
    }
    Ok(())
}

/// By our part.
fn median(mut costs: Vec<Used>) -> Used {
    costs.sort_by_key(|used| used.ours());
    costs[costs.len() / 2]
}

pub(crate) struct Done {
    pub(crate) rate: f64,
    pub(crate) used: Used,
    calls: Option<u64>,
}

async fn make_volumes(case: &Case, names: &[String]) -> Result<()> {
    create(&docker()?, names).await?;
    if case.files > 0 {
        fill(&docker()?, names, case.files).await?;
    }
    Ok(())
}

fn ids(case: &Case, round: usize) -> Vec<String> {
    (0..case.volumes / case.per_thread).map(|number| format!("r{round}-{number}")).collect()
}

/// Open threads with their volumes, and nothing else in the tables.
async fn make_threads(setup: &Setup, case: &Case, ids: &[String]) -> Result<()> {
    let names: Vec<_> = ids.iter().flat_map(|id| (0..case.per_thread).map(move |number| name_of(number, id))).collect();
    make_volumes(case, &names).await?;
    let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'open')")).collect();
    setup.execute("DELETE FROM volume_removals").await?;
    setup.execute("DELETE FROM threads").await?;
    setup.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await
}

pub(crate) async fn through_the_reaper(setup: &Setup, case: &Case, round: usize, counts_calls: bool) -> Result<Done> {
    // Its first sweep is over before there is anything to do, and the next one is far away: events do the work.
    let mut serve = setup.serve().await?;
    let some = Case { volumes: WARM_UP * case.per_thread, files: 0, ..*case };
    let first: Vec<_> = (0..WARM_UP).map(|number| format!("warm-up{round}-{number}")).collect();
    make_threads(setup, &some, &first).await?;
    setup.execute("UPDATE threads SET status = 'closed'").await?;
    setup.publish(&first)?;
    until("the first are marked", async || Ok(setup.text(RECEIPTS).await? == some.volumes.to_string())).await?;

    let ids = ids(case, round);
    make_threads(setup, case, &ids).await?;
    send(&serve, "STOP")?;
    setup.execute("UPDATE threads SET status = 'closed'").await?;
    setup.publish(&ids)?;
    let calls = if counts_calls { SystemCalls::count(serve.id())? } else { None };
    let before = Used::now(&[serve.id()])?;
    let began = chrono::Utc::now();
    send(&serve, "CONT")?;
    until("every thread is marked", async || Ok(setup.text(RECEIPTS).await? == case.volumes.to_string())).await?;
    let used = Used::now(&[serve.id()])?.since(before);
    let calls = calls.map(SystemCalls::end).transpose()?.flatten();
    stop(&mut serve)?;

    let removed = setup.text(&format!("{RECEIPTS} WHERE source = 'event'")).await?;
    if removed != case.volumes.to_string() {
        return Err(format!("only {removed} of {} were removed by their event", case.volumes).into());
    }
    let last = setup.time("SELECT max(removed_at) FROM volume_removals").await?;
    Ok(Done { rate: rate(case.volumes, (last - began).to_std()?), used, calls })
}
