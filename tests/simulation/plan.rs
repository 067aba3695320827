//! What happens to a world: a list of steps, drawn from a seed. Nothing else decides what goes wrong.

use std::time::Duration;

use fastrand::Rng;

/// How the rest of the world is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) replicas: usize,
    pub(crate) threads: usize,
    /// Names of the hosts; none if there is only one.
    pub(crate) hosts: Vec<&'static str>,
    /// One more host is pinned, which no replica asks.
    pub(crate) has_unserved: bool,
    /// Rows of the whole file are locked, as SQLite does.
    pub(crate) locks_file: bool,
    pub(crate) retention: Duration,
    pub(crate) per_hour: Option<u64>,
    pub(crate) per_sweep: Option<u64>,
}

/// How the event of a close gets to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publish {
    Once,
    Twice,
    Never,
    /// Before the platform commits the close.
    Early,
    /// Naming a host that the thread is not on.
    Astray,
}

/// What fails with one call, the next of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not carried out.
    Before,
    /// It is carried out, and the answer is lost.
    After,
}

/// One step. Threads, hosts and replicas are numbers, taken modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Close(usize, Publish),
    Reopen(usize),
    /// The platform closes and reopens, closes and reopens.
    Flap(usize),
    /// An event about an earlier close comes again.
    Repeat(usize),
    StartContainer(usize),
    StopContainer(usize),
    Hold(usize),
    Release(usize),
    Pause,
    Resume,
    /// Somebody else removes the volume of a closed thread.
    Vanish(usize),
    /// Somebody makes the volume of a closed thread again.
    Reappear(usize),
    PublishGarbage,
    PublishUnknown,
    DaemonDown(usize, u64),
    DaemonHangs(usize, u64),
    /// Another, empty daemon answers at the address.
    DaemonSwapped(usize, u64),
    DaemonFails(usize, Fault),
    DaemonSlow(usize, u64),
    ListPartial(usize),
    /// Its locks are lost.
    DatabaseRestarts(u64),
    DatabaseFails(Fault),
    /// A standby answers instead of the primary.
    Standby(u64),
    BrokerDown(u64),
    ConnectionLost(usize),
    PublishFails(Fault),
    Crash(usize, u64),
    Freeze(usize, u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) wait_ms: u64,
    pub(crate) action: Action,
}

impl Setup {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let has_several = rng.u8(..3) == 0;
        Self {
            replicas: rng.usize(1..=3),
            threads: rng.usize(2..=6),
            hosts: if has_several { vec!["a", "b"] } else { Vec::new() },
            has_unserved: has_several && rng.u8(..3) == 0,
            locks_file: rng.u8(..5) == 0,
            retention: Duration::from_secs(if rng.u8(..5) == 0 { 30 } else { 0 }),
            per_hour: (rng.u8(..5) == 0).then(|| rng.u64(1..4)),
            per_sweep: (rng.u8(..5) == 0).then(|| rng.u64(1..4)),
        }
    }
}

/// The steps of a seed.
pub(crate) fn draw(seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed ^ 0x5eed);
    let steps = rng.usize(8..=32);
    (0..steps).map(|_| Step { wait_ms: wait(&mut rng), action: action(&mut rng) }).collect()
}

fn wait(rng: &mut Rng) -> u64 {
    match rng.u8(..10) {
        0..4 => rng.u64(..60),
        4..8 => rng.u64(..1500),
        8 => rng.u64(..6000),
        _ => rng.u64(..30_000),
    }
}

fn action(rng: &mut Rng) -> Action {
    let number = rng.usize(..100);
    let fault = if rng.bool() { Fault::Before } else { Fault::After };
    let long = rng.u64(200..20_000);
    match rng.u8(..64) {
        0..15 => Action::Close(number, publish(rng)),
        15..25 => Action::Reopen(number),
        25..28 => Action::Flap(number),
        28 => Action::Repeat(number),
        29..31 => Action::StartContainer(number),
        31 => Action::StopContainer(number),
        32 => Action::Hold(number),
        33 => Action::Release(number),
        34 => Action::Pause,
        35 => Action::Resume,
        36 => Action::Vanish(number),
        37 => Action::Reappear(number),
        38 => Action::PublishGarbage,
        39 => Action::PublishUnknown,
        40 => Action::DaemonDown(number, long),
        41 => Action::DaemonHangs(number, long),
        42..44 => Action::DaemonSwapped(number, long),
        44..46 => Action::DaemonFails(number, fault),
        46..49 => Action::DaemonSlow(number, 2 * long),
        49 => Action::ListPartial(number),
        50 => Action::DatabaseRestarts(2000 + long),
        51..54 => Action::DatabaseFails(fault),
        54..56 => Action::Standby(2000 + long),
        56 => Action::BrokerDown(long),
        57 => Action::ConnectionLost(number),
        58 => Action::PublishFails(fault),
        59..62 => Action::Crash(number, long),
        _ => Action::Freeze(number, 2 * long),
    }
}

fn publish(rng: &mut Rng) -> Publish {
    match rng.u8(..10) {
        0..5 => Publish::Once,
        5 => Publish::Twice,
        6 | 7 => Publish::Never,
        8 => Publish::Early,
        _ => Publish::Astray,
    }
}
