//! The simulation itself: that it finds nothing, that it can be repeated, and that it would find something.

use std::process::{Command, Output};

/// Every run is a process of its own, so this takes time; it finds out more than a few seeds of the same time would.
const SEEDS: &str = "120";

#[test]
fn whatever_fails_by_any_seed_all_holds_and_comes_to_rest() {
    let output = simulate(&["--first", "1", "--seeds", SEEDS]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with(&format!("{SEEDS} seeds")), "{text}");
    assert!(text.contains("every kind of fault occurred"), "{text}");
}

#[test]
fn one_seed_is_one_history() {
    let [first, again, other] = ["7", "7", "8"].map(|seed| simulate(&["--seed", seed]).stdout);
    assert!(first.len() > 10_000);
    assert!(first == again, "the histories of one seed differ");
    assert!(first != other);
}

#[test]
fn disk_that_loses_what_it_acknowledged_is_found() {
    finds("syncs-nothing", &["refusing to start"]);
}

#[test]
fn decision_that_is_told_before_it_is_durable_is_found() {
    finds("tells-before-durable", &["is committed in", "lost effect", "atomicity"]);
}

#[test]
fn participant_that_votes_and_forgets_is_found() {
    finds("votes-and-forgets", &["ended hazard", "atomicity"]);
}

#[test]
fn participant_that_forgets_what_it_prepared_is_found() {
    finds("forgets-doubts", &["not at rest"]);
}

#[test]
fn lost_answer_that_is_taken_for_an_abort_is_found() {
    finds("unknown-is-abort", &["was told aborted"]);
}

#[test]
fn connections_that_nobody_checks_are_found() {
    finds("no-keep-alive", &["not at rest"]);
}

/// With that flaw some seed is found wanting, in one of these ways.
fn finds(flaw: &str, ways: &[&str]) {
    let output = simulate(&["--first", "1", "--seeds", "100", "--until-found", "--flaw", flaw]);
    let text = text(&output);
    assert!(!output.status.success(), "{flaw} is not found: {text}");
    assert!(ways.iter().any(|way| text.contains(way)), "{flaw}: {text}");
}

fn simulate(args: &[&str]) -> Output {
    // What is found is kept below it.
    let place = env!("CARGO_TARGET_TMPDIR");
    let mut command = Command::new(env!("CARGO_BIN_EXE_assent-simulation"));
    command.args(args).current_dir(place).output().expect("it was built for this test")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
