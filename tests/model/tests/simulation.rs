//! Random histories of large worlds.

use std::collections::BTreeMap;

use assent_model::property;
use assent_model::simulate::{self, Accounts};

const SEEDS: u64 = 10_000;

/// Calls and answers lost, doubled, delayed and reordered; crashes that lose what was not durable; time, inquiries,
/// impatient initiators, operators. Then the faults stop, and everything must end, and end well.
#[test]
fn whatever_fails_transactions_are_atomic_stable_and_end() {
    property::listen();
    let mut endings = BTreeMap::<_, u32>::new();
    for seed in 0..SEEDS {
        let run = simulate::run(seed, Accounts::Checked);
        match &run.outcome {
            Ok(ended) => ended.iter().for_each(|ending| *endings.entry(*ending).or_default() += 1),
            Err(breach) => panic!("seed {seed} breaks {}\n{}", breach.property.name(), run.story()),
        }
    }
    for wanted in ["committed", "aborted", "mixed", "committed, forgotten", "aborted, forgotten"] {
        assert!(
            endings.contains_key(wanted),
            "none ended {wanted}, so nothing is shown of that: {endings:?}"
        );
    }
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    for seed in 0..200 {
        assert_eq!(
            simulate::run(seed, Accounts::Checked).story(),
            simulate::run(seed, Accounts::Checked).story(),
            "seed {seed}"
        );
    }
}
