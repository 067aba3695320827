//! Servers, database, and the program as a child process.

use std::{
    error::Error,
    io::Write,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bollard::{models::VolumeCreateRequest, query_parameters::ListVolumesOptionsBuilder};
use futures_util::{StreamExt, TryStreamExt, stream};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The default of `VOLUME_REAPER_CONCURRENCY`.
pub(crate) const IN_FLIGHT: usize = 4;
/// For what takes seconds on a quiet machine.
const DEADLINE: Duration = Duration::from_mins(5);

/// One database, with the schema, and a directory for logs.
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) db: DatabaseConnection,
    pub(crate) dir: TempDir,
    /// What the program is told beside the address of the database.
    pub(crate) settings: Vec<(&'static str, String)>,
    url: String,
}

impl Setup {
    /// A fresh database on PostgreSQL and one on SQLite.
    pub(crate) async fn both() -> Result<[Self; 2]> {
        Ok([Self::postgres().await?, Self::sqlite().await?])
    }

    pub(crate) async fn postgres() -> Result<Self> {
        let server = variable("DATABASE_URL")?;
        let admin = Database::connect(quiet(&server)).await?;
        admin.execute_unprepared("DROP DATABASE IF EXISTS bench").await?;
        admin.execute_unprepared("CREATE DATABASE bench").await?;
        let (address, _) = server.rsplit_once('/').ok_or("DATABASE_URL names no database")?;
        Self::new("PostgreSQL", TempDir::new()?, format!("{address}/bench")).await
    }

    pub(crate) async fn sqlite() -> Result<Self> {
        let dir = TempDir::new()?;
        let url = format!("sqlite://{}?mode=rwc", dir.path().join("bench.db").display());
        Self::new("SQLite", dir, url).await
    }

    async fn new(name: &'static str, dir: TempDir, url: String) -> Result<Self> {
        let db = Database::connect(quiet(&url)).await?;
        let setup = Self { name, db, dir, settings: Vec::new(), url };
        let migrated = setup.reaper(&["migrate"]).status()?.success();
        if migrated { Ok(setup) } else { Err("migrate failed".into()) }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.db.get_database_backend() == DbBackend::Postgres
    }

    /// Numbers from 1 to `count` as a table `numbers(n)`, to be put before an `INSERT ... SELECT`.
    pub(crate) fn numbers(&self, count: u32) -> String {
        if self.is_postgres() {
            format!("WITH numbers(n) AS (SELECT generate_series(1, {count}))")
        } else {
            format!("WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})")
        }
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        self.db.execute_unprepared(sql).await?;
        Ok(())
    }

    /// The first column of all rows.
    pub(crate) async fn texts(&self, sql: &str, column: usize) -> Result<Vec<String>> {
        let rows = self.db.query_all_raw(Statement::from_string(self.db.get_database_backend(), sql)).await?;
        Ok(rows.iter().map(|row| row.try_get_by_index(column)).collect::<std::result::Result<_, _>>()?)
    }

    pub(crate) async fn text(&self, sql: &str) -> Result<String> {
        Ok(self.texts(sql, 0).await?.into_iter().next().ok_or("no row")?)
    }

    pub(crate) async fn time(&self, sql: &str) -> Result<chrono::DateTime<chrono::Utc>> {
        let row = self.db.query_one_raw(Statement::from_string(self.db.get_database_backend(), sql)).await?;
        Ok(row.ok_or("no row")?.try_get_by_index(0)?)
    }

    /// The program, built like a release, with its log in the directory.
    pub(crate) fn reaper(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_volume-reaper"));
        command
            .args(arguments)
            .env_remove("VOLUME_REAPER_TEST_SERVERS")
            .env("DATABASE_URL", &self.url)
            .env("VOLUME_REAPER_HTTP_ADDR", "127.0.0.1:0")
            // More volumes go here than anybody would let go within an hour.
            .env("VOLUME_REAPER_BUDGET_PER_HOUR", "off")
            .env("VOLUME_REAPER_BUDGET_PER_SWEEP", "off")
            .env("VOLUME_REAPER_RECONCILE_INTERVAL", "1h")
            .env("VOLUME_REAPER_QUEUE_PREFIX", "bench")
            .envs(self.settings.iter().map(|(variable, value)| (variable, value)))
            .stdout(Stdio::null());
        let log = self.dir.path().join(format!("{}.log", arguments[0]));
        // One that was started before keeps its own.
        let _none = std::fs::remove_file(&log);
        if let Ok(log) = std::fs::File::create(log) {
            command.stderr(log);
        }
        command
    }

    /// Starts `serve`, which receives when this returns.
    pub(crate) async fn serve_beside(&self) -> Result<Child> {
        let serve = self.reaper(&["serve"]).spawn()?;
        let log = self.dir.path().join("serve.log");
        until("serve receives", async || Ok(std::fs::read_to_string(&log)?.contains("receiving"))).await?;
        Ok(serve)
    }

