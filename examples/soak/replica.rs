//! A `volume-reaper serve` that is killed, stopped and started again, as an orchestrator would.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::{Try, account::Notes};

/// More than the grace period of 25 s.
const STOP_DEADLINE: Duration = Duration::from_secs(40);
/// Before one that ended by itself is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is done to a replica, and how long it stays away then.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// SIGKILL.
    Kill(Duration),
    /// SIGTERM.
    Stop(Duration),
    /// SIGSTOP, and SIGCONT: the same process, which does not know where the time has gone.
    Freeze(Duration),
    /// SIGTERM, for good.
    End,
}

pub(crate) struct Replica {
    /// At most one order waits while the replica is away.
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) life: JoinHandle<Life>,
}

/// What is known of a replica when it has ended for good.
#[derive(Default)]
pub(crate) struct Life {
    /// A log for each time that it was started.
    pub(crate) logs: Vec<PathBuf>,
    /// The most memory that one of its processes had, in KiB.
    pub(crate) peak_kib: u64,
}

/// How to start one.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) binary: PathBuf,
    pub(crate) settings: HashMap<&'static str, String>,
    pub(crate) logs: PathBuf,
}

impl Program {
    pub(crate) fn start(&self, replica: &str, log: &Path) -> Try<Child> {
        let mut command = self.command(&["serve"]);
        command.env("VOLUME_REAPER_REPLICA", replica).stderr(File::create(log)?);
        Ok(command.spawn()?)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        // Settings of whoever runs this are meant for another service.
        command.args(arguments).env_clear().envs(&self.settings);
        command.current_dir(&self.logs).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// This program with another setting.
    pub(crate) fn with(&self, variable: &'static str, value: &str) -> Self {
        let mut program = self.clone();
        program.settings.insert(variable, value.to_owned());
        program
    }
}

impl Replica {
    pub(crate) fn start(number: usize, program: Program, notes: Arc<Notes>) -> Self {
        let (orders, inbox) = mpsc::channel(1);
        let life = tokio::spawn(async move {
            let mut life = Life::default();
            if let Err(error) = lives(&format!("replica-{number}"), &program, &notes, inbox, &mut life).await {
                notes.incident(format!("replica-{number}: {error}"));
            }
            life
        });
        Self { orders, life }
    }
}

async fn lives(
    name: &str,
    program: &Program,
    notes: &Notes,
    mut orders: mpsc::Receiver<Order>,
    life: &mut Life,
) -> Try {
    loop {
        let log = program.logs.join(format!("{name}-{:03}.log", life.logs.len() + 1));
        let mut child = program.start(name, &log)?;
        life.logs.push(log.clone());
        let order = loop {
            let order = tokio::select! {
                ended = child.wait() => {
                    notes.incident(format!("{name} ended by itself ({ended:?}): {}", last_line(&log)));
                    tokio::time::sleep(PAUSE).await;
                    break None;
                }
                order = orders.recv() => order.unwrap_or(Order::End),
            };
            let Order::Freeze(lasts) = order else { break Some(order) };
            signal(&child, "STOP").await?;
            tokio::time::sleep(lasts).await;
            signal(&child, "CONT").await?;
        };
        let Some(order) = order else { continue };
        life.peak_kib = life.peak_kib.max(peak_kib(&child));
        match order {
            // It is running again.
            Order::Freeze(_) => {}
            Order::Kill(away) => {
                child.kill().await?;
                tokio::time::sleep(away).await;
            }
            Order::Stop(away) => {
                stop(name, &mut child, &log, notes).await?;
                tokio::time::sleep(away).await;
            }
            Order::End => return stop(name, &mut child, &log, notes).await,
        }
    }
}

/// The most memory that a process had resident so far.
fn peak_kib(child: &Child) -> u64 {
    let status = child.id().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/status")).ok());
    let peak = |status: String| {
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split(' ').rev().nth(1)?.parse().ok())
    };
    status.and_then(peak).unwrap_or_default()
}

/// SIGTERM; whatever is down at that moment, the process has to end in good time and with success.
async fn stop(name: &str, child: &mut Child, log: &Path, notes: &Notes) -> Try {
    signal(child, "TERM").await?;
    match timeout(STOP_DEADLINE, child.wait()).await {
        Ok(status) if status.as_ref().is_ok_and(ExitStatus::success) => {}
        // It had not begun: the signal came before its first instruction.
        Ok(_) if std::fs::metadata(log)?.len() == 0 => {}
        Ok(status) => notes.incident(format!("{name}, asked to stop: {status:?}: {}", last_line(log))),
        Err(_) => {
            notes.incident(format!("{name}, asked to stop, did not within {STOP_DEADLINE:?}: {}", last_line(log)));
            child.kill().await?;
        }
    }
    Ok(())
}

async fn signal(child: &Child, name: &str) -> Try {
    if let Some(id) = child.id() {
        // The system's own: the standard library knows no signal but SIGKILL.
        Command::new("kill").args(["-s", name, &id.to_string()]).status().await?;
    }
    Ok(())
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    format!("{}: {}", log.display(), text.lines().last().unwrap_or_default())
}
