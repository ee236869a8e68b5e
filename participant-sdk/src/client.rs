//! Beginning transactions and asking for their end.
//!
//! In one call, the coordinator calls the participants:
//!
//! ```no_run
//! # use assent_sdk::{Client, Json};
//! # async fn f() -> Result<(), assent_sdk::Error> {
//! let client = Client::connect("http://127.0.0.1:7420")?;
//! let done = client
//!     .transaction("checkout")
//!     .tcc()
//!     .branch("shop/stock", &Json(("apple", 3)))
//!     .branch("shop/payment", &Json(4_50))
//!     .execute()
//!     .await?;
//! let Json(left): Json<u32> = done.reply("shop/stock")?;
//! # Ok(()) }
//! ```
//!
//! Interactively, the initiator calls the services itself; `Ok` commits, `Err` aborts:
//!
//! ```no_run
//! # use assent_sdk::{Client, refuse};
//! # async fn call_stock() -> Result<u32, std::io::Error> { Ok(1) }
//! # async fn f(client: Client) -> Result<(), assent_sdk::Error> {
//! let left = client
//!     .transaction("checkout")
//!     .tcc()
//!     .run(async |tx| {
//!         // A channel with `PropagateLayer` carries the xid along.
//!         let left = call_stock().await?;
//!         if left == 0 {
//!             return Err(refuse("we keep one for the shop window"));
//!         }
//!         Ok(left)
//!     })
//!     .await?;
//! # Ok(()) }
//! ```

mod pipeline;
mod result;
mod transaction;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use assent_proto::v1::get_request::Key;
use assent_proto::v1::pipeline_answer::Answer;
use assent_proto::v1::pipeline_call::Call;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::{TxId, v1 as pb};
use bytes::Bytes;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use self::pipeline::{Pipeline, Trouble};
use self::result::conclude;
pub use self::result::{Completed, CompletedBranch};
pub use self::transaction::Transaction;
use crate::backoff::later;
use crate::branch::Protocol;
use crate::crash_point;
use crate::error::{Error, Result};
use crate::network::{Address, Network};
use crate::participant::{endpoint, random_id};
use crate::payload::Encode;

/// A transaction's timeout where none is set.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// How much longer than the transaction's timeout the client waits: the coordinator answers by then, and the answer
/// must travel.
const GRACE: Duration = Duration::from_secs(5);

/// The way to a coordinator, for initiators. Cheap to clone; all clones share one stream.
#[derive(Clone)]
pub struct Client {
    pipeline: Pipeline,
    unary: TransactionServiceClient<Channel>,
    request_ids: Arc<RequestIds>,
}

/// Ids for requests that their authors gave none: a random one of the client, numbered.
struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

/// When a transaction's end is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// As soon as the decision is durable.
    Decision,
    /// When every branch has done it, so that what is read next is there; at the latest when the timeout has passed.
    #[default]
    Completion,
}

/// A transaction to be begun: [`run`](NewTransaction::run), [`begin`](NewTransaction::begin), or
/// [`branch`](NewTransaction::branch)es and [`execute`](OneCall::execute).
#[derive(Debug)]
#[must_use = "nothing is begun before `run`, `begin` or `execute`"]
pub struct NewTransaction<'a> {
    client: &'a Client,
    label: String,
    protocol: Protocol,
    timeout: Duration,
    request_id: String,
    wait: Wait,
}

/// A transaction in one call.
#[derive(Debug)]
#[must_use = "nothing is begun before `execute`"]
pub struct OneCall<'a> {
    transaction: NewTransaction<'a>,
    branches: Result<Vec<pb::BranchSpec>, Error>,
}

/// A branch to be enlisted.
#[derive(Clone, Debug, Default)]
pub struct NewBranch {
    spec: pb::BranchSpec,
    unreadable: Option<String>,
}

impl Client {
    /// A client of the coordinator at `http://host:port`. It connects with the first call, and again whenever the
    /// connection breaks. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] where that is no address.
    pub fn connect(coordinator: impl Into<String>) -> Result<Client, Error> {
        Client::connect_on(Network::SYSTEM, coordinator)
    }

    /// The same on another network: for simulations.
    #[doc(hidden)]
    pub fn connect_on(network: Network, coordinator: impl Into<String>) -> Result<Client, Error> {
        let address = Address::new(endpoint(&coordinator.into())?, network);
        let unary = TransactionServiceClient::new(address.connect_lazy());
        let request_ids = RequestIds { prefix: random_id(), next: AtomicU64::new(1) };
        Ok(Client { pipeline: Pipeline::new(address), unary, request_ids: Arc::new(request_ids) })
    }

