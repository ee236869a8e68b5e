//! A participant's side of one branch: its barrier, which is the SDK's own, and the messages between it and the
//! coordinator.
//!
//! The network is its own adversary: a message once sent can arrive at any later moment, any number of times, in any
//! order, or never. So what is kept is the set of messages that were ever sent, and a message has no number. One exception:
//! a commit in one phase that the coordinator asked for once arrives once at most, as connections repeat nothing by
//! themselves; a participant that keeps no trace of its refusals could otherwise refuse and then commit.
//!
//! The row of the barrier is written in one local transaction with the work, so a participant that dies loses messages
//! and timers only, and these can be lost and late all the same: its crashes are among the histories without a step of
//! their own.

use std::hash::Hash;
use std::time::Duration;

use crate::barrier::{self, CommitStep, OnePhaseStep, PhaseOneStep, RollbackStep};
use crate::core::digest::Digest;
use crate::core::{
    Completion, FailureKind, InquiryAnswer, Operation, PhaseOne, Protocol, Report, ReservationClass, Vote,
};
use crate::plan::Nature;

/// A branch, at its participant and on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Site {
    row: Row,
    /// A no, or a yes without work, that it remembers. Only those do that never ask; the SDK leaves no trace of them.
    said: Option<Vote>,
    /// It was told that the transaction lies before the horizon, and has dropped its row.
    pub behind: bool,
    /// When it reserved, by the time of the world.
    since: Duration,
    pub calls: Messages,
    /// Calls that were made at some time.
    made: Messages,
    /// Calls that were made only once, and have not arrived.
    fresh: Messages,
    /// Calls that were made more than once.
    again: Messages,
    pub reports: Messages,
    answers: Messages,
    pub facts: Facts,
}

/// The row of the barrier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Row {
    #[default]
    Absent,
    Prepared,
    Committed,
    RolledBack,
}

/// What has really happened, though nobody in the world may know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Facts {
    /// It prepared or reserved at some time.
    pub worked: bool,
    pub committed: bool,
    /// It was rolled back, or barred from ever doing anything, because the coordinator said so.
    pub undone: bool,
    /// It said yes.
    pub agreed: bool,
    /// That yes was: I only read.
    pub only_read: bool,
    /// It cancelled by itself.
    pub expired: bool,
    /// An operator said what became of it, true or not.
    pub settled: bool,
}

/// A set of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Messages(u32);

/// What a participant says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    Vote(Vote),
    Completed(Completion),
    Unimplemented,
}

pub const OPERATIONS: [Operation; 4] =
    [Operation::PhaseOne, Operation::Commit, Operation::Rollback, Operation::CommitOnePhase];

pub const ANSWERS: [InquiryAnswer; 2] = [InquiryAnswer::Commit, InquiryAnswer::Abort];

const SAID: [Said; 8] = [
    Said::Vote(Vote::Prepared),
    Said::Vote(Vote::ReadOnly),
    Said::Vote(Vote::Refused),
    Said::Completed(Completion::Done),
    Said::Completed(Completion::UnknownBranch),
    Said::Completed(Completion::HeuristicCommit),
    Said::Completed(Completion::HeuristicRollback),
    Said::Unimplemented,
];

impl Site {
    /// A call is on its way.
    pub fn send(&mut self, operation: Operation) {
        let call = Messages::call(operation);
        if self.made.have(call) {
            self.fresh.remove(call);
            self.again.add(call);
        } else {
            self.fresh.add(call);
        }
        self.made.add(call);
        self.calls.add(call);
    }

    /// Whether nothing of such a call can have arrived.
    pub fn is_fresh(&self, operation: Operation) -> bool {
        self.fresh.have(Messages::call(operation))
    }

    /// It turns out that the call was never sent.
    pub fn take_back(&mut self, operation: Operation) {
        self.fresh.remove(Messages::call(operation));
        self.calls.remove(Messages::call(operation));
        self.made.remove(Messages::call(operation));
    }

    /// Whether such a call would make it do its work, and so vote as it likes.
    pub fn would_work(&self, operation: Operation, nature: &Nature) -> bool {
        match operation {
            Operation::PhaseOne => {
                self.said.is_none()
                    && !self.facts.only_read
                    && barrier::phase_one(self.state()) == PhaseOneStep::Work
            }
            Operation::CommitOnePhase => {
                nature.one_phase
                    && self.said.is_none()
                    && !self.facts.only_read
                    && barrier::commit_one_phase(self.state()) == OnePhaseStep::Work
            }
            Operation::Commit | Operation::Rollback => false,
        }
    }

