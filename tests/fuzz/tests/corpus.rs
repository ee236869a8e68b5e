//! Each target, on all inputs that are kept and some new ones.
//!
//! `ASSENT_FUZZ_INPUTS` asks for so many new ones, `ASSENT_FUZZ_SEED` for others.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{env, fs};

use assent_fuzz::mutation::{Random, mutated};
use assent_fuzz::{Target, panics};

#[test]
fn settings_are_valid_or_refused_by_name() {
    try_all("config", 1_000);
}

#[test]
fn any_events_leave_the_core_in_order() {
    try_all("core", 2_000);
}

#[test]
fn whatever_a_log_holds_is_gone_on_with_or_refused() {
    try_all("records", 10_000);
}

#[test]
fn any_request_is_answered_or_refused_clearly() {
    try_all("requests", 100);
}

#[test]
fn hostile_sessions_harm_nobody_else() {
    try_all("session", 100);
}

#[test]
fn a_lying_coordinator_is_believed_in_nothing_that_it_did_not_say() {
    try_all("sdk", 50);
}

/// `new`: how many inputs are tried besides those that are kept.
fn try_all(name: &str, new: u32) {
    let target = Target::named(name).expect("it is the name of a target");
    panics::watch();
    let mut paths: Vec<PathBuf> =
        fs::read_dir(target.corpus()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let kept: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!kept.is_empty(), "nothing is kept in {}", target.corpus().display());
    for (path, input) in paths.iter().zip(&kept) {
        attempt(&target, input, path);
    }
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seed = number("ASSENT_FUZZ_SEED").unwrap_or(1);
    let new = number("ASSENT_FUZZ_INPUTS").unwrap_or_else(|| u64::from(new));
    let mut random = Random::new(seed);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}"));
    for _ in 0..new {
        attempt(&target, &mutated(&kept, &mut random), &file);
    }
}

/// `file`: where the input is to be found afterwards.
fn attempt(target: &Target, input: &[u8], file: &Path) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if outcome.is_err() {
        fs::write(file, input).unwrap();
        panic!("{} does not hold with {}", target.name, file.display());
    }
}