    /// A new transaction. The label is for people: at most 128 bytes.
    pub fn transaction(&self, label: impl Into<String>) -> NewTransaction<'_> {
        NewTransaction {
            client: self,
            label: label.into(),
            protocol: Protocol::TwoPhase,
            timeout: TIMEOUT_DEFAULT,
            request_id: String::new(),
            wait: Wait::Completion,
        }
    }

    /// Where a transaction stands, with its history: also the way to find out after [`Error::Unknown`].
    ///
    /// # Errors
    /// [`Error::Rejected`] with `NOT_FOUND` where the coordinator does not know it (any more).
    pub async fn get(&self, xid: TxId) -> Result<pb::Transaction, Error> {
        self.look_up(Key::Xid(xid.to_string())).await
    }

    /// The same by the request id that it was begun with.
    ///
    /// # Errors
    /// As [`get`](Client::get).
    pub async fn get_by_request_id(&self, request_id: impl Into<String>) -> Result<pb::Transaction, Error> {
        self.look_up(Key::RequestId(request_id.into())).await
    }

    async fn look_up(&self, key: Key) -> Result<pb::Transaction, Error> {
        let mut request = tonic::Request::new(pb::GetRequest { key: Some(key) });
        request.set_timeout(TIMEOUT_DEFAULT);
        match self.unary.clone().get(request).await {
            Ok(response) => response
                .into_inner()
                .transaction
                .ok_or_else(|| Error::Unavailable("the coordinator answered without a transaction".into())),
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) =>
            {
                Err(Error::Unavailable(status.message().to_owned()))
            }
            Err(status) => Err(Error::Rejected {
                code: status.code(),
                reason: String::new(),
                message: status.message().to_owned(),
            }),
        }
    }
}

impl RequestIds {
    fn next(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl<'a> NewTransaction<'a> {
    /// How its branches take part, where they do not say otherwise. Default: two-phase commit.
    pub fn protocol(self, protocol: Protocol) -> Self {
        NewTransaction { protocol, ..self }
    }

    /// By TCC.
    pub fn tcc(self) -> Self {
        self.protocol(Protocol::Tcc)
    }

    /// By two-phase commit.
    pub fn two_phase(self) -> Self {
        self.protocol(Protocol::TwoPhase)
    }

    /// Undecided by then, it aborts. Counted in milliseconds; the coordinator has a limit. Default 30 s.
    pub fn timeout(self, timeout: Duration) -> Self {
        NewTransaction { timeout, ..self }
    }

    /// Makes it the same transaction however often it is begun, across crashes of the initiator too: an order number,
    /// say. At most 128 bytes.
    pub fn request_id(self, request_id: impl Into<String>) -> Self {
        NewTransaction { request_id: request_id.into(), ..self }
    }

    /// When its end is answered. Default: when it is complete.
    pub fn wait(self, wait: Wait) -> Self {
        NewTransaction { wait, ..self }
    }

    /// Begins it, runs the closure, and commits on `Ok`, aborts on `Err`. If the future is dropped half-way, it aborts.
    ///
    /// # Errors
    /// [`Error::Aborted`], with the closure's error as its source where it returned one; [`Error::Unknown`] where it may
    /// have committed; [`Error::Heuristic`]; and where it could not be begun, [`Error::Unavailable`] or
    /// [`Error::Rejected`].
    pub async fn run<T>(self, work: impl AsyncFnOnce(&Transaction) -> Result<T>) -> Result<T, Error> {
        let transaction = self.begin().await?;
        let context = crate::context::for_transaction(transaction.xid());
        match crate::context::scope(context, work(&transaction)).await {
            Ok(value) => transaction.commit().await.map(|_| value),
            Err(failure) => Err(transaction.abort_because(failure).await),
        }
    }

    /// Begins it, to be ended by [`Transaction::commit`] or [`Transaction::abort`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the coordinator cannot be reached, [`Error::Rejected`] where it says no.
    pub async fn begin(self) -> Result<Transaction, Error> {
        let deadline = later(Instant::now(), self.timeout.saturating_add(GRACE));
        let call = Call::Begin(pb::BeginRequest {
            protocol: self.protocol.to_pb().into(),
            label: self.label,
            timeout_ms: millis(self.timeout),
            request_id: self.request_id.clone(),
        });
        crash_point!("begin-to-be-called");
        let xid = match self.client.pipeline.call(call, deadline).await {
            Ok(Answer::Begin(begun)) => begun.xid.parse().map_err(malformed)?,
            Ok(answered) => return Err(mismatched(&answered)),
            // A transaction that was begun all the same is nobody's, and aborts at its timeout.
            Err(trouble) => return Err(nothing_done(trouble)),
        };
        crash_point!("transaction-begun");
        Ok(Transaction::new(self.client.pipeline.clone(), xid, self.request_id, deadline, self.wait))
    }

    /// Adds a branch: what the participant is asked to do.
    pub fn branch(self, participant: impl Into<String>, request: &impl Encode) -> OneCall<'a> {
        self.with_branch(NewBranch::of(participant, request))
    }

    /// Adds a branch with settings of its own.
    pub fn with_branch(self, branch: NewBranch) -> OneCall<'a> {
        OneCall { transaction: self, branches: Ok(Vec::new()) }.with_branch(branch)
    }

