//! The way of a call: from the request to the event, and from the answer to the response.

use assent_proto::v1 as pb;
use tonic::Status;

use crate::api::status;
use crate::core::{Answer, Event, Waiter};
use crate::wire::{self, Invalid, Limits};

/// A request that the coordinator answers.
pub(super) trait Ask {
    type Response;

    /// Whoever is to be answered is known only when the event is handed in.
    fn event(self, limits: &Limits) -> Result<impl FnOnce(Waiter) -> Event + Send + use<Self>, Invalid>;

    fn response(answer: Answer) -> Result<Self::Response, Status>;
}

impl Ask for pb::BeginRequest {
    type Response = pb::BeginResponse;

    fn event(self, limits: &Limits) -> Result<impl FnOnce(Waiter) -> Event + Send + use<>, Invalid> {
        let spec = wire::begin(self, limits)?;
        Ok(|waiter| Event::Begin { waiter, spec })
    }

    fn response(answer: Answer) -> Result<pb::BeginResponse, Status> {
        match answer {
            Answer::Begun { tx, timeout } => {
                Ok(pb::BeginResponse { xid: tx.to_string(), timeout_ms: wire::millis(timeout) })
            }
            other => Err(status::unanswered(&other)),
        }
    }
}

impl Ask for pb::EnlistRequest {
    type Response = pb::EnlistResponse;

    fn event(self, limits: &Limits) -> Result<impl FnOnce(Waiter) -> Event + Send + use<>, Invalid> {
        let (tx, enlistment) = wire::enlist(self, limits)?;
        Ok(move |waiter| Event::Enlist { waiter, tx, enlistment })
    }

    fn response(answer: Answer) -> Result<pb::EnlistResponse, Status> {
        match answer {
            Answer::Enlisted { branch } => Ok(pb::EnlistResponse { branch_id: branch.to_string() }),
            other => Err(status::unanswered(&other)),
        }
    }
}

impl Ask for pb::CommitRequest {
    type Response = pb::CommitResponse;

    fn event(self, limits: &Limits) -> Result<impl FnOnce(Waiter) -> Event + Send + use<>, Invalid> {
        let (tx, enlistments, wait) = wire::commit(self, limits)?;
        Ok(move |waiter| Event::Commit { waiter, tx, enlistments, wait })
    }

    fn response(answer: Answer) -> Result<pb::CommitResponse, Status> {
        Ok(pb::CommitResponse { result: Some(ended(answer)?) })
    }
}

impl Ask for pb::AbortRequest {
    type Response = pb::AbortResponse;

    fn event(self, _limits: &Limits) -> Result<impl FnOnce(Waiter) -> Event + Send + use<>, Invalid> {
        let (tx, reason, wait) = wire::abort(&self)?;
        Ok(move |waiter| Event::Abort { waiter, tx, reason, wait })
    }

    fn response(answer: Answer) -> Result<pb::AbortResponse, Status> {
        Ok(pb::AbortResponse { result: Some(ended(answer)?) })
    }
}

impl Ask for pb::RunRequest {
    type Response = pb::RunResponse;

    fn event(self, limits: &Limits) -> Result<impl FnOnce(Waiter) -> Event + Send + use<>, Invalid> {
        let (spec, branches, wait) = wire::run(self, limits)?;
        Ok(move |waiter| Event::Run { waiter, spec, branches, wait })
    }

    fn response(answer: Answer) -> Result<pb::RunResponse, Status> {
        Ok(pb::RunResponse { result: Some(ended(answer)?) })
    }
}

fn ended(answer: Answer) -> Result<pb::TransactionResult, Status> {
    match answer {
        Answer::Ended(result) => Ok(wire::result_to_pb(result)),
        other => Err(status::unanswered(&other)),
    }
}

#[cfg(test)]
mod tests;
