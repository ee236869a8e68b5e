//! Fields that say what they must not.

use assent_proto::v1 as pb;
use tonic::{Code, Status};

use super::{Target, assert_refused, assert_says, branch};
use crate::session;

/// A text, and what the refusal says of it.
const HOSTILE_NAMES: [(&str, &str); 6] = [
    ("größe", "'ö'"),
    ("a\0b", r"'\0'"),
    ("a\nb", r"'\n'"),
    ("order 1", "' '"),
    ("\u{202e}kcots", r"'\u{202e}'"),
    ("../../etc/passwd'", r"'\''"),
];

#[tokio::test]
async fn hostile_branch_and_participant_names_are_refused() {
    let target = Target::start().await;
    let long = "x".repeat(1024);
    let too_long = [(long.as_str(), "has 1024 bytes")];
    for (name, says) in HOSTILE_NAMES.into_iter().chain(too_long) {
        let named = pb::BranchSpec { branch_id: name.to_owned(), ..branch("shop/stock") };
        let status = target.run(vec![named]).await.unwrap_err();
        assert_refused(&status, Code::InvalidArgument, &["branches[0].branch_id", says]);
        let status = target.run(vec![branch(name)]).await.unwrap_err();
        assert_refused(&status, Code::InvalidArgument, &["branches[0].participant", says]);
    }
    let status = target.run(vec![branch("")]).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, &["branches[0].participant", "is empty"]);
    target.still_commits().await;
}

#[tokio::test]
async fn hostile_labels_and_request_ids_are_refused() {
    let target = Target::start().await;
    let begin = async |label: &str, request_id: &str| {
        let (label, request_id) = (label.to_owned(), request_id.to_owned());
        target
            .transactions()
            .begin(pb::BeginRequest { label, request_id, ..pb::BeginRequest::default() })
            .await
    };
    for (text, says) in [("a\0b", r"'\0'"), ("a\nb", r"'\n'"), (&*"x".repeat(1024), "has 1024 bytes")] {
        assert_refused(&begin(text, "").await.unwrap_err(), Code::InvalidArgument, &["label", says]);
        assert_refused(&begin("", text).await.unwrap_err(), Code::InvalidArgument, &["request_id", says]);
    }
    // Not hostile: people may write as they do.
    begin("Größe ✓", "größe-1").await.unwrap();
    target.still_commits().await;
}

#[tokio::test]
async fn what_is_no_transaction_id_is_refused() {
    let target = Target::start().await;
    let xid = target.begin().await;
    let mut texts = vec![
        String::new(),
        "order-1".to_owned(),
        "x".repeat(1024),
        "größe".to_owned(),
        format!("{xid} "),
        format!("{xid}0"),
        xid[..35].to_owned(),
        xid.replace('-', ""),
        format!("{{{xid}}}"),
        // A UUID, but not one of ours.
        "00000000-0000-4000-8000-000000000000".to_owned(),
    ];
    texts.extend(HOSTILE_NAMES.map(|(name, _)| name.to_owned()));
    for text in texts {
        let request = pb::CommitRequest { xid: text.clone(), ..pb::CommitRequest::default() };
        let status = target.transactions().commit(request).await.unwrap_err();
        assert_refused(&status, Code::InvalidArgument, &["xid"]);
        let inquiry = Some(pb::Inquiry { xid: text, branch_id: "1".to_owned(), expired: true });
        let status = target.inquiries().get_outcome(pb::GetOutcomeRequest { inquiry }).await.unwrap_err();
        assert_refused(&status, Code::InvalidArgument, &["inquiry.xid"]);
    }
    assert_eq!(target.get(&xid).await.state(), pb::State::Active);
    target.still_commits().await;
}

#[tokio::test]
async fn ids_that_are_prefixes_of_one_another_are_kept_apart() {
    let target = Target::start().await;
    let begin = async |request_id: &str| {
        let request = pb::BeginRequest { request_id: request_id.to_owned(), ..pb::BeginRequest::default() };
        target.transactions().begin(request).await.unwrap().into_inner().xid
    };
    assert_ne!(begin("order-1").await, begin("order-10").await);
    assert_eq!(begin("order-1").await, begin("order-1").await);

    for participant in ["shop", "shop/stock", "shop/stock-1"] {
        session::willing(&target.channel, participant).await;
    }
    let ids = ["1", "10", "order-1", "order-10", "order-1:", "ORDER-1"];
    let participants = ["shop", "shop/stock", "shop/stock-1"];
    let branches = ids
        .iter()
        .zip(participants.iter().cycle())
        .map(|(id, participant)| pb::BranchSpec { branch_id: (*id).to_owned(), ..branch(participant) });
    let result = target.run(branches.collect()).await.unwrap();
    assert_eq!(result.outcome(), pb::Outcome::Committed, "{}", result.reason);
    let seen: Vec<&str> = result.branches.iter().map(|branch| branch.branch_id.as_str()).collect();
    assert_eq!(seen, ids);
    target.still_commits().await;
}

