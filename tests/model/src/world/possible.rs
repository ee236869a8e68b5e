//! What can happen next, and what a world without faults would do next.

use std::time::Duration;

use super::{At, Happening, Known, Tx, World};
use crate::core::{
    InquiryAnswer, Operation, Protocol, ReservationClass, State, Timestamp, Transaction, Vote,
};
use crate::plan::{Nature, Style};
use crate::site::{ANSWERS, Messages, OPERATIONS, Site};

impl World {
    /// Everything that can happen now, but for what would change nothing.
    pub fn possible(&self) -> Vec<Happening> {
        let mut all = Vec::with_capacity(32);
        self.beginnings(&mut all);
        for (index, tx) in self.transactions.iter().enumerate() {
            let live = self.harness.engine.get(tx.id);
            for branch in 0..tx.sites.len() {
                let at = At::new(index, branch);
                self.at_participant(at, &mut all);
                self.at_coordinator(at, live.as_deref(), &mut all);
            }
            if self.tx_plan(index).style == Style::Interactive {
                self.by_initiator(index, tx, &mut all);
            }
            self.by_operator(index, live.as_deref(), &mut all);
        }
        self.of_machines(&mut all);
        all
    }

    /// What happens next if nothing more goes wrong: calls and answers arrive at once, participants in doubt ask, and time
    /// passes when there is nothing else to do. Nothing: all is done.
    pub fn next_without_faults(&self) -> Vec<Happening> {
        if !self.asleep.is_empty() {
            return vec![Happening::Resume];
        }
        if self.harness.holds_actions() {
            return vec![Happening::Sync];
        }
        if self.until_due() == Some(Duration::ZERO) && self.engine_due() {
            return vec![Happening::Fire];
        }
        let ats = || {
            let all = self.transactions.iter().enumerate();
            all.flat_map(|(tx, it)| (0..it.sites.len()).map(move |branch| At::new(tx, branch)))
        };
        if let Some(steps) = ats().find_map(|at| self.answered_call(at, self.calling(at)?)) {
            return steps;
        }
        for at in ats() {
            let open = self.harness.engine.get(self.tx(at).id).is_some_and(|tx| tx.outcome.is_none());
            if self.nature(at).asks && self.site(at).is_in_doubt() && !open {
                let asks = Happening::Inquire { at, expired: false };
                if let Some(answer) = self.would_be_answered(at) {
                    return vec![asks, Happening::Answer { at, answer }];
                }
            }
        }
        if self.is_at_rest() || self.until_due().is_none() {
            return Vec::new();
        }
        vec![Happening::Jump]
    }

    /// Nothing is open, held or waited for.
    pub fn is_at_rest(&self) -> bool {
        let doubt = |site: &Site| site.is_in_doubt() && !site.facts.settled;
        self.harness.engine.counts().active == 0
            && self.asleep.is_empty()
            && self.unanswered.is_empty()
            && !self.transactions.iter().any(|tx| tx.sites.iter().any(doubt))
    }

    /// The operation that this branch is being called for.
    pub(super) fn calling(&self, at: At) -> Option<Operation> {
        let tx = self.harness.engine.get(self.tx(at).id)?;
        let branch = usize::from(at.branch);
        // One that was enlisted late may not be there yet.
        let index = tx.branches.iter().position(|it| super::index_of(&it.id) == branch)?;
        if !tx.is_calling(index) {
            return None;
        }
        tx.pending(index, self.harness.now.mono)
    }

    /// How long until something is due, at the coordinator or at a participant.
    pub(super) fn until_due(&self) -> Option<Duration> {
        let now = self.harness.now.mono;
        let engine = self.harness.engine.next_due().map(|at| at.since(now));
        let expiries = self.transactions.iter().enumerate().flat_map(|(tx, it)| {
            let branches = &self.tx_plan(tx).branches;
            it.sites.iter().zip(branches).filter_map(|(site, nature)| site.rest(nature, self.elapsed))
        });
        engine.into_iter().chain(expiries.filter(|rest| !rest.is_zero())).min()
    }

    fn engine_due(&self) -> bool {
        self.harness.engine.next_due().is_some_and(|at: Timestamp| at <= self.harness.now.mono)
    }

    fn beginnings(&self, all: &mut Vec<Happening>) {
        for (index, plan) in self.plan.transactions.iter().enumerate() {
            let begun = self.transactions.iter().any(|tx| tx.plan == index);
            let again = plan.with_request && plan.style == Style::Run && self.left.repeats > 0;
            if !begun || again {
                all.push(Happening::Begin { plan: u8::try_from(index).expect("there are few") });
            }
        }
    }

    fn at_participant(&self, at: At, all: &mut Vec<Happening>) {
        let (site, nature) = (self.site(at), self.nature(at));
        for operation in OPERATIONS.into_iter().filter(|it| site.calls.have(Messages::call(*it))) {
            let votes = if site.would_work(operation, nature) { nature.votes } else { &[Vote::Prepared] };
            for &vote in votes {
                let mut after = *site;
                // What breaks a promise breaks it when it happens.
                let changes =
                    !matches!(operation, Operation::PhaseOne) || site.would_work(operation, nature) || {
                        after.called(operation, vote, nature, self.elapsed);
                        after != *site
                    };
                if changes {
                    all.push(Happening::Call { at, operation, vote });
                }
            }
        }
        let answers = ANSWERS.into_iter().filter(|answer| site.was_answered(*answer));
        all.extend(answers.map(|answer| Happening::Answer { at, answer }));
        if site.rest(nature, self.elapsed) == Some(Duration::ZERO) {
            all.push(Happening::Expire { at });
        }
        let horizon = self.horizon.is_some_and(|horizon| self.tx(at).id.order() < horizon);
        if horizon && !site.behind {
            all.push(Happening::Horizon { at });
        }
    }

