//! A transaction that is under way.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use assent_proto::v1::pipeline_answer::Answer;
use assent_proto::v1::pipeline_call::Call;
use assent_proto::{TxId, v1 as pb};
use prost::Message as _;
use tokio::time::Instant;
use tonic::Code;

use super::pipeline::{Pipeline, Trouble};
use super::result::{Completed, conclude};
use super::{NewBranch, Wait, may_be_done, mismatched, nothing_done};
use crate::crash_point;
use crate::error::{Error, Failure, Result};

/// How long an abort is tried. If it cannot be delivered the transaction aborts at its timeout.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// A transaction that is begun and not ended. Dropping it aborts it.
pub struct Transaction {
    pipeline: Pipeline,
    xid: TxId,
    request_id: String,
    deadline: Instant,
    wait: Wait,
    enlisted: AtomicU32,
    ballots: Mutex<Vec<pb::Enlistment>>,
    ended: bool,
}

impl Transaction {
    pub(super) fn new(
        pipeline: Pipeline,
        xid: TxId,
        request_id: String,
        deadline: Instant,
        wait: Wait,
    ) -> Transaction {
        Transaction {
            pipeline,
            xid,
            request_id,
            deadline,
            wait,
            enlisted: AtomicU32::new(0),
            ballots: Mutex::default(),
            ended: false,
        }
    }

    /// Its id, to be sent along to the services that take part. [`PropagateLayer`](crate::context::PropagateLayer) does
    /// so by itself.
    pub fn xid(&self) -> TxId {
        self.xid
    }

    /// Adds a branch that the coordinator calls at commit. Returns the branch id.
    ///
    /// # Errors
    /// [`Error::Rejected`] where the coordinator says no, [`Error::Unavailable`] where it cannot be reached.
    pub async fn enlist(&self, mut branch: NewBranch) -> Result<String, Error> {
        if branch.spec.branch_id.is_empty() {
            // A name of its own lets the call be repeated without adding a second branch.
            branch.spec.branch_id =
                format!("initiator:{}", self.enlisted.fetch_add(1, Ordering::Relaxed) + 1);
        }
        let enlistment = pb::Enlistment { branch: Some(branch.into_spec()?), vote: None };
        let request = pb::EnlistRequest { xid: self.xid.to_string(), enlistment: Some(enlistment) };
        match self.pipeline.call(Call::Enlist(request), self.deadline).await {
            Ok(Answer::Enlist(enlisted)) => {
                crash_point!("branch-enlisted");
                Ok(enlisted.branch_id)
            }
            Ok(answered) => Err(mismatched(&answered)),
            Err(trouble) => Err(nothing_done(trouble)),
        }
    }

    /// Takes along to the commit a ballot that a participant gave with its reply; see
    /// [`Join::ballot`](crate::participant::Join::ballot). It saves the participant the enlistment.
    ///
    /// # Errors
    /// [`Error::Invalid`] where these bytes are no ballot.
    pub fn carry(&self, ballot: &[u8]) -> Result<(), Error> {
        let enlistment = pb::Enlistment::decode(ballot)
            .map_err(|error| Error::Invalid(format!("{} bytes are no ballot: {error}", ballot.len())))?;
        self.ballots.lock().unwrap_or_else(PoisonError::into_inner).push(enlistment);
        Ok(())
    }

