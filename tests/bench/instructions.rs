//! How many instructions the core and the store take for a transaction of two branches, held against stored figures.
//!
//! ```text
//! cargo bench --bench instructions
//! cargo bench --bench instructions -- --accept    # stores what is found
//! ```
//!
//! It runs itself under callgrind, which counts; no clock is read, so it may run on a busy machine. It fails when a count
//! is off by more than 10 %, upwards or downwards: a gain that is not stored would hide the next loss. Accept a change that
//! is meant, and say in the commit what caused it. A new compiler is a reason to accept, too.
//!
//! * **core**: all steps of a transaction that commits, in one call, by 2PC and by TCC; 64 are under way at a time;
//! * **store**: what these have written, in groups of 64: the commits, forced, then the ends. Only what the thread that
//!   appends executes is counted, not sled's own threads.
//!
//! The counts are those of x86-64: elsewhere they are printed, and not judged. The C library copies memory by what
//! the processor offers, but valgrind shows programs a processor of its own, the same one wherever there is AVX2.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program that measures")]
#![expect(clippy::unwrap_used, reason = "a panic is its error")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use assent::core::{
    Action, Backoff, BeginSpec, BranchSpec, Call, Completion, Engine, EngineSettings, Epoch, Event, Now,
    Operation, Outcome, PhaseOne, Protocol, Replica, Report, Request, ReservationClass, Shard, Step,
    Timestamp, Vote, Wait, Waiter, WallTime,
};
use assent::store::{DecisionLog, Durability, LogWrite, SledLog, SledOptions};
use bytes::Bytes;
use smol_str::SmolStr;

/// As in the daemon: allocating is a good part of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STORED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/instructions.toml");
const HEADER: &str = "\
# Instructions for one transaction of two branches: see instructions.rs. This file is written by
#     cargo bench --bench instructions -- --accept
";

/// By how much a count may be off. What repeated runs differ by is far less.
const TOLERANCE_PERCENT: u64 = 10;

/// Transactions under way at a time, and in a group of the log.
const GROUP: u64 = 64;
/// Before anything is counted.
const GROUPS_WARM: u64 = 8;
const GROUPS_COUNTED: u64 = 32;

/// What is counted: the function of that name in this file, and all that it calls.
struct Measure {
    name: &'static str,
    counted: &'static str,
    work: fn(),
}

const MEASURES: [Measure; 3] = [
    Measure { name: "core-2pc", counted: "counted_step", work: || step_all(Protocol::TwoPhase) },
    Measure { name: "core-tcc", counted: "counted_step", work: || step_all(Protocol::Tcc) },
    Measure { name: "store", counted: "counted_append", work: append_all },
];

fn main() -> ExitCode {
    // cargo adds `--bench`.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => judge(&count_all()),
        ["--accept"] => accept(&count_all()),
        ["--work", name] => {
            (MEASURES.iter().find(|measure| measure.name == name).unwrap().work)();
            ExitCode::SUCCESS
        }
        _ => panic!("{arguments:?}: there is --accept"),
    }
}

fn count_all() -> BTreeMap<String, u64> {
    MEASURES.iter().map(|measure| (measure.name.to_owned(), measure.count())).collect()
}

fn accept(found: &BTreeMap<String, u64>) -> ExitCode {
    let mut text = HEADER.to_owned();
    for (name, count) in found {
        writeln!(text, "{name} = {count}").unwrap();
        println!("{name}: {count} instructions for a transaction, stored");
    }
    fs::write(STORED, text).unwrap();
    ExitCode::SUCCESS
}

