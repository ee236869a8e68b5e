//! The protocol buffers of assent as Rust types, and the one type that they carry as text: [`TxId`].
//!
//! The source of truth, with every field documented, is `proto/assent/v1/*.proto`.

mod tx_id;

pub use tx_id::{Epoch, ParseTxIdError, Shard, TxId, TxOrder};

/// The encoded `FileDescriptorSet` of all files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `assent.v1`.
pub mod v1 {
    #![expect(clippy::pedantic, unused_qualifications, reason = "generated code")]
    tonic::include_proto!("assent.v1");
}
