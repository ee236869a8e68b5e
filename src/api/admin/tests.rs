use std::time::Duration;

use super::*;
use crate::core::{
    BranchIndex, Completion, Decision, Enlisted, Epoch, Label, Outcome, Protocol, Record, ReservationClass,
    Shard, Vote,
};

fn a_resolve() -> pb::ResolveRequest {
    pb::ResolveRequest {
        xid: TxId::new(7, 0, Epoch(1), Shard(0), 0).to_string(),
        branch_id: "1".to_owned(),
        resolution: pb::Resolution::RolledBack.into(),
        reason: "refunded by hand".to_owned(),
        request_id: String::new(),
    }
}

fn refusal(request: &pb::ResolveRequest) -> String {
    Resolve::parse(request).unwrap_err().to_string()
}

#[test]
fn each_wrong_field_of_resolve_is_named() {
    let good = Resolve::parse(&a_resolve()).unwrap();
    assert_eq!((good.committed, good.reason.as_str()), (false, "refunded by hand"));
    let refused = |change: fn(&mut pb::ResolveRequest)| {
        let mut request = a_resolve();
        change(&mut request);
        refusal(&request)
    };
    assert_eq!(refused(|request| request.xid.clear()), "xid is empty; give a transaction id");
    assert_eq!(refused(|request| request.branch_id.clear()), "branch_id is empty; give 1 to 64 bytes");
    assert_eq!(refused(|request| request.resolution = 0), "resolution is not set");
    assert_eq!(refused(|request| request.resolution = 3), "resolution is 3, which is none of its values");
    assert_eq!(refused(|request| request.reason.clear()), "reason is empty; say why in 1 to 1024 bytes");
    assert_eq!(
        refused(|request| request.request_id = "x".repeat(129)),
        "request_id has 129 bytes; the limit is 128"
    );
}

#[test]
fn what_an_operator_said_last_is_what_counts() {
    let branch = |n| BranchIndex(n);
    let resolved = |n, committed| What::Resolved { branch: branch(n), committed, reason: "seen".into() };
    let enlisted = |n| {
        What::Enlisted(Enlisted {
            id: BranchId::numbered(n),
            participant: "shop/stock".parse().unwrap(),
            endpoint: None,
            protocol: Protocol::TwoPhase,
            inquires: true,
            reservation_ttl: Duration::ZERO,
        })
    };
    let begun = What::Begun {
        protocol: Protocol::TwoPhase,
        label: Label::default(),
        timeout: Duration::ZERO,
        request: None,
    };
    let voted = |n| What::Voted {
        branch: branch(n),
        vote: Vote::Prepared,
        reason: "".into(),
        reservation_ttl: Duration::ZERO,
        class: ReservationClass::Cooperative,
    };
    let whats = [
        begun,
        enlisted(1),
        enlisted(2),
        enlisted(3),
        voted(0),
        voted(1),
        voted(2),
        What::Decided { decision: Decision::Commit, reason: "".into() },
        What::Heuristic { branch: branch(0), completion: Completion::HeuristicHazard, detail: "".into() },
        What::Heuristic { branch: branch(1), completion: Completion::HeuristicHazard, detail: "".into() },
        What::Acknowledged { branch: branch(2) },
        What::Ended { outcome: Outcome::Hazard },
        resolved(0, false),
        resolved(1, false),
        resolved(0, true),
    ];
    let mut history = Vec::new();
    for what in whats {
        Record { at: WallTime(0), what }.encode(&mut history);
    }
    let id = TxId::new(7, 0, Epoch(1), Shard(0), 0);
    let transaction = Transaction::replay(id, history).unwrap();
    let said = |n| resolution(&transaction, &BranchId::numbered(n));
    assert_eq!((said(1), said(2), said(3), said(9)), (Some(true), Some(false), None, None));
}
