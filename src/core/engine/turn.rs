//! One transaction takes one event.

use std::time::Duration;

use bytes::Bytes;
use smol_str::{SmolStr, format_smolstr};

use super::{Desk, expired_reason};
use crate::core::event::{
    Action, Answer, BranchSpec, Call, Durability, Enlistment, FailureKind, PhaseOne, Rejection, Report, Step,
    Waiter,
};
use crate::core::id::BranchId;
use crate::core::record::{BranchIndex, Enlisted, What};
use crate::core::tcc::Granted;
use crate::core::time::{Now, Timestamp};
use crate::core::transaction::{Branch, CallState, Transaction};
use crate::core::words::{
    BranchState, Completion, Decision, InquiryAnswer, Operation, Protocol, State, Vote, Wait,
};
use crate::core::{tcc, two_phase};

/// How long after its decision a transaction answers those who wait for completion, even when its deadline has
/// passed: time for the common case, in which the branches answer at once.
const COMPLETION_GRACE: Duration = Duration::from_secs(1);

/// A transaction, while it takes an event.
pub(super) struct Turn<'a> {
    pub tx: &'a mut Transaction,
    pub desk: &'a mut Desk,
    pub now: Now,
    pub step: &'a mut Step,
    /// Whether its records are to be written.
    pub persist: Option<Durability>,
}

