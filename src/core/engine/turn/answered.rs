//! What participants answer and ask.

use bytes::Bytes;
use smol_str::{SmolStr, format_smolstr};

use super::Turn;
use crate::core::event::{Answer, Durability, FailureKind, PhaseOne, Report, Waiter};
use crate::core::id::BranchId;
use crate::core::record::{BranchIndex, What};
use crate::core::tcc::Granted;
use crate::core::transaction::{CallState, Content};
use crate::core::words::{BranchState, Completion, Decision, InquiryAnswer, Operation, State, Vote};
use crate::core::{tcc, two_phase};

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
            (_, None) if self.tx.doubted => InquiryAnswer::Foreign,
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

    pub(super) fn voted(&mut self, index: BranchIndex, result: PhaseOne, granted: Granted) {
        let ttl = tcc::granted_ttl(self.tx.branch(index), &result);
        let PhaseOne { vote, reason, reply, class, .. } = result;
        self.record(What::Voted { branch: index, vote, reason, reservation_ttl: ttl, class });
        let branch = self.tx.branch_mut(index);
        branch.expires = tcc::expiry(ttl, class, granted);
        branch.untouched = false;
        branch.content = Content::Reply(reply);
        self.settle(index);
        if let Some((deadline, _)) = tcc::earliest_deadline(self.tx, self.desk.settings.reservation_margin) {
            self.desk.arm(self.tx, deadline);
        }
    }

    pub(super) fn failed(
        &mut self,
        index: BranchIndex,
        operation: Operation,
        error: SmolStr,
        kind: FailureKind,
    ) {
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
        branch.set_last_error(error);
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

    pub(super) fn completed(
        &mut self,
        index: BranchIndex,
        operation: Operation,
        completion: Completion,
        detail: &str,
    ) {
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

    pub(super) fn heuristic_detail(
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

    pub(super) fn delegated_vote(&mut self, index: BranchIndex, operation: Operation, result: PhaseOne) {
        match result.vote {
            // One of several calls may still be on its way, and would be carried out: so a rollback bars it first.
            Vote::Refused if self.tx.branch(index).was_called_before() => {
                if !self.tx.branch(index).has_refused_once() {
                    self.settle(index);
                    self.tx.branch_mut(index).set_refusal(result);
                    self.call(index);
                }
            }
            Vote::Refused => self.delegate_refused(index, result),
            Vote::Prepared | Vote::ReadOnly => {
                let error = SmolStr::new_static("answered a commit in one phase with a vote");
                self.failed(index, operation, error, FailureKind::Unknown);
            }
        }
    }

    fn delegate_refused(&mut self, index: BranchIndex, result: PhaseOne) {
        self.voted(index, result, Granted::Called(self.now.mono));
        self.progress();
    }

    pub(super) fn delegated_completion(
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
        if decided == Ok(Decision::Abort)
            && let Some(refused) = self.tx.branch_mut(index).take_refusal()
        {
            return self.delegate_refused(index, refused);
        }
        self.tx.branch_mut(index).content = Content::Reply(reply);
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
