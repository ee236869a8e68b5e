//! Scenarios that can be read aloud: dialogues with the engine, in text files.
//!
//! A file holds sections. Each begins with `== name` and has an engine of its own. A line that begins with `>` is said
//! to the engine; the lines after it are what the engine did: `log` (forced or lazy, with the records that are new since
//! the last write), `call`, `answer`. `#` begins a comment. `UPDATE_EXPECT=1 cargo test` writes what the engine does
//! into the files; then read it. What may be said is in [`command`].
//!
//! Every step of every scenario is checked by the [harness](super::harness) besides.

mod command;
mod print;

use std::fmt::Write;

use expect_test::{ExpectFile, expect_file};

use self::command::Stage;

macro_rules! scenarios {
    ($($name:ident)+) => {$(
        #[test]
        fn $name() {
            check(&expect_file![concat!("scenarios/", stringify!($name), ".txt")]);
        }
    )+};
}

scenarios! {
    coordinator_crashes
    participants
    initiators
    one_phase
    reservations
    retries
    waiting
    operators
    bounds
    retention
}

fn check(file: &ExpectFile) {
    let text = file.data();
    let mut actual = String::new();
    let mut stage = Stage::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            stage = Stage::new();
            writeln!(actual, "== {name}").unwrap();
        } else if let Some(said) = line.strip_prefix("> ") {
            writeln!(actual, "> {said}").unwrap();
            for done in stage.say(said.split('#').next().unwrap_or_default().trim()) {
                writeln!(actual, "{done}").unwrap();
            }
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(actual, "{line}").unwrap();
        }
    }
    file.assert_eq(&actual);
}
