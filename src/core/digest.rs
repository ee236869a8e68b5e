//! What tells one state from another, for a model checker: two engines with the same digest behave alike from here on.
//!
//! Times count from now, and those that have passed are alike. What decides nothing is left out: texts for people,
//! wall clocks, the number of attempts past the second. The bytes are the same in every process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};

use bytes::Bytes;

use super::engine::COMPLETION_GRACE;
use super::transaction::{Branch, CallState, Live, Transaction};
use super::{Protocol, Timestamp, TxId};

/// Collects what is hashed into it.
#[derive(Debug, Default)]
pub(crate) struct Digest(Vec<u8>);

impl Digest {
    /// The fingerprint of what was collected.
    pub fn value(&self) -> u64 {
        foldhash::quality::FixedState::with_seed(1).hash_one(&self.0)
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How far away it is; zero if it has passed.
    pub fn time(&mut self, at: Timestamp, now: Timestamp) {
        at.since(now).hash(self);
    }

    pub fn times(&mut self, at: Option<Timestamp>, now: Timestamp) {
        at.map(|at| at.since(now)).hash(self);
    }

    /// What the log keeps of a transaction: the fold of its records.
    pub fn stored(&mut self, tx: TxId, value: &Bytes) {
        thread_local! {
            // There are few histories, and each is seen a million times.
            static KNOWN: RefCell<HashMap<Bytes, u64, foldhash::fast::RandomState>> = RefCell::default();
        }
        let known = KNOWN.with_borrow(|known| known.get(value).copied());
        let fold = known.unwrap_or_else(|| {
            let transaction = Transaction::replay(tx, value.to_vec()).expect("what was written can be read");
            let mut digest = Digest::default();
            transaction.digest_lasting(&mut digest);
            KNOWN.with_borrow_mut(|known| known.insert(value.clone(), digest.value()));
            digest.value()
        });
        (tx, fold).hash(self);
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.value()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

impl Transaction {
    pub(super) fn digest(&self, now: Timestamp, digest: &mut Digest) {
        self.id.hash(digest);
        self.digest_lasting(digest);
        let Live { deadline, begun, timer, preparing, asleep, stored, logged, decided, waiters } = &self.live;
        digest.time(*deadline.max(&(*decided + COMPLETION_GRACE)), now);
        (preparing, asleep, stored, waiters, *logged < self.history.len()).hash(digest);
        // Reservations that come with their vote count from the begin; none comes past the deadline.
        let begun = (*deadline > now).then(|| now.since(*begun));
        begun.hash(digest);
        digest.time(*deadline, now);
        digest.times(*timer, now);
        let undecided = self.decision.is_none();
        for branch in &self.branches {
            branch.digest(undecided, self.delegated, now, digest);
        }
    }

    /// Without its id, as values of the log are.
    fn digest_lasting(&self, digest: &mut Digest) {
        (self.request.is_some(), self.delegated, self.doubted, self.decision, self.outcome).hash(digest);
        for Branch { id, state, vote, reservation_ttl, class, inquires, .. } in &self.branches {
            (id, state, vote, reservation_ttl, class, inquires).hash(digest);
        }
    }

    /// Whether a call of this branch is out.
    pub(crate) fn is_calling(&self, branch: usize) -> bool {
        matches!(self.branches[branch].call, CallState::InFlight { .. })
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.live.asleep
    }

    /// What this branch is to be called for.
    pub(crate) fn pending(&self, branch: usize, now: Timestamp) -> Option<super::Operation> {
        let delegated = self.state() == super::State::Delegated;
        self.branches[branch].pending_operation(delegated, now >= self.live.deadline)
    }
}

impl Branch {
    fn digest(&self, undecided: bool, delegated: bool, now: Timestamp, digest: &mut Digest) {
        let call = match self.call {
            CallState::Idle => None,
            CallState::InFlight { until } => Some((true, until.since(now))),
            CallState::Waiting { until } => Some((false, until.since(now))),
        };
        // The first attempt of phase two and of one phase differs from the rest; what was reached matters until then.
        let attempts = (!undecided || delegated).then(|| self.attempts.min(2));
        (call, attempts, undecided && self.untouched, self.has_refused_once()).hash(digest);
        // Reservations matter until the decision, and when they were first called until they have voted.
        let reserves = undecided && self.protocol == Protocol::Tcc;
        let first_called = self.first_called.filter(|_| reserves && self.vote.is_none());
        first_called.map(|at| now.since(at)).hash(digest);
        (delegated && self.first_called.is_some()).hash(digest);
        digest.times(self.expires.filter(|_| reserves), now);
    }
}
