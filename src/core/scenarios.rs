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

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use expect_test::{ExpectFile, expect_file};

use self::command::Stage;
use super::engine::Engine;
use super::harness::{Harness, SETTINGS};
use super::id::{Epoch, Shard};
use super::time::Now;
use super::{
    Action, Answer, BeginSpec, BranchIndex, BranchSpec, Call, Completion, EngineSettings, Enlisted, Event,
    Operation, Outcome, PhaseOne, Protocol, Record, Report, Request, ReservationClass, TxId, Vote, Wait,
    Waiter, WallTime, What,
};

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

/// Case 37, as far as it is the core's: it calls each branch once, and new transactions go on between. How many calls are
/// out at a time is the transports' business.
#[test]
fn ten_thousand_in_doubt_are_called_once_each_while_new_work_is_served() {
    const IN_DOUBT: usize = 10_000;
    let mut harness = Harness::new(EngineSettings { max_active: 2 * IN_DOUBT, ..SETTINGS });
    for number in 0..IN_DOUBT as u64 {
        let tx = run(&mut harness, Waiter(number));
        vote(&mut harness, tx);
    }
    harness.sync();
    harness.released();

    let steps = harness.crash(0);
    assert_eq!(steps.len(), IN_DOUBT);
    assert_eq!(steps.iter().map(|step| step.log.len()).sum::<usize>(), 0, "nothing new is written");
    let calls = calls(&mut harness);
    let branches: HashSet<_> = calls.iter().map(|call| (call.tx, call.branch.clone())).collect();
    assert_eq!((calls.len(), branches.len()), (2 * IN_DOUBT, 2 * IN_DOUBT));
    assert!(calls.iter().all(|call| (call.operation, call.attempt) == (Operation::Commit, 1)));

    let new = run(&mut harness, Waiter(0));
    vote(&mut harness, new);
    harness.sync();
    harness.released();
    for branch in ["1", "2"] {
        acknowledge(&mut harness, new, branch);
    }
    let told = harness.released().into_iter().find_map(|action| match action {
        Action::Answer { answer: Answer::Ended(result), .. } => result.outcome,
        Action::Answer { .. } | Action::Call(_) | Action::Publish(_) => None,
    });
    assert_eq!(told, Some(Outcome::Committed));

    for call in &branches {
        acknowledge(&mut harness, call.0, call.1.as_str());
    }
    harness.engine.check_idle();
}

/// A million can be open, so they are gone on with by and by, and others are served meanwhile.
#[test]
fn what_a_restart_left_open_is_gone_on_with_by_the_first_event_that_comes_to_it() {
    let mut harness = Harness::new(SETTINGS);
    let tx = run(&mut harness, Waiter(1));
    vote(&mut harness, tx);
    harness.sync();
    let mut engine = Engine::new(SETTINGS, Epoch(2), Shard(0), 8);
    let now = Now::default();
    for (tx, value) in harness.durable() {
        engine.replay(now, *tx, value.to_vec()).unwrap();
    }
    let branch = "1".parse().unwrap();
    let asked = Event::Inquire { waiter: Waiter(2), tx, branch, expired: false, known_life: true };
    let told = format!("{:?}", engine.handle(now, asked).then);
    assert_eq!(told.matches("operation: Commit,").count(), 2, "both branches are called: {told}");
    assert!(told.contains("Inquiry(Commit)"), "{told}");
    let step = engine.handle(now, Event::Resume { tx });
    assert!(step.then.is_empty() && step.log.is_empty(), "it was resumed: {step:?}");
    engine.check();
}

fn run(harness: &mut Harness, waiter: Waiter) -> TxId {
    let branch = |participant: &str| BranchSpec {
        id: None,
        participant: participant.parse().unwrap(),
        endpoint: None,
        protocol: None,
        payload: "".into(),
        reservation_ttl: None,
        inquires: true,
    };
    let spec = BeginSpec {
        protocol: Protocol::TwoPhase,
        label: "".parse().unwrap(),
        timeout: Duration::from_secs(30),
        request: None,
    };
    let branches = vec![branch("stock"), branch("payment")];
    let step = harness.submit(Event::Run { waiter, spec, branches, wait: Wait::Completion });
    step.subject.expect("it begins")
}

