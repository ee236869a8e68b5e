//! The steps of a history.

use crate::core::{InquiryAnswer, Operation, Vote};
use crate::site::Said;

/// One thing that happens. Transactions are counted as they begin, branches as the plan has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// An initiator begins, or with a request id asks again.
    Begin {
        plan: u8,
    },
    /// Interactive: a call of the initiator's arrives at a participant.
    Work {
        at: At,
        vote: Vote,
    },
    /// Interactive: an enlistment arrives.
    Enlist {
        at: At,
    },
    Commit {
        tx: u8,
        bring: bool,
    },
    Abort {
        tx: u8,
    },
    /// A call of the coordinator's arrives at a participant.
    Call {
        at: At,
        operation: Operation,
        vote: Vote,
    },
    /// What a participant said to a call arrives at the coordinator.
    Report {
        at: At,
        operation: Operation,
        said: Said,
    },
    /// The coordinator is told that a call failed.
    Fail {
        at: At,
    },
    /// The coordinator is told that a call was not sent, and it was not.
    Unsent {
        at: At,
    },
    /// A participant's question arrives at the coordinator.
    Inquire {
        at: At,
        expired: bool,
    },
    /// The answer arrives at the participant.
    Answer {
        at: At,
        answer: InquiryAnswer,
    },
    /// A participant that waits for no answer cancels.
    Expire {
        at: At,
    },
    /// A participant learns the horizon.
    Horizon {
        at: At,
    },
    /// The log syncs.
    Sync,
    /// The coordinator dies and starts again; so many of the writes that were not synced survive.
    Crash {
        kept: u8,
    },
    /// The coordinator goes on with the oldest transaction that it took back and has not looked at.
    Resume,
    /// Time passes until something is due.
    Jump,
    /// So much time passes, whatever is due. Simulation only.
    Pass {
        ms: u32,
    },
    /// The coordinator's wall clock jumps. Simulation only.
    WallClock {
        hours: i8,
    },
    /// The coordinator sees to what is due.
    Fire,
    /// A participant is back, and the coordinator notices.
    Wake {
        at: At,
    },
    Resolve {
        at: At,
        committed: bool,
    },
    Retry {
        tx: u8,
    },
    Forget {
        tx: u8,
    },
}

/// A branch of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub tx: u8,
    pub branch: u8,
}

impl At {
    pub fn new(tx: usize, branch: usize) -> At {
        let small = |number| u8::try_from(number).expect("there are few");
        At { tx: small(tx), branch: small(branch) }
    }

    pub(super) fn number(self) -> u64 {
        u64::from(self.tx) << 8 | u64::from(self.branch)
    }
}
