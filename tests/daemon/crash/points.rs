//! Every crash point, in the role that it belongs to: twice with the dead process started again at once, twice after the others
//! have gone on without it; each time at the first passing and at a later one.
//!
//! A process that does not die at its point fails the test, and so does a point in the sources that is not in these tables.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use assent_history::Summary;

use super::bank::SETS;
use super::load::unheard;
use super::stage::{POLL_INTERVAL, Stage};
use super::{HASTE, report};
use crate::coordinator::Coordinator;

/// How long a process may take to come to its point; none is waited for that long.
const PATIENCE: Duration = Duration::from_secs(40);
/// When a participant has not come to its point by then, the coordinator is killed: some points are about its return.
const NUDGE: Duration = Duration::from_secs(2);
/// How long the coordinator stays away where others are to go on without it: reservations expire meanwhile, participants ask and
/// are not answered, clients send again.
const AWAY: Duration = Duration::from_millis(400);
/// How often an armed start is tried, where the point needs something that the last life has left.
const STARTS: u32 = 12;

/// How many stages there are at a time. Most of a case is waiting: for reconnections, and for what runs out.
const STAGES: usize = 4;

/// Of the coordinator under load: the point, and the later passing.
const SERVING: [(&str, u64); 21] = [
    ("event-taken", 40),
    ("step-made", 41),
    ("decision-made", 7),
    ("group-submitted", 7),
    ("group-announced", 9),
    ("between-frames", 5),
    ("group-written", 8),
    ("group-flushed", 8),
    ("group-synced", 8),
    ("group-confirmed", 8),
    ("group-durable", 7),
    ("lazy-group-written", 3),
    ("group-to-be-released", 6),
    ("commit-call-due", 2),
    ("acknowledgement-taken", 4),
    ("all-acknowledged", 3),
    ("end-to-be-answered", 6),
    ("answer-given", 30),
    ("horizon-proved", 3),
    ("horizon-published", 3),
    ("horizon-told", 7),
];

/// The same, where the log has to be long before.
const CLEANING: [(&str, u64); 2] = [("old-group-brought-along", 3), ("stale-frame-removed", 4)];

/// Of the coordinator while it starts: the point, and the later passing. Where that is the first one again, it dies there in
/// two lives, one after the other.
const STARTING: [(&str, u64); 8] = [
    ("directory-claimed", 1),
    ("witness-found", 1),
    ("log-checked", 1),
    ("epoch-written", 1),
    ("epoch-synced", 1),
    ("value-to-be-replayed", 5),
    ("log-replayed", 1),
    ("transaction-resumed", 2),
];

/// Of participants: the point, the later passing, and whose it is: any set, or one of a kind.
const PARTICIPANT: [(&str, u64, &[usize]); 18] = [
    ("call-received", 9, &[0, 2, 3, 1]),
    ("handler-done", 9, &[2, 1, 0, 3]),
    ("locally-committed", 9, &[0, 2, 3, 1]),
    ("vote-kept", 5, &[1, 3, 2, 0]),
    ("reply-made", 9, &[0, 2, 3, 1]),
    ("reply-queued", 9, &[2, 0, 1, 3]),
    ("commit-received", 5, &[0, 3, 2, 1]),
    ("commit-applied", 5, &[2, 1, 0, 3]),
    ("rollback-received", 2, &[1, 2, 3, 0]),
    ("rollback-applied", 2, &[3, 1, 0, 2]),
    ("one-phase-applied", 2, &[0]),
    ("doubts-loaded", 2, &[0, 2, 3, 1]),
    ("inquiries-queued", 2, &[0, 2, 3, 1]),
    ("inquiry-answered", 2, &[2, 0, 1, 3]),
    ("doubt-settled", 2, &[2, 3]),
    ("reservation-expired", 2, &[2, 3]),
    ("horizon-learnt", 2, &[0, 2, 3, 1]),
    ("rows-cleared", 2, &[2, 0, 1, 3]),
];

/// Of initiators.
const INITIATOR: [(&str, u64); 9] = [
    ("begin-to-be-called", 6),
    ("transaction-begun", 6),
    ("branch-enlisted", 7),
    ("commit-to-be-called", 5),
    ("commit-answered-to-initiator", 5),
    ("run-to-be-called", 6),
    ("run-answered", 5),
    ("calls-queued", 9),
    ("outcome-received", 8),
];

/// When the dead process is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    AtOnce,
    /// When others have gone on without it.
    Later,
}

/// One run.
#[derive(Clone, Debug)]
struct Case {
    point: &'static str,
    passing: u64,
    restart: Restart,
    /// Which of the point's runs it is.
    nth: usize,
    /// There is no later passing in one life, so it dies there in the next one, too.
    again: bool,
    role: Role,
    /// Whose it is, if it is a participant's.
    set: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A coordinator under load.
    Serving,
    /// A coordinator that starts.
    Starting,
    Participant,
    Initiator,
}