    /// A call has arrived. `vote` is what it votes if it does its work.
    pub fn called(&mut self, operation: Operation, vote: Vote, nature: &Nature, now: Duration) {
        self.fresh.remove(Messages::call(operation));
        // What decides on its own account is not told twice by one call: connections repeat nothing by themselves.
        if operation == Operation::CommitOnePhase && !self.again.have(Messages::call(operation)) {
            self.calls.remove(Messages::call(operation));
        }
        let said = match operation {
            Operation::PhaseOne => Said::Vote(self.phase_one(vote, nature, now)),
            Operation::Commit => Said::Completed(self.commit()),
            Operation::Rollback => Said::Completed(self.roll_back()),
            Operation::CommitOnePhase => self.commit_one_phase(vote, nature),
        };
        self.reports.add(Messages::report(operation, said));
    }

    /// Does its work, or repeats what it said.
    pub fn phase_one(&mut self, vote: Vote, nature: &Nature, now: Duration) -> Vote {
        if let Some(said) = self.said {
            return said;
        }
        match barrier::phase_one(self.state()) {
            // It reads again, and finds the same.
            PhaseOneStep::Work if self.facts.only_read => Vote::ReadOnly,
            PhaseOneStep::Work => {
                assert!(!self.facts.undone, "exactly once: work is done after it was undone");
                assert!(!self.facts.committed, "exactly once: work is done after it was committed");
                match vote {
                    Vote::Prepared => {
                        self.row = Row::Prepared;
                        self.since = now;
                        self.facts.worked = true;
                    }
                    Vote::ReadOnly | Vote::Refused => self.said = (!nature.asks).then_some(vote),
                }
                self.facts.agreed |= vote != Vote::Refused;
                self.facts.only_read |= vote == Vote::ReadOnly;
                vote
            }
            PhaseOneStep::Repeat => Vote::Prepared,
            PhaseOneStep::Refuse(_late) => Vote::Refused,
        }
    }

    /// It asked, and was told.
    pub fn told(&mut self, answer: InquiryAnswer) {
        match (answer, self.row) {
            (InquiryAnswer::Commit, Row::Prepared) => drop(self.commit()),
            (InquiryAnswer::Abort, Row::Prepared) => drop(self.roll_back()),
            (InquiryAnswer::Foreign, _) => panic!("honesty: a transaction of this log is called foreign"),
            (InquiryAnswer::Pending | InquiryAnswer::Commit | InquiryAnswer::Abort, _) => {}
        }
    }

    /// An answer to its question is on its way. It matters as long as the branch is in doubt, which it is once at most.
    pub fn answer(&mut self, answer: InquiryAnswer) {
        self.answers.add(Messages::answer(answer));
    }

    /// Forgets messages that can change nothing any more: answers to what is not in doubt, and, `over` meaning that the
    /// coordinator has no such transaction open, what is said of rows that are dropped.
    pub fn tidy(&mut self, over: bool) {
        if !self.is_in_doubt() {
            self.answers = Messages::default();
        }
        if over && self.behind && !self.is_in_doubt() {
            self.reports = Messages::default();
        }
    }

    pub fn was_answered(&self, answer: InquiryAnswer) -> bool {
        self.answers.have(Messages::answer(answer))
    }

    pub fn is_in_doubt(&self) -> bool {
        self.row == Row::Prepared
    }

    /// How long an autonomous reservation lasts yet.
    pub fn rest(&self, nature: &Nature, now: Duration) -> Option<Duration> {
        let expires = nature.class == ReservationClass::Autonomous && nature.expires();
        (expires && self.is_in_doubt()).then(|| (self.since + nature.ttl).saturating_sub(now))
    }

    /// It cancels by itself.
    pub fn expire(&mut self) {
        self.row = Row::RolledBack;
        self.facts.expired = true;
    }

    /// It learns that the transaction lies before the horizon. What is prepared is spared.
    pub fn clean(&mut self) {
        self.behind = true;
        self.said = None;
        if self.row != Row::Prepared {
            self.row = Row::Absent;
        }
    }

    /// `unsent`: whether calls can still turn out not to have been sent.
    pub fn digest(&self, nature: &Nature, now: Duration, unsent: bool, digest: &mut Digest) {
        let Site { row, said, behind, since: _, calls, made, fresh, again, reports, answers, facts } = self;
        (row, said, behind, calls, reports, answers, facts).hash(digest);
        let one_phase = Messages::call(Operation::CommitOnePhase);
        (made.have(one_phase), again.have(one_phase)).hash(digest);
        unsent.then_some((made, fresh)).hash(digest);
        self.rest(nature, now).hash(digest);
    }

    fn state(&self) -> barrier::State {
        match self.row {
            Row::Absent if self.behind => barrier::State::BeforeHorizon,
            Row::Absent => barrier::State::Absent,
            Row::Prepared => barrier::State::Prepared,
            Row::Committed => barrier::State::Committed,
            Row::RolledBack => barrier::State::RolledBack,
        }
    }

