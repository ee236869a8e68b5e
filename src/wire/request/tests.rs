use std::collections::BTreeMap;
use std::time::Duration;

use assent_proto::v1 as pb;

use super::*;
use crate::core::{Epoch, Protocol, Shard};

fn limits() -> Limits {
    Limits {
        max_payload: 8,
        max_branches: 3,
        default_timeout: Duration::from_secs(30),
        max_timeout: Duration::from_mins(1),
        endpoints: BTreeMap::from([("partner/bank".parse().unwrap(), "http://10.0.0.1:1".parse().unwrap())]),
        allowed_hosts: vec!["localhost".parse().unwrap()],
    }
}

fn xid() -> String {
    TxId::new(7, 0, Epoch(1), Shard(0), 0).to_string()
}

fn branch(id: &str) -> pb::BranchSpec {
    pb::BranchSpec { branch_id: id.to_owned(), participant: "shop/stock".to_owned(), ..Default::default() }
}

fn vote() -> pb::PhaseOneResult {
    pb::PhaseOneResult { vote: pb::Vote::Prepared.into(), ..Default::default() }
}

fn enlistment(branch: pb::BranchSpec) -> pb::Enlistment {
    pb::Enlistment { branch: Some(branch), vote: Some(vote()) }
}

fn a_begin() -> pb::BeginRequest {
    pb::BeginRequest { label: "checkout".to_owned(), request_id: "order-1".to_owned(), ..Default::default() }
}

fn a_run(branches: Vec<pb::BranchSpec>) -> pb::RunRequest {
    pb::RunRequest { request_id: "order-1".to_owned(), branches, ..Default::default() }
}

fn a_commit(enlistments: Vec<pb::Enlistment>) -> pb::CommitRequest {
    pb::CommitRequest { xid: xid(), enlistments, ..Default::default() }
}

fn run_ids(branches: Vec<pb::BranchSpec>) -> Vec<String> {
    let (_, branches, _) = run(a_run(branches), &limits()).unwrap();
    branches.iter().map(|branch| branch.id.as_ref().unwrap().to_string()).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Invalid>, expected: &str) {
    assert_eq!(result.unwrap_err().to_string(), expected);
}

#[test]
fn defaults_are_two_phase_and_the_timeout_of_the_settings() {
    let spec = begin(pb::BeginRequest::default(), &limits()).unwrap();
    assert_eq!((spec.protocol, spec.timeout), (Protocol::TwoPhase, Duration::from_secs(30)));
    assert_eq!((spec.label.as_str(), spec.request), ("", None));
}

#[test]
fn each_wrong_field_of_begin_is_named() {
    let refused = |request: pb::BeginRequest, expected| refused(begin(request, &limits()), expected);
    refused(pb::BeginRequest { protocol: 9, ..a_begin() }, "protocol is 9, which is none of its values");
    refused(
        pb::BeginRequest { label: "x".repeat(129), ..a_begin() },
        "label has 129 bytes; the limit is 128",
    );
    refused(
        pb::BeginRequest { label: "a\nb".to_owned(), ..a_begin() },
        r#"label "a\nb" has the character '\n'; allowed are all but control characters"#,
    );
    refused(
        pb::BeginRequest { timeout_ms: 60_001, ..a_begin() },
        "timeout_ms is 60001 ms; the limit is 60000 ms (limits.max_timeout)",
    );
    refused(
        pb::BeginRequest { timeout_ms: u64::MAX, ..a_begin() },
        "timeout_ms is 18446744073709551615 ms; the limit is 60000 ms (limits.max_timeout)",
    );
    refused(
        pb::BeginRequest { request_id: "y".repeat(1024), ..a_begin() },
        "request_id has 1024 bytes; the limit is 128",
    );
}

