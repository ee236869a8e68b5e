//! The daemon in real processes: killed, restarted, filled up, told to stop, lied to, and used from another language.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "crash points want more of it"))]
mod coordinator;
mod crash;
mod hostile_input;
mod operation;
mod python;
mod reflection;
mod session;
