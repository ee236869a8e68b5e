use std::time::Duration;

use super::*;
use crate::core::{BranchId, Enlisted, Epoch, Label, Request, Shard, Timestamp, TxId};

fn id() -> TxId {
    TxId::new(7, 0, Epoch(1), Shard(0), 0)
}

fn replayed(whats: Vec<What>) -> Transaction {
    let mut history = Vec::new();
    for (at, what) in (1_000..).zip(whats) {
        Record { at: WallTime(at), what }.encode(&mut history);
    }
    Transaction::replay(id(), history).unwrap()
}

fn begun() -> What {
    What::Begun {
        protocol: Protocol::Tcc,
        label: "checkout".parse::<Label>().unwrap(),
        timeout: Duration::from_millis(30_500),
        request: Some(Request { id: "order-1".parse().unwrap(), fingerprint: [0; 16] }),
    }
}

fn enlisted(n: usize, participant: &str, endpoint: Option<&str>) -> What {
    What::Enlisted(Enlisted {
        id: BranchId::numbered(n),
        participant: participant.parse().unwrap(),
        endpoint: endpoint.map(Into::into),
        protocol: if endpoint.is_some() { Protocol::TwoPhase } else { Protocol::Tcc },
        inquires: endpoint.is_none(),
        reservation_ttl: Duration::from_mins(1),
    })
}

fn voted(n: u16, vote: Vote, class: ReservationClass) -> What {
    let reason = if vote == Vote::Refused { "out of stock" } else { "" };
    What::Voted { branch: BranchIndex(n), vote, reason: reason.into(), reservation_ttl: ttl(vote), class }
}

fn ttl(vote: Vote) -> Duration {
    if vote == Vote::Prepared { Duration::from_secs(20) } else { Duration::ZERO }
}

fn history_of(transaction: &Transaction) -> Vec<String> {
    let shown = transaction_to_pb(transaction, Now::default(), History::Shown);
    let line = |event: pb::HistoryEvent| {
        let millis = event.time.unwrap().nanos / 1_000_000;
        format!("{millis} {} [{}] {}", event.kind, event.branch_id, event.detail)
    };
    shown.history.into_iter().map(line).collect()
}

#[test]
fn a_history_reads_as_what_happened() {
    let decided = What::Decided { decision: Decision::Abort, reason: "bank refused".into() };
    let transaction = replayed(vec![
        begun(),
        enlisted(1, "shop/stock", None),
        enlisted(2, "bank", Some("http://bank:1")),
        voted(0, Vote::Prepared, ReservationClass::Autonomous),
        voted(1, Vote::Refused, ReservationClass::Cooperative),
        decided,
        What::Heuristic {
            branch: BranchIndex(0),
            completion: crate::core::Completion::HeuristicCommit,
            detail: "too late".into(),
        },
        What::Ended { outcome: Outcome::Mixed },
        What::Resolved { branch: BranchIndex(0), committed: false, reason: "refunded by hand".into() },
        What::Ended { outcome: Outcome::Aborted },
    ]);
    assert_eq!(
        history_of(&transaction),
        [
            "0 begun [] tcc, timeout 30s 500ms",
            "1 enlisted [1] shop/stock, tcc",
            "2 enlisted [2] bank at http://bank:1, 2pc",
            "3 voted [1] prepared, reserved for 20s, then cancelled by the participant",
            "4 voted [2] refused: out of stock",
            "5 decided [] abort: bank refused",
            "6 heuristic [1] too late",
            "7 ended [] mixed",
            "8 resolved [1] rolled back: refunded by hand",
            "9 ended [] aborted",
        ]
    );
}

#[test]
fn a_delegated_transaction_is_unknown_until_its_participant_has_answered() {
    let whats = || vec![begun(), enlisted(1, "ledger", Some("http://ledger:1")), What::Delegated];
    let outcome = |whats| {
        let shown = transaction_to_pb(&replayed(whats), Now::default(), History::LeftOut);
        (shown.state(), shown.outcome())
    };
    assert_eq!(outcome(whats()), (pb::State::Delegated, pb::Outcome::Unknown));
    let commit = What::Decided { decision: Decision::Commit, reason: "".into() };
    assert_eq!(outcome([whats(), vec![commit]].concat()), (pb::State::Committing, pb::Outcome::Committed));
    assert_eq!(outcome(vec![begun()]), (pb::State::Active, pb::Outcome::Unspecified));
    assert_eq!(
        history_of(&replayed([whats(), vec![What::DelegationDeclined]].concat()))[2..],
        [
            "2 delegated [] its only participant decides",
            "3 delegation_declined [] its participant has no commit in one phase"
        ]
    );
}

#[test]
fn what_is_shown_of_a_transaction_is_what_it_has() {
    let transaction = replayed(vec![
        begun(),
        enlisted(1, "shop/stock", None),
        enlisted(2, "shop/loyalty", None),
        voted(0, Vote::Prepared, ReservationClass::Autonomous),
    ]);
    let shown =
        transaction_to_pb(&transaction, Now { mono: Timestamp::ZERO, wall: WallTime(5) }, History::LeftOut);
    assert_eq!(
        (shown.xid, shown.label.as_str(), shown.request_id.as_str()),
        (id().to_string(), "checkout", "order-1")
    );
    assert_eq!(shown.begin_time, Some(prost_types::Timestamp { seconds: 1, nanos: 0 }));
    assert_eq!((shown.decide_time, shown.end_time, shown.timeout_ms), (None, None, 30_500));
    assert!(shown.history.is_empty());
    let [stock, loyalty] = &shown.branches[..] else { panic!("{:?}", shown.branches) };
    assert_eq!(
        (stock.state(), stock.vote(), stock.reservation_ttl_ms),
        (pb::BranchState::Prepared, pb::Vote::Prepared, 20_000)
    );
    assert_eq!(stock.reservation_class(), pb::ReservationClass::Autonomous);
    // Asked for and not granted: nothing is promised yet.
    assert_eq!((loyalty.vote(), loyalty.reservation_ttl_ms), (pb::Vote::Unspecified, 0));
    assert_eq!(loyalty.reservation_class(), pb::ReservationClass::Unspecified);
}

#[test]
fn times_are_told_to_the_millisecond() {
    assert_eq!(
        timestamp(WallTime(1_700_000_000_123)),
        prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_000_000 }
    );
    assert!(timestamp(WallTime(u64::MAX)).seconds > 0);
}
