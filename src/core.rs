//! The protocols, pure: no async, no I/O, no clock, no randomness.

mod id;

pub use id::{Epoch, Shard, TxId, TxOrder};
