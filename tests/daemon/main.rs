//! The daemon in real processes: killed, restarted, filled up, told to stop.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod coordinator;
mod crash;
mod operation;
mod session;
