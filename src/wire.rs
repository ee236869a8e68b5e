//! The edge: from protocol buffers to values that are valid, and back.
//!
//! Everything that comes from outside goes through here once. An error names the field, its value and the limit.

mod request;
mod transaction;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use assent_proto::v1 as pb;
use bytes::Bytes;
use smol_str::SmolStr;
use tracing::warn;

pub use self::request::{abort, begin, commit, enlist, given_reason, run};
pub use self::transaction::{History, result_to_pb, timestamp, transaction_to_pb};
use crate::config::{AllowedHost, Endpoint};
use crate::core::{
    BranchId, BranchSpec, BranchState, Call, Completion, Decision, Enlistment, InquiryAnswer, Label,
    Operation, Outcome, ParticipantName, PhaseOne, Protocol, RequestId, ReservationClass, State, TxId, Vote,
    Wait,
};

/// How much of a text for people is kept, in bytes.
pub const REASON_MAX: usize = 1024;

/// The longest address: a name of 253 bytes (RFC 1035), its scheme and port.
const ENDPOINT_MAX: usize = 272;
/// How much of a wrong text an error repeats, in characters: it travels in a header, of which clients take 16 KiB at most.
const QUOTED_MAX: usize = 80;

/// What a field must hold to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a payload or reply.
    pub max_payload: usize,
    pub max_branches: usize,
    pub default_timeout: Duration,
    pub max_timeout: Duration,
    /// Participants that are dialled, and where.
    pub endpoints: BTreeMap<ParticipantName, Endpoint>,
    /// Hosts that an enlistment may name.
    pub allowed_hosts: Vec<AllowedHost>,
}

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Invalid {
    pub field: String,
    pub problem: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
        Invalid { field: field.into(), problem: problem.into() }
    }

    /// The same, where the field is within another one.
    #[must_use]
    pub fn within(self, outer: &str) -> Invalid {
        Invalid { field: format!("{outer}.{}", self.field), problem: self.problem }
    }
}

/// A transaction id.
pub fn tx_id(field: &str, text: &str) -> Result<TxId, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new(field, "is empty; give a transaction id"));
    }
    text.parse().map_err(|error| Invalid::new(field, format!("is wrong: {error}")))
}

/// A name with rules of its own; see [`crate::core::NameError`].
pub fn name<T: FromStr<Err = crate::core::NameError>>(field: &str, text: &str) -> Result<T, Invalid> {
    text.parse().map_err(|error: crate::core::NameError| Invalid::new(field, error.to_string()))
}

pub fn label(text: &str) -> Result<Label, Invalid> {
    name("label", text)
}

pub fn request_id(text: &str) -> Result<Option<RequestId>, Invalid> {
    if text.is_empty() { Ok(None) } else { name("request_id", text).map(Some) }
}

