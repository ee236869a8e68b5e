//! Explores small worlds, or large ones, or plays random histories, and says what it found.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::collections::BTreeMap;
use std::process::ExitCode;

use assent_model::simulate::{self, Accounts};
use assent_model::{configurations, property, report};

const USAGE: &str = "usage: assent-model                         every history of the small configurations
       assent-model --large                 and of the large ones
       assent-model --only NAME             and of one
       assent-model simulate --seeds COUNT  so many random histories
       assent-model simulate --seed SEED    one of them, told";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let fine = match arguments[..] {
        [] => report::explore_all(&configurations::small(), |line| println!("{line}")),
        ["--large"] => report::explore_all(&configurations::large(), |line| println!("{line}")),
        ["--only", name] => {
            let mut plans = configurations::small();
            plans.extend(configurations::large());
            plans.retain(|plan| plan.name == name);
            if plans.is_empty() {
                println!("no configuration is called {name:?}");
                return usage();
            }
            report::explore_all(&plans, |line| println!("{line}"))
        }
        ["simulate", "--seeds", count] => match count.parse() {
            Ok(count) => simulate_all(count),
            Err(_) => return usage(),
        },
        ["simulate", "--seed", seed] => match seed.parse() {
            Ok(seed) => tell(seed),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    println!("{USAGE}");
    ExitCode::from(2)
}

fn simulate_all(count: u64) -> bool {
    property::listen();
    let (mut endings, mut steps) = (BTreeMap::<_, u64>::new(), 0);
    for seed in 0..count {
        let run = simulate::run(seed, Accounts::Checked);
        steps += run.history.len();
        match run.outcome {
            Ok(ended) => ended.into_iter().for_each(|ending| *endings.entry(ending).or_default() += 1),
            Err(breach) => {
                println!("seed {seed} breaks {}: see simulate --seed {seed}", breach.property.name());
                return false;
            }
        }
    }
    println!("{count} seeds, {steps} steps, transactions: {endings:?}");
    true
}

fn tell(seed: u64) -> bool {
    property::listen();
    let run = simulate::run(seed, Accounts::Checked);
    println!("{}", run.story());
    match &run.outcome {
        Ok(endings) => println!("ended: {}", endings.join("; ")),
        Err(breach) => println!("broken: {}: {}", breach.property.name(), breach.text),
    }
    run.outcome.is_ok()
}
