//! The properties, as assertions. Each text begins with the name of the property that is broken.

use super::{At, Tx, World};
use crate::core::{BranchState, Decision, Outcome, Step, Transaction, TransactionResult};
use crate::site::Facts;

impl World {
    /// Validity: a decision was taken by this step, if there is one now.
    pub(super) fn judge_decision(&self, step: &Step) {
        let Some(tx) = step.subject.and_then(|tx| self.harness.engine.get(tx)) else { return };
        if tx.decision != Some(Decision::Commit) {
            return;
        }
        let Some(index) = self.transactions.iter().position(|it| it.id == tx.id) else { return };
        for (branch, site) in self.transactions[index].sites.iter().enumerate() {
            let facts = site.facts;
            assert!(
                facts.agreed || facts.settled,
                "validity: commit was decided, and branch {branch} has not voted for it"
            );
            if tx.delegated || facts.settled {
                continue;
            }
            assert!(!facts.undone, "validity: commit was decided, and branch {branch} was told to roll back");
            let rest = self.time_to_confirm(At::new(index, branch));
            assert!(
                rest.is_none_or(|rest| !rest.is_zero()) && !facts.expired,
                "validity: commit was decided, and branch {branch} may have cancelled by itself"
            );
        }
    }

    /// Honesty: an initiator is told this.
    pub(super) fn judge_result(&self, result: &TransactionResult) {
        let Some(tx) = self.transactions.iter().find(|it| it.id == result.tx) else { return };
        let facts = || tx.sites.iter().map(|site| site.facts);
        let own_way = tx.sites.iter().any(|site| site.facts.went_its_own_way());
        match result.outcome {
            Some(Outcome::Committed) => {
                assert!(
                    facts().all(|it| it.agreed || it.settled),
                    "honesty: told committed, and a branch has not agreed"
                );
                let finished = |it: Facts| it.committed || it.only_read || it.settled;
                assert!(
                    !result.complete || facts().all(finished),
                    "honesty: told committed and complete, and a branch has not committed"
                );
            }
            Some(Outcome::Aborted) => {
                assert!(
                    own_way || !facts().any(|it| it.committed),
                    "honesty: told aborted, and a branch has committed"
                );
                let prepared = result.branches.iter().any(|branch| {
                    let site = &tx.sites[super::index_of(&branch.id)];
                    branch.state == BranchState::RolledBack && site.is_in_doubt() && !site.facts.settled
                });
                assert!(
                    !result.complete || !prepared,
                    "honesty: told aborted and complete, and a branch is still prepared"
                );
            }
            Some(outcome @ (Outcome::Mixed | Outcome::Hazard)) => {
                assert!(own_way, "honesty: told {outcome:?}, and nobody went its own way");
            }
            None => assert!(!result.complete, "honesty: told complete without an outcome"),
        }
    }

    /// Atomicity and exactly once, of what has happened so far.
    pub(super) fn judge_state(&self) {
        for tx in &self.transactions {
            let facts = || tx.sites.iter().map(|site| site.facts).filter(|it| !it.settled);
            let undone = facts().any(|it| it.undone && !it.expired);
            assert!(
                !undone || !facts().any(|it| it.committed),
                "atomicity: one branch has committed, and another was rolled back"
            );
        }
        for (at, one) in self.transactions.iter().enumerate() {
            let committed = |tx: &Tx| tx.sites.iter().any(|site| site.facts.committed);
            let again = self.transactions[at + 1..].iter().any(|other| {
                other.plan == one.plan
                    && committed(other)
                    && committed(one)
                    && !one.forgotten
                    && !self.plan.times.retention.is_zero()
            });
            assert!(!again, "exactly once: one request is carried out twice");
        }
    }

    /// The engine's own accounts. It has none while something is to be resumed.
    pub fn judge_accounts(&self) {
        if self.asleep.is_empty() {
            self.harness.check();
        }
    }

    /// Nothing is left to do: everything has ended, and ended well.
    pub fn judge_end(&self) {
        let engine = &self.harness.engine;
        assert!(self.asleep.is_empty(), "termination: nothing goes on with what was taken back");
        assert!(engine.counts().active == 0, "termination: a transaction is open for ever");
        assert!(self.unanswered.is_empty(), "termination: somebody waits for an answer for ever");
        for (index, tx) in self.transactions.iter().enumerate() {
            for (branch, site) in tx.sites.iter().enumerate() {
                assert!(
                    !site.is_in_doubt() || site.facts.settled,
                    "termination: branch {branch} of transaction {index} is held for ever"
                );
            }
            judge_ending(tx, engine.get(tx.id).as_deref());
        }
    }

    /// How each transaction ended, in a word.
    pub fn endings(&self) -> Vec<&'static str> {
        let ending = |tx: &Tx| {
            let any = |which: fn(&Facts) -> bool| tx.sites.iter().any(|site| which(&site.facts));
            let known = self.harness.engine.get(tx.id).is_some();
            match (any(|it| it.committed), any(|it| it.undone || it.expired), known) {
                (true, true, _) => "mixed",
                (true, false, true) => "committed",
                (true, false, false) => "committed, forgotten",
                (false, _, true) => "aborted",
                (false, _, false) => "aborted, forgotten",
            }
        };
        self.transactions.iter().map(ending).collect()
    }
}

fn judge_ending(tx: &Tx, live: Option<&Transaction>) {
    let outcome = live.and_then(|live| live.outcome);
    let facts = || tx.sites.iter().map(|site| site.facts).filter(|it| !it.settled);
    let committed = facts().any(|it| it.committed);
    let left_out = facts().any(|it| !it.committed && !it.only_read);
    let settled = tx.sites.iter().any(|site| site.facts.settled);
    if committed && left_out && !tx.cleared && !settled {
        assert!(
            outcome.is_some_and(Outcome::is_heuristic),
            "atomicity: some branches have committed and some have not, and nothing is recorded: {outcome:?}"
        );
    }
    match outcome {
        Some(Outcome::Mixed | Outcome::Hazard) => {
            let own_way = tx.sites.iter().any(|site| site.facts.went_its_own_way());
            assert!(own_way, "honesty: {outcome:?} is recorded, and nobody went its own way");
        }
        Some(Outcome::Aborted) => {
            assert!(!committed, "honesty: aborted is recorded, and a branch has committed");
        }
        Some(Outcome::Committed) => {
            assert!(!left_out, "honesty: committed is recorded, and a branch has not");
        }
        None => {}
    }
}
