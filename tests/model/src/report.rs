//! What was found, in words and figures.

use std::sync::Arc;
use std::thread::available_parallelism;

use crate::plan::Plan;
use crate::search::{Bounds, Findings, explore};

/// Enough for every configuration that is known; one that has more is not explored to the end, and that is said.
const STATES_MAX: usize = 60_000_000;

/// Explores plans one after another. False: a promise was broken, or a plan has too many states.
pub fn explore_all(plans: &[Plan], mut say: impl FnMut(&str)) -> bool {
    crate::property::listen();
    let threads = available_parallelism().map_or(1, usize::from);
    let bounds = Bounds { states: STATES_MAX, threads, accounts: true };
    say(&format!(
        "{:40} {:>9} {:>11} {:>5} {:>7}  may happen",
        "configuration", "states", "transitions", "depth", "time"
    ));
    let mut whole = true;
    for plan in plans {
        let findings = explore(&Arc::new(plan.clone()), &bounds);
        say(&line(plan, &findings));
        whole &= findings.exhausted && findings.breach.is_none();
    }
    whole
}

fn line(plan: &Plan, findings: &Findings) -> String {
    let Findings { states, transitions, depth, took, exhausted, breach } = findings;
    let limits = plan.limits.to_string();
    let name = plan.name;
    let mut line =
        format!("{name:40} {states:>9} {transitions:>11} {depth:>5} {:>6.1}s  {limits}", took.as_secs_f64());
    if let Some((breach, story)) = breach {
        let name = breach.property.name();
        line = format!("{line}\n\nbroken: {name}\n{story}\n{}\n", breach.text);
    } else if !exhausted {
        line += "  (not explored to the end)";
    }
    line
}
