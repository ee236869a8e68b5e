use std::time::Duration;

use bytes::Bytes;

use super::doubt;
use crate::core::harness::SETTINGS;
use crate::core::{
    Action, Answer, BeginSpec, BranchId, BranchSpec, Call, Completion, Engine, Enlistment, Epoch, Event,
    InquiryAnswer, Label, LogWrite, Now, Operation, Outcome, PhaseOne, Protocol, Report, ReservationClass,
    Shard, State, Step, Timestamp, TxId, Vote, Wait, Waiter, WallTime,
};

const NOW: Now = Now { mono: Timestamp::ZERO, wall: WallTime(1_800_000_000_000) };

#[test]
fn undecided_transaction_waits_for_an_operator_and_is_never_aborted() {
    let (tx, history) = undecided(Vote::Prepared);
    let mut engine = repaired(tx, history);
    // The deadline is long over, as it is after every restart.
    assert!(engine.resumable().is_empty());
    assert_eq!(engine.get(tx).unwrap().state(), State::Ended(Outcome::Hazard));
    let resumed = engine.handle(NOW, Event::Resume { tx });
    assert!(resumed.then.is_empty() && resumed.log.is_empty(), "{resumed:?}");
    assert_eq!(ask(&mut engine, tx, "1", false), InquiryAnswer::Pending);
    assert_eq!(ask(&mut engine, tx, "1", true), InquiryAnswer::Pending);
    // It may have been enlisted after the end of what is left.
    assert_eq!(ask(&mut engine, tx, "2", false), InquiryAnswer::Foreign);
    assert!(engine.get(tx).unwrap().needs_attention(NOW.wall));
}

#[test]
fn operator_decides_for_the_branches_that_are_known_and_for_no_other() {
    for (committed, told) in [(true, InquiryAnswer::Commit), (false, InquiryAnswer::Abort)] {
        let (tx, history) = undecided(Vote::Prepared);
        let mut engine = repaired(tx, history);
        let settled =
            Event::Resolve { waiter: Waiter(1), tx, branch: branch("1"), committed, reason: "seen".into() };
        let step = engine.handle(NOW, settled);
        assert!(!step.log.is_empty());
        assert_eq!(ask(&mut engine, tx, "1", false), told);
        assert_eq!(ask(&mut engine, tx, "2", false), InquiryAnswer::Foreign);
    }
}

#[test]
fn nothing_is_presumed_of_one_whose_branches_are_lost_either() {
    let (tx, mut history) = undecided(Vote::Prepared);
    let mut begun = Vec::new();
    crate::core::Record::decode_all(&history).next().unwrap().unwrap().encode(&mut begun);
    history = begun;
    let mut engine = repaired(tx, history);
    assert_eq!(engine.get(tx).unwrap().state(), State::Ended(Outcome::Hazard));
    assert_eq!(ask(&mut engine, tx, "1", false), InquiryAnswer::Foreign);
    // What has only read is finished, and may have been one of many.
    let (tx, history) = undecided(Vote::ReadOnly);
    let mut engine = repaired(tx, history);
    assert_eq!(ask(&mut engine, tx, "1", false), InquiryAnswer::Pending);
}

#[test]
fn what_participants_know_of_it_is_kept_until_an_operator_decides() {
    let (tx, history) = undecided(Vote::Prepared);
    let mut engine = repaired(tx, history);
    assert_eq!(engine.horizon(), tx.order());
    let settled =
        Event::Resolve { waiter: Waiter(1), tx, branch: branch("1"), committed: true, reason: "seen".into() };
    engine.handle(NOW, settled);
    assert_ne!(engine.horizon(), tx.order());
}

#[test]
fn what_is_decided_goes_on_as_decided() {
    let (mut engine, tx, _) = voted(Vote::Prepared);
    let step = engine
        .handle(NOW, Event::Commit { waiter: Waiter(1), tx, enlistments: vec![], wait: Wait::Decision });
    let history = logged(&step);
    assert_eq!(doubt(tx, history.clone(), NOW.wall, "lost").unwrap(), None);
    let mut engine = replayed(tx, history);
    let step = engine.handle(NOW, Event::Resume { tx });
    assert!(matches!(&step.then[..], [Action::Call(Call { operation: Operation::Commit, .. })]), "{step:?}");
    let report = Report::Completed { completion: Completion::Done, detail: "".into(), reply: Bytes::new() };
    let done = Event::Reported { tx, branch: branch("1"), operation: Operation::Commit, report };
    let history = logged(&engine.handle(NOW, done));
    assert_eq!(doubt(tx, history, NOW.wall, "lost").unwrap(), None);
}

#[test]
fn what_was_refused_can_only_abort_and_does() {
    let (tx, history) = undecided(Vote::Refused);
    assert_eq!(doubt(tx, history, NOW.wall, "lost").unwrap(), None);
}

/// What is in the log of a transaction with a vote, before anything is decided.
fn undecided(vote: Vote) -> (TxId, Vec<u8>) {
    let (_, tx, history) = voted(vote);
    (tx, history)
}

fn voted(vote: Vote) -> (Engine, TxId, Vec<u8>) {
    let mut engine = engine();
    let spec = BeginSpec {
        protocol: Protocol::TwoPhase,
        label: Label::default(),
        timeout: Duration::from_secs(30),
        request: None,
    };
    let step = engine.handle(NOW, Event::Begin { waiter: Waiter(0), spec });
    let [Action::Answer { answer: Answer::Begun { tx, .. }, .. }] = step.then[..] else { panic!("{step:?}") };
    let spec = BranchSpec {
        id: None,
        participant: "shop/stock".parse().unwrap(),
        endpoint: None,
        protocol: None,
        payload: Bytes::new(),
        reservation_ttl: None,
        inquires: false,
    };
    let vote = PhaseOne {
        vote,
        reason: "".into(),
        reply: Bytes::new(),
        reservation_ttl: Duration::ZERO,
        class: ReservationClass::Cooperative,
    };
    // A refusal aborts at once; what is wanted here is the log that has the vote and no more.
    let enlistment = Enlistment { branch: spec, vote: Some(vote) };
    let step = engine.handle(NOW, Event::Enlist { waiter: Waiter(0), tx, enlistment });
    let mut history = Vec::new();
    for record in crate::core::Record::decode_all(&logged(&step)).take(3) {
        record.unwrap().encode(&mut history);
    }
    (engine, tx, history)
}

fn repaired(tx: TxId, history: Vec<u8>) -> Engine {
    let history = doubt(tx, history, NOW.wall, "the log lost its end").unwrap().expect("it is undecided");
    replayed(tx, history)
}

fn replayed(tx: TxId, history: Vec<u8>) -> Engine {
    let mut engine = engine();
    engine.replay(NOW, tx, history).unwrap();
    engine.resumable();
    engine
}

fn engine() -> Engine {
    Engine::new(SETTINGS, Epoch(1), Shard(0), 7)
}

fn logged(step: &Step) -> Vec<u8> {
    match &step.log[..] {
        [LogWrite::Put { value, .. }] => value.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn ask(engine: &mut Engine, tx: TxId, id: &str, expired: bool) -> InquiryAnswer {
    // Not one of the lives of a repaired log.
    let inquiry = Event::Inquire { waiter: Waiter(9), tx, branch: branch(id), expired, known_life: false };
    let step = engine.handle(NOW, inquiry);
    match step.then[..] {
        [Action::Answer { answer: Answer::Inquiry(answer), .. }] => answer,
        _ => panic!("{step:?}"),
    }
}

fn branch(id: &str) -> BranchId {
    id.parse().unwrap()
}