/// What people wrote, cut to [`REASON_MAX`].
pub fn reason(text: &str) -> SmolStr {
    let end = (0..=REASON_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    SmolStr::new(&text[..end])
}

/// The protocol of a transaction: unspecified is 2PC.
pub fn protocol(field: &str, value: i32) -> Result<Protocol, Invalid> {
    branch_protocol(field, value).map(|protocol| protocol.unwrap_or(Protocol::TwoPhase))
}

/// The protocol of a branch: unspecified is that of its transaction.
pub fn branch_protocol(field: &str, value: i32) -> Result<Option<Protocol>, Invalid> {
    match known::<pb::Protocol>(field, value)? {
        pb::Protocol::Unspecified => Ok(None),
        pb::Protocol::TwoPhase => Ok(Some(Protocol::TwoPhase)),
        pb::Protocol::Tcc => Ok(Some(Protocol::Tcc)),
    }
}

pub fn wait(value: i32) -> Result<Wait, Invalid> {
    match known::<pb::Wait>("wait", value)? {
        pb::Wait::Unspecified | pb::Wait::Completion => Ok(Wait::Completion),
        pb::Wait::Decision => Ok(Wait::Decision),
    }
}

pub fn completion(field: &str, value: i32) -> Result<Completion, Invalid> {
    match known::<pb::Completion>(field, value)? {
        pb::Completion::Unspecified => Err(Invalid::new(field, "is not set")),
        pb::Completion::Done => Ok(Completion::Done),
        pb::Completion::UnknownBranch => Ok(Completion::UnknownBranch),
        pb::Completion::HeuristicCommit => Ok(Completion::HeuristicCommit),
        pb::Completion::HeuristicRollback => Ok(Completion::HeuristicRollback),
        pb::Completion::HeuristicHazard => Ok(Completion::HeuristicHazard),
    }
}

pub fn operation(field: &str, value: i32) -> Result<Operation, Invalid> {
    match known::<pb::Operation>(field, value)? {
        pb::Operation::Unspecified => Err(Invalid::new(field, "is not set")),
        pb::Operation::PhaseOne => Ok(Operation::PhaseOne),
        pb::Operation::Commit => Ok(Operation::Commit),
        pb::Operation::Rollback => Ok(Operation::Rollback),
        pb::Operation::CommitOnePhase => Ok(Operation::CommitOnePhase),
    }
}

/// An enum value that this version knows.
pub fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, Invalid> {
    T::try_from(value).map_err(|_| Invalid::new(field, format!("is {value}, which is none of its values")))
}

/// An answer to phase one.
pub fn phase_one(result: pb::PhaseOneResult, limits: &Limits) -> Result<PhaseOne, Invalid> {
    let vote = match known::<pb::Vote>("vote", result.vote)? {
        pb::Vote::Unspecified => return Err(Invalid::new("vote", "is not set")),
        pb::Vote::Prepared => Vote::Prepared,
        pb::Vote::ReadOnly => Vote::ReadOnly,
        pb::Vote::Refused => Vote::Refused,
    };
    let class = match known::<pb::ReservationClass>("reservation_class", result.reservation_class)? {
        pb::ReservationClass::Unspecified | pb::ReservationClass::Cooperative => {
            ReservationClass::Cooperative
        }
        pb::ReservationClass::Autonomous => ReservationClass::Autonomous,
    };
    payload("reply", &result.reply, limits)?;
    Ok(PhaseOne {
        vote,
        reason: reason(&result.reason),
        reply: result.reply,
        reservation_ttl: Duration::from_millis(result.reservation_ttl_ms),
        class,
    })
}

/// The reply to a commit in one phase. One that is too large is left out: that the call is done it does not change.
pub fn reply_to_completion(reply: Bytes, participant: &ParticipantName, limits: &Limits) -> Bytes {
    let (bytes, limit) = (reply.len(), limits.max_payload);
    if bytes <= limit {
        return reply;
    }
    warn!(%participant, bytes, limit, "left out a reply that is larger than limits.max_payload; the call it answers is done");
    Bytes::new()
}

/// A branch to be enlisted, with its vote if it has one.
pub fn enlistment(enlistment: pb::Enlistment, limits: &Limits) -> Result<Enlistment, Invalid> {
    let Some(spec) = enlistment.branch else { return Err(Invalid::new("branch", "is not set")) };
    let mut branch = branch_spec(spec, limits).map_err(|invalid| invalid.within("branch"))?;
    let vote = match enlistment.vote {
        None => None,
        Some(vote) => {
            branch.inquires = vote.inquires;
            Some(phase_one(vote, limits).map_err(|invalid| invalid.within("vote"))?)
        }
    };
    Ok(Enlistment { branch, vote })
}

/// A branch to be enlisted.
pub fn branch_spec(spec: pb::BranchSpec, limits: &Limits) -> Result<BranchSpec, Invalid> {
    let id = if spec.branch_id.is_empty() { None } else { Some(name("branch_id", &spec.branch_id)?) };
    let participant: ParticipantName = name("participant", &spec.participant)?;
    let endpoint = endpoint(&spec.endpoint, limits)?;
    payload("payload", &spec.payload, limits)?;
    let ttl = Duration::from_millis(spec.reservation_ttl_ms);
    if ttl > limits.max_timeout {
        let limit = limits.max_timeout;
        return Err(Invalid::new(
            "reservation_ttl_ms",
            format!("is {} ms; the limit is {} ms (limits.max_timeout)", ttl.as_millis(), limit.as_millis()),
        ));
    }
    let dialled = endpoint.is_some() || limits.endpoints.contains_key(&participant);
    Ok(BranchSpec {
        id,
        participant,
        endpoint,
        protocol: branch_protocol("protocol", spec.protocol)?,
        payload: spec.payload,
        reservation_ttl: (!ttl.is_zero()).then_some(ttl),
        // Who keeps a session asks when it comes back; of a service that is dialled that is not known.
        inquires: !dialled,
    })
}

fn payload(field: &str, bytes: &Bytes, limits: &Limits) -> Result<(), Invalid> {
    if bytes.len() <= limits.max_payload {
        return Ok(());
    }
    let limit = limits.max_payload;
    Err(Invalid::new(
        field,
        format!("has {} bytes; the limit is {limit} bytes (limits.max_payload)", bytes.len()),
    ))
}

fn endpoint(text: &str, limits: &Limits) -> Result<Option<SmolStr>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > ENDPOINT_MAX {
        let problem = format!("has {} bytes; the limit is {ENDPOINT_MAX}", text.len());
        return Err(Invalid::new("endpoint", problem));
    }
    let endpoint: Endpoint = text.parse().map_err(|error| {
        let quoted: String = text.chars().take(QUOTED_MAX).collect();
        Invalid::new("endpoint", format!("is {quoted:?}; {error}"))
    })?;
    if limits.allowed_hosts.iter().any(|host| host.allows(&endpoint)) {
        Ok(Some(SmolStr::new(endpoint.to_string())))
    } else {
        let host = endpoint.host();
        Err(Invalid::new(
            "endpoint",
            format!("names the host {host:?}, which participants.allowed_hosts does not list"),
        ))
    }
}