/// What initiators ask for.
impl Turn<'_> {
    pub fn timeout(&self) -> Duration {
        self.tx.timeout
    }

    /// It was just begun by an initiator who will call the participants.
    pub fn begun(&mut self) -> Duration {
        self.desk.arm(self.tx, self.tx.live.deadline);
        self.tx.timeout
    }

    pub fn run(&mut self, waiter: Waiter, enlistments: Vec<Enlistment>, wait: Wait) -> Result<(), ()> {
        match self.enlist_all(enlistments) {
            Ok(()) => {
                self.tx.branches.iter_mut().for_each(|branch| branch.untouched = true);
                self.attach(waiter, wait);
                self.start_ending();
                Ok(())
            }
            Err(rejection) => {
                self.answer(waiter, Answer::Rejected(rejection));
                Err(())
            }
        }
    }

    /// Adds a branch; again, it is the same branch.
    pub fn enlist(&mut self, enlistment: Enlistment) -> Result<BranchId, Rejection> {
        self.abort_if_overdue();
        self.add(enlistment)
    }

    fn add(&mut self, enlistment: Enlistment) -> Result<BranchId, Rejection> {
        let Enlistment { branch: spec, vote } = enlistment;
        let inquires = spec.inquires;
        let id = spec.id.clone().unwrap_or_else(|| self.unused_id());
        let known = self.tx.index_of(&id);
        if let Some(index) = known {
            self.same_branch(index, &spec, vote.as_ref())?;
            if self.tx.branch(index).vote.is_some() && self.tx.decision != Some(Decision::Abort) {
                return Ok(id);
            }
        }
        if self.tx.state() != State::Active {
            return Err(self.not_active());
        }
        let index = match known {
            Some(index) => index,
            None => self.add_branch(id.clone(), spec)?,
        };
        if let Some(vote) = vote {
            let granted = Granted::Enlisted { begun: self.tx.live.begun, now: self.now.mono };
            self.voted(index, vote, granted);
        }
        // Enlisted first without its vote, a branch may have been taken for one that asks.
        if !(inquires && self.tx.branch(index).inquires) {
            self.persist(Durability::Forced);
        }
        Ok(id)
    }

    pub fn abort_if_refused(&mut self) {
        if self.tx.state() == State::Active
            && let Some(reason) = self.refusal()
        {
            self.abort(reason);
        }
    }

    pub fn commit(&mut self, waiter: Waiter, enlistments: Vec<Enlistment>, wait: Wait) {
        self.abort_if_overdue();
        let active = self.tx.state() == State::Active;
        let enlisted = if active { self.enlist_all(enlistments) } else { self.brought_before(&enlistments) };
        if let Err(rejection) = enlisted {
            return self.answer(waiter, Answer::Rejected(rejection));
        }
        self.attach(waiter, wait);
        if active {
            self.start_ending();
        }
    }

    pub fn abort_asked(&mut self, waiter: Waiter, reason: SmolStr, wait: Wait) {
        match self.tx.state() {
            State::Active | State::Preparing => {
                self.attach(waiter, wait);
                self.abort(if reason.is_empty() { "the initiator asked for it".into() } else { reason });
            }
            State::Delegated | State::Committing | State::Aborting | State::Ended(_) => {
                self.attach(waiter, wait);
            }
        }
    }

    /// Tells the waiter of the end when there is something to tell.
    pub fn attach(&mut self, waiter: Waiter, wait: Wait) {
        match (self.tx.state(), wait) {
            (State::Ended(_), _) | (State::Committing | State::Aborting, Wait::Decision) => {
                let result = self.tx.result();
                self.answer(waiter, Answer::Ended(result));
            }
            (State::Committing | State::Aborting, Wait::Completion) => {
                self.tx.live.waiters.push((waiter, wait));
                let answer_by = self.answer_by();
                self.desk.arm(self.tx, answer_by);
            }
            (State::Delegated, _) if self.overdue() => {
                let result = self.tx.result();
                self.answer(waiter, Answer::Ended(result));
            }
            (State::Active | State::Preparing | State::Delegated, _) => {
                self.tx.live.waiters.push((waiter, wait));
            }
        }
    }

    pub fn answer(&mut self, waiter: Waiter, answer: Answer) {
        self.step.then.push(Action::Answer { waiter, answer });
    }

    /// Adds them all before anything follows from one of them, so that an abort reaches each.
    fn enlist_all(&mut self, enlistments: Vec<Enlistment>) -> Result<(), Rejection> {
        enlistments.into_iter().try_for_each(|enlistment| self.add(enlistment).map(drop))
    }

    /// A repeated commit may bring what is enlisted. Of another branch it would seem that it was committed too.
    fn brought_before(&self, enlistments: &[Enlistment]) -> Result<(), Rejection> {
        let known = |spec: &BranchSpec| {
            self.tx.branches.iter().any(|branch| {
                branch.participant == spec.participant && spec.id.as_ref().is_none_or(|id| *id == branch.id)
            })
        };
        let aborted = self.tx.decision == Some(Decision::Abort);
        if aborted || enlistments.iter().all(|enlistment| known(&enlistment.branch)) {
            return Ok(());
        }
        Err(self.not_active())
    }

    fn not_active(&self) -> Rejection {
        let wanted = "branches are enlisted only while it is active";
        Rejection::WrongState { tx: self.tx.id, state: self.tx.state(), wanted }
    }

    fn add_branch(&mut self, id: BranchId, spec: BranchSpec) -> Result<BranchIndex, Rejection> {
        let limit = self.desk.settings.max_branches;
        if self.tx.branches.len() >= limit {
            return Err(Rejection::TooManyBranches { tx: self.tx.id, limit });
        }
        let protocol = spec.protocol.unwrap_or(self.tx.protocol);
        let reservation_ttl = match protocol {
            Protocol::Tcc => spec.reservation_ttl.unwrap_or(self.tx.timeout),
            Protocol::TwoPhase => Duration::ZERO,
        };
        let BranchSpec { participant, endpoint, payload, inquires, .. } = spec;
        let enlisted = Enlisted { id, participant, endpoint, protocol, inquires, reservation_ttl };
        self.record(What::Enlisted(enlisted));
        let index = BranchIndex(u16::try_from(self.tx.branches.len() - 1).expect("max_branches fits"));
        self.tx.branch_mut(index).payload = payload;
        Ok(index)
    }

    fn same_branch(
        &self,
        index: BranchIndex,
        spec: &BranchSpec,
        vote: Option<&PhaseOne>,
    ) -> Result<(), Rejection> {
        let known = self.tx.branch(index);
        let same = known.participant == spec.participant
            && known.endpoint == spec.endpoint
            && known.protocol == spec.protocol.unwrap_or(self.tx.protocol)
            && vote.is_none_or(|vote| known.vote.is_none_or(|known| known == vote.vote));
        if same { Ok(()) } else { Err(Rejection::BranchReused { tx: self.tx.id, branch: known.id.clone() }) }
    }

    fn unused_id(&self) -> BranchId {
        let mut number = self.tx.branches.len() + 1;
        while self.tx.index_of(&BranchId::numbered(number)).is_some() {
            number += 1;
        }
        BranchId::numbered(number)
    }
}

