//! The log on a disk that fails, at every single call.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use assent::core::TxId;
use assent::store::{DecisionLog as _, Durability, LogWrite};
use tempfile::TempDir;

use crate::fault::{FAULTS, Fault, wanted};
use crate::support::{contents, copy_dir, open_sled, put, remove, state_after};

const DIR: &str = "ASSENT_TEST_FAULT_DIR";
const GROUPS: u64 = 9;
/// No process here takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn what_a_new_log_acknowledged_outlives_a_failure_at_any_call() {
    let empty = tempfile::tempdir().unwrap();
    fail_everywhere(empty.path(), 0);
}

#[test]
fn what_a_crashed_log_acknowledged_outlives_a_failure_at_any_call() {
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut log, opened) = open_sled(dir.path()).unwrap();
    for group in 0..GROUPS {
        log.append_batch(opened.epoch, &writes(group), durability(group)).unwrap();
    }
    copy_dir(dir.path(), crashed.path());
    fail_everywhere(crashed.path(), GROUPS);
}

/// Lets each call fail in each way. `first` groups are in the log from the beginning.
fn fail_everywhere(from: &Path, first: u64) {
    let (mut cases, mut failed) = (0, 0);
    for fault in FAULTS {
        for at in wanted(6) {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(from, dir.path());
            let hit = dir.path().with_extension("hit");
            let said = write_meanwhile(&dir, fault, at, &hit, first);
            let was_hit = fs::remove_file(&hit).is_ok();
            cases += 1;
            failed += u64::from(!said.ended_well);
            let what = format!("{fault:?} at {at}");
            assert!(said.ended_well || was_hit, "{what}: {said:?}");
            assert!(said.ended_well || !fault.is_harmless(), "{what}: {said:?}");
            check(&dir, &said, first, &what);
            if !was_hit {
                assert!(at > 10, "{fault:?} was met {at} times only");
                break;
            }
        }
    }
    report(&format!("{failed} of {cases} cases failed"));
    assert!(cases > 60 && failed > 40, "{failed} of {cases} failed");
}

/// The log opens again, and has what was acknowledged, and nothing but whole groups.
fn check(dir: &TempDir, said: &Said, first: u64, what: &str) {
    let (mut log, _) =
        open_sled(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}, after {said:?}"));
    let found = contents(&mut log);
    let acknowledged = first.max(said.acknowledged);
    let possible = (acknowledged..=first + GROUPS).find(|&groups| state(groups) == found);
    assert!(possible.is_some(), "{what}: {} values after {said:?}", found.len());
}

/// How the writing process ended.
#[derive(Debug)]
struct Said {
    /// So many groups.
    acknowledged: u64,
    ended_well: bool,
    #[expect(dead_code, reason = "it is shown when a test fails")]
    output: String,
}

/// Has another process open the log and write to it.
fn write_meanwhile(dir: &TempDir, fault: Fault, at: u64, hit: &Path, first: u64) -> Said {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "log::the_writing_process", "--nocapture"])
        .envs(fault.environment(dir.path(), at, hit))
        .env(DIR, format!("{first} {}", dir.path().display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() > PATIENCE => {
                child.kill().unwrap();
                panic!("{fault:?} at {at}: it hangs");
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
    let acknowledged = output.lines().rev().find_map(|line| line.strip_prefix("acknowledged "));
    let acknowledged = acknowledged.map_or(0, |group| group.parse().unwrap());
    let ended_well = output.lines().any(|line| line == "closed");
    if !ended_well {
        let told = output.lines().find_map(|line| line.strip_prefix("failed: "));
        let told = told.unwrap_or_else(|| panic!("{fault:?} at {at}: it ended with {status}: {output}"));
        let names = |path: &str| told.contains(path);
        assert!(names(dir.path().to_str().unwrap()), "{fault:?} at {at}: {told}");
    }
    Said { acknowledged, ended_well, output }
}

/// Is that process when told to be; as a test of its own it has nothing to show.
#[test]
#[expect(clippy::print_stdout, reason = "the other process listens to it")]
fn the_writing_process() {
    let Ok(told) = env::var(DIR) else { return };
    let (first, dir) = told.split_once(' ').unwrap();
    let first: u64 = first.parse().unwrap();
    println!();
    let (mut log, opened) = match open_sled(Path::new(dir)) {
        Ok(opened) => opened,
        Err(error) => return println!("failed: {error}"),
    };
    for group in first..first + GROUPS {
        if let Err(error) = log.append_batch(opened.epoch, &writes(group), durability(group)) {
            println!("failed: {error}");
            let again = log.append_batch(opened.epoch, &writes(group), Durability::Forced);
            assert!(again.is_err(), "a failed write was tried again");
            return;
        }
        if durability(group) == Durability::Forced {
            println!("acknowledged {}", group + 1);
        }
    }
    match Box::new(log).close() {
        Ok(()) => println!("acknowledged {}\nclosed", first + GROUPS),
        Err(error) => println!("failed: {error}"),
    }
}

#[expect(clippy::print_stderr, reason = "the test runner shows it where it is asked to")]
fn report(text: &str) {
    eprintln!("{text}");
}

fn durability(group: u64) -> Durability {
    if group % 3 == 1 { Durability::Lazy } else { Durability::Forced }
}

fn writes(group: u64) -> Vec<LogWrite> {
    let value = vec![group.to_le_bytes()[0]; if group % 4 == 3 { 14_000 } else { 200 }];
    vec![put(group, &value), put(100 + group % 3, &value), remove(group / 2)]
}

/// What the log holds after so many groups.
fn state(groups: u64) -> BTreeMap<TxId, Vec<u8>> {
    state_after((0..groups).flat_map(writes))
}
