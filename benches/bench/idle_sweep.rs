//! A sweep over ten million marked threads with nothing to do.

use crate::setup::{Result, Setup, mebibytes, spread};

const THREADS: u32 = 10_000_000;
const ROUNDS: usize = 10;
/// What a sweep asks for first; see `Store::candidates`.
const PAGE: &str = "SELECT id, closed_at FROM threads WHERE status = 'closed' AND workspace_volume_removed_at IS NULL \
                    ORDER BY id LIMIT 2000";

pub(crate) async fn run() -> Result<()> {
    println!("\nIdle sweep: {THREADS} closed and marked threads, {ROUNDS} sweeps");
    for setup in Setup::both().await? {
        let insert = "INSERT INTO threads (id, status, closed_at, workspace_volume_removed_at)";
        let select = "SELECT 't' || n, 'closed', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP FROM numbers";
        let numbers = setup.numbers(THREADS);
        let (analyze, explain, column) = if setup.is_postgres() {
            setup.execute(&format!("{insert} {numbers} {select}")).await?;
            ("VACUUM ANALYZE threads", "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)", 0)
        } else {
            setup.execute(&format!("{numbers} {insert} {select}")).await?;
            ("ANALYZE", "EXPLAIN QUERY PLAN", 3)
        };
        setup.execute(analyze).await?;
        let mut took = Vec::new();
        let mut most = 0;
        for _ in 0..ROUNDS {
            let (report, peak) = setup.sweep().await?;
            if report["candidates"] != 0 {
                return Err(format!("something was to do: {report}").into());
            }
            took.push(report["duration_ms"].as_f64().ok_or("no duration")?);
            most = peak.max(most);
        }
        println!("  {:<10}  milliseconds: {}, peak memory {}", setup.name, spread(took), mebibytes(most));
        for line in setup.texts(&format!("{explain} {PAGE}"), column).await? {
            println!("    {line}");
        }
    }
    Ok(())
}
