//! The sentences, on transactions built by hand.

use std::time::{Duration, UNIX_EPOCH};

use assent_proto::v1::{HistoryEvent, Outcome, Protocol, ReservationClass, Vote};
use prost_types::Timestamp;

use super::*;

/// When all the transactions here began, in seconds since 1970.
const BEGIN_S: i64 = 1_700_000_000;

pub fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(ms)
}

pub fn stamp(ms: u32) -> Timestamp {
    let nanos = i32::try_from(ms % 1000 * 1_000_000).unwrap();
    Timestamp { seconds: BEGIN_S + i64::from(ms / 1000), nanos }
}

pub fn branch(participant: &str, state: BranchState) -> Branch {
    Branch {
        branch_id: participant.len().to_string(),
        participant: participant.to_owned(),
        protocol: Protocol::Tcc.into(),
        state: state.into(),
        ..Branch::default()
    }
}

pub fn transaction(state: State, branches: Vec<Branch>) -> Transaction {
    Transaction {
        xid: "018bcfe5-6800-8000-8000-004000000000".to_owned(),
        label: "checkout".to_owned(),
        protocol: Protocol::Tcc.into(),
        state: state.into(),
        begin_time: Some(stamp(0)),
        timeout_ms: 30_000,
        branches,
        ..Transaction::default()
    }
}

/// Decided to commit; one participant is down.
pub fn committing() -> Transaction {
    let stock = Branch {
        vote: Vote::Prepared.into(),
        attempts: 1,
        reservation_ttl_ms: 60_000,
        reservation_class: ReservationClass::Cooperative.into(),
        ..branch("shop/stock", BranchState::Committed)
    };
    let payment = Branch {
        endpoint: "http://pay:7000".to_owned(),
        protocol: Protocol::TwoPhase.into(),
        vote: Vote::Prepared.into(),
        attempts: 4,
        last_error: "connection refused".to_owned(),
        next_attempt_time: Some(stamp(5_200)),
        ..branch("shop/payment", BranchState::Committing)
    };
    let event = |ms, kind: &str, branch_id: &str, detail: &str| HistoryEvent {
        time: Some(stamp(ms)),
        kind: kind.to_owned(),
        branch_id: branch_id.to_owned(),
        detail: detail.to_owned(),
    };
    Transaction {
        outcome: Outcome::Committed.into(),
        decide_time: Some(stamp(12)),
        history: vec![
            event(0, "begun", "", ""),
            event(2, "enlisted", "10", "shop/stock"),
            event(12, "decided", "", "commit"),
            event(1_500, "acknowledged", "10", ""),
        ],
        ..transaction(State::Committing, vec![stock, payment])
    }
}

#[test]
fn active_waits_for_its_initiator() {
    let tx = transaction(State::Active, vec![]);
    assert_eq!(
        sentence(&tx, at(10_000)),
        "active: no branch yet; waits for its initiator to commit or abort; aborts in 20.0s unless committed"
    );
    let tx = transaction(
        State::Active,
        vec![branch("a", BranchState::Enlisted), branch("bb", BranchState::Prepared)],
    );
    assert_eq!(
        sentence(&tx, at(40_000)),
        "active: 2 branches, 1 voted; waits for its initiator to commit or abort; its timeout of 30s is over: it aborts"
    );
}

#[test]
fn preparing_waits_for_votes() {
    let slow = Branch { attempts: 1, ..branch("shop/payment", BranchState::Preparing) };
    let tx = transaction(State::Preparing, vec![branch("shop/stock", BranchState::Prepared), slow]);
    assert_eq!(
        sentence(&tx, at(1_000)),
        "preparing: waits for the vote of shop/payment, which was called once and has not answered; \
         aborts in 29.0s unless committed"
    );
}

#[test]
fn committing_names_who_is_down_and_when_it_is_called_next() {
    assert_eq!(
        sentence(&committing(), at(3_100)),
        "decided: commit; waits for shop/payment, which was called 4 times without success (connection refused); \
         next attempt in 2.1s"
    );
    assert!(sentence(&committing(), at(6_000)).ends_with("; next attempt due now"));
}

#[test]
fn of_many_that_are_down_three_are_described() {
    let names = ["a", "b", "c", "d", "e"];
    let tx = transaction(State::Committing, names.map(|name| branch(name, BranchState::Committing)).to_vec());
    assert_eq!(
        sentence(&tx, at(0)),
        "decided: commit; waits for a, which has not been called yet; b, which has not been called yet; \
         c, which has not been called yet; and for 2 more"
    );
}

#[test]
fn aborted_says_who_refused_and_why() {
    let refused =
        Branch { reason: "card declined".to_owned(), ..branch("shop/payment", BranchState::Refused) };
    let tx = Transaction {
        end_time: Some(stamp(250)),
        reason: "branch 2 refused".to_owned(),
        ..transaction(State::Aborted, vec![branch("shop/stock", BranchState::RolledBack), refused])
    };
    assert_eq!(
        sentence(&tx, at(1_000)),
        "aborted, 250ms after it began: shop/payment refused: card declined"
    );

    let tx = Transaction { reason: "timeout".to_owned(), ..transaction(State::Aborted, vec![]) };
    assert_eq!(sentence(&tx, at(1_000)), "aborted: timeout");
}

#[test]
fn aborting_says_why_and_who_still_holds_something() {
    let held = Branch {
        attempts: 2,
        last_error: "timed out".into(),
        ..branch("shop/stock", BranchState::RollingBack)
    };
    let refused = branch("shop/payment", BranchState::Refused);
    assert_eq!(
        sentence(&transaction(State::Aborting, vec![held, refused]), at(0)),
        "decided: abort: shop/payment refused; \
         waits for shop/stock, which was called 2 times without success (timed out)"
    );
}

#[test]
fn mixed_says_who_went_against_the_decision_and_what_to_do() {
    let rolled_back = Branch {
        reason: "reservation expired".into(),
        ..branch("shop/stock", BranchState::HeuristicRollback)
    };
    let tx = transaction(State::Mixed, vec![rolled_back, branch("shop/payment", BranchState::Committed)]);
    assert_eq!(
        sentence(&tx, at(0)),
        "mixed: shop/stock rolled back although the decision was commit (reservation expired); \
         it is kept until an operator has set it right and says `assent tx forget`"
    );
}

#[test]
fn hazard_says_who_cannot_tell() {
    let tx = transaction(State::Hazard, vec![branch("shop/stock", BranchState::HeuristicHazard)]);
    assert!(sentence(&tx, at(0)).starts_with("hazard: shop/stock cannot tell what happened; "));
}

#[test]
fn delegated_is_not_called_an_abort() {
    let only = Branch { attempts: 3, last_error: "reset".into(), ..branch("bank/a", BranchState::Preparing) };
    assert_eq!(
        sentence(&transaction(State::Delegated, vec![only]), at(0)),
        "delegated: its single branch decides, so the outcome is not known (and is no abort); \
         waits for bank/a, which was called 3 times without success (reset)"
    );
}

#[test]
fn committed_says_how_long_it_took() {
    let tx = Transaction { end_time: Some(stamp(61_000)), ..transaction(State::Committed, vec![]) };
    assert_eq!(sentence(&tx, at(99_000)), "committed, 1m 01s after it began");
}

#[test]
fn a_state_of_a_later_version_is_not_misread() {
    let tx = Transaction { state: 42, ..Transaction::default() };
    assert_eq!(sentence(&tx, at(0)), "in a state that this command does not know (42)");
}
