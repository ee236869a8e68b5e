//! The protocols, pure: no async, no I/O, no clock, no randomness.
//!
//! This is what the author of a driver must know. (The one in production is `coordinator`; a simulator and a model
//! checker are others.)
//!
//! 1. **Feed events, get steps.** [`Engine::handle`] takes the time and an [`Event`] and returns a [`Step`]: what to
//!    log, and what to do then. Time is an argument everywhere; the engine never waits.
//! 2. **Log, then act.** Make `step.log` durable as `step.durability` asks, and only then carry out `step.then`. Writes
//!    of all steps go to the log in the order in which the steps were made. A lazy write needs no waiting.
//! 3. **Do not tell what is not durable.** After a forced step, actions of *later* steps about the same transaction
//!    wait for it as well: they may tell of a decision that a crash could still undo. So does a reading by
//!    [`Engine::get`] or [`Engine::list`]. Other transactions do not wait.
//! 4. **Calls may fail in any way.** Make every [`Call`]; report the answer as [`Event::Reported`], or a failure, or
//!    nothing: the engine has its own time-out. It repeats until it knows. Calls may be delayed, doubled and reordered;
//!    participants are built for that.
//! 5. **Timers.** Sleep until [`Engine::next_due`], then handle [`Event::Due`] for what [`Engine::pop_due`] returns,
//!    until that is `None` or it has been many (what is left is due still); then [`Engine::evict`].
//! 6. **A participant that comes back.** For each transaction in [`Engine::waiting_for`] handle [`Event::Wake`].
//! 7. **Recovery.** Before any event: [`Engine::replay`] each value of the log. Then handle [`Event::Resume`] for each
//!    id in [`Engine::resumable`], some at a time if they are many: one that another event comes to is resumed by it.
//! 8. **A log write that fails** may or may not be durable. Stop the process: the next start finds out.
//! 9. **Horizon.** [`Engine::horizon`] may be told to participants once all writes submitted before it was read are
//!    durable.
//!
//! What is here: [`words`](Protocol) and ids; [`Record`], what is written down; [`Transaction`], the fold of its
//! records; [`Engine`], all transactions of a shard; one module per protocol for what is particular to it.

#[cfg(model)]
pub(crate) mod digest;
mod doubt;
mod engine;
mod event;
#[cfg(any(test, model))]
pub(crate) mod harness;
mod id;
mod record;
mod retry;
#[cfg(test)]
mod scenarios;
mod tcc;
mod time;
mod transaction;
mod two_phase;
mod words;

/// A hash map whose hash function costs a fraction of the standard one's, and is seeded at random like it.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

pub use doubt::doubt;
pub use engine::{Admission, Counts, Engine, EngineSettings};
pub use event::{
    Action, Answer, BeginSpec, BranchResult, BranchSpec, Call, Durability, Enlistment, Event, FailureKind,
    LogWrite, PhaseOne, Rejection, Replica, Report, Step, TransactionResult, Waiter, state_word,
};
pub use id::{
    BranchId, Epoch, Label, NameError, ParticipantName, RequestId, Shard, TxId, TxIdSource, TxOrder,
};
pub use record::{BranchIndex, DecodeError, Enlisted, Record, Request, What};
pub use retry::Backoff;
pub use time::{Now, Timestamp, WallTime};
pub use transaction::{Branch, CallState, Transaction};
pub use words::{
    BranchState, Completion, Decision, InquiryAnswer, Operation, Outcome, Protocol, ReservationClass, State,
    Vote, Wait,
};
