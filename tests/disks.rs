//! Disks that fail: writes that do, syncs that do, and no room.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "daemon/coordinator.rs"]
#[expect(dead_code, reason = "other tests have use for the rest")]
mod coordinator;
#[path = "disks/daemon.rs"]
mod daemon;
#[path = "disks/fault.rs"]
mod fault;
#[path = "disks/full.rs"]
mod full;
#[path = "disks/log.rs"]
mod log;
#[path = "store/support.rs"]
mod support;
