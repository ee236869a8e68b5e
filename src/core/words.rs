//! The words of the protocols. Each has a code, which the log keeps and which never changes.

/// How a branch takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Prepare, then commit or roll back: presumed abort (Mohan, Lindsay, Obermarck 1986).
    TwoPhase,
    /// Try, then confirm or cancel, with reservations that expire (Pardon, Pautasso 2011).
    Tcc,
}

/// The answer to phase one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vote {
    Prepared,
    ReadOnly,
    Refused,
}

/// What a participant does by itself when a reservation expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReservationClass {
    /// It may ask; it holds on until it has an answer.
    #[default]
    Cooperative,
    /// It cancels.
    Autonomous,
}

/// The coordinator's final choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    Commit,
    Abort,
}

/// How a phase-two call ended, in the participant's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Completion {
    Done,
    UnknownBranch,
    HeuristicCommit,
    HeuristicRollback,
    HeuristicHazard,
}

/// What happened in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Committed,
    Aborted,
    /// A branch went against the decision.
    Mixed,
    /// Of a branch it cannot be told.
    Hazard,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Active,
    Preparing,
    Delegated,
    Committing,
    Aborting,
    Ended(Outcome),
}

/// Where a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BranchState {
    Enlisted,
    Preparing,
    Prepared,
    ReadOnly,
    Refused,
    Committing,
    RollingBack,
    Committed,
    RolledBack,
    HeuristicCommit,
    HeuristicRollback,
    HeuristicHazard,
}

/// What a participant is called to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Prepare or try.
    PhaseOne,
    /// Commit or confirm.
    Commit,
    /// Roll back or cancel.
    Rollback,
    /// Do the work and commit it, or refuse.
    CommitOnePhase,
}

/// When the end of a transaction is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wait {
    Decision,
    #[default]
    Completion,
}

/// What a participant is told that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InquiryAnswer {
    Commit,
    Abort,
    Pending,
    /// Not a transaction of this log: nothing is presumed.
    Foreign,
}

impl Outcome {
    /// An operator must look at it.
    pub fn is_heuristic(self) -> bool {
        matches!(self, Outcome::Mixed | Outcome::Hazard)
    }
}

impl BranchState {
    /// The branch waits for nothing more.
    pub fn is_finished(self) -> bool {
        match self {
            Self::Enlisted | Self::Preparing | Self::Prepared | Self::Committing | Self::RollingBack => false,
            Self::ReadOnly
            | Self::Refused
            | Self::Committed
            | Self::RolledBack
            | Self::HeuristicCommit
            | Self::HeuristicRollback
            | Self::HeuristicHazard => true,
        }
    }

    /// It went against the decision, or nobody can tell.
    pub fn is_heuristic(self) -> bool {
        matches!(self, Self::HeuristicCommit | Self::HeuristicRollback | Self::HeuristicHazard)
    }
}

impl Operation {
    /// The word for it in a protocol.
    pub fn word(self, protocol: Protocol) -> &'static str {
        match (self, protocol) {
            (Operation::PhaseOne, Protocol::TwoPhase) => "prepare",
            (Operation::PhaseOne, Protocol::Tcc) => "try",
            (Operation::Commit, Protocol::TwoPhase) => "commit",
            (Operation::Commit, Protocol::Tcc) => "confirm",
            (Operation::Rollback, Protocol::TwoPhase) => "rollback",
            (Operation::Rollback, Protocol::Tcc) => "cancel",
            (Operation::CommitOnePhase, Protocol::TwoPhase | Protocol::Tcc) => "commit in one phase",
        }
    }
}

macro_rules! codes {
    ($($type:ident { $($variant:ident = $code:literal),+ $(,)? })+) => {$(
        impl $type {
            pub(super) fn code(self) -> u8 {
                match self { $($type::$variant => $code),+ }
            }

            pub(super) fn from_code(code: u8) -> Option<$type> {
                match code { $($code => Some($type::$variant),)+ _ => None }
            }
        }
    )+};
}

codes! {
    Protocol { TwoPhase = 1, Tcc = 2 }
    Vote { Prepared = 1, ReadOnly = 2, Refused = 3 }
    ReservationClass { Cooperative = 1, Autonomous = 2 }
    Decision { Commit = 1, Abort = 2 }
    Completion { Done = 1, UnknownBranch = 2, HeuristicCommit = 3, HeuristicRollback = 4, HeuristicHazard = 5 }
    Outcome { Committed = 1, Aborted = 2, Mixed = 3, Hazard = 4 }
}