/// The timeout of a transaction.
pub fn timeout(timeout_ms: u64, limits: &Limits) -> Result<Duration, Invalid> {
    if timeout_ms == 0 {
        return Ok(limits.default_timeout);
    }
    let limit = limits.max_timeout;
    if u128::from(timeout_ms) > limit.as_millis() {
        return Err(Invalid::new(
            "timeout_ms",
            format!("is {timeout_ms} ms; the limit is {} ms (limits.max_timeout)", limit.as_millis()),
        ));
    }
    Ok(Duration::from_millis(timeout_ms))
}

pub fn protocol_to_pb(protocol: Protocol) -> pb::Protocol {
    match protocol {
        Protocol::TwoPhase => pb::Protocol::TwoPhase,
        Protocol::Tcc => pb::Protocol::Tcc,
    }
}

pub fn operation_to_pb(operation: Operation) -> pb::Operation {
    match operation {
        Operation::PhaseOne => pb::Operation::PhaseOne,
        Operation::Commit => pb::Operation::Commit,
        Operation::Rollback => pb::Operation::Rollback,
        Operation::CommitOnePhase => pb::Operation::CommitOnePhase,
    }
}

pub fn inquiry_answer_to_pb(answer: InquiryAnswer) -> pb::InquiryAnswer {
    match answer {
        InquiryAnswer::Commit => pb::InquiryAnswer::Commit,
        InquiryAnswer::Abort => pb::InquiryAnswer::Abort,
        InquiryAnswer::Pending => pb::InquiryAnswer::Pending,
        InquiryAnswer::Foreign => pb::InquiryAnswer::Foreign,
    }
}

pub fn vote_to_pb(vote: Option<Vote>) -> pb::Vote {
    match vote {
        None => pb::Vote::Unspecified,
        Some(Vote::Prepared) => pb::Vote::Prepared,
        Some(Vote::ReadOnly) => pb::Vote::ReadOnly,
        Some(Vote::Refused) => pb::Vote::Refused,
    }
}

pub fn class_to_pb(class: ReservationClass) -> pb::ReservationClass {
    match class {
        ReservationClass::Cooperative => pb::ReservationClass::Cooperative,
        ReservationClass::Autonomous => pb::ReservationClass::Autonomous,
    }
}

pub fn outcome_to_pb(outcome: Outcome) -> pb::Outcome {
    match outcome {
        Outcome::Committed => pb::Outcome::Committed,
        Outcome::Aborted => pb::Outcome::Aborted,
        Outcome::Mixed => pb::Outcome::Mixed,
        Outcome::Hazard => pb::Outcome::Hazard,
    }
}

pub fn state_to_pb(state: State) -> pb::State {
    match state {
        State::Active => pb::State::Active,
        State::Preparing => pb::State::Preparing,
        State::Delegated => pb::State::Delegated,
        State::Committing => pb::State::Committing,
        State::Aborting => pb::State::Aborting,
        State::Ended(Outcome::Committed) => pb::State::Committed,
        State::Ended(Outcome::Aborted) => pb::State::Aborted,
        State::Ended(Outcome::Mixed) => pb::State::Mixed,
        State::Ended(Outcome::Hazard) => pb::State::Hazard,
    }
}

pub fn branch_state_to_pb(state: BranchState) -> pb::BranchState {
    match state {
        BranchState::Enlisted => pb::BranchState::Enlisted,
        BranchState::Preparing => pb::BranchState::Preparing,
        BranchState::Prepared => pb::BranchState::Prepared,
        BranchState::ReadOnly => pb::BranchState::ReadOnly,
        BranchState::Refused => pb::BranchState::Refused,
        BranchState::Committing => pb::BranchState::Committing,
        BranchState::RollingBack => pb::BranchState::RollingBack,
        BranchState::Committed => pb::BranchState::Committed,
        BranchState::RolledBack => pb::BranchState::RolledBack,
        BranchState::HeuristicCommit => pb::BranchState::HeuristicCommit,
        BranchState::HeuristicRollback => pb::BranchState::HeuristicRollback,
        BranchState::HeuristicHazard => pb::BranchState::HeuristicHazard,
    }
}

/// The word for a decision, as histories show it.
pub fn decision_word(decision: Decision) -> &'static str {
    match decision {
        Decision::Commit => "commit",
        Decision::Abort => "abort",
    }
}

/// A call as a session carries it.
pub fn call_to_pb(call: Call) -> pb::Call {
    pb::Call {
        xid: call.tx.to_string(),
        branch_id: call.branch.to_string(),
        protocol: protocol_to_pb(call.protocol).into(),
        operation: operation_to_pb(call.operation).into(),
        payload: call.payload,
        reservation_ttl_ms: millis(call.reservation_ttl),
        attempt: call.attempt,
        traceparent: String::new(),
    }
}

pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Which branch something is about.
pub fn branch_key(xid: &str, branch_id: &str) -> Result<(TxId, BranchId), Invalid> {
    Ok((tx_id("xid", xid)?, name("branch_id", branch_id)?))
}