    /// In one call, without a branch so far.
    pub fn branches(self, branches: impl IntoIterator<Item = NewBranch>) -> OneCall<'a> {
        let call = OneCall { transaction: self, branches: Ok(Vec::new()) };
        branches.into_iter().fold(call, OneCall::with_branch)
    }
}

impl OneCall<'_> {
    /// Adds a branch: what the participant is asked to do.
    pub fn branch(self, participant: impl Into<String>, request: &impl Encode) -> Self {
        self.with_branch(NewBranch::of(participant, request))
    }

    /// Adds a branch with settings of its own.
    pub fn with_branch(self, branch: NewBranch) -> Self {
        let branches = self.branches.and_then(|mut branches| {
            branches.push(branch.into_spec()?);
            Ok(branches)
        });
        OneCall { branches, ..self }
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`Error::Aborted`] when a participant refused or did not answer in time; [`Error::Unknown`] where it may have
    /// committed, with the request id to ask by; [`Error::Heuristic`]; [`Error::Unavailable`] where the coordinator could
    /// not be reached at all; [`Error::Rejected`] where it does not take the call.
    pub async fn execute(self) -> Result<Completed, Error> {
        let OneCall {
            transaction: NewTransaction { client, label, protocol, timeout, request_id, wait },
            branches,
        } = self;
        // A request id makes a second sending harmless, so there is always one.
        let request_id = if request_id.is_empty() { client.request_ids.next() } else { request_id };
        let call = Call::Run(pb::RunRequest {
            protocol: protocol.to_pb().into(),
            label,
            timeout_ms: millis(timeout),
            request_id: request_id.clone(),
            branches: branches?,
            wait: wait.to_pb().into(),
        });
        crash_point!("run-to-be-called");
        let answered = client.pipeline.call(call, later(Instant::now(), timeout.saturating_add(GRACE))).await;
        crash_point!("run-answered");
        match answered {
            Ok(Answer::Run(done)) => conclude(done.result, None, &request_id),
            Ok(_) | Err(Trouble::Lost) => Err(Error::Unknown { xid: None, request_id }),
            Err(Trouble::Error { error, sent_before }) if may_be_done(&error, sent_before) => {
                Err(Error::Unknown { xid: None, request_id })
            }
            Err(trouble @ (Trouble::Error { .. } | Trouble::Unsent)) => Err(nothing_done(trouble)),
        }
    }
}

impl NewBranch {
    /// What the participant is asked to do.
    pub fn of(participant: impl Into<String>, request: &impl Encode) -> NewBranch {
        let (payload, unreadable) = match request.to_bytes() {
            Ok(payload) => (payload, None),
            Err(error) => (Bytes::new(), Some(error.to_string())),
        };
        let spec = pb::BranchSpec { participant: participant.into(), payload, ..pb::BranchSpec::default() };
        NewBranch { spec, unreadable }
    }

    /// Names the branch within its transaction: 1 to 64 bytes of letters, digits and `-_.:/`. Default: numbered.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> NewBranch {
        self.spec.branch_id = id.into();
        self
    }

    /// How it takes part. Default: as the transaction says.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> NewBranch {
        self.spec.protocol = protocol.to_pb().into();
        self
    }

    /// TCC: how long the reservation is asked to hold. Default: the transaction's timeout.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> NewBranch {
        self.spec.reservation_ttl_ms = millis(ttl);
        self
    }

    /// Where the participant is dialled, `http://host:port`, if the coordinator's configuration allows that host.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> NewBranch {
        self.spec.endpoint = endpoint.into();
        self
    }

    fn into_spec(self) -> Result<pb::BranchSpec, Error> {
        match self.unreadable {
            None => Ok(self.spec),
            Some(error) => {
                let participant = &self.spec.participant;
                Err(Error::Invalid(format!("the request for {participant} cannot be written: {error}")))
            }
        }
    }
}

impl Wait {
    fn to_pb(self) -> pb::Wait {
        match self {
            Wait::Decision => pb::Wait::Decision,
            Wait::Completion => pb::Wait::Completion,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Trouble with a call that decides nothing, or that certainly had no effect.
fn nothing_done(trouble: Trouble) -> Error {
    match trouble {
        Trouble::Lost => Error::Unavailable("the coordinator did not answer in time".into()),
        Trouble::Unsent => Error::Unavailable("the coordinator could not be reached in time".into()),
        Trouble::Error { error, .. } => match Code::from_i32(error.code) {
            Code::Unavailable => Error::Unavailable(error.message),
            code => Error::Rejected { code, reason: error.reason, message: error.message },
        },
    }
}

/// Whether an error leaves open that a call which decides has had its effect.
fn may_be_done(error: &pb::PipelineError, sent_before: bool) -> bool {
    match Code::from_i32(error.code) {
        // The coordinator refused this sending before it did anything.
        Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => sent_before,
        _ => true,
    }
}

fn malformed(error: impl fmt::Display) -> Error {
    Error::Unavailable(format!("the coordinator's answer cannot be read: {error}"))
}

fn mismatched(answer: &Answer) -> Error {
    malformed(format_args!("it belongs to another call: {:?}", std::mem::discriminant(answer)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
