//! Events per second through consume, remove, mark and acknowledge, beside the same daemon's own rate of removals,
//! driven by the same client library with as many in flight.
//!
//! `make bench` runs it on private servers. Both sides are measured in turn, in one run: what counts is the ratio, since
//! machines differ and drift. The time of a round of events is that from its first receipt to its last, so it has
//! neither the program's start nor the publishing in it.

use std::{
    error::Error,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bollard::{models::VolumeCreateRequest, query_parameters::RemoveVolumeOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROUNDS: usize = 5;
const VOLUMES: usize = 1000;
/// The default of `VOLUME_REAPER_CONCURRENCY`.
const IN_FLIGHT: usize = 4;
const DEADLINE: Duration = Duration::from_mins(2);

#[tokio::main]
async fn main() -> Result<()> {
    let docker = bollard::Docker::connect_with_unix(&variable("DOCKER_HOST")?, 60, bollard::API_DEFAULT_VERSION)?;
    let dir = tempfile::TempDir::new()?;
    let sqlite = format!("sqlite://{}?mode=rwc", dir.path().join("bench.db").display());
    println!("{ROUNDS} rounds of {VOLUMES} empty volumes, {IN_FLIGHT} removals in flight; volumes per second\n");
    for (name, url) in [("PostgreSQL", variable("DATABASE_URL")?), ("SQLite", sqlite)] {
        let db = database(&url, dir.path()).await?;
        let (mut own, mut ours) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            own.push(daemon_alone(&docker, round).await?);
            ours.push(through_the_reaper(&docker, &db, &url, dir.path(), round).await?);
        }
        let ratios = ours.iter().zip(&own).map(|(ours, own)| ours / own).collect();
        println!("{name}");
        println!("  the daemon alone            {}", spread(own));
        println!("  consume, remove, mark, ack  {}", spread(ours));
        println!("  ratio                       {}", spread(ratios));
    }
    Ok(())
}

async fn daemon_alone(docker: &bollard::Docker, round: usize) -> Result<f64> {
    let names: Vec<_> = (0..VOLUMES).map(|number| format!("bench_own_{round}_{number}")).collect();
    create(docker, &names).await?;
    let began = Instant::now();
    stream::iter(&names)
        .map(|name| docker.remove_volume(name, None::<RemoveVolumeOptions>))
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await?;
    Ok(rate(began.elapsed()))
}

async fn through_the_reaper(
    docker: &bollard::Docker,
    db: &DatabaseConnection,
    url: &str,
    dir: &Path,
    round: usize,
) -> Result<f64> {
    let ids: Vec<_> = (0..VOLUMES).map(|number| format!("r{round}-{number}")).collect();
    create(docker, &ids.iter().map(|id| format!("ha_ws_{id}")).collect::<Vec<_>>()).await?;
    let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'open')")).collect();
    db.execute_unprepared("DELETE FROM volume_removals").await?;
    db.execute_unprepared("DELETE FROM threads").await?;
    db.execute_unprepared(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await?;

    let mut serve = reaper(&["serve"], url, dir).spawn()?;
    // Its first sweep is over before there is anything to do, and the next one is far away: events do the work.
    let log = dir.join("serve.log");
    until("serve receives", async || Ok(std::fs::read_to_string(&log)?.contains("receiving"))).await?;
    db.execute_unprepared("UPDATE threads SET status = 'closed'").await?;
    publish(&ids, url, dir)?;
    let count = "SELECT CAST(count(*) AS text) FROM volume_removals";
    until("every thread is marked", async || Ok(text(db, count).await? == VOLUMES.to_string())).await?;
    stop(&mut serve)?;

    let removed = text(db, "SELECT CAST(count(*) AS text) FROM volume_removals WHERE source = 'event'").await?;
    if removed != VOLUMES.to_string() {
        return Err(format!("only {removed} of {VOLUMES} were removed by their event").into());
    }
    let first: chrono::DateTime<chrono::Utc> = time(db, "SELECT min(removed_at) FROM volume_removals").await?;
    let last = time(db, "SELECT max(removed_at) FROM volume_removals").await?;
    Ok(rate((last - first).to_std()?))
}

fn rate(elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a thousand is exact")]
    let volumes = VOLUMES as f64;
    volumes / elapsed.as_secs_f64()
}

fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let (least, median, most) = (figures[0], figures[figures.len() / 2], figures[figures.len() - 1]);
    format!("min {least:8.2}   median {median:8.2}   max {most:8.2}")
}

async fn create(docker: &bollard::Docker, names: &[String]) -> Result<()> {
    stream::iter(names)
        .map(|name| docker.create_volume(VolumeCreateRequest { name: Some(name.clone()), ..Default::default() }))
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(async |_| Ok(()))
        .await?;
    Ok(())
}

/// The program, built like a release, with its log in `dir`.
fn reaper(arguments: &[&str], url: &str, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_volume-reaper"));
    command
        .args(arguments)
        .env("DATABASE_URL", url)
        .env("VOLUME_REAPER_HTTP_ADDR", "127.0.0.1:0")
        .env("VOLUME_REAPER_RECONCILE_INTERVAL", "1h")
        .env("VOLUME_REAPER_QUEUE_PREFIX", "bench")
        .stdout(Stdio::null());
    if let Ok(log) = std::fs::File::create(dir.join(format!("{}.log", arguments[0]))) {
        command.stderr(log);
    }
    command
}

fn publish(ids: &[String], url: &str, dir: &Path) -> Result<()> {
    let list = dir.join("ids");
    std::fs::write(&list, ids.join("\n"))?;
    let status = reaper(&["publish"], url, dir).stdin(std::fs::File::open(&list)?).status()?;
    if status.success() { Ok(()) } else { Err("publishing failed".into()) }
}

fn stop(serve: &mut Child) -> Result<()> {
    Command::new("kill").arg(serve.id().to_string()).status()?;
    let status = serve.wait()?;
    if status.success() { Ok(()) } else { Err(format!("serve ended with {status}").into()) }
}

async fn database(url: &str, dir: &Path) -> Result<DatabaseConnection> {
    if !reaper(&["migrate"], url, dir).status()?.success() {
        return Err("migrate failed".into());
    }
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false);
    Ok(Database::connect(options).await?)
}

async fn text(db: &DatabaseConnection, sql: &str) -> Result<String> {
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    Ok(row.ok_or("no row")?.try_get_by_index(0)?)
}

async fn time(db: &DatabaseConnection, sql: &str) -> Result<chrono::DateTime<chrono::Utc>> {
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    Ok(row.ok_or("no row")?.try_get_by_index(0)?)
}

async fn until(what: &str, condition: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !condition().await? {
        if began.elapsed() > DEADLINE {
            return Err(format!("not within {DEADLINE:?}: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: run `make bench`").into())
}
