//! A transaction and its branches: the fold of its records, and what a running coordinator knows besides.

mod contradiction;

use std::time::Duration;

use bytes::Bytes;
use smol_str::SmolStr;

use super::event::{BranchResult, PhaseOne, Replica, TransactionResult, Waiter};
use super::id::{BranchId, Label, ParticipantName, TxId};
use super::record::{BranchIndex, DecodeError, Enlisted, Record, Request, What};
use super::time::{Timestamp, WallTime};
use super::words::{
    BranchState, Completion, Decision, Operation, Outcome, Protocol, ReservationClass, State, Vote, Wait,
};

/// Enough for the history of a transaction with two branches, whose names have a dozen letters, until it is decided.
pub(super) const HISTORY_BYTES: usize = 112;

/// One transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub id: TxId,
    pub protocol: Protocol,
    pub label: Label,
    pub timeout: Duration,
    pub request: Option<Box<Request>>,
    pub begun_at: WallTime,
    /// Once it is.
    decided_at: WallTime,
    /// Once it has.
    ended_at: WallTime,
    /// Its participant decides: one branch, one phase.
    pub delegated: bool,
    /// The log may have lost a part of it: branches, a decision. See [`doubt`](super::doubt()).
    pub doubted: bool,
    pub decision: Option<Decision>,
    pub outcome: Option<Outcome>,
    /// Why it aborted or became heuristic.
    pub reason: SmolStr,
    pub branches: Vec<Branch>,
    /// The records that made it what it is, encoded.
    pub history: Vec<u8>,
    /// What does not survive a restart and need not.
    pub(super) live: Live,
}

/// What a running coordinator knows of a transaction besides its records.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    /// When it aborts unless decided.
    pub deadline: Timestamp,
    /// When it was begun here; reservations that came with their vote count from then.
    pub begun: Timestamp,
    /// When the engine looks at it next.
    pub timer: Option<Timestamp>,
    /// Phase one was called.
    pub preparing: bool,
    /// It was taken back from the log, and nobody has gone on with it yet.
    pub asleep: bool,
    /// The log has a value for it.
    pub stored: bool,
    /// How many bytes of its history the log was given.
    pub logged: usize,
    /// When it was decided here.
    pub decided: Timestamp,
    /// Those who asked for the end and have no answer.
    pub waiters: Vec<(Waiter, Wait)>,
}

/// One participant's part.
#[derive(Clone, Debug)]
pub struct Branch {
    pub id: BranchId,
    pub participant: ParticipantName,
    pub protocol: Protocol,
    pub inquires: bool,
    pub state: BranchState,
    pub vote: Option<Vote>,
    /// TCC: the time to live asked for, and once voted, the one granted. Zero: none.
    pub reservation_ttl: Duration,
    pub class: ReservationClass,
    /// Calls made in the phase it is in.
    pub attempts: u32,
    pub(super) call: CallState,
    /// Nothing of it can have come to its participant: not by an initiator, and not by a call of ours.
    pub(super) untouched: bool,
    /// When the reservation expires at the earliest.
    pub(super) expires: Option<Timestamp>,
    /// When phase one was first called.
    pub(super) first_called: Option<Timestamp>,
    pub(super) content: Content,
    pub(super) replica: Option<Replica>,
    rare: Option<Box<Rare>>,
}

/// What it is sent, and once it has answered, what it said: there is never a use for both.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Payload(Bytes),
    Reply(Bytes),
}

/// What most branches have none of. There can be millions of branches.
#[derive(Clone, Debug, Default)]
struct Rare {
    endpoint: Option<SmolStr>,
    reason: SmolStr,
    last_error: SmolStr,
    /// It refused to commit in one phase, but another call of it may still be on its way.
    refusal: Option<PhaseOne>,
}

/// Whether a branch is being called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallState {
    #[default]
    Idle,
    /// A call is out; if no answer comes by then it counts as failed.
    InFlight { until: Timestamp },
    /// The last call failed; this is when the next is made.
    Waiting { until: Timestamp },
}

impl Transaction {
    pub(super) fn new(id: TxId) -> Transaction {
        Transaction {
            id,
            protocol: Protocol::TwoPhase,
            label: Label::default(),
            timeout: Duration::ZERO,
            request: None,
            begun_at: WallTime::default(),
            decided_at: WallTime::default(),
            ended_at: WallTime::default(),
            delegated: false,
            doubted: false,
            decision: None,
            outcome: None,
            reason: SmolStr::default(),
            branches: Vec::new(),
            history: Vec::new(),
            live: Live::default(),
        }
    }

