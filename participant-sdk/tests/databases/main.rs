//! The resources over database servers, with real servers that go away.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

#[path = "../sdk/conformance.rs"]
mod conformance;
mod log;
mod mysql;
mod postgres;
mod prepares;
#[path = "../sdk/shop.rs"]
mod shop;
