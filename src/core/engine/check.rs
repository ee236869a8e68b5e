//! What must hold between any two events: for tests, those outside of this crate too.

use std::collections::{BTreeSet, HashSet};

use super::{Engine, is_clean};
use crate::core::Map;
use crate::core::id::{ParticipantName, TxId};
use crate::core::time::Timestamp;
use crate::core::transaction::{CallState, Transaction};
use crate::core::words::{Outcome, State};

impl Engine {
    /// Panics if what the engine keeps beside the transactions contradicts them, or if an open transaction waits for
    /// something without a timer, and so could wait for ever. Not between [`Engine::replay`] and resumption.
    #[doc(hidden)]
    pub fn check(&self) {
        let mut waiting: Map<ParticipantName, BTreeSet<TxId>> = Map::default();
        for tx in self.transactions.values() {
            check_timer(tx);
            let at = tx.live.timer.map(|at| (at, tx.id));
            assert!(at.is_none_or(|at| self.desk.timers.contains(&at)), "{}: its timer is not kept", tx.id);
            for branch in &tx.branches {
                if matches!(branch.call, CallState::Waiting { .. }) {
                    waiting.entry(branch.participant.clone()).or_default().insert(tx.id);
                }
            }
            if let Some(request) = &tx.request {
                assert_eq!(self.requests.get(&request.id), Some(&tx.id));
            }
        }
        assert_eq!(waiting, self.desk.waiting, "who waits for whom");
        let armed = self.transactions.values().filter(|tx| tx.live.timer.is_some()).count();
        assert_eq!(armed, self.desk.timers.len(), "timers of transactions that have none");
        let ended = self.ended.iter().map(|(id, ended)| ended.open(*id));
        for tx in ended.clone() {
            assert!(tx.outcome.is_some_and(is_clean), "{}: only what ended well is put away", tx.id);
            check_timer(&tx);
        }
        let of_ended = ended.filter(|tx| tx.request.is_some()).count();
        let requests = self.transactions.values().filter(|tx| tx.request.is_some()).count() + of_ended;
        assert_eq!(requests, self.requests.len(), "requests of transactions that are gone");
        self.check_queues();
    }

    /// Panics if anything is left that an ended transaction should have given back.
    #[cfg(any(test, model))]
    pub(crate) fn check_idle(&self) {
        self.check();
        let open: Vec<_> = self.transactions.values().filter(|tx| tx.outcome.is_none()).collect();
        assert!(open.is_empty(), "not ended: {open:#?}");
        assert!(self.desk.timers.is_empty() && self.desk.waiting.is_empty());
    }

    fn check_queues(&self) {
        let open = self.transactions.values().filter(|tx| tx.outcome.is_none());
        assert_eq!(open.clone().count(), self.desk.active, "active transactions");
        let [queued, known] = [&self.open, &self.known].map(|queue| queue.iter().collect::<HashSet<_>>());
        assert!(open.clone().all(|tx| queued.contains(&tx.id)), "an open transaction is not in the queue");
        assert!(self.transactions.keys().chain(self.ended.keys()).all(|tx| known.contains(tx)));
        for queue in [&self.open, &self.known] {
            assert!(queue.iter().map(|tx| tx.order()).is_sorted());
        }
        let unkept = self.transactions.values().find(|tx| tx.outcome.is_some_and(is_clean));
        assert!(unkept.is_none(), "ended, and not put away: {unkept:?}");
        let kept: BTreeSet<_> = self.ended.keys().copied().collect();
        assert_eq!(self.retained.len(), kept.len(), "what is retained");
        assert_eq!(self.retained.iter().map(|(_, tx)| *tx).collect::<BTreeSet<_>>(), kept);
        assert!(self.retained.iter().map(|(at, _)| at).is_sorted());
    }
}

fn check_timer(tx: &Transaction) {
    let id = tx.id;
    let armed_by = |at: Timestamp| tx.live.timer.is_some_and(|timer| timer <= at);
    match tx.state() {
        State::Ended(Outcome::Committed | Outcome::Aborted | Outcome::Mixed | Outcome::Hazard) => {
            assert!(tx.live.timer.is_none(), "{id} has ended and has a timer");
            assert!(tx.live.waiters.is_empty(), "{id} has ended and has not answered");
            assert!(tx.branches.iter().all(|branch| branch.call == CallState::Idle));
        }
        State::Active | State::Preparing => {
            assert!(armed_by(tx.live.deadline), "{id} does not watch its deadline");
        }
        State::Delegated | State::Committing | State::Aborting => {
            let called = tx.branches.iter().any(|branch| branch.call != CallState::Idle);
            assert!(called, "{id} waits for nothing");
        }
    }
    for branch in &tx.branches {
        assert!(branch.call.due().is_none_or(armed_by), "{id} does not watch branch {}", branch.id);
    }
}