#[test]
fn each_wrong_field_of_a_branch_is_named_with_its_place() {
    let refused =
        |bad: pb::BranchSpec, expected| refused(run(a_run(vec![branch("a"), bad]), &limits()), expected);
    refused(
        pb::BranchSpec { branch_id: "a b".to_owned(), ..branch("") },
        r#"branches[1].branch_id "a b" has the character ' '; allowed are letters, digits and -_.:/"#,
    );
    refused(
        pb::BranchSpec { participant: String::new(), ..branch("") },
        "branches[1].participant is empty; give 1 to 128 bytes",
    );
    refused(
        pb::BranchSpec { payload: vec![0; 9].into(), ..branch("") },
        "branches[1].payload has 9 bytes; the limit is 8 bytes (limits.max_payload)",
    );
    refused(
        pb::BranchSpec { protocol: -1, ..branch("") },
        "branches[1].protocol is -1, which is none of its values",
    );
    refused(
        pb::BranchSpec { reservation_ttl_ms: 60_001, ..branch("") },
        "branches[1].reservation_ttl_ms is 60001 ms; the limit is 60000 ms (limits.max_timeout)",
    );
    refused(
        pb::BranchSpec { endpoint: "http://evil.example:80".to_owned(), ..branch("") },
        r#"branches[1].endpoint names the host "evil.example", which participants.allowed_hosts does not list"#,
    );
    refused(
        pb::BranchSpec { endpoint: "ftp://localhost:1".to_owned(), ..branch("") },
        r#"branches[1].endpoint is "ftp://localhost:1"; it must be an address such as http://stock.internal:7000"#,
    );
    refused(
        pb::BranchSpec { endpoint: "x".repeat(100_000), ..branch("") },
        "branches[1].endpoint has 100000 bytes; the limit is 272",
    );
}

#[test]
fn an_error_repeats_of_a_wrong_address_no_more_than_fits_in_a_header() {
    let wrong = pb::BranchSpec { endpoint: "\u{1}".repeat(272), ..branch("") };
    let refusal = run(a_run(vec![wrong]), &limits()).unwrap_err().to_string();
    assert!(refusal.len() < 1024, "{} bytes", refusal.len());
}

#[test]
fn a_reply_to_a_completion_that_is_too_large_is_left_out() {
    let stock = "shop/stock".parse().unwrap();
    let kept = |bytes| crate::wire::reply_to_completion(vec![7; bytes].into(), &stock, &limits()).len();
    assert_eq!((kept(8), kept(9)), (8, 0));
}

#[test]
fn too_many_branches_are_refused_before_anything_is_begun() {
    let expected = "has 4 elements; the limit is 3 (limits.max_branches)";
    refused(run(a_run(vec![branch(""); 4]), &limits()), &format!("branches {expected}"));
    refused(commit(a_commit(vec![enlistment(branch("")); 4]), &limits()), &format!("enlistments {expected}"));
    assert!(run(a_run(vec![branch(""); 3]), &limits()).is_ok());
}

#[test]
fn two_branches_of_one_id_are_refused() {
    refused(
        run(a_run(vec![branch("a"), branch(""), branch("a")]), &limits()),
        r#"branches[2].branch_id is "a", as branches[0].branch_id is; give each branch an id of its own, or none"#,
    );
    refused(
        commit(a_commit(vec![enlistment(branch("a")), enlistment(branch("a"))]), &limits()),
        r#"enlistments[1].branch.branch_id is "a", as enlistments[0].branch.branch_id is; give each branch an id of its own, or none"#,
    );
}

#[test]
fn a_numbered_branch_never_gets_the_id_of_another() {
    assert_eq!(run_ids(vec![branch(""), branch("")]), ["1", "2"]);
    assert_eq!(run_ids(vec![branch(""), branch("1"), branch("")]), ["2", "1", "3"]);
    // The ids that a transaction has already are known to the core alone: it numbers those that come last.
    let request = a_commit(vec![enlistment(branch("")), enlistment(branch("1"))]);
    let (_, enlistments, _) = commit(request, &limits()).unwrap();
    let ids: Vec<_> = enlistments.iter().map(|e| e.branch.id.as_ref().map(BranchId::as_str)).collect();
    assert_eq!(ids, [Some("1"), None]);
}

#[test]
fn each_wrong_field_of_enlist_commit_and_abort_is_named() {
    let enlist = |request| enlist(request, &limits()).map(drop);
    refused(enlist(pb::EnlistRequest::default()), "xid is empty; give a transaction id");
    refused(enlist(pb::EnlistRequest { xid: xid(), enlistment: None }), "enlistment is not set");
    let empty = pb::Enlistment::default();
    refused(
        enlist(pb::EnlistRequest { xid: xid(), enlistment: Some(empty.clone()) }),
        "enlistment.branch is not set",
    );
    let wrong_vote = |vote| pb::Enlistment { vote: Some(vote), ..enlistment(branch("a")) };
    refused(
        enlist(pb::EnlistRequest {
            xid: xid(),
            enlistment: Some(wrong_vote(pb::PhaseOneResult { vote: 0, ..vote() })),
        }),
        "enlistment.vote.vote is not set",
    );
    let commit = |request| commit(request, &limits()).map(drop);
    refused(commit(a_commit(vec![enlistment(branch("a")), empty])), "enlistments[1].branch is not set");
    let large_reply = pb::PhaseOneResult { reply: vec![0; 9].into(), ..vote() };
    refused(
        commit(a_commit(vec![wrong_vote(large_reply)])),
        "enlistments[0].vote.reply has 9 bytes; the limit is 8 bytes (limits.max_payload)",
    );
    let unknown_class = pb::PhaseOneResult { reservation_class: 3, ..vote() };
    refused(
        commit(a_commit(vec![wrong_vote(unknown_class)])),
        "enlistments[0].vote.reservation_class is 3, which is none of its values",
    );
    refused(
        commit(pb::CommitRequest { wait: 7, ..a_commit(vec![]) }),
        "wait is 7, which is none of its values",
    );
    let abort_of =
        |xid: &str| abort(&pb::AbortRequest { xid: xid.to_owned(), ..Default::default() }).map(drop);
    refused(
        abort_of("order-1"),
        r#"xid is wrong: "order-1" is not a transaction id; one looks like 00000000-0000-8000-8000-004000000000"#,
    );
    refused(
        abort(&pb::AbortRequest { xid: xid(), wait: 3, ..Default::default() }).map(drop),
        "wait is 3, which is none of its values",
    );
}

