//! Files of the store that it keeps to itself, as they are.

#[path = "../../../src/store/sled_log/group.rs"]
pub mod group;
#[path = "../../../src/store/sled_log/witness.rs"]
pub mod witness;
