//! What is tried.

pub mod config;
pub mod core;
pub mod records;
pub mod requests;
pub mod sdk;
pub mod session;
