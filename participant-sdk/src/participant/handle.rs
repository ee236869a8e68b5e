//! Taking part from an ordinary service handler.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::TxId;
use assent_proto::v1 as pb;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use bytes::Bytes;
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use super::engine::{Asked, Engine};
use super::link::Link;
use crate::backoff::Backoff;
use crate::branch::Branch;
use crate::error::{Error, Result};
use crate::payload::{Decode, Encode};

/// How long an enlistment is tried, over reconnects too.
const ENLIST_TIMEOUT: Duration = Duration::from_secs(10);
const ENLIST_AGAIN: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// Does work on this participant's resource for a transaction that an initiator's call brought. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) engine: Arc<Engine>,
    pub(super) way: Way,
    pub(super) advertise: Arc<str>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("participant", self.engine.name()).finish_non_exhaustive()
    }
}

/// How to reach the coordinator.
#[derive(Clone)]
pub(super) enum Way {
    Session(Arc<Link>),
    Unary(TransactionServiceClient<Channel>),
    Nobody,
}

/// A branch to be joined: see [`Handle::join`].
#[derive(Debug)]
#[must_use = "nothing is done before `with` or `ballot`"]
pub struct Join<'a> {
    handle: &'a Handle,
    xid: TxId,
    branch_id: String,
    ttl: Option<Duration>,
}

/// A branch that is prepared, and enlisted with its vote.
#[derive(Clone, Debug)]
pub struct Joined {
    branch: Branch,
    reply: Bytes,
}

impl Handle {
    /// Takes part in a transaction, here and now: does phase one on the resource and enlists the branch with its vote, so
    /// that the commit needs no phase-one round. For a service that an initiator calls itself.
    ///
    /// The branch id names the work within its transaction, whosever work that is: the same id again is the same work,
    /// answered as the first time, and another participant's id is refused. Use one for each piece of work, such as
    /// the service and the order's line.
    ///
    /// ```no_run
    /// # use assent_sdk::{Json, participant::Handle, context};
    /// # async fn f(handle: Handle) -> Result<(), assent_sdk::Error> {
    /// # let xid = context::current().and_then(|context| context.xid()).unwrap();
    /// let joined = handle.join(xid, "stock:line-1").with(&Json(("apple", 3))).await?;
    /// let Json(left): Json<u32> = joined.reply()?;
    /// # Ok(()) }
    /// ```
    pub fn join(&self, xid: TxId, branch_id: impl Into<String>) -> Join<'_> {
        Join { handle: self, xid, branch_id: branch_id.into(), ttl: None }
    }
}

impl Join<'_> {
    /// How long a reservation is to hold. Default: no expiry, or what the participant grants at most.
    pub fn ttl(self, ttl: Duration) -> Self {
        Join { ttl: Some(ttl), ..self }
    }

    /// Does the work and enlists it.
    ///
    /// # Errors
    /// [`Error::Refused`] when the handler says no; [`Error::Rejected`] when the coordinator does not take the branch,
    /// for example because the transaction has ended; the branch is then rolled back, unless the reason is that its id
    /// is taken (`ALREADY_EXISTS`). [`Error::Unavailable`] when the resource or the coordinator could not be reached. In
    /// these two cases a branch that is prepared stays in doubt and is resolved by asking. After any of them the
    /// initiator should abort.
    pub async fn with(self, request: &impl Encode) -> Result<Joined, Error> {
        let (handle, work) = self.work(request)?;
        finished(tokio::spawn(async move {
            let (joined, enlistment) = handle.do_phase_one(work).await?;
            handle.enlist_or_undo(&joined.branch, enlistment).await?;
            Ok(joined)
        }))
        .await
    }

    /// Does the work and leaves enlisting it to the initiator: hand the ballot back with the reply, and let the initiator
    /// [`carry`](crate::client::Transaction::carry) it to the commit. It saves a round trip. A ballot that is never
    /// carried leaves the branch in doubt until it is asked about.
    ///
    /// # Errors
    /// As [`with`](Join::with), but for the enlistment.
    pub async fn ballot(self, request: &impl Encode) -> Result<(Joined, Vec<u8>), Error> {
        let (handle, work) = self.work(request)?;
        finished(tokio::spawn(async move {
            let (joined, enlistment) = handle.do_phase_one(work).await?;
            Ok((joined, enlistment.encode_to_vec()))
        }))
        .await
    }

    fn work(self, request: &impl Encode) -> Result<(Handle, Work), Error> {
        let Join { handle, xid, branch_id, ttl } = self;
        let branch = Branch::new(xid, branch_id.parse()?, handle.engine.name().clone());
        let request = request
            .to_bytes()
            .map_err(|error| Error::Invalid(format!("the request cannot be written: {error}")))?;
        Ok((handle.clone(), Work { branch, request, ttl }))
    }
}

