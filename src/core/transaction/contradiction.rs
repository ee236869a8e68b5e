//! Which record can follow which. What a log holds is checked by checksums, so a history that breaks these rules was
//! written by a mistake, or by somebody else. To go on with it would be to guess: it is refused when it is read.

use super::Transaction;
use crate::core::record::{BranchIndex, Enlisted, What};
use crate::core::words::{BranchState, Decision, Protocol, Vote};

/// As many as a [`BranchIndex`] can tell apart.
const BRANCHES_MAX: usize = u16::MAX as usize;

impl Transaction {
    /// Why this record cannot follow those that made the transaction what it is; `None` if it can.
    pub(super) fn contradiction(&self, what: &What) -> Option<String> {
        match what.branch() {
            Some(branch) => match self.branches.get(usize::from(branch.0)) {
                None => Some(format!("it is about branch {} of {}", branch.0, self.branches.len())),
                Some(_) => self.contradiction_of_branch(branch, what),
            },
            None => self.contradiction_of_whole(what),
        }
        .map(|problem| format!("{problem}: {what:?}"))
    }

    fn contradiction_of_whole(&self, what: &What) -> Option<String> {
        let wrong = match what {
            What::Enlisted(enlisted) => self.wrong_enlistment(enlisted),
            What::Delegated => {
                let only = matches!(self.branches.as_slice(), [only]
                    if only.protocol == Protocol::TwoPhase && only.state == BranchState::Enlisted);
                (!only || !self.is_open())
                    .then_some("only the one branch of an open transaction decides for itself")
            }
            What::DelegationDeclined => {
                let asked = self.delegated && self.branches[0].state == BranchState::Preparing;
                (!asked || !self.is_open()).then_some("nobody was asked to decide")
            }
            What::Decided { decision, .. } => self.wrong_decision(*decision),
            What::Ended { outcome } => {
                let decided = self.decision.is_some() || self.delegated || self.doubted;
                let finished = self.branches.iter().all(|branch| branch.state.is_finished());
                // Once an operator has settled what was heuristic, it ends again.
                let ended_well = self.outcome.is_some_and(|outcome| !outcome.is_heuristic());
                if !decided || !finished || ended_well {
                    Some("there is no end to come")
                } else {
                    (*outcome != self.outcome_of_branches()).then_some("its branches ended otherwise")
                }
            }
            What::Doubted { .. } => (!self.is_open()).then_some("what is decided is not in doubt"),
            What::Begun { .. }
            | What::Voted { .. }
            | What::Unreached { .. }
            | What::Acknowledged { .. }
            | What::Heuristic { .. }
            | What::Resolved { .. } => None,
        };
        wrong.map(str::to_owned)
    }

    fn contradiction_of_branch(&self, index: BranchIndex, what: &What) -> Option<String> {
        let state = self.branch(index).state;
        let phase_two = matches!(state, BranchState::Committing | BranchState::RollingBack);
        let possible = match what {
            What::Voted { vote, .. } => {
                let asked = matches!(state, BranchState::Enlisted | BranchState::Preparing);
                asked && self.is_open() && (!self.delegated || *vote == Vote::Refused)
            }
            What::Unreached { .. } => state == BranchState::RollingBack,
            What::Acknowledged { .. } => phase_two,
            What::Heuristic { .. } => {
                phase_two || (self.delegated && self.is_open() && state == BranchState::Preparing)
            }
            What::Resolved { committed, .. } => {
                let settled = match (state, committed) {
                    (BranchState::Committing, true) | (BranchState::RollingBack, false) => true,
                    // The operator decided in its participant's place.
                    (BranchState::Committed, true) | (BranchState::RolledBack, false) => {
                        self.delegated && self.outcome.is_none()
                    }
                    (state, _) => state.is_heuristic(),
                };
                settled && self.decision.is_some()
            }
            What::Begun { .. }
            | What::Enlisted(_)
            | What::Delegated
            | What::DelegationDeclined
            | What::Decided { .. }
            | What::Ended { .. }
            | What::Doubted { .. } => true,
        };
        (!possible).then(|| format!("branch {} is {state:?}", self.branch(index).id))
    }

