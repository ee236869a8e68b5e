//! Participants over real PostgreSQL and MariaDB servers, in real processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../daemon/coordinator.rs"]
#[expect(dead_code, reason = "these tests need a part of what those of the daemon do")]
mod coordinator;
mod crash;
mod database;
mod indoubt;
