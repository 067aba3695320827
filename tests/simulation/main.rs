//! The deterministic simulation: the real cleaner, consumer and sweeps, over a database, Docker and a broker in memory
//! that fail, delay, repeat, reorder, die between any two calls and come back. Time is paused, and everything follows
//! from a seed: one that breaks an invariant prints the shortest history found, and does the same again.

mod answers;
mod broker;
mod daemon;
mod database;
mod history;
mod invariants;
mod mutants;
mod names;
mod plan;
mod platform;
mod replica;
mod store;
mod world;

use std::sync::Mutex;

use crate::{
    history::{run, run_kept, told},
    mutants::Mutant,
    plan::draw,
};

/// Between two edits; `make simulation` runs ten thousand.
const SEEDS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Seeds that caught a mutant that few others catch, when all were last tried in turn. Each mutant is tried by them
/// first, which takes a fifth of the time; one that they miss is looked for by all.
const RARE: [u64; 8] = [144, 148, 157, 180, 182, 221, 499, 723];

/// Of these seeds, those that break an invariant, on all cores: the first of them, and of the others as many as were
/// found by then.
fn broken(seeds: impl Iterator<Item = u64> + Send, most: usize, mutant: Option<Mutant>) -> Vec<u64> {
    let (seeds, found) = (Mutex::new(seeds), Mutex::new(Vec::new()));
    let next = || seeds.lock().expect("no panic").next();
    let work = || {
        while found.lock().expect("no panic").len() < most
            && let Some(seed) = next()
        {
            if run(seed, &draw(seed), mutant).violation.is_some() {
                found.lock().expect("no panic").push(seed);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let mut found = found.into_inner().expect("no panic");
    found.sort_unstable();
    found
}

#[test]
fn no_seed_breaks_an_invariant() {
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let told: Vec<_> = broken(0..seeds, 4, None).into_iter().filter_map(|seed| told(seed, None)).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
    println!("{seeds} seeds broke no invariant");
}

#[test]
fn every_mutant_is_caught() {
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        match broken(RARE.into_iter().chain(0..seeds), 1, Some(mutant)).first() {
            Some(seed) => {
                let how = run(*seed, &draw(*seed), Some(mutant)).violation.expect("it breaks again");
                println!("{mutant:?} is caught by seed {seed}: {how}");
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "{survivors:?} are not caught by {seeds} seeds");
}

#[test]
fn a_seed_does_the_same_again() {
    let seeds = number("SIMULATION_SEED").map_or(0..50, |seed| seed..seed + 1);
    for seed in seeds {
        let steps = draw(seed);
        let first = run_kept(seed, &steps, None);
        assert_eq!(first, run_kept(seed, &steps, None), "seed {seed}");
        if let Some(told) = told(seed, None) {
            panic!("{told}");
        }
    }
}
