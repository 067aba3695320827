//! What the servers and the program cost: processor time, system calls, and which cores they run on.

use std::{
    fmt::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::setup::{Result, float, send, variable};

/// The first process of a private server.
fn leader(server: &str) -> Result<u32> {
    let dir = variable("VOLUME_REAPER_TEST_SERVERS")?;
    let process = std::fs::read_to_string(Path::new(&dir).join(server).join("process"))?;
    let (number, _) = process.trim().split_once(':').ok_or("no process")?;
    Ok(number.parse()?)
}

/// A process and all its descendants.
fn tree(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let mut next = 0;
    while let Some(process) = all.get(next) {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        let children: Vec<_> = tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<u32>>())
            .collect();
        all.extend(children);
        next += 1;
    }
    all
}

/// User and system time of a process and of its children that have ended, in hundredths of a second (proc(5), fields
/// 14 to 17 of `stat`); nothing for one that is gone.
pub(crate) fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Processor time since their start.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    docker: Duration,
    broker: Duration,
    postgres: Duration,
    ours: Duration,
}

impl Used {
    pub(crate) fn now(ours: &[u32]) -> Result<Self> {
        let of = |process| tree(process).into_iter().map(processor_time).sum();
        Ok(Self {
            docker: of(leader("docker")?),
            broker: of(leader("broker")?),
            postgres: of(leader("postgres")?),
            ours: ours.iter().copied().map(processor_time).sum(),
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            docker: self.docker.saturating_sub(before.docker),
            broker: self.broker.saturating_sub(before.broker),
            postgres: self.postgres.saturating_sub(before.postgres),
            ours: self.ours.saturating_sub(before.ours),
        }
    }

    pub(crate) fn docker(self) -> Duration {
        self.docker
    }

    pub(crate) fn ours(self) -> Duration {
        self.ours
    }

    pub(crate) fn all(self) -> Duration {
        self.docker + self.broker + self.postgres + self.ours
    }

    /// Milliseconds of all for each of `count`.
    pub(crate) fn all_each(self, count: usize) -> f64 {
        self.all().as_secs_f64() * 1000.0 / float(count as u64)
    }

    /// Milliseconds for each of `count`.
    pub(crate) fn each(self, count: usize) -> String {
        self.of_each(count, 1000.0)
    }

    /// Microseconds for each of `count`.
    pub(crate) fn micros_each(self, count: usize) -> String {
        self.of_each(count, 1_000_000.0)
    }

    fn of_each(self, count: usize, a_second: f64) -> String {
        let all = self.all();
        let parts = [
            ("daemon", self.docker),
            ("broker", self.broker),
            ("PostgreSQL", self.postgres),
            ("ours", self.ours),
            ("all", all),
        ];
        parts.iter().fold(String::new(), |mut line, (name, used)| {
            let _ = write!(line, "{name} {:.2}  ", used.as_secs_f64() * a_second / float(count as u64));
            line
        })
    }
}

/// Puts the daemon on the first core and all else, this process and what it starts included, on the second.
pub(crate) fn part_the_cores() -> Result<()> {
    for (server, core) in [("docker", "0"), ("broker", "1"), ("postgres", "1")] {
        pin(&tree(leader(server)?), core)?;
    }
    pin(&[std::process::id()], "1")
}

/// All run where there is room again.
pub(crate) fn share_the_cores() -> Result<()> {
    let all = format!("0-{}", std::thread::available_parallelism()?.get().max(2) - 1);
    for server in ["docker", "broker", "postgres"] {
        pin(&tree(leader(server)?), &all)?;
    }
    pin(&[std::process::id()], &all)
}

fn pin(processes: &[u32], cores: &str) -> Result<()> {
    for process in processes {
        // One that has ended meanwhile is no error.
        Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", cores, &process.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
    }
    Ok(())
}

/// Counts the system calls of a process, where `perf` is installed and may do it.
pub(crate) struct SystemCalls {
    perf: Child,
    report: tempfile::NamedTempFile,
}

impl SystemCalls {
    pub(crate) fn count(process: u32) -> Result<Option<Self>> {
        let report = tempfile::NamedTempFile::new()?;
        let perf = Command::new("perf")
            .args(["stat", "--field-separator", ",", "--event", "raw_syscalls:sys_enter", "--output"])
            .arg(report.path())
            .args(["--pid", &process.to_string()])
            .stderr(Stdio::null())
            .spawn();
        Ok(perf.ok().map(|perf| Self { perf, report }))
    }

    /// None if `perf` could not count them.
    pub(crate) fn end(mut self) -> Result<Option<u64>> {
        send(&self.perf, "INT")?;
        self.perf.wait()?;
        let report = std::fs::read_to_string(self.report.path())?;
        let line = report.lines().find(|line| line.contains("raw_syscalls"));
        Ok(line.and_then(|line| line.split(',').next()?.parse().ok()))
    }
}
