//! What initiators ask for.

use std::time::Duration;

use smol_str::SmolStr;

use super::Turn;
use crate::core::event::{Action, Answer, BranchSpec, Durability, Enlistment, PhaseOne, Rejection, Waiter};
use crate::core::id::BranchId;
use crate::core::record::{BranchIndex, Enlisted, What};
use crate::core::tcc::Granted;
use crate::core::transaction::Content;
use crate::core::words::{Decision, Protocol, State, Wait};

impl Turn<'_> {
    pub fn timeout(&self) -> Duration {
        self.tx.timeout
    }

    /// It was just begun by an initiator who will call the participants.
    pub fn begun(&mut self) -> Duration {
        self.desk.arm(self.tx, self.tx.live.deadline);
        self.tx.timeout
    }

    pub fn run(&mut self, waiter: Waiter, enlistments: Vec<Enlistment>, wait: Wait) -> Result<(), ()> {
        match self.enlist_all(enlistments) {
            Ok(()) => {
                self.tx.branches.iter_mut().for_each(|branch| branch.untouched = true);
                self.attach(waiter, wait);
                self.start_ending();
                Ok(())
            }
            Err(rejection) => {
                self.answer(waiter, Answer::Rejected(rejection));
                Err(())
            }
        }
    }

    /// Adds a branch; again, it is the same branch.
    pub fn enlist(&mut self, enlistment: Enlistment) -> Result<BranchId, Rejection> {
        self.abort_if_overdue();
        self.add(enlistment)
    }

    pub(super) fn add(&mut self, enlistment: Enlistment) -> Result<BranchId, Rejection> {
        let Enlistment { branch: spec, vote } = enlistment;
        let inquires = spec.inquires;
        let id = spec.id.clone().unwrap_or_else(|| self.unused_id());
        let known = self.tx.index_of(&id);
        if let Some(index) = known {
            self.same_branch(index, &spec, vote.as_ref())?;
            if self.tx.branch(index).vote.is_some() && self.tx.decision != Some(Decision::Abort) {
                return Ok(id);
            }
        }
        if self.tx.state() != State::Active {
            return Err(self.not_active());
        }
        let index = match known {
            Some(index) => index,
            None => self.add_branch(id.clone(), spec)?,
        };
        if let Some(vote) = vote {
            let granted = Granted::Enlisted { begun: self.tx.live.begun, now: self.now.mono };
            self.voted(index, vote, granted);
        }
        // Enlisted first without its vote, a branch may have been taken for one that asks.
        if !(inquires && self.tx.branch(index).inquires) {
            self.persist(Durability::Forced);
        }
        Ok(id)
    }

    pub fn abort_if_refused(&mut self) {
        if self.tx.state() == State::Active
            && let Some(reason) = self.refusal()
        {
            self.abort(reason);
        }
    }

    pub fn commit(&mut self, waiter: Waiter, enlistments: Vec<Enlistment>, wait: Wait) {
        self.abort_if_overdue();
        let active = self.tx.state() == State::Active;
        let enlisted = if active { self.enlist_all(enlistments) } else { self.brought_before(&enlistments) };
        if let Err(rejection) = enlisted {
            return self.answer(waiter, Answer::Rejected(rejection));
        }
        self.attach(waiter, wait);
        if active {
            self.start_ending();
        }
    }

    pub fn abort_asked(&mut self, waiter: Waiter, reason: SmolStr, wait: Wait) {
        match self.tx.state() {
            State::Active | State::Preparing => {
                self.attach(waiter, wait);
                self.abort(if reason.is_empty() { "the initiator asked for it".into() } else { reason });
            }
            State::Delegated | State::Committing | State::Aborting | State::Ended(_) => {
                self.attach(waiter, wait);
            }
        }
    }

    /// Tells the waiter of the end when there is something to tell.
    pub fn attach(&mut self, waiter: Waiter, wait: Wait) {
        match (self.tx.state(), wait) {
            (State::Ended(_), _) | (State::Committing | State::Aborting, Wait::Decision) => {
                let result = self.tx.result();
                self.answer(waiter, Answer::Ended(result));
            }
            (State::Committing | State::Aborting, Wait::Completion) => {
                self.tx.live.waiters.push((waiter, wait));
                let answer_by = self.answer_by();
                self.desk.arm(self.tx, answer_by);
            }
            (State::Delegated, _) if self.overdue() => {
                let result = self.tx.result();
                self.answer(waiter, Answer::Ended(result));
            }
            (State::Active | State::Preparing | State::Delegated, _) => {
                self.tx.live.waiters.push((waiter, wait));
            }
        }
    }

    pub fn answer(&mut self, waiter: Waiter, answer: Answer) {
        self.step.then.push(Action::Answer { waiter, answer });
    }

    /// Adds them all before anything follows from one of them, so that an abort reaches each.
    pub(super) fn enlist_all(&mut self, enlistments: Vec<Enlistment>) -> Result<(), Rejection> {
        enlistments.into_iter().try_for_each(|enlistment| self.add(enlistment).map(drop))
    }

    /// A repeated commit may bring what is enlisted. Of another branch it would seem that it was committed too.
    pub(super) fn brought_before(&self, enlistments: &[Enlistment]) -> Result<(), Rejection> {
        let known = |spec: &BranchSpec| {
            self.tx.branches.iter().any(|branch| {
                branch.participant == spec.participant && spec.id.as_ref().is_none_or(|id| *id == branch.id)
            })
        };
        let aborted = self.tx.decision == Some(Decision::Abort);
        if aborted || enlistments.iter().all(|enlistment| known(&enlistment.branch)) {
            return Ok(());
        }
        Err(self.not_active())
    }

    pub(super) fn not_active(&self) -> Rejection {
        let wanted = "branches are enlisted only while it is active";
        Rejection::WrongState { tx: self.tx.id, state: self.tx.state(), wanted }
    }

    pub(super) fn add_branch(&mut self, id: BranchId, spec: BranchSpec) -> Result<BranchIndex, Rejection> {
        let limit = self.desk.settings.max_branches;
        if self.tx.branches.len() >= limit {
            return Err(Rejection::TooManyBranches { tx: self.tx.id, limit });
        }
        let protocol = spec.protocol.unwrap_or(self.tx.protocol);
        let reservation_ttl = match protocol {
            Protocol::Tcc => spec.reservation_ttl.unwrap_or(self.tx.timeout),
            Protocol::TwoPhase => Duration::ZERO,
        };
        let BranchSpec { participant, endpoint, payload, inquires, .. } = spec;
        let enlisted = Enlisted { id, participant, endpoint, protocol, inquires, reservation_ttl };
        self.record(What::Enlisted(enlisted));
        let index = BranchIndex(u16::try_from(self.tx.branches.len() - 1).expect("max_branches fits"));
        self.tx.branch_mut(index).content = Content::Payload(payload);
        Ok(index)
    }

    pub(super) fn same_branch(
        &self,
        index: BranchIndex,
        spec: &BranchSpec,
        vote: Option<&PhaseOne>,
    ) -> Result<(), Rejection> {
        let known = self.tx.branch(index);
        let same = known.participant == spec.participant
            && known.endpoint() == spec.endpoint.as_ref()
            && known.protocol == spec.protocol.unwrap_or(self.tx.protocol)
            && vote.is_none_or(|vote| known.vote.is_none_or(|known| known == vote.vote));
        if same { Ok(()) } else { Err(Rejection::BranchReused { tx: self.tx.id, branch: known.id.clone() }) }
    }

    pub(super) fn unused_id(&self) -> BranchId {
        let mut number = self.tx.branches.len() + 1;
        while self.tx.index_of(&BranchId::numbered(number)).is_some() {
            number += 1;
        }
        BranchId::numbered(number)
    }
}