    fn at_coordinator(&self, at: At, live: Option<&Transaction>, all: &mut Vec<Happening>) {
        let (site, nature) = (self.site(at), self.nature(at));
        for (operation, said) in site.reports.reports() {
            all.push(Happening::Report { at, operation, said });
        }
        if nature.asks && site.facts.worked {
            all.push(Happening::Inquire { at, expired: false });
            // By whatever clock it has.
            if nature.expires() && nature.class == ReservationClass::Cooperative {
                all.push(Happening::Inquire { at, expired: true });
            }
        }
        let Some(tx) = live else { return };
        if let Some(operation) = self.calling(at) {
            if self.left.failures > 0 {
                all.push(Happening::Fail { at });
            }
            if self.left.unsent > 0 && site.is_fresh(operation) {
                all.push(Happening::Unsent { at });
            }
        }
        let waits = tx.branches.iter().any(|branch| {
            super::index_of(&branch.id) == usize::from(at.branch)
                && branch.next_attempt_in(self.harness.now.mono).is_some()
        });
        if waits {
            all.push(Happening::Wake { at });
        }
        if self.left.operator > 0 && tx.branches.len() > usize::from(at.branch) {
            all.extend([true, false].map(|committed| Happening::Resolve { at, committed }));
        }
    }

    fn by_initiator(&self, index: usize, tx: &Tx, all: &mut Vec<Happening>) {
        let small = u8::try_from(index).expect("there are few");
        let plan = self.tx_plan(index);
        for (branch, nature) in plan.branches.iter().enumerate() {
            let (at, site) = (At::new(index, branch), &tx.sites[branch]);
            if nature.asks {
                let votes = if site.would_work(Operation::PhaseOne, nature) {
                    nature.votes
                } else {
                    &[Vote::Prepared]
                };
                let known = tx.known[branch].vote.is_some();
                if site.would_work(Operation::PhaseOne, nature) || !known {
                    all.extend(votes.iter().map(|&vote| Happening::Work { at, vote }));
                }
            }
            // One that never asks is enlisted first, and called by the coordinator.
            if !nature.asks || tx.known[branch].vote.is_some() {
                all.push(Happening::Enlist { at });
            }
        }
        let may_ask = !tx.commit_asked || self.left.repeats > 0;
        let ready = |(known, nature): (&Known, &Nature)| !nature.asks || known.vote.is_some();
        if may_ask && tx.known.iter().zip(&plan.branches).all(ready) {
            all.push(Happening::Commit { tx: small, bring: true });
            if tx.known.iter().all(|known| known.enlisted) {
                all.push(Happening::Commit { tx: small, bring: false });
            }
        }
        if self.left.aborts > 0 {
            all.push(Happening::Abort { tx: small });
        }
    }

    fn by_operator(&self, index: usize, live: Option<&Transaction>, all: &mut Vec<Happening>) {
        let tx = u8::try_from(index).expect("there are few");
        let Some(live) = live.filter(|_| self.left.operator > 0) else { return };
        match live.state() {
            State::Ended(_) => all.push(Happening::Forget { tx }),
            State::Active | State::Preparing | State::Delegated | State::Committing | State::Aborting => {
                all.push(Happening::Retry { tx });
            }
        }
    }

    fn of_machines(&self, all: &mut Vec<Happening>) {
        let unsynced = u8::try_from(self.harness.unsynced()).expect("there are few");
        if unsynced > 0 {
            all.push(Happening::Sync);
        }
        if self.left.crashes > 0 {
            all.extend((0..=unsynced).map(|kept| Happening::Crash { kept }));
        }
        if !self.asleep.is_empty() {
            all.push(Happening::Resume);
        }
        if self.engine_due() {
            all.push(Happening::Fire);
        } else if self.until_due().is_some() {
            all.push(Happening::Jump);
        }
    }

    /// A call goes there and its answer comes back.
    fn answered_call(&self, at: At, operation: Operation) -> Option<Vec<Happening>> {
        let (site, nature) = (self.site(at), self.nature(at));
        if !site.calls.have(Messages::call(operation)) {
            // It has arrived already; or at the deadline the question has changed, and is put when the call's time is out.
            let answer = site.reports.reports().find(|(answered, _)| *answered == operation);
            return answer.map(|(_, said)| vec![Happening::Report { at, operation, said }]);
        }
        let vote = nature.votes[0];
        let mut after = *site;
        after.reports = Messages::default();
        after.called(operation, vote, nature, self.elapsed);
        let (_, said) = after.reports.reports().next().expect("every call is answered");
        Some(vec![Happening::Call { at, operation, vote }, Happening::Report { at, operation, said }])
    }

    fn would_be_answered(&self, at: At) -> Option<InquiryAnswer> {
        let mut world = self.clone();
        world.take(Happening::Inquire { at, expired: false });
        ANSWERS.into_iter().find(|answer| world.site(at).was_answered(*answer))
    }

    pub(super) fn site(&self, at: At) -> &Site {
        &self.tx(at).sites[usize::from(at.branch)]
    }

    /// Of a branch that may be confirmed only in time, how long that is yet.
    pub(super) fn time_to_confirm(&self, at: At) -> Option<Duration> {
        let nature = self.nature(at);
        assert!(nature.protocol == Protocol::Tcc || nature.ttl.is_zero());
        let rest = self.site(at).rest(nature, self.elapsed)?;
        Some(rest.saturating_sub(self.plan.times.margin))
    }
}