/// What participants answer and ask.
impl Turn<'_> {
    pub fn reported(&mut self, branch: &BranchId, operation: Operation, report: Report) {
        // A vote can be handled before the timer that was due first.
        self.abort_if_overdue();
        let Some(index) = self.tx.index_of(branch) else { return };
        let delegated = self.tx.state() == State::Delegated;
        let pending = self.tx.branch(index).pending_operation(delegated, self.overdue());
        match report {
            // Whatever its participant says that was to decide, it has decided.
            Report::Voted { result, .. } if delegated => self.delegated_vote(index, operation, result),
            Report::Completed { completion, detail, reply } if delegated => {
                self.delegated_completion(index, operation, completion, &detail, reply);
            }
            // Late, or said before, or not what was asked: it changes nothing.
            Report::Voted { .. } | Report::Completed { .. } | Report::Failed { .. }
                if pending != Some(operation) => {}
            Report::Failed { error, kind } => self.failed(index, operation, error, kind),
            Report::Voted { .. } if operation != Operation::PhaseOne => {
                let error = SmolStr::new_static("answered phase two with a vote");
                self.failed(index, operation, error, FailureKind::Unknown);
            }
            Report::Voted { result, replica } => {
                let first_called = self.tx.branch(index).first_called.unwrap_or(self.now.mono);
                self.voted(index, result, Granted::Called(first_called));
                self.tx.branch_mut(index).replica = replica;
                self.progress();
            }
            Report::Completed { .. } if operation == Operation::PhaseOne => {
                let error = SmolStr::new_static("answered phase one without a vote");
                self.failed(index, operation, error, FailureKind::Unknown);
            }
            Report::Completed { completion, detail, .. } => {
                self.completed(index, operation, completion, &detail);
            }
        }
    }

    pub fn inquired(&mut self, waiter: Waiter, branch: &BranchId, expired: bool) {
        self.abort_if_overdue();
        let undecided = matches!(self.tx.state(), State::Active | State::Preparing);
        if expired && undecided {
            self.abort(format_smolstr!("the reservation of branch {branch} expired before the decision"));
        }
        let answer = match (self.tx.decision, self.tx.index_of(branch)) {
            (None, _) => InquiryAnswer::Pending,
            (Some(Decision::Abort), _) | (Some(Decision::Commit), None) => InquiryAnswer::Abort,
            (Some(Decision::Commit), Some(index)) => match self.tx.branch(index).state {
                BranchState::Refused | BranchState::RolledBack | BranchState::HeuristicRollback => {
                    InquiryAnswer::Abort
                }
                BranchState::Enlisted
                | BranchState::Preparing
                | BranchState::Prepared
                | BranchState::ReadOnly
                | BranchState::Committing
                | BranchState::RollingBack
                | BranchState::Committed
                | BranchState::HeuristicCommit
                | BranchState::HeuristicHazard => InquiryAnswer::Commit,
            },
        };
        self.answer(waiter, Answer::Inquiry(answer));
    }

    fn voted(&mut self, index: BranchIndex, result: PhaseOne, granted: Granted) {
        let ttl = tcc::granted_ttl(self.tx.branch(index), &result);
        let PhaseOne { vote, reason, reply, class, .. } = result;
        self.record(What::Voted { branch: index, vote, reason, reservation_ttl: ttl, class });
        let branch = self.tx.branch_mut(index);
        branch.expires = tcc::expiry(ttl, class, granted);
        branch.untouched = false;
        branch.reply = reply;
        branch.payload = Bytes::new();
        self.settle(index);
        if let Some((deadline, _)) = tcc::earliest_deadline(self.tx, self.desk.settings.reservation_margin) {
            self.desk.arm(self.tx, deadline);
        }
    }

    fn failed(&mut self, index: BranchIndex, operation: Operation, error: SmolStr, kind: FailureKind) {
        if operation == Operation::CommitOnePhase && kind == FailureKind::Unimplemented {
            // It certainly did nothing: take the long way.
            self.record(What::DelegationDeclined);
            self.tx.live.preparing = true;
            return self.call(index);
        }
        let tx = self.tx.id;
        let branch = self.tx.branch_mut(index);
        if !matches!(branch.call, CallState::InFlight { .. }) {
            return;
        }
        branch.last_error = error;
        branch.untouched &= kind == FailureKind::NotSent;
        let until = self.now.mono + self.desk.settings.backoff.delay(tx, branch.attempts);
        branch.call = CallState::Waiting { until };
        self.desk.wait_for(&branch.participant, tx);
        let first_failure = branch.attempts == 1;
        self.desk.arm(self.tx, until);
        if first_failure && self.tx.decision.is_some() && self.tx.live.stored {
            // This may take long: keep what the other branches have acknowledged.
            self.persist(Durability::Lazy);
        }
    }

    fn completed(&mut self, index: BranchIndex, operation: Operation, completion: Completion, detail: &str) {
        let heuristic = match (operation, completion) {
            (Operation::Commit, Completion::Done | Completion::HeuristicCommit)
            | (
                Operation::Rollback,
                Completion::Done | Completion::UnknownBranch | Completion::HeuristicRollback,
            ) => None,
            // It voted, and knows nothing of it: that it committed is not proved, so it is not claimed.
            (Operation::Commit, Completion::UnknownBranch) => Some(Completion::HeuristicHazard),
            (Operation::Commit, Completion::HeuristicRollback | Completion::HeuristicHazard)
            | (Operation::Rollback, Completion::HeuristicCommit | Completion::HeuristicHazard)
            // These two are answered otherwise, and do not come here.
            | (Operation::PhaseOne | Operation::CommitOnePhase, _) => Some(completion),
        };
        match heuristic {
            None => self.record(What::Acknowledged { branch: index }),
            Some(completion) => {
                let detail = self.heuristic_detail(index, operation, completion, detail);
                self.record(What::Heuristic { branch: index, completion, detail });
                self.persist(Durability::Forced);
            }
        }
        self.settle(index);
        self.end_if_finished();
    }

    fn heuristic_detail(
        &self,
        index: BranchIndex,
        operation: Operation,
        completion: Completion,
        detail: &str,
    ) -> SmolStr {
        let branch = self.tx.branch(index);
        let what = match completion {
            Completion::HeuristicCommit => "had committed already",
            Completion::HeuristicRollback => "had rolled back already",
            Completion::UnknownBranch | Completion::Done | Completion::HeuristicHazard => {
                "cannot tell what became of its work"
            }
        };
        let colon = if detail.is_empty() { "" } else { ": " };
        let word = operation.word(branch.protocol);
        format_smolstr!(
            "{} (branch {}) {what} when told to {word}{colon}{detail}",
            branch.participant,
            branch.id
        )
    }

    fn delegated_vote(&mut self, index: BranchIndex, operation: Operation, result: PhaseOne) {
        match result.vote {
            Vote::Refused => {
                self.voted(index, result, Granted::Called(self.now.mono));
                self.progress();
            }
            Vote::Prepared | Vote::ReadOnly => {
                let error = SmolStr::new_static("answered a commit in one phase with a vote");
                self.failed(index, operation, error, FailureKind::Unknown);
            }
        }
    }

    fn delegated_completion(
        &mut self,
        index: BranchIndex,
        operation: Operation,
        completion: Completion,
        detail: &str,
        reply: Bytes,
    ) {
        let Some(decided) = two_phase::delegated_decision(operation, completion) else {
            let error = SmolStr::new_static("answered a commit in one phase with: unknown branch");
            return self.failed(index, operation, error, FailureKind::Unknown);
        };
        self.settle(index);
        self.tx.branch_mut(index).reply = reply;
        match decided {
            Ok(Decision::Commit) => {
                self.record(What::Decided { decision: Decision::Commit, reason: SmolStr::default() });
            }
            Ok(Decision::Abort) => {
                let reason = "the only branch had not committed by the deadline".into();
                self.record(What::Decided { decision: Decision::Abort, reason });
            }
            Err(()) => {
                // Nobody decided, as far as anybody can tell: it ends without a decision.
                let detail = self.heuristic_detail(index, operation, completion, detail);
                self.record(What::Heuristic { branch: index, completion, detail });
            }
        }
        self.end_if_finished();
    }
}