impl Joined {
    /// The branch.
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// What the handler replied.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the reply is of another type.
    pub fn reply<T: Decode>(&self) -> Result<T, Error> {
        T::from_bytes(self.reply.clone())
            .map_err(|error| Error::Invalid(format!("the reply of {} cannot be read: {error}", self.branch)))
    }
}

impl Handle {
    async fn do_phase_one(&self, work: Work) -> Result<(Joined, pb::Enlistment), Error> {
        let engine = &self.engine;
        if let Way::Nobody = self.way {
            return Err(Error::Invalid(
                "a participant that serves needs `inquire_at` to join transactions".into(),
            ));
        }
        let Work { branch, request, ttl } = work;
        let _permit = engine.permit().await;
        let asked = Asked {
            branch: branch.clone(),
            cluster: engine.cluster(),
            protocol: engine.protocol(),
            request,
            ttl,
        };
        let granted = engine.phase_one(asked).await.map_err(|failure| match failure.refusal() {
            Some(reason) => Error::Refused { reason: reason.to_owned() },
            None => Error::Unavailable(failure.to_string()),
        })?;
        let reply = granted.vote.reply().clone();
        let enlistment = self.enlistment(&branch, engine.vote(granted), ttl);
        Ok((Joined { branch, reply }, enlistment))
    }

    async fn enlist_or_undo(&self, branch: &Branch, enlistment: pb::Enlistment) -> Result<(), Error> {
        let error = match self.enlist(branch, enlistment).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // It may stand with its vote: by the enlistment whose answer was lost, or by an earlier one that differed, such as
        // another replica's with another endpoint. Then it is not ours to roll back: the answer to an inquiry will tell.
        let may_stand =
            matches!(error, Error::Unavailable(_) | Error::Rejected { code: Code::AlreadyExists, .. });
        if may_stand {
            self.engine.ask_about(branch);
        } else if let Err(failure) = self.engine.rollback(branch).await {
            tracing::warn!(%branch, error = %failure, "a rejected branch stays in doubt for now");
        }
        Err(error)
    }

    fn enlistment(
        &self,
        branch: &Branch,
        vote: pb::PhaseOneResult,
        asked: Option<Duration>,
    ) -> pb::Enlistment {
        let spec = pb::BranchSpec {
            branch_id: branch.id().to_string(),
            participant: branch.participant().to_string(),
            endpoint: self.advertise.to_string(),
            protocol: self.engine.protocol().to_pb().into(),
            payload: Bytes::new(),
            reservation_ttl_ms: asked.map_or(0, super::engine::millis),
        };
        pb::Enlistment { branch: Some(spec), vote: Some(vote) }
    }

    /// Enlisting the same branch again is harmless, so it is tried until there is an answer or the time is up.
    async fn enlist(&self, branch: &Branch, enlistment: pb::Enlistment) -> Result<(), Error> {
        let xid = branch.xid().to_string();
        let trying = async {
            let mut attempt = 0;
            loop {
                match self.enlist_once(&xid, enlistment.clone()).await {
                    Err(Error::Unavailable(trouble)) => tracing::debug!(%branch, trouble, "enlisting again"),
                    answered => return answered,
                }
                tokio::time::sleep(ENLIST_AGAIN.delay(attempt)).await;
                attempt += 1;
            }
        };
        timeout(ENLIST_TIMEOUT, trying)
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable(format!("{branch} could not be enlisted in time"))))
    }

    async fn enlist_once(&self, xid: &str, enlistment: pb::Enlistment) -> Result<(), Error> {
        let (code, message) = match &self.way {
            Way::Nobody => (Code::FailedPrecondition, "there is no coordinator to enlist at".to_owned()),
            Way::Session(link) => match link.enlist(xid.to_owned(), enlistment).await {
                Ok(answer) => (Code::from_i32(answer.code), answer.message),
                Err(_lost) => (Code::Unavailable, "the session broke".to_owned()),
            },
            Way::Unary(client) => {
                let request = pb::EnlistRequest { xid: xid.to_owned(), enlistment: Some(enlistment) };
                match client.clone().enlist(request).await {
                    Ok(_) => (Code::Ok, String::new()),
                    Err(status) => (status.code(), status.message().to_owned()),
                }
            }
        };
        match code {
            Code::Ok => Ok(()),
            code if is_passing(code) => Err(Error::Unavailable(message)),
            code => Err(Error::Rejected { code, reason: String::new(), message }),
        }
    }
}

struct Work {
    branch: Branch,
    request: Bytes,
    ttl: Option<Duration>,
}

/// The work is a task of its own: a caller that hangs up must not leave it half-way.
async fn finished<T>(task: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    task.await.unwrap_or_else(|panic| Err(Error::Unavailable(format!("the call ended in a panic: {panic}"))))
}

/// Whether a status says that the call may or may not have been done, or may be done later.
pub(crate) fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
    )
}
