//! The one place where a [`Status`] is made.
//!
//! Each carries a `google.rpc.ErrorInfo` with domain `assent`, a reason such as `WRONG_STATE`, and the xid where there is
//! one; what is worth trying again later carries a `RetryInfo`.

use std::collections::HashMap;
use std::time::Duration;

use assent_proto::v1 as pb;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::coordinator::{Coordinator, Phase};
use crate::core::{Answer, Rejection, TxId};
use crate::wire::{self, Invalid};

/// How long those should wait who were turned away for lack of room.
pub const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A field is wrong.
pub fn invalid(invalid: &Invalid) -> Status {
    let mut details = details("INVALID_FIELD", None);
    details.add_bad_request_violation(&invalid.field, &invalid.problem);
    Status::with_error_details(Code::InvalidArgument, invalid.to_string(), details)
}

/// The core said no.
pub fn rejected(rejection: &Rejection) -> Status {
    let (code, reason, tx, retry) = match rejection {
        Rejection::NotFound { tx } => (Code::NotFound, "TRANSACTION_NOT_FOUND", Some(*tx), false),
        Rejection::NoBranch { tx, .. } => (Code::NotFound, "BRANCH_NOT_FOUND", Some(*tx), false),
        Rejection::WrongState { tx, .. } => (Code::FailedPrecondition, "WRONG_STATE", Some(*tx), false),
        Rejection::RequestReused { tx, .. } => (Code::AlreadyExists, "REQUEST_ID_REUSED", Some(*tx), false),
        Rejection::BranchReused { tx, .. } => (Code::AlreadyExists, "BRANCH_ID_REUSED", Some(*tx), false),
        Rejection::TooManyBranches { tx, .. } => {
            (Code::InvalidArgument, "TOO_MANY_BRANCHES", Some(*tx), false)
        }
        Rejection::TooManyActive { .. } => (Code::ResourceExhausted, "TOO_MANY_ACTIVE", None, true),
        Rejection::DiskNearlyFull => (Code::ResourceExhausted, "DISK_NEARLY_FULL", None, true),
        Rejection::Draining => (Code::Unavailable, "DRAINING", None, true),
    };
    let mut details = details(reason, tx);
    if retry {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    Status::with_error_details(code, rejection.to_string(), details)
}

/// No such transaction.
pub fn not_found(message: String) -> Status {
    Status::with_error_details(Code::NotFound, message, details("TRANSACTION_NOT_FOUND", None))
}

/// A session that its participant has closed: no error.
pub fn closed() -> Status {
    Status::ok("the participant closed the session")
}

/// A session whose participant asks and does not read the answers.
pub fn unread() -> Status {
    let message = "the participant does not read what it is sent; connect again";
    Status::with_error_details(Code::ResourceExhausted, message, details("UNREAD", None))
}

/// The coordinator is no more.
pub fn stopped() -> Status {
    let details = details("STOPPED", None);
    Status::with_error_details(Code::Unavailable, "the coordinator has stopped; try again", details)
}

/// A stream ends early, so that it does not hold up the shutdown.
pub fn stopping() -> Status {
    let mut details = details("DRAINING", None);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(Code::Unavailable, "the coordinator is shutting down; try again", details)
}

/// Lets pass only when the log is recovered.
pub fn serving(coordinator: &Coordinator) -> Result<(), Status> {
    match coordinator.phase() {
        Phase::Serving | Phase::Draining => Ok(()),
        Phase::Recovering => {
            let mut details = details("RECOVERING", None);
            details.set_retry_info(Some(RETRY_DELAY));
            Err(Status::with_error_details(
                Code::Unavailable,
                "the coordinator is reading its log; try again",
                details,
            ))
        }
        Phase::Stopped => Err(stopped()),
    }
}

/// An answer that is not the one to what was asked: a refusal, or a bug of ours.
pub fn unanswered(answer: &Answer) -> Status {
    match answer {
        Answer::Rejected(rejection) => rejected(rejection),
        Answer::Begun { .. }
        | Answer::Enlisted { .. }
        | Answer::Ended(_)
        | Answer::Inquiry(_)
        | Answer::Transaction(_)
        | Answer::Retried { .. }
        | Answer::Forgotten => internal(format!("the coordinator answered something else: {answer:?}")),
    }
}

/// The same, within a pipeline.
pub fn to_pipeline_error(status: &Status) -> pb::PipelineError {
    let retry_delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    pb::PipelineError {
        code: status.code().into(),
        message: status.message().to_owned(),
        reason: status.get_details_error_info().map(|info| info.reason).unwrap_or_default(),
        retry_delay_ms: retry_delay.map(wire::millis).unwrap_or_default(),
    }
}

/// The coordinator did what it should not: a bug of ours.
pub fn internal(message: String) -> Status {
    Status::with_error_details(Code::Internal, message, details("INTERNAL", None))
}

fn details(reason: &str, tx: Option<TxId>) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        tx.map(|tx| ("xid".to_owned(), tx.to_string())).into_iter().collect();
    ErrorDetails::with_error_info(reason, "assent", metadata)
}