    /// Asks for commit, and asks again while the answer is lost and the time is not up.
    ///
    /// # Errors
    /// [`Error::Aborted`], [`Error::Unknown`], [`Error::Heuristic`]; [`Error::Rejected`] where the coordinator takes no
    /// commit of it: it then aborts.
    pub async fn commit(mut self) -> Result<Completed, Error> {
        let ballots = std::mem::take(self.ballots.get_mut().unwrap_or_else(PoisonError::into_inner));
        let call = Call::Commit(pb::CommitRequest {
            xid: self.xid.to_string(),
            enlistments: ballots,
            wait: self.wait.to_pb().into(),
        });
        crash_point!("commit-to-be-called");
        let answered = self.pipeline.call(call, self.deadline).await;
        crash_point!("commit-answered-to-initiator");
        // From here on it is decided, or may be.
        self.ended = true;
        let (xid, request_id) = (self.xid, std::mem::take(&mut self.request_id));
        match answered {
            Ok(Answer::Commit(done)) => conclude(done.result, Some(xid), &request_id),
            Ok(_) | Err(Trouble::Lost) => Err(Error::Unknown { xid: Some(xid), request_id }),
            // Whoever began it before may have asked for its commit.
            Err(Trouble::Unsent) if !request_id.is_empty() => {
                Err(Error::Unknown { xid: Some(xid), request_id })
            }
            Err(Trouble::Unsent) => {
                let reason = "the coordinator could not be reached to commit it".into();
                Err(Error::Aborted { xid, reason, source: None })
            }
            Err(Trouble::Error { error, sent_before }) if may_be_done(&error, sent_before) => {
                tracing::warn!(%xid, code = error.code, message = error.message, "commit left open");
                Err(Error::Unknown { xid: Some(xid), request_id })
            }
            // Nobody but us asks for its commit, and this was the first time: it has not committed.
            Err(Trouble::Error { error, .. }) if Code::from_i32(error.code) == Code::NotFound => {
                let reason =
                    "the coordinator does not know it: it timed out, or the coordinator restarted".into();
                Err(Error::Aborted { xid, reason, source: None })
            }
            Err(trouble @ Trouble::Error { .. }) => {
                self.ended = false;
                Err(nothing_done(trouble))
            }
        }
    }

    /// Asks for abort.
    ///
    /// # Errors
    /// [`Error::Heuristic`] where a branch had committed on its own. Where the coordinator cannot be reached that is no
    /// error: nobody asks for commit, so it aborts at its timeout.
    ///
    /// With a request id, somebody may have begun the same transaction before and asked for its commit. Then
    /// [`Error::Rejected`] says that it has committed, and [`Error::Unknown`] that it may have.
    pub async fn abort(mut self, reason: impl Into<String>) -> Result<(), Error> {
        self.end(reason.into()).await
    }

    /// Aborts, and says so with the failure that was the reason.
    pub(super) async fn abort_because(mut self, failure: Failure) -> Error {
        let reason = failure.to_string();
        match self.end(reason.clone()).await {
            Ok(()) => Error::Aborted { xid: self.xid, reason, source: failure.into_cause() },
            Err(error) => {
                tracing::warn!(xid = %self.xid, reason, %error, "could not be aborted");
                error
            }
        }
    }

    /// Asks for the abort. `Ok`: it is aborted, or will be.
    async fn end(&mut self, reason: String) -> Result<(), Error> {
        self.ended = true;
        let (xid, request_id) = (self.xid, &self.request_id);
        let call = abort_call(xid, reason, self.wait);
        let answered = self.pipeline.call(call, Instant::now() + ABORT_TIMEOUT).await;
        if let Ok(Answer::Abort(done)) = answered {
            return match conclude(done.result, Some(xid), request_id) {
                Err(Error::Aborted { .. }) => Ok(()),
                Err(error) => Err(error),
                Ok(_) => Err(Error::Rejected {
                    code: Code::FailedPrecondition,
                    reason: "COMMITTED".into(),
                    message: format!("transaction {xid} has committed already"),
                }),
            };
        }
        tracing::debug!(%xid, "the abort was not answered; the timeout will do it");
        if request_id.is_empty() {
            return Ok(());
        }
        // Whoever began it before may have asked for its commit.
        Err(Error::Unknown { xid: Some(xid), request_id: request_id.clone() })
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let call = abort_call(self.xid, "the initiator dropped it".into(), Wait::Decision);
        let pipeline = self.pipeline.clone();
        // Outside of a runtime nothing can be sent; then the timeout does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { pipeline.call(call, Instant::now() + ABORT_TIMEOUT).await });
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("xid", &self.xid).finish_non_exhaustive()
    }
}

fn abort_call(xid: TxId, reason: String, wait: Wait) -> Call {
    Call::Abort(pb::AbortRequest { xid: xid.to_string(), reason, wait: wait.to_pb().into() })
}