#[test]
fn a_long_abort_reason_is_cut_between_characters() {
    let reason = format!("x{}", "ö".repeat(600));
    let (_, kept, _) = abort(&pb::AbortRequest { xid: xid(), reason, wait: 0 }).unwrap();
    assert_eq!(kept.len(), REASON_MAX - 1);
}

#[test]
fn an_operator_must_give_a_reason_and_not_a_book() {
    refused(given_reason(" \n"), "reason is empty; say why in 1 to 1024 bytes");
    refused(given_reason(&"x".repeat(1025)), "reason has 1025 bytes; the limit is 1024");
    assert_eq!(given_reason("seen in the ledger").unwrap(), "seen in the ledger");
}

#[test]
fn a_dialled_participant_is_not_taken_for_one_that_asks() {
    let of = |participant: &str, endpoint: &str| {
        let spec = pb::BranchSpec {
            participant: participant.to_owned(),
            endpoint: endpoint.to_owned(),
            ..branch("a")
        };
        run(a_run(vec![spec]), &limits()).unwrap().1[0].inquires
    };
    assert!(of("shop/stock", ""));
    assert!(!of("shop/stock", "http://localhost:80"));
    assert!(!of("partner/bank", ""));
}

fn fingerprint_of_begin(request: pb::BeginRequest) -> [u8; 16] {
    begin(request, &limits()).unwrap().request.unwrap().fingerprint
}

fn fingerprint_of_run(request: pb::RunRequest) -> [u8; 16] {
    run(request, &limits()).unwrap().0.request.unwrap().fingerprint
}

#[test]
fn a_fingerprint_is_the_same_in_every_version() {
    // It is kept in the log: after an update, a repeated request must still be known.
    let hex = |fingerprint: [u8; 16]| Uuid::from_bytes(fingerprint).to_string();
    assert_eq!(hex(fingerprint_of_begin(a_begin())), "45a98af8-9a16-5894-a544-c1e71870583e");
    assert_eq!(hex(fingerprint_of_run(a_run(vec![branch("a")]))), "e173b951-b56a-5d08-87cf-5de72f9da059");
}

#[test]
fn a_fingerprint_covers_all_that_matters_and_nothing_else() {
    let begin = fingerprint_of_begin(a_begin());
    assert_eq!(begin, fingerprint_of_begin(pb::BeginRequest { request_id: "other".to_owned(), ..a_begin() }));
    for other in [
        pb::BeginRequest { label: "other".to_owned(), ..a_begin() },
        pb::BeginRequest { timeout_ms: 1, ..a_begin() },
        pb::BeginRequest { protocol: pb::Protocol::Tcc.into(), ..a_begin() },
    ] {
        assert_ne!(begin, fingerprint_of_begin(other));
    }
    let run = fingerprint_of_run(a_run(vec![branch("a")]));
    let other_wait = pb::RunRequest { wait: pb::Wait::Decision.into(), ..a_run(vec![branch("a")]) };
    assert_eq!(run, fingerprint_of_run(other_wait));
    let other_payload = pb::BranchSpec { payload: vec![1].into(), ..branch("a") };
    for other in [vec![], vec![branch("b")], vec![other_payload], vec![branch("a"), branch("")]] {
        assert_ne!(run, fingerprint_of_run(a_run(other)));
    }
    // Their bytes are the same.
    let (empty_begin, empty_run) = (pb::BeginRequest { label: String::new(), ..a_begin() }, a_run(vec![]));
    assert_ne!(fingerprint_of_begin(empty_begin), fingerprint_of_run(empty_run));
}