fn vote(harness: &mut Harness, tx: TxId) {
    for branch in ["1", "2"] {
        let result = PhaseOne {
            vote: Vote::Prepared,
            reason: "".into(),
            reply: "".into(),
            reservation_ttl: Duration::ZERO,
            class: ReservationClass::Cooperative,
        };
        let (branch, operation) = (branch.parse().unwrap(), Operation::PhaseOne);
        let report = Report::Voted { result, replica: None };
        harness.submit(Event::Reported { tx, branch, operation, report });
    }
}

fn acknowledge(harness: &mut Harness, tx: TxId, branch: &str) {
    let (branch, operation) = (branch.parse().unwrap(), Operation::Commit);
    let report = Report::Completed { completion: Completion::Done, detail: "".into(), reply: "".into() };
    harness.submit(Event::Reported { tx, branch, operation, report });
}

fn calls(harness: &mut Harness) -> Vec<Call> {
    let call = |action| match action {
        Action::Call(call) => Some(call),
        Action::Answer { .. } | Action::Publish(_) => None,
    };
    harness.released().into_iter().filter_map(call).collect()
}

#[test]
fn a_log_in_which_one_request_began_two_transactions_is_refused() {
    let mut harness = Harness::new(SETTINGS);
    let request = Request { id: "order-1".parse().unwrap(), fingerprint: [7; 16] };
    let mut histories = Vec::new();
    Record {
        at: WallTime(1),
        what: What::Begun {
            protocol: Protocol::TwoPhase,
            label: "".parse().unwrap(),
            timeout: Duration::ZERO,
            request: Some(request),
        },
    }
    .encode(&mut histories);
    let [first, second] = [1, 2].map(|n| TxId::new(n, 0, Epoch(1), Shard(0), 7));
    harness.engine.replay(harness.now, first, histories.clone()).unwrap();
    let refusal = harness.engine.replay(harness.now, second, histories).unwrap_err().to_string();
    assert!(refusal.contains(r#""order-1""#) && refusal.contains(&first.to_string()), "{refusal}");
}

/// No life writes the one without the other; but a log that says so must not keep a transaction for ever.
#[test]
fn what_was_delegated_and_answered_is_ended_by_a_restart() {
    let enlisted = What::Enlisted(Enlisted {
        id: "1".parse().unwrap(),
        participant: "stock".parse().unwrap(),
        endpoint: None,
        protocol: Protocol::TwoPhase,
        inquires: true,
        reservation_ttl: Duration::ZERO,
    });
    let branch = BranchIndex(0);
    let hazard = What::Heuristic { branch, completion: Completion::HeuristicHazard, detail: "lost".into() };
    let refused = What::Voted {
        branch,
        vote: Vote::Refused,
        reason: "no".into(),
        reservation_ttl: Duration::ZERO,
        class: ReservationClass::Cooperative,
    };
    for (answer, outcome) in [(hazard, Outcome::Hazard), (refused, Outcome::Aborted)] {
        let begun = What::Begun {
            protocol: Protocol::TwoPhase,
            label: "".parse().unwrap(),
            timeout: Duration::ZERO,
            request: None,
        };
        let mut history = Vec::new();
        for what in [begun, enlisted.clone(), What::Delegated, answer] {
            Record { at: WallTime(1), what }.encode(&mut history);
        }
        let mut harness = Harness::new(SETTINGS);
        let tx = TxId::new(1, 0, Epoch(1), Shard(0), 7);
        harness.engine.replay(harness.now, tx, history).unwrap();
        assert_eq!(harness.engine.resumable(), [tx]);
        let step = harness.engine.handle(harness.now, Event::Resume { tx });
        assert_eq!(step.ended, Some(outcome));
        harness.engine.check_idle();
    }
}
