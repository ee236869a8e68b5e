//! Histories of transfers between sets of accounts, and a judge who knows nothing else.
//!
//! A history says what initiators asked for and were told, what the databases showed, and which faults were injected. It is
//! written while things happen, by whoever does them, one [`Record`] a line, and the order of the lines is the order of
//! time: a call is recorded before it is made, and its answer after it came. So if the end of one stands before the begin
//! of another, that one was really over when the other began.
//!
//! ```text
//! {"open":{"set":"a","balances":{"1":100}}}
//! {"open":{"set":"b","balances":{"1":100}}}
//! {"begin":{"process":"p","op":1,"transfer":{"id":"t1","moves":[{"set":"a","account":"1","amount":-5},{"set":"b","account":"1","amount":5}]}}}
//! {"fault":{"what":"kill -9 of the coordinator"}}
//! {"end":{"process":"p","op":1,"told":"complete"}}
//! "quiet"
//! {"begin":{"process":"p","op":2,"read":{"set":"a"}}}
//! {"end":{"process":"p","op":2,"saw":{"effects":[{"id":"t1","account":"1","amount":-5}],"balances":{"1":95}}}}
//! ```
//!
//! [`check`] judges it. It depends on nothing of the system that is judged, so it cannot share its mistakes.

mod check;
mod index;
mod record;

pub use self::check::{Finding, Rule, Summary, Verdict, check};
pub use self::record::{
    Answer, Balances, Call, Effect, History, Move, ReadError, Record, Recorder, Saw, Told, Transfer,
};
