//! One transaction takes one event.

mod answered;
mod asked;
mod due;

use std::time::Duration;

use bytes::Bytes;
use smol_str::{SmolStr, format_smolstr};

use super::{Desk, expired_reason};
use crate::core::event::{Action, Answer, Call, Durability, Step, Waiter};
use crate::core::record::{BranchIndex, What};
use crate::core::time::{Now, Timestamp};
use crate::core::transaction::{Branch, CallState, Content, Transaction};
use crate::core::words::{BranchState, Decision, Operation, State, Wait};
use crate::core::{tcc, two_phase};

/// How long after its decision a transaction answers those who wait for completion, even when its deadline has
/// passed: time for the common case, in which the branches answer at once.
pub(crate) const COMPLETION_GRACE: Duration = Duration::from_secs(1);

/// A transaction, while it takes an event.
pub(super) struct Turn<'a> {
    pub tx: &'a mut Transaction,
    pub desk: &'a mut Desk,
    pub now: Now,
    pub step: &'a mut Step,
    /// Whether its records are to be written.
    pub persist: Option<Durability>,
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
                (branch.payload(), branch.reservation_ttl)
            }
            Operation::Commit | Operation::Rollback => (Bytes::new(), Duration::ZERO),
        };
        self.step.then.push(Action::Call(Call {
            tx,
            branch: branch.id.clone(),
            participant: branch.participant.clone(),
            endpoint: branch.endpoint().cloned(),
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
        branch.set_last_error(SmolStr::default());
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
            branch.content = Content::Reply(Bytes::new());
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
        let colon = if branch.reason().is_empty() { "" } else { ": " };
        Some(format_smolstr!(
            "{} (branch {}) refused{colon}{}",
            branch.participant,
            branch.id,
            branch.reason()
        ))
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
