//! A small log, damaged at every place in many ways: each time it is there exactly as it was acknowledged, or refused.
//!
//! Processes of their own try the damage, a batch each, so that one that ends or hangs tells in which case.
//! `ASSENT_TEST_DAMAGE=all` tries every case; otherwise it is one of many, at fixed distances.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use assent::core::{Shard, TxId};
use assent::store::{DecisionLog, Durability, LogWrite, OpenError, Survey};
use tempfile::TempDir;

use crate::support::{contents, copy_dir, open_sled, put, remove, state_after, tx};

/// How many cases of each log are tried where not all are.
const CASES: usize = 600;
const PROCESSES: usize = 2;
/// No case takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);
const BASE: &str = "ASSENT_TEST_DAMAGE_BASE";
/// One case in so many is also looked at as `assent log` does.
const CASES_PER_SURVEY: usize = 7;

#[test]
fn flipped_bit_in_a_closed_log_is_refused_or_harmless() {
    try_all("closed");
}

#[test]
fn damage_anywhere_in_a_crashed_log_is_refused_or_harmless() {
    try_all("crashed");
}

#[test]
fn damage_anywhere_in_a_log_with_a_snapshot_is_refused_or_harmless() {
    try_all("snapshot");
}

fn try_all(which: &str) {
    let base = small_log(which);
    let cases = cases(base.path());
    let all = env::var_os("ASSENT_TEST_DAMAGE").is_some_and(|how| how == "all");
    // Not a multiple of anything that a pattern of cases could have.
    let stride = if all { 1 } else { (cases.len() / CASES).max(1) | 1 };
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let (tell, told) = channel();
    let mut children = Vec::new();
    for number in 0..PROCESSES {
        let range = format!("{} {} {}", number * stride, PROCESSES * stride, base.path().display());
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "every_byte::the_trying_process", "--nocapture"])
            .env(BASE, range)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let tell = tell.clone();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send((number, line))));
        children.push(child);
    }
    drop(tell);
    let mut last = vec![String::new(); PROCESSES];
    loop {
        match told.recv_timeout(PATIENCE) {
            Ok((number, line)) => {
                if let Some(result) = line.strip_prefix("result: ") {
                    *found.entry(result.to_owned()).or_default() += 1;
                }
                last[number] = line;
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                for child in &mut children {
                    child.kill().unwrap();
                }
                panic!("{which}: it hangs after {last:?}");
            }
        }
    }
    for (child, last) in children.iter_mut().zip(&last) {
        let status = child.wait().unwrap();
        assert!(status.success(), "{which}: {status} after {last:?}");
    }
    report(&format!("{which}, {} cases, 1 in {stride} tried: {found:#?}", cases.len()));
    let tried: usize = found.values().sum();
    assert!(tried >= cases.len() / stride, "{tried} of {} cases were tried", cases.len() / stride);
    let wrong: Vec<_> = found.keys().filter(|result| result.contains("WRONG")).collect();
    assert!(wrong.is_empty(), "{which}: {wrong:#?}");
    let refused = |result: &&String| result.contains("refused");
    assert!(found.keys().any(|result| result.contains("exact")), "{which}: nothing was left whole");
    assert!(found.keys().filter(refused).count() >= 3, "{which}: hardly anything was hit");
}

/// Is one of those processes when told to be; as a test of its own it has nothing to show.
#[test]
#[expect(clippy::print_stdout, reason = "the other process listens to it")]
fn the_trying_process() {
    let Ok(told) = env::var(BASE) else { return };
    let [first, stride, base] = told.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let base = Path::new(base);
    println!();
    let all = cases(base);
    let born = born_in_first_life(base);
    let numbers = (first.parse().unwrap()..all.len()).step_by(stride.parse().unwrap());
    for (turn, number) in numbers.enumerate() {
        let case = &all[number];
        println!("case {case:?}");
        let look = turn.is_multiple_of(CASES_PER_SURVEY);
        println!("result: {} {}", case.kind(), try_one(base, born, case, look));
    }
}

