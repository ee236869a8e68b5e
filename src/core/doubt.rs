//! What becomes of a transaction when the log has lost what came after.
//!
//! Presumed abort reads the absence of a decision as its opposite. That is right as long as no decision can be lost. A log that
//! was repaired may have lost one, and with it votes, branches, the end: so of what it has, only what is written is true, and
//! from what is not there nothing follows.

use super::{BranchState, DecodeError, Outcome, Transaction, TxId, WallTime, What};

/// The history of a transaction after which nothing is presumed of it. `None`: nothing has to be, because it is decided, or
/// because a branch refused and so it can only abort; then it goes on from where its history ends.
///
/// Else it ends as a hazard, without a decision. Participants that ask about it are told to wait, until an operator settles a
/// branch and thereby decides. A branch that is not known is told nothing at all, then too: it may have been enlisted.
///
/// # Errors
/// Where the history is not understood.
pub fn doubt(
    id: TxId,
    history: Vec<u8>,
    now: WallTime,
    reason: &str,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut tx = Transaction::replay(id, history)?;
    let can_only_abort = tx.branches.iter().any(|branch| branch.state == BranchState::Refused);
    if tx.outcome.is_some() || tx.decision.is_some() || can_only_abort {
        return Ok(None);
    }
    tx.record(now, What::Doubted { reason: reason.into() });
    tx.record(now, What::Ended { outcome: Outcome::Hazard });
    Ok(Some(tx.history))
}

#[cfg(test)]
mod tests;
