//! What is to be tried: transactions, participants, and how much may go wrong.

use std::fmt;
use std::time::Duration;

use crate::core::{Protocol, ReservationClass, Vote, Wait};

/// One world to explore.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: &'static str,
    pub transactions: Vec<TxPlan>,
    pub limits: Limits,
    pub times: Times,
}

/// A transaction that an initiator is after.
#[derive(Clone, Debug)]
pub struct TxPlan {
    pub style: Style,
    pub wait: Wait,
    /// It has a request id, so it is known again when it is asked for again.
    pub with_request: bool,
    pub branches: Vec<Nature>,
}

/// How the initiator goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One call; the coordinator calls the participants.
    Run,
    /// The initiator calls them, has them enlisted, and asks for commit.
    Interactive,
}

/// What the participant of a branch is like.
#[derive(Clone, Debug)]
pub struct Nature {
    pub protocol: Protocol,
    /// What it may vote; which of them is up to chance, each time that it does its work.
    pub votes: &'static [Vote],
    /// It asks about what it was not told.
    pub asks: bool,
    pub one_phase: bool,
    pub class: ReservationClass,
    /// What it grants. Zero: no expiry.
    pub ttl: Duration,
}

/// How often things happen that could otherwise go on for ever. Messages have no limit: each may be lost, come late, and
/// come again, as often as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The coordinator dies.
    pub crashes: u8,
    /// A call fails, and the coordinator is told so, before its time is out.
    pub failures: u8,
    /// A call cannot even be sent, and the coordinator is told so.
    pub unsent: u8,
    /// An initiator asks again for what it asked for.
    pub repeats: u8,
    /// An initiator asks for abort.
    pub aborts: u8,
    /// An operator does something.
    pub operator: u8,
}

/// The clock's side of it. The model passes time in jumps to whatever is due next.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub timeout: Duration,
    pub call_timeout: Duration,
    pub margin: Duration,
    /// Zero: what has ended is forgotten at once.
    pub retention: Duration,
    pub backoff: Duration,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limits { crashes, failures, unsent, repeats, aborts, operator } = self;
        let all = [
            (crashes, "crash"),
            (failures, "failed call"),
            (unsent, "unsent call"),
            (repeats, "repetition"),
            (aborts, "abort"),
            (operator, "operator action"),
        ];
        let some: Vec<_> = all.iter().filter(|(count, _)| **count > 0).collect();
        if some.is_empty() {
            return f.write_str("messages and time");
        }
        let words = some.iter().map(|(count, what)| format!("{count} {what}"));
        f.write_str(&words.collect::<Vec<_>>().join(", "))
    }
}

impl Times {
    /// A call's time is out before the transaction's is.
    pub const CALLS_FIRST: Times = Times {
        timeout: Duration::from_secs(20),
        call_timeout: Duration::from_secs(15),
        margin: Duration::from_secs(1),
        retention: Duration::from_hours(1),
        backoff: Duration::ZERO,
    };

    /// The transaction's time is out while the first calls are still under way.
    pub const DEADLINE_FIRST: Times = Times { call_timeout: Duration::from_secs(30), ..Times::CALLS_FIRST };

    #[must_use]
    pub const fn without_retention(self) -> Times {
        Times { retention: Duration::ZERO, ..self }
    }
}

impl Nature {
    /// A database behind the SDK: it asks, and takes part in either way of committing.
    pub const fn database() -> Nature {
        Nature {
            protocol: Protocol::TwoPhase,
            votes: &[Vote::Prepared, Vote::Refused],
            asks: true,
            one_phase: true,
            class: ReservationClass::Cooperative,
            ttl: Duration::ZERO,
        }
    }

    /// A service behind the SDK whose reservations expire, and that asks before it lets go of them.
    pub const fn reserving() -> Nature {
        Nature {
            protocol: Protocol::Tcc,
            one_phase: false,
            ttl: Duration::from_secs(10),
            ..Nature::database()
        }
    }

    /// The same without an expiry.
    pub const fn holding() -> Nature {
        Nature { ttl: Duration::ZERO, ..Nature::reserving() }
    }

    /// A service that cancels by itself.
    pub const fn impatient() -> Nature {
        Nature { class: ReservationClass::Autonomous, ..Nature::reserving() }
    }

    /// A plain dialled service, which never asks, and answers a repeated call as the first.
    #[must_use]
    pub const fn silent(self) -> Nature {
        Nature { asks: false, ..self }
    }

    #[must_use]
    pub const fn voting(self, votes: &'static [Vote]) -> Nature {
        Nature { votes, ..self }
    }

    /// It says yes, always.
    #[must_use]
    pub const fn willing(self) -> Nature {
        self.voting(&[Vote::Prepared])
    }

    #[must_use]
    pub const fn two_phases_only(self) -> Nature {
        Nature { one_phase: false, ..self }
    }
}
