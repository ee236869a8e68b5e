//! A participant's side of one branch.

use std::time::Duration;

use crate::core::{
    Completion, FailureKind, InquiryAnswer, Operation, PhaseOne, Protocol, Report, ReservationClass, Vote,
};

/// What a branch is like.
#[derive(Clone, Debug)]
pub(super) struct Nature {
    pub protocol: Protocol,
    pub vote: Vote,
    pub class: ReservationClass,
    /// What it grants. Zero: no expiry.
    pub ttl: Duration,
    pub inquires: bool,
    /// It offers to commit in one phase.
    pub one_phase: bool,
}

/// Its barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barrier {
    /// No trace of it.
    Clean,
    /// Since that time by the participant's clock.
    Prepared {
        since: Duration,
    },
    ReadOnly,
    Refused,
    Committed {
        in_one_phase: bool,
    },
    /// Or never done, and now never will be.
    RolledBack,
    /// It cancelled by itself.
    Expired,
}

#[derive(Clone, Debug)]
pub(super) struct Participant {
    pub nature: Nature,
    pub barrier: Barrier,
}

impl Participant {
    pub fn new(nature: Nature) -> Participant {
        Participant { nature, barrier: Barrier::Clean }
    }

    /// Does what it is called to do, and answers.
    pub fn called(&mut self, now: Duration, operation: Operation) -> Report {
        self.expire(now);
        match operation {
            Operation::PhaseOne => Report::Voted { result: self.work(now), replica: None },
            Operation::Commit => completed(self.commit()),
            Operation::Rollback => completed(self.roll_back()),
            Operation::CommitOnePhase => self.commit_in_one_phase(now),
        }
    }

    /// Prepares or reserves; again, it answers as the first time.
    pub fn work(&mut self, now: Duration) -> PhaseOne {
        if self.barrier == Barrier::Clean {
            self.barrier = match self.nature.vote {
                Vote::Prepared => Barrier::Prepared { since: now },
                Vote::ReadOnly => Barrier::ReadOnly,
                Vote::Refused => Barrier::Refused,
            };
        }
        let vote = match self.barrier {
            Barrier::Prepared { .. } | Barrier::Committed { .. } => Vote::Prepared,
            Barrier::ReadOnly => Vote::ReadOnly,
            Barrier::Clean | Barrier::Refused | Barrier::RolledBack | Barrier::Expired => Vote::Refused,
        };
        self.vote(vote)
    }

    /// It asked, and was told.
    pub fn told(&mut self, answer: InquiryAnswer) {
        match (answer, self.barrier) {
            (InquiryAnswer::Commit, Barrier::Prepared { .. }) => {
                self.barrier = Barrier::Committed { in_one_phase: false };
            }
            (InquiryAnswer::Abort, Barrier::Prepared { .. }) => self.barrier = Barrier::RolledBack,
            (InquiryAnswer::Abort, Barrier::Committed { in_one_phase: false }) => {
                panic!("told to abort what it was told to commit")
            }
            (InquiryAnswer::Commit, Barrier::RolledBack) => {
                panic!("told to commit what it was told to roll back")
            }
            (InquiryAnswer::Foreign, _) => panic!("its transaction is of this log"),
            (InquiryAnswer::Pending | InquiryAnswer::Commit | InquiryAnswer::Abort, _) => {}
        }
    }

    pub fn is_in_doubt(&self) -> bool {
        matches!(self.barrier, Barrier::Prepared { .. })
    }

    pub fn has_expired(&self, now: Duration) -> bool {
        match self.barrier {
            Barrier::Prepared { since } => self.expires() && now >= since + self.nature.ttl,
            Barrier::Clean
            | Barrier::ReadOnly
            | Barrier::Refused
            | Barrier::Committed { .. }
            | Barrier::RolledBack
            | Barrier::Expired => false,
        }
    }

    /// An autonomous reservation is cancelled when its time is over.
    pub fn expire(&mut self, now: Duration) {
        if self.nature.class == ReservationClass::Autonomous && self.has_expired(now) {
            self.barrier = Barrier::Expired;
        }
    }

    fn expires(&self) -> bool {
        self.nature.protocol == Protocol::Tcc && !self.nature.ttl.is_zero()
    }

    fn vote(&self, vote: Vote) -> PhaseOne {
        let reserved = vote == Vote::Prepared && self.expires();
        PhaseOne {
            vote,
            reason: "".into(),
            reply: b"reply".as_slice().into(),
            reservation_ttl: if reserved { self.nature.ttl } else { Duration::ZERO },
            class: if reserved { self.nature.class } else { ReservationClass::Cooperative },
        }
    }

    fn commit(&mut self) -> Completion {
        match self.barrier {
            Barrier::Prepared { .. } | Barrier::Committed { .. } => {
                self.barrier = Barrier::Committed { in_one_phase: false };
                Completion::Done
            }
            Barrier::Expired => Completion::HeuristicRollback,
            other @ (Barrier::Clean | Barrier::ReadOnly | Barrier::Refused | Barrier::RolledBack) => {
                panic!("told to commit, but it is {other:?}")
            }
        }
    }

    fn roll_back(&mut self) -> Completion {
        match self.barrier {
            Barrier::Committed { in_one_phase: true } => Completion::HeuristicCommit,
            Barrier::Committed { in_one_phase: false } => {
                panic!("told to roll back what it was told to commit")
            }
            Barrier::Clean => {
                self.barrier = Barrier::RolledBack;
                Completion::UnknownBranch
            }
            Barrier::Prepared { .. } => {
                self.barrier = Barrier::RolledBack;
                Completion::Done
            }
            Barrier::ReadOnly | Barrier::Refused | Barrier::RolledBack | Barrier::Expired => Completion::Done,
        }
    }

    fn commit_in_one_phase(&mut self, now: Duration) -> Report {
        if !self.nature.one_phase {
            return Report::Failed { error: "unimplemented".into(), kind: FailureKind::Unimplemented };
        }
        assert_eq!(self.nature.protocol, Protocol::TwoPhase, "only 2PC has one phase");
        self.work(now);
        match self.barrier {
            Barrier::Prepared { .. } | Barrier::ReadOnly | Barrier::Committed { .. } => {
                self.barrier = Barrier::Committed { in_one_phase: true };
                completed(Completion::Done)
            }
            Barrier::Clean | Barrier::Refused | Barrier::RolledBack | Barrier::Expired => {
                Report::Voted { result: self.vote(Vote::Refused), replica: None }
            }
        }
    }
}

fn completed(completion: Completion) -> Report {
    Report::Completed { completion, detail: "".into(), reply: b"reply".as_slice().into() }
}