    /// The transaction that these records made.
    ///
    /// # Errors
    /// What is no record, and records that cannot have followed one another.
    pub fn replay(id: TxId, history: Vec<u8>) -> Result<Transaction, DecodeError> {
        let mut tx = Transaction::new(id);
        let mut count = 0;
        for record in Record::decode_all(&history) {
            let record = record?;
            count += 1;
            let problem = match (&record.what, count) {
                (What::Begun { .. }, 1) => None,
                (What::Begun { .. }, _) => Some("it begins again".to_owned()),
                (what, 1) => Some(format!("it does not begin: {what:?}")),
                (what, _) => tx.contradiction(what),
            };
            if let Some(problem) = problem {
                return Err(DecodeError::Contradiction { number: count, problem });
            }
            tx.apply(record);
        }
        if count == 0 {
            return Err(DecodeError::Short { at: 0 });
        }
        tx.live.stored = true;
        tx.live.logged = history.len();
        tx.history = history;
        Ok(tx)
    }

    pub fn decided_at(&self) -> Option<WallTime> {
        self.decision.map(|_| self.decided_at)
    }

    pub fn ended_at(&self) -> Option<WallTime> {
        self.outcome.map(|_| self.ended_at)
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match (self.outcome, self.decision) {
            (Some(outcome), _) => State::Ended(outcome),
            (None, Some(Decision::Commit)) => State::Committing,
            (None, Some(Decision::Abort)) => State::Aborting,
            (None, None) if self.delegated => State::Delegated,
            (None, None) if self.live.preparing => State::Preparing,
            (None, None) => State::Active,
        }
    }

    /// Its participants must keep what they know of it. Of one in doubt that may be the only trace of a decision that the log lost.
    pub(super) fn holds_horizon(&self) -> bool {
        self.outcome.is_none() || (self.doubted && self.decision.is_none())
    }