#[expect(clippy::cast_precision_loss, reason = "it is for people")]
fn judge(found: &BTreeMap<String, u64>) -> ExitCode {
    let stored: BTreeMap<String, u64> = toml::from_str(&fs::read_to_string(STORED).unwrap()).unwrap();
    let mut off = Vec::new();
    for (name, &count) in found {
        let Some(&stored) = stored.get(name) else {
            off.push(format!("{name}: {count} instructions for a transaction; none are stored"));
            continue;
        };
        let percent = (count as f64 / stored as f64 - 1.0) * 100.0;
        let line =
            format!("{name}: {count} instructions for a transaction, stored {stored}: {percent:+.1} %");
        println!("{line}");
        if count.abs_diff(stored) * 100 > stored * TOLERANCE_PERCENT {
            off.push(line);
        }
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("not judged: the stored figures are those of x86-64 and Linux");
    } else if !off.is_empty() {
        eprintln!("error: off by more than {TOLERANCE_PERCENT} %");
        for line in off {
            eprintln!("  {line}");
        }
        eprintln!("hint: if that is meant: cargo bench --bench instructions -- --accept");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

impl Measure {
    /// Instructions for one transaction.
    fn count(&self) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("callgrind.out");
        let ran = Command::new("valgrind")
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", out.display()))
            // Stars, because the compiler adds to the name.
            .arg(format!("--toggle-collect=*{}*", self.counted))
            .arg(std::env::current_exe().unwrap())
            .args(["--work", self.name])
            .output()
            .unwrap_or_else(|error| panic!("valgrind: {error}; install it, or run .ci/tools all"));
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let profile = fs::read_to_string(out).unwrap();
        let totals = profile.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
        let total: u64 = totals.trim().parse().unwrap();
        assert!(total > 0, "callgrind found no function {}", self.counted);
        total / (GROUP * GROUPS_COUNTED)
    }
}

#[inline(never)]
fn counted_step(engine: &mut Engine, now: Now, event: Event) -> Step {
    engine.handle(now, event)
}

#[inline(never)]
fn counted_append(log: &mut SledLog, epoch: Epoch, group: &Group) {
    log.append_batch(epoch, &group.writes, group.durability).unwrap();
}

fn step_all(protocol: Protocol) {
    let mut load = Load::new(protocol, Epoch(1), 7);
    for _ in 0..GROUPS_WARM {
        load.play(Engine::handle);
    }
    for _ in 0..GROUPS_COUNTED {
        load.play(counted_step);
    }
}

fn append_all() {
    let dir = tempfile::tempdir().unwrap();
    let options = SledOptions { ballast_bytes: 0, ..SledOptions::default() };
    let (mut log, opened) = SledLog::open(dir.path(), &options).unwrap();
    let mut load = Load::new(Protocol::TwoPhase, opened.epoch, opened.life_tag);
    for _ in 0..GROUPS_WARM {
        for group in load.play(Engine::handle) {
            log.append_batch(opened.epoch, &group.writes, group.durability).unwrap();
        }
    }
    for _ in 0..GROUPS_COUNTED {
        for group in load.play(Engine::handle) {
            counted_append(&mut log, opened.epoch, &group);
        }
    }
    let mut values = 0;
    log.replay(&mut |_, _| {
        values += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(values, GROUP * (GROUPS_WARM + GROUPS_COUNTED), "all were written");
}

/// What the log gets at a time.
struct Group {
    writes: Vec<LogWrite>,
    durability: Durability,
}

/// An engine, initiators that run transactions of two branches, and participants that do whatever they are called for.
struct Load {
    protocol: Protocol,
    engine: Engine,
    now: Now,
    begun: u64,
}

impl Load {
    fn new(protocol: Protocol, epoch: Epoch, life_tag: u32) -> Load {
        // As the daemon's settings are by default.
        let settings = EngineSettings {
            max_active: 1_000_000,
            max_branches: 64,
            call_timeout: Duration::from_secs(10),
            backoff: Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(30) },
            reservation_margin: Duration::from_secs(1),
            retention: Duration::from_hours(1),
            retention_max: 100_000,
        };
        let now = Now { mono: Timestamp::ZERO, wall: WallTime(1_800_000_000_000) };
        Load { protocol, engine: Engine::new(settings, epoch, Shard(0), life_tag), now, begun: 0 }
    }

    /// As many transactions as a group has, from begin to end, and what of them is to be logged: commits, and ends.
    fn play(&mut self, handle: impl Fn(&mut Engine, Now, Event) -> Step) -> [Group; 2] {
        let mut events: Vec<_> = (0..GROUP).map(|_| self.run()).collect();
        let mut groups = Vec::new();
        let mut committed = 0;
        while !events.is_empty() {
            self.now.mono = self.now.mono + Duration::from_millis(1);
            self.now.wall.0 += 1;
            let mut group = Group { writes: Vec::new(), durability: Durability::Lazy };
            for event in std::mem::take(&mut events) {
                let step = handle(&mut self.engine, self.now, event);
                group.writes.extend(step.log);
                group.durability = group.durability.max(step.durability);
                committed += u64::from(step.ended == Some(Outcome::Committed));
                events.extend(step.then.into_iter().filter_map(reported));
            }
            if !group.writes.is_empty() {
                groups.push(group);
            }
        }
        assert_eq!(committed, GROUP, "all commit");
        let Ok([commits, ends]) = <[Group; 2]>::try_from(groups) else {
            panic!("a transaction is written twice: decided and ended")
        };
        assert_eq!((commits.durability, ends.durability), (Durability::Forced, Durability::Lazy));
        [commits, ends]
    }

    fn run(&mut self) -> Event {
        self.begun += 1;
        let branch = |participant: &str| BranchSpec {
            id: None,
            participant: participant.parse().unwrap(),
            endpoint: None,
            protocol: None,
            payload: Bytes::from(vec![7; 100]),
            reservation_ttl: None,
            inquires: true,
        };
        let id = format!("6f9619ff8b86d011b42d00c04fc964ff-{}", self.begun).parse().unwrap();
        Event::Run {
            waiter: Waiter(self.begun),
            spec: BeginSpec {
                protocol: self.protocol,
                label: "transfer".parse().unwrap(),
                timeout: Duration::from_secs(30),
                request: Some(Request { id, fingerprint: [7; 16] }),
            },
            branches: vec![branch("bank/one"), branch("bank/other")],
            wait: Wait::Completion,
        }
    }
}

/// What comes of an action: a participant does as it is told.
fn reported(action: Action) -> Option<Event> {
    let Action::Call(Call { tx, branch, operation, protocol, .. }) = action else { return None };
    let report = match operation {
        Operation::PhaseOne => {
            let ttl = if protocol == Protocol::Tcc { Duration::from_secs(30) } else { Duration::ZERO };
            let result = PhaseOne {
                vote: Vote::Prepared,
                reason: SmolStr::default(),
                reply: Bytes::new(),
                reservation_ttl: ttl,
                class: ReservationClass::Cooperative,
            };
            Report::Voted { result, replica: Some(Replica(1)) }
        }
        Operation::Commit | Operation::Rollback | Operation::CommitOnePhase => Report::Completed {
            completion: Completion::Done,
            detail: SmolStr::default(),
            reply: Bytes::new(),
        },
    };
    Some(Event::Reported { tx, branch, operation, report })
}
