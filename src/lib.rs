//! assent, a coordinator for distributed transactions. See `ARCHITECTURE.md`.

pub mod api;
pub mod bench;
pub mod check;
pub mod cli;
pub mod config;
pub mod coordinator;
pub mod core;
pub mod demo;
mod process;
pub mod server;
pub mod store;
pub mod transport;
pub mod wire;

use assent_sdk::crash_point;
