//! What is particular to two-phase commit: the single branch that decides for itself.
//!
//! With one branch there is nothing to agree on, so the decision is delegated to it: *do the work and commit, or
//! refuse* (one-phase commit; Mohan, Lindsay, Obermarck 1986). That saves the prepare round and the decision write. The
//! price is a lost reply: whether it committed is then not known, and must not be guessed. Until the transaction's
//! deadline the call is repeated, which is harmless. After it, a rollback is sent as the question: a branch that has
//! committed answers that it has, and any other is rolled back for good.
//!
//! A refusal is final if there was one call only. Where there were more, another one may still be on its way to a participant
//! that keeps no trace of what it refused, and be carried out: so the same rollback comes first, which bars it.
//!
//! A coordinator that restarts has forgotten a delegated transaction, which harms nobody: no other branch hangs on it.
//! Only where the initiator gave a request id, and so may ask again for the same transaction, or where the log has its
//! enlistment already, and so a restart would take it for undecided, is it made durable first.

use super::transaction::Transaction;
use super::words::{BranchState, Completion, Decision, Operation, Protocol};

/// Whether its only branch may decide for itself.
pub(super) fn may_delegate(tx: &Transaction) -> bool {
    matches!(tx.branches.as_slice(), [only]
        if only.protocol == Protocol::TwoPhase && only.state == BranchState::Enlisted)
}

/// What the participant of a delegated branch decided. `Err`: it cannot tell. `None`: this says nothing; ask again.
pub(super) fn delegated_decision(
    operation: Operation,
    completion: Completion,
) -> Option<Result<Decision, ()>> {
    match (operation, completion) {
        (Operation::CommitOnePhase, Completion::Done)
        | (Operation::CommitOnePhase | Operation::Rollback, Completion::HeuristicCommit) => {
            Some(Ok(Decision::Commit))
        }
        (Operation::Rollback, Completion::Done | Completion::UnknownBranch)
        | (Operation::CommitOnePhase | Operation::Rollback, Completion::HeuristicRollback) => {
            Some(Ok(Decision::Abort))
        }
        (Operation::CommitOnePhase | Operation::Rollback, Completion::HeuristicHazard) => Some(Err(())),
        (Operation::CommitOnePhase, Completion::UnknownBranch)
        | (Operation::PhaseOne | Operation::Commit, _) => None,
    }
}