impl Case {
    fn of(role: Role, point: &'static str, later: u64) -> [Case; 4] {
        let runs =
            [(1, Restart::AtOnce), (later, Restart::Later), (later, Restart::AtOnce), (1, Restart::Later)];
        let mut nth = 0..;
        runs.map(|(passing, restart)| {
            let nth = nth.next().unwrap();
            Case { point, passing, restart, nth, again: later == 1 && nth % 2 == 1, role, set: 0 }
        })
    }

    fn crash_at(&self) -> String {
        format!("{}:{}", self.point, self.passing)
    }

    /// What a process says that dies there.
    fn last_words(&self) -> String {
        format!("crash point {}, passing {}: dying", self.point, self.passing)
    }
}

#[test]
fn every_crash_point_of_the_sources_is_tried() {
    let mut found = BTreeSet::new();
    for dir in ["src", "participant-sdk/src"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut found);
    }
    let coordinators = SERVING.iter().chain(&CLEANING).chain(&STARTING).map(|(point, _)| *point);
    let others =
        PARTICIPANT.iter().map(|(point, ..)| *point).chain(INITIATOR.iter().map(|(point, _)| *point));
    let tried: BTreeSet<_> = coordinators.chain(others).map(str::to_owned).collect();
    assert_eq!(tried, found);
}

/// Adds the names of the crash points in a directory; each may be there once.
fn collect(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for rest in text.split("crash_point!(").skip(1) {
                let name = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                let name = name.unwrap_or_else(|| panic!("a crash point without a name: {}", path.display()));
                assert!(found.insert(name.to_owned()), "{name} is there twice");
            }
        }
    }
}

#[test]
fn no_crash_point_splits_a_transaction() {
    let mut cases = Vec::new();
    cases.extend(SERVING.iter().flat_map(|(point, later)| Case::of(Role::Serving, point, *later)));
    cases.extend(STARTING.iter().flat_map(|(point, later)| Case::of(Role::Starting, point, *later)));
    cases.extend(PARTICIPANT.iter().flat_map(|(point, later, sets)| {
        Case::of(Role::Participant, point, *later)
            .map(|case| Case { set: sets[case.nth % sets.len()], ..case })
    }));
    cases.extend(INITIATOR.iter().flat_map(|(point, later)| Case::of(Role::Initiator, point, *later)));
    let cleaning =
        CLEANING.iter().flat_map(|(point, later)| Case::of(Role::Serving, point, *later)).collect();

    let all = &Mutex::new(cases);
    let totals = thread::scope(|scope| {
        // A thread of its own for each stage: its coordinator is tied to it.
        let stages: Vec<_> = (0..STAGES).map(|_| scope.spawn(|| play(all, &HASTE))).collect();
        let retention = [&HASTE[..], &["--set", "storage.retention=3s"]].concat();
        let cleaner = play(&Mutex::new(cleaning), &retention);
        let played = stages.into_iter().map(|stage| stage.join().unwrap());
        played.chain([cleaner]).collect::<Vec<_>>()
    });
    for (cases, total) in totals {
        report(&format!("{cases} deaths at crash points: {total}"));
        assert_eq!(total.quiets, cases, "each was judged");
        assert!(total.committed > cases && total.aborted > cases / 2, "{total}");
    }
}

/// Takes one case after another, on a stage of its own.
fn play(cases: &Mutex<Vec<Case>>, args: &[&str]) -> (usize, Summary) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stage = Stage::open(Coordinator::start(args)).await;
        let mut played = 0;
        loop {
            let Some(case) = cases.lock().unwrap().pop() else { break };
            match case.role {
                Role::Serving => serving(&mut stage, &case).await,
                Role::Starting => starting(&mut stage, &case).await,
                Role::Participant => participant(&mut stage, &case).await,
                Role::Initiator => initiator(&mut stage, &case).await,
            }
            stage.settle().await;
            stage.judge(&format!("{case:?}"));
            played += 1;
        }
        assert!(stage.coordinator.terminate().success());
        (played, stage.total())
    })
}