    /// The records that made it what it is.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        Record::decode_all(&self.history).map(|record| record.expect("its own records decode"))
    }

    /// Records what happened: the one way in which anything changes that must survive.
    pub(super) fn record(&mut self, at: WallTime, what: What) {
        debug_assert_eq!(self.contradiction(&what), None, "{} could not be read back", self.id);
        let record = Record { at, what };
        record.encode(&mut self.history);
        self.apply(record);
    }

    /// Changes the state as a record says: the whole of recovery, and of life.
    fn apply(&mut self, record: Record) {
        let at = record.at;
        match record.what {
            What::Begun { protocol, label, timeout, request } => {
                (self.protocol, self.label, self.timeout) = (protocol, label, timeout);
                self.request = request.map(Box::new);
                self.begun_at = at;
            }
            What::Enlisted(enlisted) => {
                if self.branches.len() == self.branches.capacity() {
                    // Two, then half as many again: of its own it would begin with four, and most have two.
                    self.branches.reserve_exact((self.branches.len() / 2).max(2));
                }
                self.branches.push(Branch::new(enlisted));
            }
            What::Voted { branch, vote, reason, reservation_ttl, class } => {
                let branch = self.branch_mut(branch);
                (branch.vote, branch.class) = (Some(vote), class);
                branch.set_reason(reason);
                branch.reservation_ttl = reservation_ttl;
                branch.state = match vote {
                    Vote::Prepared => BranchState::Prepared,
                    Vote::ReadOnly => BranchState::ReadOnly,
                    Vote::Refused => BranchState::Refused,
                };
            }
            What::Delegated => {
                self.delegated = true;
                self.branches.iter_mut().for_each(|branch| branch.state = BranchState::Preparing);
            }
            What::DelegationDeclined => self.delegated = false,
            What::Decided { decision, reason } => self.decide(at, decision, reason),
            What::Unreached { branch } => self.branch_mut(branch).state = BranchState::RolledBack,
            What::Acknowledged { branch } => {
                let branch = self.branch_mut(branch);
                branch.state = match branch.state {
                    BranchState::RollingBack => BranchState::RolledBack,
                    _other => BranchState::Committed,
                };
            }
            What::Heuristic { branch, completion, detail } => {
                if self.reason.is_empty() {
                    self.reason = detail.clone();
                }
                let branch = self.branch_mut(branch);
                branch.set_reason(detail);
                branch.state = match completion {
                    Completion::HeuristicCommit => BranchState::HeuristicCommit,
                    Completion::HeuristicRollback => BranchState::HeuristicRollback,
                    Completion::HeuristicHazard | Completion::UnknownBranch | Completion::Done => {
                        BranchState::HeuristicHazard
                    }
                };
            }
            What::Resolved { branch, committed, reason } => {
                let decision = self.decision;
                let branch = self.branch_mut(branch);
                branch.set_reason(reason);
                branch.state = match (decision, committed) {
                    (Some(Decision::Commit), true) => BranchState::Committed,
                    (Some(Decision::Commit), false) => BranchState::HeuristicRollback,
                    (Some(Decision::Abort) | None, true) => BranchState::HeuristicCommit,
                    (Some(Decision::Abort) | None, false) => BranchState::RolledBack,
                };
            }
            What::Ended { outcome } => {
                self.outcome = Some(outcome);
                self.ended_at = at;
            }
            What::Doubted { reason } => {
                self.doubted = true;
                for branch in self.branches.iter_mut().filter(|branch| !branch.state.is_finished()) {
                    branch.state = BranchState::HeuristicHazard;
                    branch.set_reason(reason.clone());
                }
                self.reason = reason;
            }
        }
    }

    fn decide(&mut self, at: WallTime, decision: Decision, reason: SmolStr) {
        self.decision = Some(decision);
        self.decided_at = at;
        self.reason = reason;
        for branch in &mut self.branches {
            branch.state = match (branch.state, decision) {
                (BranchState::Prepared, Decision::Commit) => BranchState::Committing,
                // Its participant has decided, and so has finished.
                (BranchState::Preparing, Decision::Commit) if self.delegated => BranchState::Committed,
                (BranchState::Preparing, Decision::Abort) if self.delegated => BranchState::RolledBack,
                (BranchState::Enlisted | BranchState::Preparing | BranchState::Prepared, Decision::Abort) => {
                    BranchState::RollingBack
                }
                (state, _) => state,
            };
        }
    }

    /// The outcome that the branches make.
    pub(super) fn outcome_of_branches(&self) -> Outcome {
        let any = |state| self.branches.iter().any(|branch| branch.state == state);
        if any(BranchState::HeuristicCommit) || any(BranchState::HeuristicRollback) {
            Outcome::Mixed
        } else if any(BranchState::HeuristicHazard) || (self.doubted && self.decision.is_none()) {
            Outcome::Hazard
        } else {
            match self.decision {
                Some(Decision::Commit) => Outcome::Committed,
                Some(Decision::Abort) | None => Outcome::Aborted,
            }
        }
    }

    /// What those are told who asked for the end.
    pub fn result(&self) -> TransactionResult {
        let decided = self.decision.map(|decision| match decision {
            Decision::Commit => Outcome::Committed,
            Decision::Abort => Outcome::Aborted,
        });
        TransactionResult {
            tx: self.id,
            outcome: self.outcome.or(decided),
            complete: self.outcome.is_some(),
            reason: self.reason.clone(),
            branches: self.branches.iter().map(Branch::result).collect(),
        }
    }

    /// It should have ended, or an operator should settle it.
    pub fn needs_attention(&self, now: WallTime) -> bool {
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        match self.outcome {
            Some(outcome) => outcome.is_heuristic(),
            None => now.0 > self.begun_at.0.saturating_add(timeout_ms),
        }
    }

    pub(super) fn index_of(&self, id: &BranchId) -> Option<BranchIndex> {
        let position = self.branches.iter().position(|branch| branch.id == *id)?;
        Some(BranchIndex(u16::try_from(position).expect("max_branches fits")))
    }

    pub(super) fn indexes(&self) -> impl Iterator<Item = BranchIndex> + use<> {
        let count = u16::try_from(self.branches.len()).expect("max_branches fits");
        (0..count).map(BranchIndex)
    }

    pub(super) fn branch(&self, index: BranchIndex) -> &Branch {
        &self.branches[usize::from(index.0)]
    }

    pub(super) fn branch_mut(&mut self, index: BranchIndex) -> &mut Branch {
        &mut self.branches[usize::from(index.0)]
    }
}

impl Branch {
    fn new(enlisted: Enlisted) -> Branch {
        Branch {
            id: enlisted.id,
            participant: enlisted.participant,
            protocol: enlisted.protocol,
            inquires: enlisted.inquires,
            state: BranchState::Enlisted,
            vote: None,
            reservation_ttl: enlisted.reservation_ttl,
            class: ReservationClass::default(),
            attempts: 0,
            call: CallState::Idle,
            untouched: false,
            expires: None,
            first_called: None,
            content: Content::Reply(Bytes::new()),
            replica: None,
            rare: enlisted
                .endpoint
                .map(|endpoint| Box::new(Rare { endpoint: Some(endpoint), ..Rare::default() })),
        }
    }

