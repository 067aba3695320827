//! A model of the protocol: one thread, its events, two replicas, a sweep of each, a platform that reopens and closes
//! again, crashes, redeliveries, failed commits and locks that are given up; with one host, or with two of which nobody
//! says which one has the volume, and of which one is away for a while. Every interleaving is visited, breadth first,
//! until there is no new state; what becomes of a delivery is decided by the program's own function.
//!
//! The search is written here, in some thirty lines: the crate that has it (stateright) brings a web server and a dozen
//! crates more. Docker is taken by its word on two things: who asks first for a name has it first, and a removal that
//! was sent while its row was locked has arrived before the lock is given up (half of the lock's time is left for it).

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use volume_reaper::{
    cleanup::Outcome,
    delivery::settlement::{Settlement, decide},
    failure::{Dependency, Failure},
};

const DELAYS: [Duration; 1] = [Duration::from_secs(1)];
const REPLICAS: usize = 2;
/// What a clean-up comes to when one of several daemons is away. The only one never is, here.
const LEFT_TO_THE_SWEEP: Result<Outcome, Failure> = Ok(Outcome::Deferred);

/// What a replica is doing, and for which close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// It holds a delivery, and nobody says on which host the volume is: the row is to be read.
    Delivered,
    /// The row says when the thread was closed. Hosts are asked next whether they have the volume, by a delivery, or
    /// for their list, by a sweep; these have said that they have not.
    Read(u8, Hosts),
    /// The volume is to be removed on this host: the row is to be locked.
    Asked(usize),
    Locked(u8, usize),
    /// The removal is on its way to the daemon.
    Sent(u8, usize),
    /// The daemon has it.
    Taken(u8, usize),
    /// The volume is gone: by its removal, or it was not there.
    Gone(u8),
    /// No host has the volume.
    Absent(u8),
}

/// A bit for each host.
type Hosts = u8;

/// A guard that can be left out, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Guard {
    /// The platform waits for a row that is locked.
    RowLock,
    /// Reopening clears the mark.
    Trigger,
    /// Only a closed row is marked.
    Status,
    /// Only the close that was read is marked.
    Close,
    /// A row that is marked is not marked again.
    Unmarked,
    /// Sweeps find what events leave.
    Sweep,
    /// A volume is absent only if every host says so.
    EveryHost,
}

/// What becomes of a copy of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Copy {
    Work(u8),
    Unacked(usize, u8),
    Delayed(u8),
    Dead,
    Acked,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    closed: bool,
    close: u8,
    marked: bool,
    /// The host that has the volume.
    volume: Option<usize>,
    /// The row is open, and its volume is to be made.
    makes: bool,
    hosts: usize,
    /// The host that is away.
    away: Option<usize>,
    lock: Option<usize>,
    phases: [Phase; REPLICAS],
    /// Removals that daemons have, of which replica and at which host, in the order in which they came; of who is dead
    /// too.
    taken: Vec<(usize, usize)>,
    events: Vec<Copy>,
    /// By close.
    receipts: [u8; 2],
    crashes: u8,
    failures: u8,
    outages: u8,
    without: Option<Guard>,
}

