//! Hostile input, at random: bytes and sequences of messages that nobody in their right mind would send.
//!
//! Each target is a function of bytes, that panics where what must hold does not. `cargo test -p assent-fuzz` tries the
//! kept inputs of `corpus/`, and some new ones. `tests/fuzz/run TARGET` searches for longer, guided by coverage; what it finds
//! is in `found/`, and with `--keep` in `corpus/`, from where the test tries it from then on.

#![expect(clippy::unwrap_used, reason = "a target that cannot go on has failed")]

use std::path::PathBuf;

/// As the files of the store that are included here call them.
use assent::{core, store};

pub mod clocked;
pub mod lab;
pub mod mutation;
pub mod panics;
pub mod sled_log;
pub mod targets;
pub mod values;

/// What is tried with any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Panics where something does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target { name: "config", run: targets::config::run },
    Target { name: "core", run: targets::core::run },
    Target { name: "records", run: targets::records::run },
    Target { name: "requests", run: targets::requests::run },
    Target { name: "sdk", run: targets::sdk::run },
    Target { name: "session", run: targets::session::run },
];

impl Target {
    pub fn named(name: &str) -> Option<Target> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Where its inputs are kept.
    pub fn corpus(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }
}
