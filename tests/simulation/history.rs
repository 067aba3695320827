//! One run of a seed: its steps, then peace, and at the end what has to be true then. And the search for the shortest
//! steps that still break an invariant.

use std::{fmt::Write, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    mutants::Mutant,
    plan::{Action, Publish, Setup, Step, draw},
    platform,
    replica::{COOLDOWN, INTERVAL, LEASE, start},
    world::{Process, State, World, elapsed},
};

/// Longer than anything takes that is under way: a slow removal.
const AFTERMATH: Duration = Duration::from_mins(1);

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) violation: Option<String>,
    pub(crate) history: Vec<String>,
}

/// Runs these steps in the world of a seed.
pub(crate) fn run(seed: u64, steps: &[Step], mutant: Option<Mutant>) -> Run {
    run_and(false, seed, steps, mutant)
}

/// Runs them, and keeps what happens.
pub(crate) fn run_kept(seed: u64, steps: &[Step], mutant: Option<Mutant>) -> Run {
    run_and(true, seed, steps, mutant)
}

fn run_and(keeps_history: bool, seed: u64, steps: &[Step], mutant: Option<Mutant>) -> Run {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let world = World::new(seed, Setup::draw(seed), mutant, keeps_history);
        platform::settle_in(&world);
        for replica in 0..world.setup.replicas {
            start(&world, replica);
        }
        live(&world, steps).await;
        let mut state = world.state();
        Run { violation: state.checks.violation.take(), history: state.history.take().unwrap_or_default() }
    })
}

/// Does the steps, and then lets everything heal. Ends early when an invariant is broken.
async fn live(world: &Arc<World>, steps: &[Step]) {
    for step in steps {
        sleep(Duration::from_millis(step.wait_ms)).await;
        act(world, step.action);
        if is_over(world) {
            return;
        }
    }
    heal(world);
    // What is under way at a daemon, somebody's removal perhaps who is dead.
    pass(world, AFTERMATH, |state| state.daemons.are_idle()).await;
    resume(world);
    if is_over(world) {
        return;
    }
    // A budget of one a sweep is used up by each of them.
    let has_budget = world.setup.per_sweep.or(world.setup.per_hour).is_some();
    let sweeps = 2 + if has_budget { world.setup.threads } else { 0 };
    let soon = LEASE + INTERVAL * u32::try_from(sweeps).expect("few") + world.setup.retention;
    pass(world, soon, |state| state.not_alive(true).is_empty()).await;
    world.state().check_alive(soon, false);
    // What has failed waits for as long as it had failed by then.
    let later = elapsed() + COOLDOWN + INTERVAL * 2;
    pass(world, later, |state| state.not_alive(true).is_empty()).await;
    world.state().check_alive(soon + later, true);
    if is_over(world) {
        return;
    }
    let (is_quiet, calls) = {
        let state = world.state();
        (state.rows.threads.values().all(|row| !row.closed || row.mark.is_some()), state.daemons.calls)
    };
    for replica in 0..world.setup.replicas {
        crash(world, replica);
        start(world, replica);
    }
    world.state().rows.leases.clear();
    sleep(INTERVAL + INTERVAL / 2).await;
    let mut state = world.state();
    let asked = state.daemons.calls - calls;
    if is_quiet && asked > 0 {
        state.violated(format!("quiet: Docker was asked {asked} times about threads that are marked"));
    }
    state.check_all();
}

/// Lets time pass, until enough has. Whatever the service pauses meanwhile, people look at and resume.
async fn pass(world: &World, most: Duration, is_enough: impl Fn(&State) -> bool) {
    let until = Instant::now() + most;
    loop {
        sleep(Duration::from_secs(5)).await;
        let mut state = world.state();
        if !state.rows.pauses.is_empty() {
            state.rows.resume();
        }
        if is_enough(&state) || Instant::now() >= until {
            return;
        }
    }
}

