//! Ids and names.

pub use assent_proto::{Epoch, Shard, TxId, TxOrder};