#[tokio::test]
async fn unknown_enum_numbers_are_refused() {
    let target = Target::start().await;
    let xid = target.begin().await;
    for number in [99, -1, i32::MAX, i32::MIN] {
        let says = number.to_string();
        let mut transactions = target.transactions();
        let mut refused: Vec<(&str, Status)> = Vec::new();

        let begin = pb::BeginRequest { protocol: number, ..pb::BeginRequest::default() };
        refused.push(("protocol", transactions.begin(begin).await.unwrap_err()));
        let commit = pb::CommitRequest { xid: xid.clone(), wait: number, ..pb::CommitRequest::default() };
        refused.push(("wait", transactions.commit(commit).await.unwrap_err()));
        let list = pb::TransactionFilter { states: vec![number], ..pb::TransactionFilter::default() };
        let list = pb::ListRequest { filter: Some(list), ..pb::ListRequest::default() };
        refused.push(("filter.states", transactions.list(list).await.unwrap_err()));

        let spec = pb::BranchSpec { protocol: number, ..branch("shop/stock") };
        refused.push(("branches[0].protocol", target.run(vec![spec]).await.unwrap_err()));
        let vote = pb::PhaseOneResult { vote: number, ..pb::PhaseOneResult::default() };
        refused.push(("enlistment.vote.vote", enlist(&target, &xid, vote).await.unwrap_err()));
        let class = pb::PhaseOneResult { reservation_class: number, ..session::vote(pb::Vote::Prepared) };
        refused.push(("enlistment.vote.reservation_class", enlist(&target, &xid, class).await.unwrap_err()));

        let resolve =
            pb::ResolveRequest { resolution: number, reason: "x".to_owned(), ..resolve_nothing(&xid) };
        refused.push(("resolution", target.admin().resolve(resolve).await.unwrap_err()));
        for (field, status) in refused {
            assert_refused(&status, Code::InvalidArgument, &[field, &says]);
        }
    }
    target.still_commits().await;
}

#[tokio::test]
async fn too_many_of_anything_is_refused_with_the_limit() {
    let target = Target::start().await;
    let xid = target.begin().await;
    let status = target.run(vec![branch("shop/stock"); 10_000]).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, &["branches has 10000", "64", "limits.max_branches"]);

    let enlistment = pb::Enlistment { branch: Some(branch("shop/stock")), vote: None };
    let commit = pb::CommitRequest {
        xid: xid.clone(),
        enlistments: vec![enlistment; 10_000],
        ..pb::CommitRequest::default()
    };
    let status = target.transactions().commit(commit).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, &["enlistments has 10000", "64", "limits.max_branches"]);

    for _ in 0..64 {
        enlist(&target, &xid, session::vote(pb::Vote::ReadOnly)).await.unwrap();
    }
    let status = enlist(&target, &xid, session::vote(pb::Vote::ReadOnly)).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, &["64"]);

    let inquiries = vec![pb::Inquiry { xid, branch_id: "1".to_owned(), expired: false }; 1_001];
    let status = target.inquiries().batch_get_outcomes(pb::BatchGetOutcomesRequest { inquiries }).await;
    assert_refused(&status.unwrap_err(), Code::InvalidArgument, &["inquiries has 1001", "1000"]);

    let list = pb::ListRequest { page_size: u32::MAX, ..pb::ListRequest::default() };
    let status = target.transactions().list(list).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, &["page_size", "4294967295", "1000"]);
    target.still_commits().await;
}

