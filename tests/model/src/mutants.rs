//! Looks for what a broken core breaks: `assent-mutants NAME`.
//!
//! The model is that of `assent-model`; the core is a copy in which each edit of `mutants.rs` can be switched on. One
//! compilation serves all of them.

// The core's own tests belong to its own crate.
#![cfg(not(test))]
#![expect(clippy::print_stdout, reason = "that is what it is for")]

include!(concat!(env!("OUT_DIR"), "/broken.rs"));
use sources::core;

#[expect(dead_code, reason = "the large ones are for the real core")]
mod configurations;
#[path = "../mutants.rs"]
#[expect(dead_code, reason = "the build script reads the edits, and the test what they break")]
mod list;
mod plan;
mod property;
mod search;
mod simulate;
mod site;
mod story;
mod world;

/// Which edit is on: none or one, for the whole process.
mod switch {
    use std::sync::OnceLock;

    pub static NAME: OnceLock<&str> = OnceLock::new();

    pub fn is_on(name: &str) -> bool {
        NAME.get().is_some_and(|on| *on == name)
    }
}

use std::process::ExitCode;
use std::sync::Arc;

use self::list::MUTANTS;
use self::search::{Bounds, Findings, explore};

/// More than any configuration has that shows a mutant.
const STATES_MAX: usize = 2_000_000;

/// What a mutant names that no small configuration is deep enough for.
const SIMULATION: &str = "simulation";
const SEEDS_MAX: u64 = 2_000;

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some(mutant) = MUTANTS.iter().find(|mutant| mutant.name == name) else {
        println!("usage: assent-mutants NAME");
        return ExitCode::from(2);
    };
    if STALE.contains(&mutant.name) {
        println!("this edit does not fit {} any more", mutant.file);
        return ExitCode::from(3);
    }
    switch::NAME.set(mutant.name).expect("it is set once");
    property::listen();
    if mutant.shown_by == SIMULATION {
        return simulate();
    }
    let plan = configurations::small().into_iter().find(|plan| plan.name == mutant.shown_by);
    let plan = Arc::new(plan.expect("there is such a configuration"));
    // The engine's own accounts would find some sooner. They are no promise to anybody.
    let findings = explore(&plan, &Bounds { states: STATES_MAX, threads: 1, accounts: false });
    let Findings { states, transitions, depth, took, exhausted, breach } = findings;
    if let Some((breach, story)) = breach {
        println!("broken: {}\n{}\n{story}", breach.property.name(), breach.text);
        return ExitCode::FAILURE;
    }
    println!("nothing is broken: {states} states, {transitions} transitions, {depth} deep, {took:?}");
    println!("was that all there is? {exhausted}");
    ExitCode::SUCCESS
}

fn simulate() -> ExitCode {
    for seed in 0..SEEDS_MAX {
        let run = simulate::run(seed, simulate::Accounts::Unchecked);
        if let Err(breach) = &run.outcome {
            println!("broken: {}\nseed {seed}: {}\n{}", breach.property.name(), breach.text, run.story());
            return ExitCode::FAILURE;
        }
    }
    println!("nothing is broken in {SEEDS_MAX} seeds");
    ExitCode::SUCCESS
}
