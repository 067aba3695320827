//! Everything that is true in a simulation, in one place, behind one lock that is never held across an await.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};
use volume_reaper::failure::Failure;

use crate::{
    broker::Broker,
    daemon::Daemons,
    database::Rows,
    invariants::Checks,
    mutants::Mutant,
    plan::{Fault, Setup},
};

/// What is freed by time alone is seen so much later at most.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What time it is in the simulation that runs on this thread.
pub(crate) fn now() -> DateTime<Utc> {
    let began = BEGAN.get().expect("a simulation");
    let epoch = DateTime::from_timestamp(1_800_000_000, 0).expect("valid");
    epoch + TimeDelta::from_std(began.elapsed()).expect("short")
}

/// How long it has run.
pub(crate) fn elapsed() -> Duration {
    BEGAN.get().expect("a simulation").elapsed()
}

/// A process: a replica that was started for the n-th time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) replica: usize,
    pub(crate) start: u64,
}

/// What is true of a replica.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    /// How often it was started; earlier processes are dead.
    pub(crate) starts: u64,
    pub(crate) is_down: bool,
    pub(crate) frozen_until: Option<Instant>,
}

pub(crate) struct State {
    pub(crate) rng: fastrand::Rng,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) rows: Rows,
    pub(crate) daemons: Daemons,
    pub(crate) broker: Broker,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) checks: Checks,
    /// What happened, with the time, if anybody wants to know.
    pub(crate) history: Option<Vec<String>>,
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    state: Mutex<State>,
    /// Notified when there is something for consumers.
    pub(crate) published: Notify,
    /// Notified when somebody gives up a row, a file or a name.
    pub(crate) freed: Notify,
}

impl World {
    pub(crate) fn new(seed: u64, setup: Setup, mutant: Option<Mutant>, keeps_history: bool) -> Arc<Self> {
        BEGAN.set(Some(Instant::now()));
        let replicas = (0..setup.replicas).map(|_| Replica::default()).collect();
        let daemons = Daemons::of(&setup);
        let state = State {
            rng: fastrand::Rng::with_seed(seed.rotate_left(32)),
            mutant,
            rows: Rows::new(&setup),
            daemons,
            broker: Broker::default(),
            replicas,
            checks: Checks::default(),
            history: keeps_history.then(Vec::new),
        };
        Arc::new(Self { setup, state: Mutex::new(state), published: Notify::new(), freed: Notify::new() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no step panics")
    }

    pub(crate) fn is_mutant(&self, mutant: Mutant) -> bool {
        self.state().is(mutant)
    }

    /// Waits as long as a message takes on its way: mostly some milliseconds.
    pub(crate) async fn on_its_way(&self) {
        let ms = self.state().latency_ms();
        if ms > 0 {
            sleep(Duration::from_millis(ms)).await;
        }
    }

    /// Returns when there is something, looking again whenever anything was given up.
    pub(crate) async fn until<R>(&self, mut look: impl FnMut(&mut State) -> Option<R>) -> R {
        loop {
            let freed = self.freed.notified();
            if let Some(found) = look(&mut self.state()) {
                return found;
            }
            let _ = timeout(LOOK_AGAIN, freed).await;
        }
    }

    /// Returns when this process runs: later if it is frozen, and never again if it is dead.
    pub(crate) async fn runs(&self, process: Process) {
        loop {
            let until = {
                let state = self.state();
                if !state.is_alive(process) {
                    None
                } else if let Some(until) = state.replicas[process.replica].frozen_until
                    && until > Instant::now()
                {
                    Some(until)
                } else {
                    return;
                }
            };
            match until {
                None => std::future::pending::<()>().await,
                Some(until) => sleep_until(until).await,
            }
        }
    }
}

impl State {
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Under a fifth of a second: what is sent in the first half of a lock's time arrives in its second.
    pub(crate) fn latency_ms(&mut self) -> u64 {
        match self.rng.u8(..16) {
            0 => self.rng.u64(..200),
            1..4 => self.rng.u64(..40),
            _ => self.rng.u64(..4),
        }
    }

    pub(crate) fn is_alive(&self, process: Process) -> bool {
        let replica = &self.replicas[process.replica];
        !replica.is_down && replica.starts == process.start
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(history) = &mut self.history {
            history.push(format!("{:>9.3}s  {}", elapsed().as_secs_f64(), what()));
        }
    }

    /// An invariant does not hold. Only the first one counts.
    pub(crate) fn violated(&mut self, what: String) {
        self.note(|| format!("VIOLATED: {what}"));
        self.checks.violation.get_or_insert(what);
    }
}

/// Takes the next fault, if it is of this kind.
pub(crate) fn take(faults: &mut Vec<Fault>, kind: Fault) -> bool {
    let is_next = faults.first() == Some(&kind);
    if is_next {
        faults.remove(0);
    }
    is_next
}

/// A failure of either kind, as the next number says.
pub(crate) fn failure(rng: &mut fastrand::Rng, of: volume_reaper::failure::Dependency) -> Failure {
    if rng.bool() { Failure::transient("it failed") } else { Failure::unavailable(of, "the connection was lost") }
}