/// Damages a copy and opens it. What comes of it, in a few words.
fn try_one(base: &Path, born: TxId, case: &Case, look: bool) -> String {
    let copy = memory_dir();
    copy_dir(base, copy.path());
    case.apply(copy.path());
    let survey = look.then(|| Survey::take(copy.path()));
    let sound = match &survey {
        Some(Ok(survey)) => {
            if let Some(tx) = first_untrue(survey) {
                return format!("WRONG: {tx} was salvaged with a value that it never had");
            }
            Some(survey.refusal.is_none())
        }
        Some(Err(error)) => Some(!matches!(error, OpenError::OtherVersion { .. } | OpenError::NoLog { .. })),
        None => None,
    };
    drop(survey);
    match open_sled(copy.path()) {
        Ok((mut log, opened)) => {
            let lives = opened.lives.len();
            if contents(&mut log) != state(GROUPS) || !opened.lives.contains(born) {
                return format!("WRONG: opened with other content in {case:?}");
            }
            if sound == Some(false) {
                return format!("WRONG: it opens, and was called damaged in {case:?}");
            }
            // It goes on.
            log.append_batch(opened.epoch, &writes(GROUPS), Durability::Forced).unwrap();
            drop(log);
            match open_sled(copy.path()) {
                Ok((mut log, opened)) => {
                    let goes_on = contents(&mut log) == state(GROUPS + 1) && opened.lives.len() == lives + 1;
                    if goes_on { "exact".to_owned() } else { format!("WRONG: it does not go on in {case:?}") }
                }
                Err(error) => format!("WRONG: it does not go on in {case:?}: {error}"),
            }
        }
        Err(OpenError::Refused { .. } | OpenError::OtherVersion { .. }) if sound == Some(true) => {
            format!("WRONG: it is refused, and was called sound in {case:?}")
        }
        Err(OpenError::Refused { .. } | OpenError::OtherVersion { .. }) => "refused".to_owned(),
        Err(other) => format!("WRONG: {other} in {case:?}"),
    }
}

/// A transaction that was salvaged with a value that it never had.
fn first_untrue(survey: &Survey) -> Option<TxId> {
    let mut true_values: BTreeMap<TxId, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for write in (0..GROUPS).flat_map(writes) {
        if let LogWrite::Put { tx, value } = write {
            true_values.entry(tx).or_default().insert(value.to_vec());
        }
    }
    let is_true =
        |tx: &TxId, value: &Vec<u8>| true_values.get(tx).is_some_and(|values| values.contains(value));
    survey.values.iter().find(|(tx, value)| !is_true(tx, value)).map(|(tx, _)| *tx)
}

/// One thing that is done to a log.
#[derive(Debug)]
enum Case {
    Truncated {
        file: String,
        to: usize,
    },
    /// The byte there is combined with a pattern.
    Flipped {
        file: String,
        at: usize,
        pattern: u8,
    },
    /// A byte there is made something else.
    Set {
        file: String,
        at: usize,
        to: u8,
    },
    /// A block of 512 bytes is lost.
    Zeroed {
        file: String,
        block: usize,
    },
    /// Two blocks of 512 bytes change places.
    Swapped {
        file: String,
        blocks: (usize, usize),
    },
    Missing {
        file: String,
    },
    /// The file once more, behind itself.
    Doubled {
        file: String,
    },
    /// That of another log.
    Others {
        file: String,
    },
}

const BLOCK: usize = 512;

/// All that is tried, always in the same order.
fn cases(base: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, bytes) in files(base) {
        let name = || file.clone();
        cases.push(Case::Missing { file: name() });
        cases.push(Case::Doubled { file: name() });
        cases.push(Case::Others { file: name() });
        let places = places(&bytes);
        cases.extend(places.iter().map(|&to| Case::Truncated { file: name(), to }));
        let blocks = bytes.len().div_ceil(BLOCK);
        cases.extend((0..blocks).map(|block| Case::Zeroed { file: name(), block }));
        cases.extend((1..blocks).map(|block| Case::Swapped { file: name(), blocks: (block / 2, block) }));
        for at in places {
            cases.extend([1 << (at % 8), 0xff].map(|pattern| Case::Flipped { file: name(), at, pattern }));
            cases.push(Case::Set { file: name(), at, to: 0 });
        }
    }
    cases
}

/// Every place in a file; of long runs of one byte, where nothing is, one in many.
fn places(bytes: &[u8]) -> Vec<usize> {
    const RUN: usize = 256;
    let in_a_run = |at: usize| {
        let around = &bytes[at.saturating_sub(RUN)..bytes.len().min(at + RUN)];
        around.iter().all(|byte| *byte == bytes[at])
    };
    (0..bytes.len()).filter(|at| at.is_multiple_of(RUN) || !in_a_run(*at)).collect()
}