/// -1 as a number without a sign, and others that overflow when a clock is added to them.
#[tokio::test]
async fn numbers_at_the_edge_are_refused_with_the_limit() {
    let target = Target::start().await;
    for number in [u64::MAX, u64::MAX / 2, i64::MAX as u64 + 1, 3_600_001] {
        let says = number.to_string();
        let begin = pb::BeginRequest { timeout_ms: number, ..pb::BeginRequest::default() };
        let status = target.transactions().begin(begin).await.unwrap_err();
        assert_refused(&status, Code::InvalidArgument, &["timeout_ms", &says, "limits.max_timeout"]);
        let spec = pb::BranchSpec { reservation_ttl_ms: number, ..branch("shop/stock") };
        let status = target.run(vec![spec]).await.unwrap_err();
        let fragments = ["branches[0].reservation_ttl_ms", &says, "limits.max_timeout"];
        assert_refused(&status, Code::InvalidArgument, &fragments);
    }
    // What a participant grants counts only as far as it was asked for.
    let begin = pb::BeginRequest { protocol: pb::Protocol::Tcc.into(), ..pb::BeginRequest::default() };
    let xid = target.transactions().begin(begin).await.unwrap().into_inner().xid;
    let vote = pb::PhaseOneResult {
        reservation_ttl_ms: u64::MAX,
        reservation_class: pb::ReservationClass::Autonomous.into(),
        ..session::vote(pb::Vote::Prepared)
    };
    enlist(&target, &xid, vote).await.unwrap();
    assert_eq!(target.get(&xid).await.branches[0].reservation_ttl_ms, 30_000);
    target.still_commits().await;
}

#[tokio::test]
async fn page_tokens_that_we_did_not_make_are_refused() {
    let target = Target::start().await;
    for token in ["x", "größe", "-1", "00000100000000000000000000000", "\0", &"f".repeat(1024)] {
        let list = pb::ListRequest { page_token: token.to_owned(), ..pb::ListRequest::default() };
        let status = target.transactions().list(list).await.unwrap_err();
        assert_refused(&status, Code::InvalidArgument, &["page_token"]);
    }
    target.still_commits().await;
}

#[tokio::test]
async fn messages_without_their_content_are_refused() {
    let target = Target::start().await;
    let xid = target.begin().await;
    let mut transactions = target.transactions();
    let refused = [
        ("xid", transactions.get(pb::GetRequest { key: None }).await.map(drop)),
        ("enlistment", {
            let request = pb::EnlistRequest { xid: xid.clone(), enlistment: None };
            transactions.enlist(request).await.map(drop)
        }),
        ("branch", {
            let request = pb::EnlistRequest { xid: xid.clone(), enlistment: Some(pb::Enlistment::default()) };
            transactions.enlist(request).await.map(drop)
        }),
        ("inquiry", target.inquiries().get_outcome(pb::GetOutcomeRequest { inquiry: None }).await.map(drop)),
        ("resolution", target.admin().resolve(resolve_nothing(&xid)).await.map(drop)),
        ("reason", target.admin().forget(pb::ForgetRequest { xid, reason: String::new() }).await.map(drop)),
        ("target", target.admin().retry(pb::RetryRequest { target: None }).await.map(drop)),
    ];
    for (field, result) in refused {
        assert_refused(&result.unwrap_err(), Code::InvalidArgument, &[field]);
    }
    target.still_commits().await;
}

/// What people are told is cut to what people can read, also in the middle of a character.
#[tokio::test]
async fn a_long_reason_is_cut() {
    let target = Target::start().await;
    let xid = target.begin().await;
    let vote = pb::PhaseOneResult { reason: "ö".repeat(1_000), ..session::vote(pb::Vote::Refused) };
    enlist(&target, &xid, vote).await.unwrap();
    let transaction = target.get(&xid).await;
    assert_eq!(transaction.state(), pb::State::Aborted);
    assert_eq!(transaction.branches[0].reason, "ö".repeat(512));
    assert_says(&transaction.reason, &["shop/stock", "refused"]);
    target.still_commits().await;
}

async fn enlist(target: &Target, xid: &str, vote: pb::PhaseOneResult) -> Result<(), Status> {
    let enlistment = Some(pb::Enlistment { branch: Some(branch("shop/stock")), vote: Some(vote) });
    target.transactions().enlist(pb::EnlistRequest { xid: xid.to_owned(), enlistment }).await.map(drop)
}

fn resolve_nothing(xid: &str) -> pb::ResolveRequest {
    pb::ResolveRequest { xid: xid.to_owned(), branch_id: "1".to_owned(), ..pb::ResolveRequest::default() }
}