/// A new data directory, and a coordinator that dies at each point of its very first start.
#[test]
fn a_coordinator_that_dies_at_its_first_start_can_be_started_again() {
    for (point, _) in STARTING {
        // There is nothing to replay yet.
        if matches!(point, "value-to-be-replayed" | "transaction-resumed") {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        let case = &Case::of(Role::Starting, point, 1)[0];
        let environment = [(assent_sdk::crash::CRASH_AT, case.crash_at())];
        let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut coordinator = Coordinator::start_dying(directory.path().join("data"), &environment);
        let ended = coordinator.wait();
        died(ended, &coordinator.log(), case);
        coordinator.set_environment(&[]);
        coordinator.restart();
        assert!(coordinator.terminate().success(), "{}", coordinator.log());
    }
}

async fn serving(stage: &mut Stage, case: &Case) {
    stage.kill9_coordinator();
    stage.coordinator.set_environment(&[(assent_sdk::crash::CRASH_AT, &case.crash_at())]);
    let log_before = stage.coordinator.log().len();
    stage.coordinator.relaunch();
    let load = stage.load(6);
    coordinator_dies(stage, case, log_before).await;
    stage.coordinator.set_environment(&[]);
    go_on(case).await;
    stage.coordinator.relaunch();
    load.stop().await;
}

async fn starting(stage: &mut Stage, case: &Case) {
    let load = stage.load(12);
    let mut log_before = 0;
    for start in 1.. {
        stage.until_begun(24).await;
        stage.kill9_coordinator();
        stage.coordinator.set_environment(&[(assent_sdk::crash::CRASH_AT, &case.crash_at())]);
        log_before = stage.coordinator.log().len();
        stage.coordinator.relaunch();
        if !stage.is_ready_or_dead().await {
            break;
        }
        assert!(start < STARTS, "{case:?}: it started {STARTS} times and did not come to its point");
    }
    coordinator_dies(stage, case, log_before).await;
    if case.again {
        let log_before = stage.coordinator.log().len();
        stage.coordinator.relaunch();
        coordinator_dies(stage, case, log_before).await;
    }
    stage.coordinator.set_environment(&[]);
    go_on(case).await;
    stage.coordinator.relaunch();
    load.stop().await;
}

async fn participant(stage: &mut Stage, case: &Case) {
    let set = case.set;
    let load = stage.load(6);
    stage.until_begun(8).await;
    stage.kill9_participant(set);
    let name = SETS[set].0;
    let log_before = stage.log_of(name).len();
    stage.start_participant(set, Some(&case.crash_at()));
    let (started, mut nudged) = (Instant::now(), Instant::now());
    let ended = loop {
        if let Some(ended) = stage.participant_ended(set) {
            break ended;
        }
        assert!(started.elapsed() < PATIENCE, "{name} did not come to its point: {case:?}");
        if nudged.elapsed() > NUDGE {
            stage.kill9_coordinator();
            stage.coordinator.relaunch();
            nudged = Instant::now();
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    stage.fault(&format!("{name} died at {}", case.crash_at()), None);
    died(ended, &stage.log_of(name)[log_before..], case);
    if case.restart == Restart::Later {
        stage.until_begun(10).await;
    }
    stage.start_participant(set, None);
    load.stop().await;
}

async fn initiator(stage: &mut Stage, case: &Case) {
    let load = stage.load(4);
    let mut dying = stage.initiator(4).spawn(Some(&case.crash_at()));
    let started = Instant::now();
    let ended = loop {
        if let Some(ended) = dying.child.try_wait().unwrap() {
            break ended;
        }
        assert!(started.elapsed() < PATIENCE, "the initiator did not come to its point: {case:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    stage.fault(&format!("an initiator died at {}", case.crash_at()), Some(&dying.name));
    died(ended, &stage.log_of(&dying.name), case);
    if case.restart == Restart::Later {
        stage.until_begun(10).await;
    }
    let mut next = stage.initiator(4);
    next.resumed = unheard(&stage.history(), &dying.name);
    let mut next = next.spawn(None);
    stage.until_begun(4).await;
    next.ask_to_stop();
    next.stopped().await;
    load.stop().await;
}

/// `log_before`: how much it had logged before the life that ends here.
async fn coordinator_dies(stage: &mut Stage, case: &Case, log_before: usize) {
    let started = Instant::now();
    let ended = loop {
        if let Some(ended) = stage.coordinator.ended() {
            break ended;
        }
        assert!(started.elapsed() < PATIENCE, "the coordinator did not come to its point: {case:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    stage.fault(&format!("the coordinator died at {}", case.crash_at()), None);
    died(ended, &stage.coordinator.log()[log_before..], case);
}

/// The process is dead, by its own hand, and at that point.
fn died(ended: ExitStatus, log: &str, case: &Case) {
    assert_eq!(ended.signal(), Some(9), "{case:?}: {ended}\n{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(log.contains(&case.last_words()), "{case:?}: its last words are {last:?}");
}

/// Not a wait for anything: so long the process is away.
async fn go_on(case: &Case) {
    if case.restart == Restart::Later {
        tokio::time::sleep(AWAY).await;
    }
}
