//! What time and operators bring.

use smol_str::{SmolStr, format_smolstr};

use super::Turn;
use crate::core::event::{Answer, Durability, FailureKind, Rejection, Waiter};
use crate::core::id::BranchId;
use crate::core::record::{BranchIndex, What};
use crate::core::tcc;
use crate::core::transaction::{Branch, CallState};
use crate::core::words::{BranchState, Decision, State};

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
        self.tx.live.asleep = false;
        self.tx.live.begun = self.now.mono;
        self.tx.live.deadline = self.now.mono;
        // Whoever asks at once for the end waits a moment for it, as after a decision in life.
        self.tx.live.decided = self.now.mono;
        match self.tx.state() {
            State::Active | State::Preparing => {
                self.abort("the coordinator restarted before a decision".into());
            }
            // What its participant has said is for good, though the end of it was not written.
            State::Delegated if self.refusal().is_some() => self.progress(),
            State::Delegated => {
                self.call(BranchIndex(0));
                self.end_if_finished();
            }
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

    pub(super) fn timed_out(&mut self, index: BranchIndex) {
        let delegated = self.tx.state() == State::Delegated;
        if let Some(operation) = self.tx.branch(index).pending_operation(delegated, self.overdue()) {
            let error = format_smolstr!("no answer within {:?}", self.desk.settings.call_timeout);
            self.failed(index, operation, error, FailureKind::Unknown);
        }
    }

    pub(super) fn rearm(&mut self) {
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
