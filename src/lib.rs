//! assent, a coordinator for distributed transactions. See `ARCHITECTURE.md`.

pub mod cli;
pub mod config;
pub mod core;
pub mod demo;
pub mod server;
pub mod store;
