//! What is particular to TCC: reservations that expire (Pardon, Pautasso 2011).
//!
//! A reservation's time to live is relative, and the coordinator counts it on its monotonic clock from *before* the Try
//! was sent. So its deadline is never later than the participant's, whatever either wall clock says.
//!
//! *Cooperative* participants hold on past the expiry until they have an answer; for them the deadline is a matter of
//! manners: nobody wants a reservation held longer than was agreed. *Autonomous* ones cancel by themselves, so a decision
//! to confirm is taken only while there is a margin left for the confirm to arrive.

use std::time::Duration;

use super::event::PhaseOne;
use super::record::BranchIndex;
use super::time::Timestamp;
use super::transaction::{Branch, Transaction};
use super::words::{BranchState, Protocol, ReservationClass, Vote};

/// Where a granted reservation counts from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Granted {
    /// The coordinator called Try; this is when it first did.
    Called(Timestamp),
    /// It came with its vote: made at some moment since the transaction began.
    Enlisted { begun: Timestamp, now: Timestamp },
}

/// What is granted: never more than was asked. Zero: no expiry.
pub(super) fn granted_ttl(branch: &Branch, result: &PhaseOne) -> Duration {
    match (branch.protocol, result.vote) {
        (Protocol::Tcc, Vote::Prepared) if branch.reservation_ttl.is_zero() => result.reservation_ttl,
        (Protocol::Tcc, Vote::Prepared) => result.reservation_ttl.min(branch.reservation_ttl),
        (Protocol::Tcc | Protocol::TwoPhase, _) => Duration::ZERO,
    }
}

/// When a reservation expires at the earliest.
pub(super) fn expiry(ttl: Duration, class: ReservationClass, granted: Granted) -> Option<Timestamp> {
    let from = match (granted, class) {
        (Granted::Called(first_called), _) => first_called,
        (Granted::Enlisted { now, .. }, ReservationClass::Cooperative) => now,
        // How long the enlistment took to come is not known, so count from the earliest moment it can have been made.
        (Granted::Enlisted { begun, .. }, ReservationClass::Autonomous) => begun,
    };
    (!ttl.is_zero()).then(|| from + ttl)
}

/// The branch whose reservation forbids a decision to confirm first, and from when on.
pub(super) fn earliest_deadline(tx: &Transaction, margin: Duration) -> Option<(Timestamp, BranchIndex)> {
    tx.indexes()
        .filter(|&index| tx.branch(index).state == BranchState::Prepared)
        .filter_map(|index| {
            let branch = tx.branch(index);
            let deadline = match branch.class {
                ReservationClass::Cooperative => branch.expires?,
                ReservationClass::Autonomous => branch.expires? - margin,
            };
            Some((deadline, index))
        })
        .min()
}

/// The order in which branches are told the decision: autonomous reservations first, the earliest deadline first.
pub(super) fn confirm_order(tx: &Transaction, branches: &mut [BranchIndex]) {
    branches.sort_by_key(|&index| {
        let branch = tx.branch(index);
        match branch.class {
            ReservationClass::Autonomous => branch.expires.unwrap_or(Timestamp::MAX),
            ReservationClass::Cooperative => Timestamp::MAX,
        }
    });
}