impl Case {
    fn kind(&self) -> String {
        let (kind, file) = match self {
            Case::Truncated { file, .. } => ("truncated", file),
            Case::Flipped { file, .. } => ("flipped", file),
            Case::Set { file, .. } => ("set", file),
            Case::Zeroed { file, .. } => ("zeroed", file),
            Case::Swapped { file, .. } => ("swapped", file),
            Case::Missing { file } => ("missing", file),
            Case::Doubled { file } => ("doubled", file),
            Case::Others { file } => ("another log's", file),
        };
        let file = if file.starts_with("sled/snap") { "sled/snap" } else { file };
        format!("{kind} {file}:")
    }

    fn apply(&self, dir: &Path) {
        let change = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let path = dir.join(file);
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(path, bytes).unwrap();
        };
        match self {
            Case::Truncated { file, to } => change(file, &|bytes| bytes.truncate(*to)),
            Case::Flipped { file, at, pattern } => change(file, &|bytes| bytes[*at] ^= pattern),
            Case::Set { file, at, to } => change(file, &|bytes| bytes[*at] = *to),
            Case::Zeroed { file, block } => change(file, &|bytes| {
                let end = bytes.len().min((block + 1) * BLOCK);
                bytes[block * BLOCK..end].fill(0);
            }),
            Case::Swapped { file, blocks: (one, other) } => change(file, &|bytes| {
                let count = BLOCK.min(bytes.len() - other * BLOCK);
                for n in 0..count {
                    bytes.swap(one * BLOCK + n, other * BLOCK + n);
                }
            }),
            Case::Missing { file } => fs::remove_file(dir.join(file)).unwrap(),
            Case::Doubled { file } => change(file, &|bytes| bytes.extend_from_within(..)),
            Case::Others { file } => {
                let other = small_log("closed");
                let from = other.path().join(file);
                if from.exists() {
                    fs::copy(from, dir.join(file)).unwrap();
                }
            }
        }
    }
}

/// Every file that the log is made of.
fn files(base: &Path) -> Vec<(String, Vec<u8>)> {
    let sled = fs::read_dir(base.join("sled")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = sled
        .filter(|entry| entry.path().is_file())
        .map(|entry| format!("sled/{}", entry.file_name().to_str().unwrap()))
        .collect();
    names.push("witness".to_owned());
    names.sort();
    names.into_iter().map(|name| (name.clone(), fs::read(base.join(name)).unwrap())).collect()
}

const GROUPS: u64 = 6;

/// A log as small as one can be that has everything: short values and a long one, changed and removed ones, and where a snapshot
/// is wanted a second life.
fn small_log(which: &str) -> TempDir {
    let (dir, crashed) = (memory_dir(), memory_dir());
    let (mut log, opened) = open_sled(dir.path()).unwrap();
    for group in 0..GROUPS {
        log.append_batch(opened.epoch, &writes(group), Durability::Forced).unwrap();
    }
    copy_dir(dir.path(), crashed.path());
    Box::new(log).close().unwrap();
    match which {
        "crashed" => crashed,
        "snapshot" => {
            let (log, _) = open_sled(dir.path()).unwrap();
            Box::new(log).close().unwrap();
            assert!(files(dir.path()).iter().any(|(name, _)| name.starts_with("sled/snap")));
            dir
        }
        _closed => dir,
    }
}

fn writes(group: u64) -> Vec<LogWrite> {
    let value = vec![group.to_le_bytes()[0]; if group == 3 { 7_000 } else { 60 }];
    vec![put(group, &value), put(100 + group % 3, &value), remove(group / 2)]
}

/// What the log holds after so many groups.
fn state(groups: u64) -> BTreeMap<TxId, Vec<u8>> {
    state_after((0..groups).flat_map(writes))
}

/// An id of the life that wrote it all.
fn born_in_first_life(base: &Path) -> TxId {
    let copy = memory_dir();
    copy_dir(base, copy.path());
    let survey = Survey::take(copy.path()).unwrap();
    let (epoch, tag) = survey.lives.iter().next().unwrap();
    assert!(tx(0).epoch() == epoch);
    TxId::new(0, 0, epoch, Shard(0), tag)
}

/// Where files are in memory, if the machine has such a place.
fn memory_dir() -> TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { TempDir::new_in(shared).unwrap() } else { tempfile::tempdir().unwrap() }
}

#[expect(clippy::print_stderr, reason = "the test runner shows it where it is asked to")]
fn report(text: &str) {
    eprintln!("{text}");
}