    /// Where it is dialled, if its enlistment said so.
    pub fn endpoint(&self) -> Option<&SmolStr> {
        self.rare.as_ref()?.endpoint.as_ref()
    }

    /// Why it refused, or what was said of its heuristic end.
    pub fn reason(&self) -> &str {
        self.rare.as_ref().map_or("", |rare| &rare.reason)
    }

    /// Of the last failed call; empty after a success.
    pub fn last_error(&self) -> &str {
        self.rare.as_ref().map_or("", |rare| &rare.last_error)
    }

    /// Whether another call than the last may still arrive; that of an earlier life, too.
    pub(super) fn was_called_before(&self) -> bool {
        self.first_called.is_none() || (self.attempts > 1 && !self.untouched)
    }

    pub(super) fn has_refused_once(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.refusal.is_some())
    }

    pub(super) fn set_refusal(&mut self, refusal: PhaseOne) {
        self.rare.get_or_insert_default().refusal = Some(refusal);
    }

    pub(super) fn take_refusal(&mut self) -> Option<PhaseOne> {
        self.rare.as_mut()?.refusal.take()
    }

    fn set_reason(&mut self, reason: SmolStr) {
        if reason != self.reason() {
            self.rare.get_or_insert_default().reason = reason;
        }
    }

    pub(super) fn set_last_error(&mut self, error: SmolStr) {
        if error != self.last_error() {
            self.rare.get_or_insert_default().last_error = error;
        }
    }

    pub(super) fn payload(&self) -> Bytes {
        match &self.content {
            Content::Payload(payload) => payload.clone(),
            Content::Reply(_) => Bytes::new(),
        }
    }

    fn reply(&self) -> Bytes {
        match &self.content {
            Content::Payload(_) => Bytes::new(),
            Content::Reply(reply) => reply.clone(),
        }
    }

    /// What it is to be called for next, if anything.
    pub(super) fn pending_operation(&self, delegated: bool, overdue: bool) -> Option<Operation> {
        match self.state {
            // Past the deadline, a rollback is the question that has an answer: see `two_phase`.
            BranchState::Preparing if delegated && (overdue || self.has_refused_once()) => {
                Some(Operation::Rollback)
            }
            BranchState::Preparing if delegated => Some(Operation::CommitOnePhase),
            BranchState::Preparing => Some(Operation::PhaseOne),
            BranchState::Committing => Some(Operation::Commit),
            BranchState::RollingBack => Some(Operation::Rollback),
            BranchState::Enlisted
            | BranchState::Prepared
            | BranchState::ReadOnly
            | BranchState::Refused
            | BranchState::Committed
            | BranchState::RolledBack
            | BranchState::HeuristicCommit
            | BranchState::HeuristicRollback
            | BranchState::HeuristicHazard => None,
        }
    }

    /// No call of it can ever have reached its participant.
    pub(super) fn is_unreached(&self) -> bool {
        self.untouched && !matches!(self.call, CallState::InFlight { .. })
    }

    /// How long until its next attempt; `None` if none is scheduled.
    pub fn next_attempt_in(&self, now: Timestamp) -> Option<Duration> {
        match self.call {
            CallState::Waiting { until } => Some(until.since(now)),
            CallState::Idle | CallState::InFlight { .. } => None,
        }
    }

    fn result(&self) -> BranchResult {
        BranchResult {
            id: self.id.clone(),
            participant: self.participant.clone(),
            state: self.state,
            reply: self.reply(),
            reason: if self.reason().is_empty() { self.last_error() } else { self.reason() }.into(),
        }
    }
}

impl CallState {
    /// When the engine must look at it.
    pub(super) fn due(self) -> Option<Timestamp> {
        match self {
            CallState::Idle => None,
            CallState::InFlight { until } | CallState::Waiting { until } => Some(until),
        }
    }
}

impl What {
    fn branch(&self) -> Option<BranchIndex> {
        match self {
            What::Voted { branch, .. }
            | What::Acknowledged { branch }
            | What::Unreached { branch }
            | What::Heuristic { branch, .. }
            | What::Resolved { branch, .. } => Some(*branch),
            What::Begun { .. }
            | What::Enlisted(_)
            | What::Delegated
            | What::DelegationDeclined
            | What::Decided { .. }
            | What::Ended { .. }
            | What::Doubted { .. } => None,
        }
    }
}
