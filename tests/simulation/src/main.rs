//! Runs the real coordinator, its log, its transports and API, and the SDK, on a simulated network, clock and disk.
//!
//! A run follows from its seed alone: what is chosen at random, what fails and when, in which order things happen. So a run
//! that found something can be had again. Each run is a process of its own, in which nothing is random
//! (`shim/shim.c`, no address space randomization, an empty environment).

mod bank;
mod campaign;
mod coordinator;
mod disk;
mod faults;
mod initiator;
mod judge;
mod machines;
mod network;
mod participant;
mod rng;
mod run;
mod trace;
mod world;

use std::process::ExitCode;

use clap::Parser;

use self::judge::Flaw;

/// Simulates the coordinator with its participants and initiators, and everything that can fail.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// One run, with all that happens in it printed.
    #[arg(long, conflicts_with_all = ["seeds", "first", "duration"])]
    seed: Option<u64>,
    /// As many seeds as can be run in this time, such as 8h.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    duration: Option<std::time::Duration>,
    /// Faults to the end: only what holds at every moment is judged.
    #[arg(long)]
    safety_only: bool,
    /// Ends with the first seed that finds something.
    #[arg(long)]
    until_found: bool,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Something wrong on purpose, to see it found.
    #[arg(long, value_enum, default_value_t = Flaw::None)]
    flaw: Flaw,
    /// The process of one run.
    #[arg(long, hide = true)]
    run: Option<u64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(seed) = args.run {
        let orders = run::Orders { seed, safety_only: args.safety_only, flaw: args.flaw };
        return trace::print(orders);
    }
    campaign::run(&args)
}
