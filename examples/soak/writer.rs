//! A platform that writes 50 rows a second to SQLite's file, whose lock is the whole file's, while a sweep removes
//! thousands of volumes.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use bollard::{Docker, models::VolumeCreateRequest};
use futures_util::{StreamExt, TryStreamExt, stream};
use sea_orm::{ConnectOptions, ConnectionTrait, Database};
use serde_json::Value;
use tokio::{process::Command, time::MissedTickBehavior};

use crate::{
    Try,
    account::{Notes, line},
    given, percentile, soon,
};

/// Between two rows.
const PACE: Duration = Duration::from_millis(20);
/// What the platform waits for the lock at most, but for one row in a hundred.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
const PREFIX: &str = "writer_ws_";

/// Removes so many volumes by a sweep, and writes meanwhile.
pub(crate) async fn write(volumes: usize, logs: PathBuf, binary: PathBuf, notes: &Notes) -> Try {
    println!("\nA platform that writes to SQLite while a sweep removes {volumes} volumes");
    let url = format!("sqlite://{}?mode=rwc", logs.join("writer.db").display());
    let docker_host = given("DOCKER_HOST")?;
    let mut sweep = Command::new(binary);
    sweep.args(["sweep", "--json"]).env_clear().current_dir(&logs).stdin(Stdio::null()).stderr(Stdio::null());
    sweep.envs([("DATABASE_URL", &*url), ("DOCKER_HOST", &*docker_host), ("VOLUME_REAPER_VOLUME_PREFIX", PREFIX)]);
    sweep.kill_on_drop(true);
    // One that finds nothing makes the schema.
    sweep.output().await?;
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).max_connections(1);
    let db = Database::connect(options).await?;
    db.execute_unprepared("CREATE TABLE notes (text text)").await?;
    let rows: Vec<_> = (0..volumes).map(|number| format!("('w{number}', 'closed')")).collect();
    db.execute_unprepared(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await?;
    let socket = docker_host.trim_start_matches("unix://");
    let docker = Docker::connect_with_unix(socket, 60, bollard::API_DEFAULT_VERSION)?;
    let request = |number| VolumeCreateRequest { name: Some(format!("{PREFIX}w{number}")), ..Default::default() };
    let created = stream::iter(0..volumes).map(|number| soon("docker", docker.create_volume(request(number))));
    created.buffer_unordered(8).try_for_each(async |_| Ok(())).await?;

    let began = Instant::now();
    let mut sweeping = std::pin::pin!(sweep.output());
    let (mut waits, mut failed) = (Vec::new(), Vec::new());
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let output = loop {
        tokio::select! {
            output = &mut sweeping => break output?,
            _ = pace.tick() => {
                let began = Instant::now();
                if let Err(error) = db.execute_unprepared("INSERT INTO notes VALUES ('a message')").await {
                    failed.push(error.to_string());
                }
                waits.push(began.elapsed());
            }
        }
    };
    let report: Value = serde_json::from_slice(&output.stdout)?;
    line("volumes removed a second", format!("{:.0}", rate(volumes, began.elapsed())));
    line("rows that the platform wrote", waits.len());
    waits.sort();
    for (what, percent) in [("median", 50), ("p99", 99), ("longest", 100)] {
        line(&format!("milliseconds that a row took, {what}"), percentile(&waits, percent).as_millis());
    }
    let is_done = report["removed"].as_u64() == Some(volumes as u64);
    notes.claim("every volume was removed", &if is_done { vec![] } else { vec![report.to_string()] });
    notes.claim("the platform never found the file locked for longer than its busy timeout", &failed);
    let p99 = percentile(&waits, 99);
    let late = if p99 > LONGEST_WAIT { vec![format!("{p99:?}")] } else { vec![] };
    notes.claim(&format!("99 of 100 rows were written within {LONGEST_WAIT:?}"), &late);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}
