//! The model check of the real core: every history of a small world, and random ones of a large world.
//!
//! The sources of the core and of the SDK's barrier are compiled here as they are, with `cfg(model)`, which gives the
//! engine a fingerprint and lets it be cloned. Nothing is copied, and nothing is changed.

// The core's own tests belong to its own crate.
#![cfg(not(test))]

#[path = "../../../participant-sdk/src/barrier.rs"]
#[expect(dead_code, reason = "resources say more than barriers do")]
mod barrier;
#[path = "../../../src"]
#[expect(dead_code, unused_imports, reason = "the coordinator's driver uses more of the core")]
mod sources {
    pub mod core;
}
use sources::core;

pub mod configurations;
pub mod plan;
pub mod property;
pub mod report;
pub mod search;
pub mod simulate;
mod site;
mod story;
mod world;