/// What time and operators bring.
impl Turn<'_> {
    /// Its timer is due: looks at everything that has a time.
    pub fn due(&mut self) {
        self.abort_if_overdue();
        if self.tx.state() == State::Delegated && self.overdue() {
            if self.tx.branch(BranchIndex(0)).is_unreached() {
                self.settle(BranchIndex(0));
                self.abort(format_smolstr!("no decision within {:?}", self.tx.timeout));
            } else {
                self.answer_waiters(|_any| true);
            }
        }
        if self.tx.decision.is_some() && self.now.mono >= self.answer_by() {
            self.answer_waiters(|_any| true);
        }
        for index in self.tx.indexes() {
            match self.tx.branch(index).call {
                CallState::InFlight { until } if until <= self.now.mono => self.timed_out(index),
                CallState::Waiting { until } if until <= self.now.mono => self.call(index),
                CallState::Idle | CallState::InFlight { .. } | CallState::Waiting { .. } => {}
            }
        }
        self.rearm();
    }

    /// Makes the waiting calls of these branches now.
    pub fn wake(&mut self, which: impl Fn(&Branch) -> bool) -> u32 {
        let mut calls = 0;
        for index in self.tx.indexes() {
            let branch = self.tx.branch(index);
            if matches!(branch.call, CallState::Waiting { .. }) && which(branch) {
                self.call(index);
                calls += 1;
            }
        }
        calls
    }

    /// Goes on after a restart. Whoever was not told commit by then is told abort: presumed abort.
    pub fn resume(&mut self) {
        self.tx.live.begun = self.now.mono;
        self.tx.live.deadline = self.now.mono;
        match self.tx.state() {
            State::Active | State::Preparing => {
                self.abort("the coordinator restarted before a decision".into());
            }
            State::Delegated => self.call(BranchIndex(0)),
            State::Committing | State::Aborting => {
                self.call_pending();
                self.end_if_finished();
            }
            State::Ended(_) => {}
        }
    }

    pub fn resolve(&mut self, waiter: Waiter, branch: &BranchId, committed: bool, reason: SmolStr) {
        let tx = self.tx.id;
        let Some(index) = self.tx.index_of(branch) else {
            return self.answer(waiter, Answer::Rejected(Rejection::NoBranch { tx, branch: branch.clone() }));
        };
        let wanted = match (self.tx.branch(index).state, committed) {
            (BranchState::Committing, true) | (BranchState::RollingBack, false) => None,
            (state, _) if state.is_heuristic() => None,
            // Its participant was to decide, and has not said what by the deadline.
            (BranchState::Preparing, _) if self.tx.delegated && self.overdue() => None,
            (BranchState::Committing, false) => {
                Some("a branch that is to commit cannot be settled as rolled back")
            }
            (BranchState::RollingBack, true) => {
                Some("a branch that is to roll back cannot be settled as committed")
            }
            _finished_or_undecided => Some(
                "only a branch that waits in phase two, is overdue in one phase, or is heuristic, can be settled",
            ),
        };
        if let Some(wanted) = wanted {
            let state = self.tx.state();
            return self.answer(waiter, Answer::Rejected(Rejection::WrongState { tx, state, wanted }));
        }
        if self.tx.decision.is_none() {
            let decision = if committed { Decision::Commit } else { Decision::Abort };
            let reason = if committed { SmolStr::default() } else { reason.clone() };
            self.record(What::Decided { decision, reason });
        }
        self.record(What::Resolved { branch: index, committed, reason });
        self.settle(index);
        if self.tx.outcome.is_some() {
            let outcome = self.tx.outcome_of_branches();
            self.record(What::Ended { outcome });
        }
        self.end_if_finished();
        self.persist(Durability::Forced);
        let transaction = Box::new(self.tx.clone());
        self.answer(waiter, Answer::Transaction(transaction));
    }

    fn timed_out(&mut self, index: BranchIndex) {
        let delegated = self.tx.state() == State::Delegated;
        if let Some(operation) = self.tx.branch(index).pending_operation(delegated, self.overdue()) {
            let error = format_smolstr!("no answer within {:?}", self.desk.settings.call_timeout);
            self.failed(index, operation, error, FailureKind::Unknown);
        }
    }

    fn rearm(&mut self) {
        let undecided = matches!(self.tx.state(), State::Active | State::Preparing);
        let deadline = undecided.then_some(self.tx.live.deadline);
        let delegated =
            (self.tx.state() == State::Delegated && !self.overdue()).then_some(self.tx.live.deadline);
        let reservation = tcc::earliest_deadline(self.tx, self.desk.settings.reservation_margin)
            .filter(|_| undecided)
            .map(|(deadline, _)| deadline);
        let answers =
            (self.tx.decision.is_some() && !self.tx.live.waiters.is_empty()).then(|| self.answer_by());
        let calls = self.tx.branches.iter().filter_map(|branch| branch.call.due());
        let next = calls.chain([deadline, delegated, reservation, answers].into_iter().flatten()).min();
        if let Some(next) = next {
            self.desk.arm(self.tx, next);
        }
    }
}