    fn wrong_enlistment(&self, enlisted: &Enlisted) -> Option<&'static str> {
        if !self.is_open() || self.delegated {
            Some("no branch joins any more")
        } else if self.branches.len() >= BRANCHES_MAX {
            Some("there are too many branches")
        } else if self.index_of(&enlisted.id).is_some() {
            Some("there is a branch of this id")
        } else {
            None
        }
    }

    fn wrong_decision(&self, decision: Decision) -> Option<&'static str> {
        if self.decision.is_some() {
            return Some("a decision is taken once");
        }
        // What nobody decided, as far as anybody could tell, an operator does.
        if self.outcome.is_some() {
            let settled = self.delegated && self.branches.iter().all(|branch| branch.state.is_heuristic());
            return (!settled && !self.doubted).then_some("it has ended");
        }
        let agreed = self.branches.iter().all(|branch| {
            matches!(branch.state, BranchState::Prepared | BranchState::ReadOnly)
                || (self.delegated && branch.state == BranchState::Preparing)
        });
        (decision == Decision::Commit && !agreed).then_some("not every branch voted for it")
    }

    /// Undecided, and not ended without a decision either.
    fn is_open(&self) -> bool {
        self.decision.is_none() && self.outcome.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::{
        BranchId, Completion, DecodeError, Epoch, Label, Outcome, Record, ReservationClass, Shard, TxId,
        WallTime,
    };

    fn begun() -> What {
        What::Begun {
            protocol: Protocol::TwoPhase,
            label: Label::default(),
            timeout: Duration::ZERO,
            request: None,
        }
    }

    fn enlisted(n: usize) -> What {
        What::Enlisted(Enlisted {
            id: BranchId::numbered(n),
            participant: "shop/stock".parse().unwrap(),
            endpoint: None,
            protocol: Protocol::TwoPhase,
            inquires: true,
            reservation_ttl: Duration::ZERO,
        })
    }

    fn voted(n: u16, vote: Vote) -> What {
        What::Voted {
            branch: BranchIndex(n),
            vote,
            reason: "".into(),
            reservation_ttl: Duration::ZERO,
            class: ReservationClass::Cooperative,
        }
    }

    fn decided(decision: Decision) -> What {
        What::Decided { decision, reason: "".into() }
    }

    fn hazard(n: u16) -> What {
        What::Heuristic { branch: BranchIndex(n), completion: Completion::HeuristicHazard, detail: "".into() }
    }

    fn acknowledged(n: u16) -> What {
        What::Acknowledged { branch: BranchIndex(n) }
    }

    fn resolved(n: u16, committed: bool) -> What {
        What::Resolved { branch: BranchIndex(n), committed, reason: "seen".into() }
    }

    fn ended(outcome: Outcome) -> What {
        What::Ended { outcome }
    }

    /// The number of the first record that is refused, and what is said of it.
    fn refused(whats: &[What]) -> Option<(usize, String)> {
        let mut history = Vec::new();
        for what in whats {
            Record { at: WallTime(1), what: what.clone() }.encode(&mut history);
        }
        let id = TxId::new(1, 0, Epoch(1), Shard(0), 0);
        match Transaction::replay(id, history) {
            Ok(_) => None,
            Err(DecodeError::Contradiction { number, problem }) => Some((number, problem)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_history_that_contradicts_itself_is_refused_where_it_does() {
        use Decision::{Abort, Commit};
        use Vote::{Prepared, ReadOnly, Refused};
        let two = [begun(), enlisted(1), enlisted(2), voted(0, Prepared), voted(1, Prepared)];
        let unreached = What::Unreached { branch: BranchIndex(0) };
        let cases: [(&[What], What, &str); 21] = [
            (&[], enlisted(1), "does not begin"),
            (&[begun()], begun(), "begins again"),
            (&[begun()], acknowledged(0), "about branch 0 of 0"),
            (&two, voted(2, Prepared), "about branch 2 of 2"),
            (&two, enlisted(2), "branch of this id"),
            (&two, voted(0, ReadOnly), "branch 1 is Prepared"),
            (&two, acknowledged(0), "branch 1 is Prepared"),
            (&two, unreached, "branch 1 is Prepared"),
            (&two, hazard(0), "branch 1 is Prepared"),
            (&two, resolved(0, true), "branch 1 is Prepared"),
            (&two, What::Delegated, "decides for itself"),
            (&two, What::DelegationDeclined, "nobody was asked"),
            (&two, ended(Outcome::Committed), "no end to come"),
            (&two[..4], decided(Commit), "not every branch voted"),
            (&[begun(), decided(Abort)], decided(Commit), "taken once"),
            (&[begun(), decided(Commit)], enlisted(1), "no branch joins"),
            (&[begun(), decided(Commit), ended(Outcome::Committed)], ended(Outcome::Committed), "no end"),
            (&[begun(), decided(Commit)], ended(Outcome::Aborted), "ended otherwise"),
            (&[begun(), enlisted(1), What::Delegated], voted(0, Prepared), "branch 1 is Preparing"),
            (
                &[begun(), enlisted(1), What::Delegated, voted(0, Refused)],
                decided(Commit),
                "not every branch voted",
            ),
            (
                &[begun(), enlisted(1), voted(0, Prepared), decided(Commit)],
                resolved(0, false),
                "branch 1 is Committing",
            ),
        ];
        for (before, wrong, says) in cases {
            assert!(before.is_empty() || refused(before).is_none(), "{before:?}");
            let (number, problem) = refused(&[before, &[wrong]].concat()).expect(says);
            assert_eq!(number, before.len() + 1, "{problem}");
            assert!(problem.contains(says), "{problem:?} does not say {says:?}");
        }
    }

    #[test]
    fn what_an_operator_settles_after_the_end_is_no_contradiction() {
        let undecided = [begun(), enlisted(1), What::Delegated, hazard(0), ended(Outcome::Hazard)];
        let settled = [decided(Decision::Commit), resolved(0, true), ended(Outcome::Committed)];
        assert_eq!(refused(&[&undecided[..], &settled].concat()), None);
        let overdue = [begun(), enlisted(1), What::Delegated, decided(Decision::Abort), resolved(0, false)];
        assert_eq!(refused(&[&overdue[..], &[ended(Outcome::Aborted)]].concat()), None);
    }

    #[test]
    fn a_history_without_records_is_refused() {
        let id = TxId::new(1, 0, Epoch(1), Shard(0), 0);
        assert_eq!(Transaction::replay(id, Vec::new()).unwrap_err(), DecodeError::Short { at: 0 });
    }
}
