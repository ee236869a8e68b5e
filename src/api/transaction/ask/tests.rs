use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::core::{
    BranchId, BranchResult, BranchState, Epoch, Outcome, Rejection, Shard, State, TransactionResult, TxId,
};

fn id() -> TxId {
    TxId::new(7, 0, Epoch(1), Shard(0), 0)
}

fn result(outcome: Option<Outcome>) -> Answer {
    Answer::Ended(TransactionResult {
        tx: id(),
        outcome,
        complete: outcome.is_some(),
        reason: "because".into(),
        branches: vec![BranchResult {
            id: BranchId::numbered(1),
            participant: "shop/stock".parse().unwrap(),
            state: BranchState::Committed,
            reply: "reply".into(),
            reason: "".into(),
        }],
    })
}

fn rejections() -> Vec<(Rejection, Code, &'static str)> {
    let tx = id();
    vec![
        (Rejection::NotFound { tx }, Code::NotFound, "TRANSACTION_NOT_FOUND"),
        (
            Rejection::WrongState { tx, state: State::Active, wanted: "wait" },
            Code::FailedPrecondition,
            "WRONG_STATE",
        ),
        (Rejection::RequestReused { id: "r".to_owned(), tx }, Code::AlreadyExists, "REQUEST_ID_REUSED"),
        (
            Rejection::BranchReused { tx, branch: BranchId::numbered(1) },
            Code::AlreadyExists,
            "BRANCH_ID_REUSED",
        ),
        (Rejection::TooManyBranches { tx, limit: 3 }, Code::InvalidArgument, "TOO_MANY_BRANCHES"),
        (Rejection::TooManyActive { limit: 3 }, Code::ResourceExhausted, "TOO_MANY_ACTIVE"),
        (Rejection::DiskNearlyFull, Code::ResourceExhausted, "DISK_NEARLY_FULL"),
        (Rejection::Draining, Code::Unavailable, "DRAINING"),
    ]
}

#[test]
fn begin_tells_the_timeout_in_force() {
    let answer = Answer::Begun { tx: id(), timeout: Duration::from_secs(30) };
    let response = pb::BeginRequest::response(answer).unwrap();
    assert_eq!((response.xid, response.timeout_ms), (id().to_string(), 30_000));
}

#[test]
fn an_outcome_that_is_not_here_is_unknown_and_never_an_abort() {
    let response = pb::CommitRequest::response(result(None)).unwrap().result.unwrap();
    assert_eq!((response.outcome(), response.complete), (pb::Outcome::Unknown, false));
    let response = pb::RunRequest::response(result(Some(Outcome::Mixed))).unwrap().result.unwrap();
    assert_eq!((response.outcome(), response.complete), (pb::Outcome::Mixed, true));
}

#[test]
fn an_abort_is_an_ok_answer_with_its_reason_and_branches() {
    let response = pb::AbortRequest::response(result(Some(Outcome::Aborted))).unwrap().result.unwrap();
    assert_eq!((response.outcome(), response.reason.as_str()), (pb::Outcome::Aborted, "because"));
    let branch = &response.branches[0];
    assert_eq!((branch.branch_id.as_str(), branch.participant.as_str()), ("1", "shop/stock"));
    assert_eq!((branch.state(), &branch.reply[..]), (pb::BranchState::Committed, b"reply".as_slice()));
}

#[test]
fn each_refusal_has_its_code_its_reason_and_the_xid() {
    for (rejection, code, reason) in rejections() {
        let text = rejection.to_string();
        let about_one = text.contains(&id().to_string());
        let status = pb::EnlistRequest::response(Answer::Rejected(rejection)).unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text.as_str()));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "assent"));
        assert_eq!(info.metadata.get("xid").is_some_and(|xid| *xid == id().to_string()), about_one, "{text}");
    }
}

#[test]
fn a_pipeline_tells_the_same_refusal() {
    for (rejection, code, reason) in rejections() {
        let text = rejection.to_string();
        let error = status::to_pipeline_error(&status::rejected(&rejection));
        let comes_back = matches!(code, Code::ResourceExhausted | Code::Unavailable);
        let delay = if comes_back { wire::millis(status::RETRY_DELAY) } else { 0 };
        assert_eq!(
            error,
            pb::PipelineError {
                code: code.into(),
                message: text,
                reason: reason.to_owned(),
                retry_delay_ms: delay
            }
        );
    }
}

#[test]
fn an_answer_to_something_else_is_a_bug_and_said_to_be() {
    let status = pb::BeginRequest::response(Answer::Forgotten).unwrap_err();
    assert_eq!(status.code(), Code::Internal);
}