fn is_over(world: &World) -> bool {
    let mut state = world.state();
    state.check_all();
    state.checks.violation.is_some()
}

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn act(world: &Arc<World>, action: Action) {
    world.state().note(|| format!("-- {action:?}"));
    let thread = |number| platform::thread(world, number);
    let hosts = &world.setup.hosts;
    let host = |number: usize| if hosts.is_empty() { crate::database::ONLY } else { hosts[number % hosts.len()] };
    match action {
        Action::Close(number, publish) => {
            drop(tokio::spawn(platform::close(Arc::clone(world), thread(number), publish)));
        }
        Action::Reopen(number) => drop(tokio::spawn(platform::reopen(Arc::clone(world), thread(number)))),
        Action::Flap(number) => drop(tokio::spawn(platform::flap(Arc::clone(world), thread(number)))),
        Action::Repeat(number) => platform::say(world, thread(number), Publish::Once),
        Action::StartContainer(number) => platform::contain(world, thread(number), true),
        Action::StopContainer(number) => platform::contain(world, thread(number), false),
        Action::Hold(number) => platform::hold(world, thread(number), true),
        Action::Release(number) => platform::hold(world, thread(number), false),
        Action::Pause => drop(world.state().rows.pause_row("everything".to_owned(), "a person paused it")),
        Action::Resume => world.state().rows.resume(),
        Action::Vanish(number) => platform::meddle(world, thread(number), false),
        Action::Reappear(number) => platform::meddle(world, thread(number), true),
        Action::PublishGarbage => drop(world.state().publish(b"{\"thread\": 1".to_vec())),
        Action::PublishUnknown => drop(world.state().publish(br#"{"thread_id": "orphan"}"#.to_vec())),
        Action::DaemonDown(number, ms) => world.state().daemons.at(host(number)).down_until = Some(after(ms)),
        Action::DaemonHangs(number, ms) => world.state().daemons.at(host(number)).hangs_until = Some(after(ms)),
        Action::DaemonSwapped(number, ms) => world.state().daemons.at(host(number)).swapped_until = Some(after(ms)),
        Action::DaemonFails(number, fault) => world.state().daemons.at(host(number)).faults.push(fault),
        Action::DaemonSlow(number, ms) => world.state().daemons.at(host(number)).slow_ms = Some(ms),
        Action::ListPartial(number) => world.state().daemons.at(host(number)).is_partial = true,
        Action::DatabaseRestarts(ms) => {
            let mut state = world.state();
            state.rows.transactions.clear();
            state.rows.down_until = Some(after(ms));
        }
        Action::DatabaseFails(fault) => world.state().rows.faults.push(fault),
        Action::Standby(ms) => {
            let mut state = world.state();
            let rows = state.rows.threads.clone();
            state.rows.standby = Some((after(ms), rows));
        }
        Action::BrokerDown(ms) => {
            let mut state = world.state();
            state.broker.down_until = Some(after(ms));
            for replica in 0..state.replicas.len() {
                lose_channel(&mut state, replica);
            }
        }
        Action::ConnectionLost(number) => {
            let mut state = world.state();
            let replica = number % state.replicas.len();
            lose_channel(&mut state, replica);
        }
        Action::PublishFails(fault) => world.state().broker.faults.push(fault),
        Action::Crash(number, ms) => {
            let replica = number % world.setup.replicas;
            if crash(world, replica) {
                let world = Arc::clone(world);
                tokio::spawn(async move {
                    sleep(Duration::from_millis(ms)).await;
                    let is_down = world.state().replicas[replica].is_down;
                    if is_down {
                        start(&world, replica);
                    }
                });
            }
        }
        Action::Freeze(number, ms) => freeze(world, number % world.setup.replicas, ms),
    }
}

fn lose_channel(state: &mut State, replica: usize) {
    let process = Process { replica, start: state.replicas[replica].starts };
    state.broker.lose(process);
}

/// Kills a replica. Whether it was running.
fn crash(world: &World, replica: usize) -> bool {
    let mut state = world.state();
    if state.replicas[replica].is_down {
        return false;
    }
    lose_channel(&mut state, replica);
    state.replicas[replica].is_down = true;
    // The server sees that the connection is closed when what was sent before has arrived too.
    let over_at = if state.is(Mutant::DeadKeepLocks) { None } else { Some(after(200)) };
    for transaction in state.rows.transactions.values_mut().filter(|it| it.owner.replica == replica) {
        transaction.over_at = over_at;
    }
    true
}

/// Stops a replica for a while. Later, the server takes its locks from it.
fn freeze(world: &World, replica: usize, ms: u64) {
    let mut state = world.state();
    state.replicas[replica].frozen_until = Some(after(ms));
    let limit = if world.setup.locks_file { Duration::from_millis(500) } else { Duration::from_secs(2) };
    for transaction in state.rows.transactions.values_mut().filter(|it| it.owner.replica == replica) {
        transaction.over_at = Some(Instant::now() + limit + crate::store::FROZEN_MARGIN);
    }
}

/// The end of all faults.
fn heal(world: &Arc<World>) {
    let down: Vec<_> = {
        let mut state = world.state();
        state.note(|| "-- faults end".to_owned());
        for daemon in state.daemons.hosts.values_mut() {
            (daemon.down_until, daemon.hangs_until, daemon.swapped_until) = (None, None, None);
            (daemon.slow_ms, daemon.is_partial) = (None, false);
            daemon.faults.clear();
        }
        (state.rows.down_until, state.rows.standby) = (None, None);
        state.rows.faults.clear();
        state.broker.down_until = None;
        state.broker.faults.clear();
        for replica in &mut state.replicas {
            replica.frozen_until = None;
        }
        (0..state.replicas.len()).filter(|replica| state.replicas[*replica].is_down).collect()
    };
    for replica in down {
        start(world, replica);
    }
}

/// People end what they began: some of the holds and containers, and all pauses.
fn resume(world: &World) {
    let mut state = world.state();
    state.note(|| "-- people resume".to_owned());
    state.rows.resume();
    state.rows.per_hour = None;
    state.rows.holds.remove("t1");
    for daemon in state.daemons.hosts.values_mut() {
        for (volume, users) in &mut daemon.volumes {
            if !volume.ends_with('0') {
                users.clear();
            }
        }
    }
}

/// Fewer steps of those that still break an invariant: each is left out that is not needed.
pub(crate) fn shrunk(seed: u64, steps: &[Step], mutant: Option<Mutant>) -> Vec<Step> {
    let mut steps = steps.to_vec();
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            if run(seed, &fewer, mutant).violation.is_some() {
                steps = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    steps
}

/// A failing seed for people: what broke, the fewest steps, and what happened in them.
pub(crate) fn told(seed: u64, mutant: Option<Mutant>) -> Option<String> {
    let steps = draw(seed);
    let run_of_all = run(seed, &steps, mutant);
    let violation = run_of_all.violation?;
    let steps = shrunk(seed, &steps, mutant);
    let shortest = run_kept(seed, &steps, mutant);
    let mut text = format!("seed {seed}: {violation}\n{:?}\n", Setup::draw(seed));
    let _ = writeln!(text, "the shortest history found has {} steps and breaks {:?}:", steps.len(), shortest.violation);
    for line in shortest.history {
        let _ = writeln!(text, "  {line}");
    }
    let again = "deploy/image/cargo test --locked --test simulation -- a_seed --nocapture";
    let _ = writeln!(text, "again: SIMULATION_SEED={seed} {again}");
    Some(text)
}
