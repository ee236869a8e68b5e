//! What goes into the core and what comes out.

use std::time::Duration;

use bytes::Bytes;
use smol_str::SmolStr;

use super::id::{BranchId, Label, ParticipantName, TxId};
use super::record::Request;
use super::transaction::Transaction;
use super::words::{
    BranchState, Completion, InquiryAnswer, Operation, Outcome, Protocol, ReservationClass, State, Vote, Wait,
};

/// What happened outside. Every event is about one transaction, or about one that is to be.
#[derive(Clone, Debug)]
pub enum Event {
    /// An initiator begins.
    Begin { waiter: Waiter, spec: BeginSpec },
    /// An initiator wants it all in one call.
    Run { waiter: Waiter, spec: BeginSpec, branches: Vec<BranchSpec>, wait: Wait },
    /// A branch is added, perhaps with its vote.
    Enlist { waiter: Waiter, tx: TxId, enlistment: Enlistment },
    /// An initiator asks for commit, perhaps bringing branches.
    Commit { waiter: Waiter, tx: TxId, enlistments: Vec<Enlistment>, wait: Wait },
    /// An initiator asks for abort.
    Abort { waiter: Waiter, tx: TxId, reason: SmolStr, wait: Wait },
    /// A call to a participant ended.
    Reported { tx: TxId, branch: BranchId, operation: Operation, report: Report },
    /// A participant asks for the decision. `known_life`: this log lived through the boot that made the id.
    Inquire { waiter: Waiter, tx: TxId, branch: BranchId, expired: bool, known_life: bool },
    /// The transaction's timer is due (see [`Engine::pop_due`](super::Engine::pop_due)).
    Due { tx: TxId },
    /// A participant that the transaction waits for is back (see [`Engine::waiting_for`](super::Engine::waiting_for)).
    Wake { tx: TxId, participant: ParticipantName },
    /// Recovery: go on with a transaction that was replayed, unless another event has come to it since.
    Resume { tx: TxId },
    /// An operator settles a branch.
    Resolve { waiter: Waiter, tx: TxId, branch: BranchId, committed: bool, reason: SmolStr },
    /// An operator wants every waiting call to be made now.
    Retry { waiter: Waiter, tx: TxId },
    /// An operator clears an ended transaction.
    Forget { waiter: Waiter, tx: TxId },
}

/// Stands for whoever waits for an answer; chosen by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Waiter(pub u64);

/// What a transaction begins with.
#[derive(Clone, Debug)]
pub struct BeginSpec {
    pub protocol: Protocol,
    pub label: Label,
    pub timeout: Duration,
    pub request: Option<Request>,
}

/// A branch to be enlisted.
#[derive(Clone, Debug)]
pub struct BranchSpec {
    /// `None`: it is numbered.
    pub id: Option<BranchId>,
    pub participant: ParticipantName,
    /// Where it is dialled, if the enlistment says so.
    pub endpoint: Option<SmolStr>,
    /// `None`: the transaction's.
    pub protocol: Option<Protocol>,
    pub payload: Bytes,
    /// TCC: how long the reservation is asked to hold; `None`: the transaction's timeout.
    pub reservation_ttl: Option<Duration>,
    /// The participant asks for an outcome that it was not told. If not, the coordinator must not forget that it
    /// called it, so the enlistment is made durable first.
    pub inquires: bool,
}

/// A branch with the vote that it may have already.
#[derive(Clone, Debug)]
pub struct Enlistment {
    pub branch: BranchSpec,
    pub vote: Option<PhaseOne>,
}

/// The answer to phase one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseOne {
    pub vote: Vote,
    pub reason: SmolStr,
    pub reply: Bytes,
    /// TCC: zero if it does not expire.
    pub reservation_ttl: Duration,
    pub class: ReservationClass,
}

/// How a call to a participant ended.
#[derive(Clone, Debug)]
pub enum Report {
    /// To phase one, or a refusal to commit in one phase. `replica` tells which of the participant's replicas voted.
    Voted { result: PhaseOne, replica: Option<Replica> },
    /// To phase two, or to commit in one phase.
    Completed { completion: Completion, detail: SmolStr, reply: Bytes },
    /// What happened is not known: it is to be asked again.
    Failed { error: SmolStr, kind: FailureKind },
}

/// Why a call failed, as far as the core cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    Unknown,
    /// The call was not even sent, so the participant certainly did nothing.
    NotSent,
    /// The participant does not offer this operation, so it certainly did nothing.
    Unimplemented,
}

/// One of several processes that bear one participant's name; chosen by the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replica(pub u64);

