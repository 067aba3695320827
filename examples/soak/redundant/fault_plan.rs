//! Which fault comes when, to what, and for how long: decided by the seed before anything begins.

use std::{collections::BTreeMap, time::Duration};

use crate::plan::Dice;

/// Between two faults.
const INTERVAL: Duration = Duration::from_secs(1);

/// The name is what the report calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    BrokerKilled,
    BrokerFrozen,
    /// One of three is cut off from the others, and stops until it sees them again.
    BrokerCutOff,
    /// All three are restarted, one after the other.
    BrokersRolled,
    BrokerConnectionsCut,
    /// It is deleted, and comes back without its binding.
    ExchangeDeleted,
    /// The standby is promoted.
    PrimaryKilled,
    StandbyKilled,
    /// The replicas are led to the standby, which is behind.
    StandbyAsked,
    DatabaseConnectionsCut,
    RowsLocked,
    DaemonKilled,
    DaemonFrozen,
    /// Each daemon answers in the other's place.
    DaemonsSwapped,
    DaemonDiskFull,
    DaemonConnectionsCut,
    ReplicaKilled,
    ReplicaStopped,
    ReplicaFrozen,
    /// By hours, and back.
    ClockJumped,
    ClientsHalfOpen,
}

/// A fault to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
    /// Which of several; any number.
    pub(crate) which: usize,
    pub(crate) lasts: Duration,
}

/// What a fault is about. One fault at a time is about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Brokers,
    Databases,
    Daemon(usize),
    Replica(usize),
    Nothing,
}

/// How often it comes, how long it lasts at least and at most, and what it takes to be over after that, in seconds.
const KINDS: [(Kind, usize, [u64; 2], u64); 21] = [
    (Kind::BrokerKilled, 2, [1, 4], 12),
    (Kind::BrokerFrozen, 2, [1, 12], 6),
    (Kind::BrokerCutOff, 2, [10, 16], 6),
    (Kind::BrokersRolled, 1, [0, 0], 40),
    (Kind::BrokerConnectionsCut, 4, [0, 0], 0),
    (Kind::ExchangeDeleted, 1, [0, 2], 4),
    (Kind::PrimaryKilled, 2, [1, 6], 8),
    (Kind::StandbyKilled, 1, [1, 4], 4),
    (Kind::StandbyAsked, 2, [2, 8], 4),
    (Kind::DatabaseConnectionsCut, 4, [0, 0], 0),
    (Kind::RowsLocked, 4, [0, 7], 0),
    (Kind::DaemonKilled, 2, [0, 2], 6),
    (Kind::DaemonFrozen, 3, [0, 7], 2),
    (Kind::DaemonsSwapped, 2, [1, 6], 2),
    (Kind::DaemonDiskFull, 2, [1, 5], 2),
    (Kind::DaemonConnectionsCut, 4, [0, 0], 0),
    (Kind::ReplicaKilled, 3, [0, 2], 2),
    (Kind::ReplicaStopped, 2, [0, 2], 8),
    (Kind::ReplicaFrozen, 3, [0, 7], 1),
    (Kind::ClockJumped, 3, [2, 10], 2),
    (Kind::ClientsHalfOpen, 2, [0, 5], 2),
];

/// All faults of a run.
pub(crate) fn plan(dice: &mut Dice, lasts: Duration, replicas: usize) -> Vec<Planned> {
    let by_weight: Vec<_> = KINDS.iter().flat_map(|kind| std::iter::repeat_n(kind, kind.1)).collect();
    let mut free_at: BTreeMap<Target, Duration> = BTreeMap::new();
    let mut plan = Vec::new();
    let mut at = INTERVAL;
    while at < lasts {
        let (kind, _, [shortest, longest], over) = *by_weight[dice.below(by_weight.len())];
        let which = dice.below(6);
        let targets = targets(kind, which, replicas);
        // What is taken is drawn again; a cut is always possible.
        if targets.iter().any(|target| free_at.get(target).is_some_and(|free| *free > at)) {
            continue;
        }
        let lasts = Duration::from_secs(shortest) + dice.up_to(Duration::from_secs(longest - shortest));
        for target in targets.into_iter().filter(|target| *target != Target::Nothing) {
            free_at.insert(target, at + lasts + Duration::from_secs(over));
        }
        plan.push(Planned { at, kind, which, lasts });
        at += INTERVAL;
    }
    plan
}

fn targets(kind: Kind, which: usize, replicas: usize) -> Vec<Target> {
    match kind {
        Kind::BrokerKilled | Kind::BrokerFrozen | Kind::BrokerCutOff | Kind::BrokersRolled | Kind::ExchangeDeleted => {
            vec![Target::Brokers]
        }
        Kind::PrimaryKilled | Kind::StandbyKilled | Kind::StandbyAsked => vec![Target::Databases],
        Kind::DaemonKilled | Kind::DaemonFrozen | Kind::DaemonDiskFull => vec![Target::Daemon(which % 2)],
        Kind::DaemonsSwapped => vec![Target::Daemon(0), Target::Daemon(1)],
        Kind::ReplicaKilled
        | Kind::ReplicaStopped
        | Kind::ReplicaFrozen
        | Kind::ClockJumped
        | Kind::ClientsHalfOpen => vec![Target::Replica(which % replicas)],
        Kind::BrokerConnectionsCut | Kind::DatabaseConnectionsCut | Kind::RowsLocked | Kind::DaemonConnectionsCut => {
            vec![Target::Nothing]
        }
    }
}