/// A step: what it is called, whether it is a fault or the platform's doing, and what is true after it.
type Step = (&'static str, bool, Result<World, String>);

/// One closed thread whose volume is on the last of these hosts.
fn first(hosts: usize, without: Option<Guard>) -> World {
    World {
        closed: true,
        close: 0,
        marked: false,
        volume: Some(hosts - 1),
        makes: false,
        hosts,
        away: None,
        lock: None,
        phases: [Phase::Idle; REPLICAS],
        taken: Vec::new(),
        events: vec![Copy::Work(0)],
        receipts: [0; 2],
        crashes: 1,
        // Of several hosts one can be away; a commit that fails is no different there.
        failures: u8::from(hosts == 1),
        outages: u8::from(hosts > 1),
        without,
    }
}

impl World {
    fn steps(&self) -> Vec<Step> {
        let mut steps = self.of_others();
        for replica in 0..REPLICAS {
            steps.extend(self.of_replica(replica));
        }
        for step in &mut steps {
            if let Ok(world) = &step.2
                && let Err(wrong) = world.check()
            {
                step.2 = Err(wrong);
            }
        }
        steps
    }

    fn lacks(&self, guard: Guard) -> bool {
        self.without == Some(guard)
    }

    #[expect(clippy::unnecessary_wraps, reason = "a step leads to a world, or breaks a rule")]
    fn with(&self, change: impl FnOnce(&mut Self)) -> Result<Self, String> {
        let mut next = self.clone();
        change(&mut next);
        Ok(next)
    }

    /// The platform, the broker and the daemon.
    fn of_others(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.closed && self.close == 0 && (self.lock.is_none() || self.lacks(Guard::RowLock)) {
            let reopen = |it: &mut Self| {
                (it.closed, it.makes) = (false, true);
                it.marked &= it.lacks(Guard::Trigger);
            };
            steps.push(("reopen", true, self.with(reopen)));
        }
        // Behind the removals that its daemon has.
        let is_free = |host: &usize| self.away != Some(*host) && self.taken.iter().all(|(_, at)| at != host);
        for host in (0..self.hosts).filter(is_free).filter(|_| self.makes) {
            steps.push(("make", false, self.with(|it| (it.makes, it.volume) = (false, Some(host)))));
        }
        if !self.closed && !self.makes {
            let close = |it: &mut Self| {
                (it.closed, it.close) = (true, 1);
                it.events.push(Copy::Work(0));
            };
            steps.push(("close", true, self.with(close)));
        }
        for (number, copy) in self.events.iter().enumerate() {
            if let Copy::Delayed(attempts) = *copy {
                steps.push(("due", false, self.with(|it| it.events[number] = Copy::Work(attempts))));
            }
        }
        for host in 0..self.hosts {
            if let Some(first) = self.taken.iter().position(|(_, at)| *at == host).filter(|_| self.away != Some(host)) {
                steps.push(("removed", false, Ok(self.clone().removed(first, host))));
            }
            if self.outages > 0 && self.away.is_none() {
                let leave = |it: &mut Self| (it.away, it.outages) = (Some(host), it.outages - 1);
                steps.push(("go away", true, self.with(leave)));
            }
        }
        if self.away.is_some() {
            steps.push(("come back", false, self.with(|it| it.away = None)));
        }
        steps
    }

    fn of_replica(&self, me: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let phase = |phase: Phase| self.with(|it| it.phases[me] = phase);
        match self.phases[me] {
            Phase::Idle => {
                for (number, copy) in self.events.iter().enumerate() {
                    if let Copy::Work(attempts) = *copy {
                        let deliver = |it: &mut Self| {
                            it.events[number] = Copy::Unacked(me, attempts);
                            it.phases[me] = if it.hosts == 1 { Phase::Asked(0) } else { Phase::Delivered };
                        };
                        steps.push(("deliver", false, self.with(deliver)));
                    }
                }
                if self.closed && !self.marked && !self.lacks(Guard::Sweep) {
                    steps.push(("sweep", false, phase(Phase::Read(self.close, 0))));
                }
            }
            Phase::Delivered => steps.push(("read", false, self.read(me))),
            Phase::Read(close, heard) => {
                for host in (0..self.hosts).filter(|host| heard & 1 << host == 0) {
                    steps.push(("ask", false, self.ask(me, close, heard, host)));
                }
            }
            Phase::Asked(host) => steps.push(("lock", false, self.lock(me, host))),
            Phase::Locked(close, host) => steps.push(("send", false, phase(Phase::Sent(close, host)))),
            Phase::Sent(_, host) if self.away == Some(host) => {
                steps.push(("fail to arrive", false, Ok(self.clone().ended(me, &LEFT_TO_THE_SWEEP))));
            }
            Phase::Sent(close, host) => {
                let take = |it: &mut Self| {
                    it.taken.push((me, host));
                    it.phases[me] = Phase::Taken(close, host);
                };
                let taken =
                    if self.closed { self.with(take) } else { Err("safety: sent for an open thread".to_owned()) };
                steps.push(("arrive", false, taken));
            }
            Phase::Taken(..) if self.lock == Some(me) => steps.push(("give up the lock", true, {
                let removing = |it: &mut Self| it.lock = None;
                self.with(removing).map(|it| it.settled(me, &Ok(Outcome::Removing)))
            })),
            Phase::Taken(..) => {}
            Phase::Gone(close) | Phase::Absent(close) => {
                steps.push(("mark", false, self.mark(me, close)));
                if self.failures > 0 {
                    let fail = |it: &mut Self| it.failures -= 1;
                    let failed = Err(Failure::transient("the commit failed"));
                    steps.push(("fail to commit", true, self.with(fail).map(|it| it.ended(me, &failed))));
                    let down = Err(Failure::unavailable(Dependency::Database, "down"));
                    steps.push(("lose the database", true, self.with(fail).map(|it| it.ended(me, &down))));
                }
            }
        }
        if self.crashes > 0 && self.phases[me] != Phase::Idle {
            steps.push(("crash", true, self.with(|it| it.crash(me))));
        }
        steps
    }

    /// Who has several hosts, and no row that names one, reads the row and locks nothing.
    fn read(&self, me: usize) -> Result<Self, String> {
        match self.not_actionable() {
            Some(outcome) => Ok(self.clone().ended(me, &Ok(outcome))),
            None => self.with(|it| it.phases[me] = Phase::Read(it.close, 0)),
        }
    }

    /// Asks a host whether it has the volume.
    fn ask(&self, me: usize, close: u8, heard: Hosts, host: usize) -> Result<Self, String> {
        if self.away == Some(host) && !self.lacks(Guard::EveryHost) {
            return Ok(self.clone().ended(me, &LEFT_TO_THE_SWEEP));
        }
        let heard = heard | 1 << host;
        let is_everyone = usize::try_from(heard.count_ones()) == Ok(self.hosts);
        self.with(|it| {
            it.phases[me] = if it.volume == Some(host) && it.away != Some(host) {
                Phase::Asked(host)
            } else if is_everyone {
                Phase::Absent(close)
            } else {
                Phase::Read(close, heard)
            };
        })
    }

    /// A daemon has done a removal that it had.
    fn removed(mut self, first: usize, host: usize) -> Self {
        let (by, _) = self.taken.remove(first);
        let was_there = self.volume == Some(host);
        if was_there {
            self.volume = None;
        }
        match self.phases.get(by).copied() {
            // That it is not on this host proves nothing if it may be on another one.
            Some(Phase::Taken(..)) if !was_there && self.hosts > 1 => self.ended(by, &Ok(Outcome::Deferred)),
            Some(Phase::Taken(close, _)) => {
                self.phases[by] = Phase::Gone(close);
                self
            }
            _ => self,
        }
    }

    fn not_actionable(&self) -> Option<Outcome> {
        match (self.closed, self.marked) {
            (false, _) => Some(Outcome::NotClosed),
            (true, true) => Some(Outcome::AlreadyClean),
            (true, false) => None,
        }
    }

    /// The row decides.
    fn lock(&self, me: usize, host: usize) -> Result<Self, String> {
        match self.not_actionable().or_else(|| self.lock.map(|_| Outcome::Busy)) {
            Some(outcome) => Ok(self.clone().ended(me, &Ok(outcome))),
            None => self.with(|it| (it.lock, it.phases[me]) = (Some(me), Phase::Locked(it.close, host))),
        }
    }

    /// The guarded mark: of a row that is locked by us, or that is free and as it was read.
    fn mark(&self, me: usize, close: u8) -> Result<Self, String> {
        let is_free = self.lock.is_none_or(|owner| owner == me);
        let outcome = match (self.closed, self.marked) {
            (false, _) if !self.lacks(Guard::Status) => Outcome::Reopened,
            (_, _) if self.close != close && !self.lacks(Guard::Close) => Outcome::Reopened,
            (_, true) if !self.lacks(Guard::Unmarked) => Outcome::AlreadyClean,
            (_, false) if !is_free => Outcome::Busy,
            (_, _) => {
                let marked = self.with(|it| {
                    it.marked = true;
                    it.receipts[usize::from(close)] += 1;
                });
                return marked.map(|it| it.ended(me, &Ok(Outcome::Removed)));
            }
        };
        Ok(self.clone().ended(me, &Ok(outcome)))
    }

    fn ended(mut self, me: usize, result: &Result<Outcome, Failure>) -> Self {
        if self.lock == Some(me) {
            self.lock = None;
        }
        self.phases[me] = Phase::Idle;
        self.settled(me, result)
    }

    /// What becomes of the delivery that this replica holds, if it holds one: published first, then acknowledged.
    fn settled(mut self, me: usize, result: &Result<Outcome, Failure>) -> Self {
        for copy in &mut self.events {
            let Copy::Unacked(owner, attempts) = *copy else { continue };
            if owner != me {
                continue;
            }
            *copy = match decide(result, attempts.into(), &DELAYS) {
                Settlement::Ack | Settlement::Stale => Copy::Acked,
                Settlement::Retry { .. } => Copy::Delayed(attempts + 1),
                Settlement::Busy { .. } => Copy::Delayed(attempts),
                Settlement::DeadLetter { .. } => Copy::Dead,
                Settlement::HandBack { .. } => Copy::Work(attempts),
            };
        }
        self
    }

    /// What it held comes again; what the daemon has goes on.
    fn crash(&mut self, me: usize) {
        self.crashes -= 1;
        if self.lock == Some(me) {
            self.lock = None;
        }
        self.phases[me] = Phase::Idle;
        for copy in &mut self.events {
            if let Copy::Unacked(owner, attempts) = *copy
                && owner == me
            {
                *copy = Copy::Work(attempts);
            }
        }
        for (by, _) in &mut self.taken {
            if *by == me {
                *by = usize::MAX;
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        let wrong = if !self.closed && self.marked {
            "truth: open and marked"
        } else if self.marked && self.volume.is_some() {
            "truth: marked, and the volume is there"
        } else if !self.closed && !self.makes && self.volume.is_none() {
            "safety: open, and the volume is gone"
        } else if self.receipts.iter().any(|receipts| *receipts > 1) {
            "once: two receipts of one close"
        } else {
            return Ok(());
        };
        Err(wrong.to_owned())
    }

    /// Nothing is left to do: closed and marked, or open; and every event has its end.
    fn is_done(&self) -> bool {
        let is_settled = self.events.iter().all(|copy| matches!(copy, Copy::Acked | Copy::Dead));
        is_settled && (self.marked || (!self.closed && !self.makes))
    }
}

/// Visits every state. Returns how many there are and how many steps lead to them, or what is wrong and how it came.
fn explore(hosts: usize, without: Option<Guard>) -> Result<(usize, usize), String> {
    let first = first(hosts, without);
    let mut numbers = HashMap::from([(first.clone(), 0)]);
    let mut states = vec![(first, "begin", 0)];
    // For each state, those that lead to it without a fault.
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let (mut next, mut transitions) = (0, 0);
    while next < states.len() {
        for (name, is_fault, world) in states[next].0.clone().steps() {
            transitions += 1;
            let world = world.map_err(|wrong| format!("{wrong}\n{}{name}", path(&states, next)))?;
            let number = *numbers.entry(world.clone()).or_insert_with(|| {
                states.push((world, name, next));
                before.push(Vec::new());
                states.len() - 1
            });
            if !is_fault {
                before[number].push(next);
            }
        }
        next += 1;
    }
    let mut is_live = vec![false; states.len()];
    let mut reached: VecDeque<_> = (0..states.len()).filter(|number| states[*number].0.is_done()).collect();
    while let Some(number) = reached.pop_front() {
        if !std::mem::replace(&mut is_live[number], true) {
            reached.extend(&before[number]);
        }
    }
    match is_live.iter().position(|is_live| !is_live) {
        None => Ok((states.len(), transitions)),
        Some(stuck) => Err(format!("liveness: nothing cleans up from here on\n{}", path(&states, stuck))),
    }
}

#[test]
fn no_interleaving_breaks_an_invariant_and_from_each_state_everything_is_cleaned_without_a_fault() {
    for hosts in [1, 2] {
        let (states, transitions) = explore(hosts, None).unwrap_or_else(|wrong| panic!("{hosts}: {wrong}"));
        println!("{hosts} host(s): {states} states, {transitions} transitions: all that there are");
        assert!(states > 10_000, "the model does less than it should: {states} states");
    }
}

#[test]
fn without_any_one_guard_the_model_breaks() {
    for guard in [Guard::RowLock, Guard::Trigger, Guard::Status, Guard::Close, Guard::Unmarked, Guard::Sweep] {
        let wrong = explore(1, Some(guard)).expect_err("it is needed");
        println!("without {guard:?}: {}", wrong.lines().next().unwrap_or_default());
    }
    let wrong = explore(2, Some(Guard::EveryHost)).expect_err("it is needed");
    println!("without {:?}: {}", Guard::EveryHost, wrong.lines().next().unwrap_or_default());
}

/// How a state was reached, one step a line.
fn path(states: &[(World, &'static str, usize)], mut number: usize) -> String {
    let mut steps = Vec::new();
    while number > 0 {
        steps.push(states[number].1);
        number = states[number].2;
    }
    steps.reverse();
    steps.join("\n")
}