/// How it moves on.
impl Turn<'_> {
    /// Commit was asked for: decides, or finds out what is missing.
    fn start_ending(&mut self) {
        if self.refusal().is_some() {
            return self.progress();
        }
        let unvoted: Vec<_> =
            self.tx.indexes().filter(|&index| self.tx.branch(index).state == BranchState::Enlisted).collect();
        if unvoted.is_empty() {
            return self.progress();
        }
        self.desk.arm(self.tx, self.tx.live.deadline);
        if two_phase::may_delegate(self.tx) {
            self.record(What::Delegated);
            // Whoever takes it back from the log, or is asked for it again, must know who decides.
            if self.tx.request.is_some() || self.tx.live.stored {
                self.persist(Durability::Forced);
            }
        } else {
            self.tx.live.preparing = true;
        }
        for index in unvoted {
            self.tx.branch_mut(index).state = BranchState::Preparing;
            self.call(index);
        }
    }

    /// Decides, if that can be done.
    fn progress(&mut self) {
        if let Some(reason) = self.refusal() {
            return self.abort(reason);
        }
        let waits = |branch: &Branch| matches!(branch.state, BranchState::Enlisted | BranchState::Preparing);
        if self.tx.branches.iter().any(waits) {
            return;
        }
        match tcc::earliest_deadline(self.tx, self.desk.settings.reservation_margin) {
            Some((deadline, index)) if self.now.mono >= deadline => {
                self.abort(expired_reason(self.tx, index));
            }
            Some(_) | None => self.decide_commit(),
        }
    }

    fn decide_commit(&mut self) {
        assert!(self.tx.decision.is_none(), "a decision is taken once");
        self.record(What::Decided { decision: Decision::Commit, reason: SmolStr::default() });
        // With nothing to commit nothing hangs on it, unless a restart would find it undecided.
        if self.tx.live.stored
            || self.tx.branches.iter().any(|branch| branch.state == BranchState::Committing)
        {
            self.persist(Durability::Forced);
        }
        self.decided();
    }

    fn abort(&mut self, reason: SmolStr) {
        assert!(self.tx.decision.is_none(), "a decision is taken once");
        self.record(What::Decided { decision: Decision::Abort, reason });
        if self.tx.live.stored {
            self.persist(Durability::Lazy);
        }
        self.decided();
    }

    fn decided(&mut self) {
        self.tx.live.decided = self.now.mono;
        self.answer_waiters(|wait| wait == Wait::Decision);
        self.spare_unreached();
        self.call_pending();
        self.end_if_finished();
        if self.tx.outcome.is_none() && !self.tx.live.waiters.is_empty() {
            let answer_by = self.answer_by();
            self.desk.arm(self.tx, answer_by);
        }
    }

    /// Where nothing ever came, nothing is to be rolled back. Otherwise a participant that does not exist would keep
    /// the transaction open for ever.
    fn spare_unreached(&mut self) {
        for index in self.tx.indexes() {
            let branch = self.tx.branch(index);
            if branch.state == BranchState::RollingBack && branch.is_unreached() {
                self.record(What::Unreached { branch: index });
                self.settle(index);
            }
        }
    }

    /// Starts phase two, on every branch that it concerns.
    fn call_pending(&mut self) {
        let concerns =
            |branch: &Branch| matches!(branch.state, BranchState::Committing | BranchState::RollingBack);
        let mut pending: Vec<_> =
            self.tx.indexes().filter(|&index| concerns(self.tx.branch(index))).collect();
        tcc::confirm_order(self.tx, &mut pending);
        for index in pending {
            self.settle(index);
            self.tx.branch_mut(index).attempts = 0;
            self.call(index);
        }
    }

    fn call(&mut self, index: BranchIndex) {
        let delegated = self.tx.state() == State::Delegated;
        let overdue = self.overdue();
        let Some(operation) = self.tx.branch(index).pending_operation(delegated, overdue) else { return };
        self.settle(index);
        let until = self.now.mono + self.desk.settings.call_timeout;
        let (tx, now) = (self.tx.id, self.now.mono);
        let branch = self.tx.branch_mut(index);
        branch.attempts = branch.attempts.saturating_add(1);
        branch.call = CallState::InFlight { until };
        let (payload, reservation_ttl) = match operation {
            Operation::PhaseOne | Operation::CommitOnePhase => {
                branch.first_called.get_or_insert(now);
                (branch.payload.clone(), branch.reservation_ttl)
            }
            Operation::Commit | Operation::Rollback => (Bytes::new(), Duration::ZERO),
        };
        self.step.then.push(Action::Call(Call {
            tx,
            branch: branch.id.clone(),
            participant: branch.participant.clone(),
            endpoint: branch.endpoint.clone(),
            protocol: branch.protocol,
            operation,
            payload,
            reservation_ttl,
            attempt: branch.attempts,
            prefer: branch.replica,
        }));
        self.desk.arm(self.tx, until);
    }

    /// No call of this branch is out or waits any more.
    fn settle(&mut self, index: BranchIndex) {
        let tx = self.tx.id;
        let branch = self.tx.branch_mut(index);
        let waited = matches!(branch.call, CallState::Waiting { .. });
        branch.call = CallState::Idle;
        branch.last_error = SmolStr::default();
        if waited {
            let participant = branch.participant.clone();
            let another = |other: &Branch| {
                other.participant == participant && matches!(other.call, CallState::Waiting { .. })
            };
            if !self.tx.branches.iter().any(another) {
                self.desk.wait_no_more(&participant, tx);
            }
        }
    }

    fn end_if_finished(&mut self) {
        if self.tx.outcome.is_some()
            || (self.tx.decision.is_none() && !self.tx.delegated)
            || !self.tx.branches.iter().all(|branch| branch.state.is_finished())
        {
            return;
        }
        let outcome = self.tx.outcome_of_branches();
        self.record(What::Ended { outcome });
        self.answer_waiters(|_any| true);
        self.desk.disarm(self.tx);
        for branch in &mut self.tx.branches {
            (branch.payload, branch.reply) = (Bytes::new(), Bytes::new());
        }
        let changed_something = self.tx.live.stored
            || self.tx.delegated
            || self.tx.branches.iter().any(|branch| branch.state != BranchState::ReadOnly);
        if outcome.is_heuristic() {
            self.persist(Durability::Forced);
        } else if changed_something && !self.desk.settings.retention.is_zero() {
            self.persist(Durability::Lazy);
        }
    }

    fn abort_if_overdue(&mut self) {
        if !matches!(self.tx.state(), State::Active | State::Preparing) {
            return;
        }
        if self.overdue() {
            return self.abort(format_smolstr!("no decision within {:?}", self.tx.timeout));
        }
        if let Some((deadline, index)) =
            tcc::earliest_deadline(self.tx, self.desk.settings.reservation_margin)
            && self.now.mono >= deadline
        {
            self.abort(expired_reason(self.tx, index));
        }
    }

    fn refusal(&self) -> Option<SmolStr> {
        let branch = self.tx.branches.iter().find(|branch| branch.state == BranchState::Refused)?;
        let colon = if branch.reason.is_empty() { "" } else { ": " };
        Some(format_smolstr!("{} (branch {}) refused{colon}{}", branch.participant, branch.id, branch.reason))
    }

    fn overdue(&self) -> bool {
        self.now.mono >= self.tx.live.deadline
    }

    /// When those are answered who wait for a completion that does not come.
    fn answer_by(&self) -> Timestamp {
        self.tx.live.deadline.max(self.tx.live.decided + COMPLETION_GRACE)
    }

    fn answer_waiters(&mut self, which: impl Fn(Wait) -> bool) {
        let (told, waiting) =
            std::mem::take(&mut self.tx.live.waiters).into_iter().partition(|(_, wait)| which(*wait));
        self.tx.live.waiters = waiting;
        let told: Vec<(Waiter, Wait)> = told;
        for (waiter, _) in told {
            let result = self.tx.result();
            self.answer(waiter, Answer::Ended(result));
        }
    }

    /// Its records so far are to be written at the end of this turn.
    fn persist(&mut self, durability: Durability) {
        self.tx.live.stored = true;
        self.persist = self.persist.max(Some(durability));
    }

    fn record(&mut self, what: What) {
        self.tx.record(self.now.wall, what);
    }
}