    /// Starts `serve`, the only one; it receives and its first sweep is over when this returns.
    pub(crate) async fn serve(&self) -> Result<Child> {
        let serve = self.serve_beside().await?;
        let address = self.address()?;
        until("its first sweep is over", async || {
            Ok(get(&address, "/metrics")?.contains("volume_reaper_sweep_seconds_count"))
        })
        .await?;
        Ok(serve)
    }

    /// Where the `serve` that was started last answers HTTP.
    pub(crate) fn address(&self) -> Result<String> {
        let lines = std::fs::read_to_string(self.dir.path().join("serve.log"))?;
        let (_, address) = lines.split_once(" http=").ok_or("no address in the log")?;
        Ok(address.split_whitespace().next().unwrap_or_default().trim_matches('"').to_owned())
    }

    /// Publishes the events of closed threads.
    pub(crate) fn publish(&self, ids: &[String]) -> Result<()> {
        let list = self.dir.path().join("ids");
        std::fs::write(&list, ids.join("\n"))?;
        let status = self.reaper(&["publish"]).stdin(std::fs::File::open(&list)?).status()?;
        if status.success() { Ok(()) } else { Err("publishing failed".into()) }
    }

    /// One `sweep --json`: its report, and its peak of memory in bytes.
    pub(crate) async fn sweep(&self) -> Result<(Value, u64)> {
        let mut sweep = self.reaper(&["sweep", "--json"]).stdout(Stdio::piped()).spawn()?;
        let mut peak = 0;
        let status = loop {
            peak = memory_peak(sweep.id()).unwrap_or(0).max(peak);
            if let Some(status) = sweep.try_wait()? {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let report = std::io::read_to_string(sweep.stdout.take().ok_or("no output")?)?;
        if !status.success() {
            return Err(format!("sweep ended with {status}: {report}").into());
        }
        Ok((serde_json::from_str(&report)?, peak))
    }
}

/// The answer to a request, head and body.
pub(crate) fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    Ok(std::io::read_to_string(stream)?)
}

/// Sends it a signal.
pub(crate) fn send(process: &Child, signal: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", signal, &process.id().to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -s {signal}: {status}").into()) }
}

pub(crate) fn stop(serve: &mut Child) -> Result<()> {
    send(serve, "TERM")?;
    let status = serve.wait()?;
    if status.success() { Ok(()) } else { Err(format!("serve ended with {status}").into()) }
}

/// The most memory that a process had, in bytes.
pub(crate) fn memory_peak(process: u32) -> Option<u64> {
    memory_field(process, "VmHWM:")
}

/// The memory that a process has, in bytes.
pub(crate) fn memory(process: u32) -> Option<u64> {
    memory_field(process, "VmRSS:")
}

/// A field of proc(5), `status`.
fn memory_field(process: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", float(bytes) / 1024.0 / 1024.0)
}

pub(crate) fn docker() -> Result<bollard::Docker> {
    let endpoint = variable("DOCKER_HOST")?;
    Ok(bollard::Docker::connect_with_unix(&endpoint, 60, bollard::API_DEFAULT_VERSION)?)
}

/// Makes empty volumes.
pub(crate) async fn create(docker: &bollard::Docker, names: &[String]) -> Result<()> {
    stream::iter(names)
        .map(|name| docker.create_volume(VolumeCreateRequest { name: Some(name.clone()), ..Default::default() }))
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(async |_| Ok(()))
        .await?;
    Ok(())
}

/// Puts files of 2 KB into each volume, where the daemon keeps it.
pub(crate) async fn fill(docker: &bollard::Docker, names: &[String], files: usize) -> Result<()> {
    for name in names {
        let dir = docker.inspect_volume(name).await?.mountpoint;
        for file in 0..files {
            std::fs::write(format!("{dir}/{file}"), [b'x'; 2048])?;
        }
    }
    Ok(())
}

/// Fails unless the daemon has no volume of ours.
pub(crate) async fn expect_no_volumes(docker: &bollard::Docker) -> Result<()> {
    let filters = std::collections::HashMap::from([("name", vec!["ha_ws_"])]);
    let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
    let left = docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default().len();
    if left == 0 { Ok(()) } else { Err(format!("{left} volumes were left").into()) }
}

pub(crate) fn rate(count: usize, elapsed: Duration) -> f64 {
    float(count as u64) / elapsed.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

pub(crate) fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let (least, median, most) = (figures[0], figures[figures.len() / 2], figures[figures.len() - 1]);
    format!("min {least:8.2}   median {median:8.2}   max {most:8.2}")
}

pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !condition().await? {
        if began.elapsed() > DEADLINE {
            return Err(format!("not within {DEADLINE:?}: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn quiet(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).max_connections(2);
    options
}

pub(crate) fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: run `make bench`").into())
}