/// What one event led to. The driver's law: make `log` durable as `durability` asks, then carry out `then`.
#[derive(Debug, Default)]
pub struct Step {
    /// The transaction it was about, if there is one.
    pub subject: Option<TxId>,
    pub log: Vec<LogWrite>,
    pub durability: Durability,
    pub then: Vec<Action>,
    /// How the transaction ended, if it did.
    pub ended: Option<Outcome>,
}

/// One write to the log, which keeps one value per transaction: its encoded records so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogWrite {
    /// Replaces the value. A value that has the former one as its prefix is cheaper to write than another.
    Put { tx: TxId, value: Bytes },
    /// Drops the value. Fine where there is none.
    Remove { tx: TxId },
}

/// What a write must survive before anything that depends on it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing yet: a crash may lose it, and everything lazily written after it.
    #[default]
    Lazy,
    /// Loss of power: it, and everything written before it.
    Forced,
}

impl LogWrite {
    pub fn tx(&self) -> TxId {
        match self {
            LogWrite::Put { tx, .. } | LogWrite::Remove { tx } => *tx,
        }
    }
}

/// What the driver is to do.
#[cfg_attr(any(test, model), derive(Clone))]
#[derive(Debug)]
pub enum Action {
    Call(Call),
    Answer {
        waiter: Waiter,
        answer: Answer,
    },
    /// Show the transaction to those who watch. Only made while [`Engine::set_watched`](super::Engine::set_watched).
    Publish(Box<Transaction>),
}

/// A call to a participant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub tx: TxId,
    pub branch: BranchId,
    pub participant: ParticipantName,
    pub endpoint: Option<SmolStr>,
    pub protocol: Protocol,
    pub operation: Operation,
    pub payload: Bytes,
    pub reservation_ttl: Duration,
    /// 1 for the first.
    pub attempt: u32,
    /// The replica that voted, which may hold the branch's connection.
    pub prefer: Option<Replica>,
}

/// What a waiter is told.
#[cfg_attr(any(test, model), derive(Clone))]
#[derive(Debug)]
pub enum Answer {
    Begun { tx: TxId, timeout: Duration },
    Enlisted { branch: BranchId },
    Ended(TransactionResult),
    Inquiry(InquiryAnswer),
    Transaction(Box<Transaction>),
    Retried { calls: u32 },
    Forgotten,
    Rejected(Rejection),
}

/// How the end of a transaction is answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionResult {
    pub tx: TxId,
    /// `None`: delegated, and the answer is not here yet.
    pub outcome: Option<Outcome>,
    /// Every branch has acknowledged.
    pub complete: bool,
    pub reason: SmolStr,
    pub branches: Vec<BranchResult>,
}

/// One branch of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchResult {
    pub id: BranchId,
    pub participant: ParticipantName,
    pub state: BranchState,
    pub reply: Bytes,
    pub reason: SmolStr,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("transaction {tx} is not known: it was never begun, or ended and is past its retention")]
    NotFound { tx: TxId },
    #[error("transaction {tx} has no branch {branch:?}", branch = branch.as_str())]
    NoBranch { tx: TxId, branch: BranchId },
    #[error("transaction {tx} is {}; {wanted}", state_word(*state))]
    WrongState { tx: TxId, state: State, wanted: &'static str },
    #[error("request_id {id:?} was used for transaction {tx} with other content")]
    RequestReused { id: String, tx: TxId },
    #[error("branch_id {branch:?} of transaction {tx} is enlisted with another participant, endpoint, protocol or vote", branch = branch.as_str())]
    BranchReused { tx: TxId, branch: BranchId },
    #[error("transaction {tx} has {limit} branches; the limit is {limit} (limits.max_branches)")]
    TooManyBranches { tx: TxId, limit: usize },
    #[error("{limit} transactions are active; the limit is {limit} (limits.max_active)")]
    TooManyActive { limit: usize },
    #[error("the disk has little room left (storage.min_free); no new transactions until there is more")]
    DiskNearlyFull,
    #[error("the coordinator is shutting down and takes no new transactions")]
    Draining,
}

/// The word for a state, as all users see it.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Preparing => "preparing",
        State::Delegated => "delegated",
        State::Committing => "committing",
        State::Aborting => "aborting",
        State::Ended(Outcome::Committed) => "committed",
        State::Ended(Outcome::Aborted) => "aborted",
        State::Ended(Outcome::Mixed) => "mixed",
        State::Ended(Outcome::Hazard) => "hazard",
    }
}