    fn commit(&mut self) -> Completion {
        match barrier::commit(self.state()) {
            CommitStep::Work => {
                self.take_effect();
                Completion::Done
            }
            CommitStep::Answer(completion) => in_words(completion),
        }
    }

    fn roll_back(&mut self) -> Completion {
        let completion = match barrier::rollback(self.state()) {
            RollbackStep::Work => {
                assert!(!self.facts.committed, "exactly once: what was committed is undone");
                self.row = Row::RolledBack;
                Completion::Done
            }
            RollbackStep::Tombstone => {
                self.row = Row::RolledBack;
                Completion::UnknownBranch
            }
            RollbackStep::Answer(completion) => in_words(completion),
        };
        self.facts.undone |= !self.facts.committed;
        completion
    }

    fn commit_one_phase(&mut self, vote: Vote, nature: &Nature) -> Said {
        if !nature.one_phase {
            return Said::Unimplemented;
        }
        if self.said == Some(Vote::Refused) {
            return Said::Vote(Vote::Refused);
        }
        match barrier::commit_one_phase(self.state()) {
            OnePhaseStep::Work if vote == Vote::Refused => {
                self.said = (!nature.asks).then_some(vote);
                Said::Vote(Vote::Refused)
            }
            OnePhaseStep::Work | OnePhaseStep::Commit => {
                self.facts.agreed = true;
                self.take_effect();
                Said::Completed(Completion::Done)
            }
            OnePhaseStep::Repeat => Said::Completed(Completion::Done),
            OnePhaseStep::Refuse(_late) => Said::Vote(Vote::Refused),
        }
    }

    fn take_effect(&mut self) {
        assert!(!self.facts.committed, "exactly once: it is committed twice");
        assert!(!self.facts.undone, "exactly once: what was undone is committed");
        self.row = Row::Committed;
        self.facts.committed = true;
    }
}

impl Facts {
    /// Its participant or an operator went another way than the coordinator said.
    pub fn went_its_own_way(self) -> bool {
        self.expired || self.settled
    }
}

impl Nature {
    pub fn expires(&self) -> bool {
        self.protocol == Protocol::Tcc && !self.ttl.is_zero()
    }

    pub fn vote(&self, vote: Vote) -> PhaseOne {
        let reserved = vote == Vote::Prepared && self.expires();
        PhaseOne {
            vote,
            reason: "".into(),
            reply: b"".as_slice().into(),
            reservation_ttl: if reserved { self.ttl } else { Duration::ZERO },
            class: if reserved { self.class } else { ReservationClass::Cooperative },
        }
    }

    pub fn report(&self, said: Said) -> Report {
        match said {
            Said::Vote(vote) => Report::Voted { result: self.vote(vote), replica: None },
            Said::Completed(completion) => {
                Report::Completed { completion, detail: "".into(), reply: b"".as_slice().into() }
            }
            Said::Unimplemented => {
                Report::Failed { error: "unimplemented".into(), kind: FailureKind::Unimplemented }
            }
        }
    }
}

impl Messages {
    pub fn call(operation: Operation) -> Messages {
        Messages(1 << place(&OPERATIONS, &operation))
    }

    pub fn report(operation: Operation, said: Said) -> Messages {
        Messages(1 << (place(&OPERATIONS, &operation) * SAID.len() + place(&SAID, &said)))
    }

    fn answer(answer: InquiryAnswer) -> Messages {
        Messages(1 << place(&ANSWERS, &answer))
    }

    pub fn have(self, one: Messages) -> bool {
        self.0 & one.0 != 0
    }

    pub fn add(&mut self, one: Messages) {
        self.0 |= one.0;
    }

    pub fn remove(&mut self, one: Messages) {
        self.0 &= !one.0;
    }

    /// All reports in the set.
    pub fn reports(self) -> impl Iterator<Item = (Operation, Said)> {
        let all = OPERATIONS.into_iter().flat_map(|operation| SAID.map(|said| (operation, said)));
        all.enumerate().filter(move |(at, _)| self.0 & 1 << at != 0).map(|(_, report)| report)
    }
}

fn place<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().position(|it| it == one).expect("it is among them all")
}

/// The SDK's word for it is the wire's.
fn in_words(completion: barrier::Completion) -> Completion {
    match completion {
        barrier::Completion::Done => Completion::Done,
        barrier::Completion::UnknownBranch => Completion::UnknownBranch,
        barrier::Completion::HeuristicCommit => Completion::HeuristicCommit,
        barrier::Completion::HeuristicRollback => Completion::HeuristicRollback,
        barrier::Completion::Hazard => Completion::HeuristicHazard,
    }
}
